"""Every model is tried before a run: what is found is kept, what it costs is booked, and a fault stops the run."""

import json

import pytest

from loop.config.explain import ConfigError
from loop.config.files import build
from loop.preflight import check_models, check_one
from loop.report.summary import usage_on_disk
from loop.rundir import RunDir
from tests import tiny_models
from tests.endpoint_server import serve

RAW = {
    "name": "r", "world": "support", "model": "scripted", "rounds": 1,
    "arms": [{"name": "a", "biased_ratio": 0.5}], "evals": {"suites": []}, "roles": {"user": "gpt"},
}  # fmt: skip


def config(server, **changes):
    endpoint = {"kind": "endpoint", "model": "mock", "base_url": server.base_url, "key_env": None, "retries": 0}
    return build(RAW | {"models": {"gpt": endpoint | changes}}, "test")


def test_what_an_endpoint_does_is_kept_and_booked_once_for_each_start(tmp_path):
    out, said = RunDir(tmp_path), []
    with serve(logprobs="refused") as server:
        made = config(server)
        check_models(made, "scripted", out, said.append)
        first = usage_on_disk(out, made)
        check_models(made, "scripted", out, said.append)
    kept = json.loads(out.checks.read_text())
    assert [f["probe"] for f in kept["models"]["models.gpt"]] == ["reply", "closed questions"]
    assert [line.strip().split(":")[0] for line in said] == ["models.gpt"], "a note is said once"
    assert "does not return the probabilities of its tokens: This model does not support logprobs" in said[0]
    (row,) = first
    assert (row["role"], row["model"], row["requests"] >= 2) == ("check", "gpt", True)
    (both,) = usage_on_disk(out, made)
    assert both["prompt_tokens"] == 2 * row["prompt_tokens"]


def test_a_model_that_cannot_do_what_its_role_asks_stops_the_run_before_it_begins(tmp_path):
    with serve(thinks=500) as server, pytest.raises(ConfigError, match=r"models\.gpt: reply: .*thinking_tokens"):
        check_models(config(server), "scripted", RunDir(tmp_path), print)
    assert usage_on_disk(RunDir(tmp_path), config(server)), "what was billed is booked"
    with serve(models=["other"]) as server, pytest.raises(ConfigError, match="there is no such model; it has other"):
        check_models(config(server), "scripted", RunDir(tmp_path), print)


def test_an_engines_model_is_tried_without_its_weights(tmp_path):
    folder = tmp_path / "model"
    tiny_models.write(folder, "smollm")
    raw = {k: v for k, v in RAW.items() if k != "roles"} | {"model": str(folder)}
    out = RunDir(tmp_path)
    check_models(build(raw, "test"), str(folder), out, print)
    probes = {f["probe"]: f["verdict"] for f in json.loads(out.checks.read_text())["models"]["model"]}
    assert probes["template"] == "ok"
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ConfigError, match="model: template: it has no chat template"):
        check_models(build(raw, "test"), str(folder), out, print)


def test_a_single_model_is_checked_by_hand(tmp_path):
    tiny_models.write(tmp_path / "model", "llama3")
    found = {f.probe: f for f in check_one(str(tmp_path / "model"), {"template_date": "2026-02-03"})}
    assert found["ratings"].said == "one token each"
    with pytest.raises(ConfigError, match="no_such_setting"):
        check_one(str(tmp_path / "model"), {"no_such_setting": 1})
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        check_one(str(tmp_path / "empty"), {})
    with serve(refuses={"seed": (400, {"error": {"message": "seed is not supported"}})}) as server:
        found = {f.probe: f for f in check_one(f"mock@{server.base_url}", {})}
    assert [found[p].verdict for p in ("reach", "reply", "two messages in a row", "closed questions")] == ["ok"] * 4
    assert found["seed"].said == "refused: seed is not supported"
    with serve(models=["other"]) as server:
        (only,) = check_one(f"mock@{server.base_url}", {})
    assert only.verdict == "fault"
