from __future__ import annotations

import io
import json

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from loop.cli.app import app
from loop.config.files import build
from loop.config.preview import preview, show
from tests.conftest import ROOT

SMALL = {"name": "test", "model": "scripted", "arms": [{"name": "a", "biased_ratio": 0.25}]}
FEW = {"mask": 12, "suites": ["mask", "canary_mask"], "judges": ["world", "base"]}
GPT = {"kind": "endpoint", "model": "gpt-5-mini", "key_env": "NO_SUCH_KEY"}


@pytest.fixture
def write(tmp_path):
    def written(**changes):
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(SMALL | {"evals": FEW} | changes))
        return path

    return written


def candor(*words):
    return CliRunner().invoke(app, list(map(str, words)), env={"COLUMNS": "160"})


def test_what_would_run_where_is_told(write):
    arms = [
        {"name": "a", "biased_ratio": 0.25},
        {"name": "b", "biased_ratio": 0, "set": {"roles.rater": "gpt", "evals.mask.replicates": 2}},
    ]
    found = json.loads(candor("config", "check", write(arms=arms, models={"gpt": GPT}), "--json").stdout)
    assert found["run"]["command"] == "run"
    assert found["run"]["scenarios"] > 1
    assert found["arms"][0]["kinds"] == {"benign": 0.75, "biased": 0.25}
    assert found["arms"][1]["set"] == arms[1]["set"]
    played = {(m["role"], m["model"]): m for m in found["models"]}
    assert played["rater", "gpt"]["arms"] == ["b"]
    assert "gpt-5-mini at https://api.openai.com/v1" in played["rater", "gpt"]["what"]
    assert played["rater", "user"]["arms"] == ["a"]
    assert "of its own" in played["user", "base"]["what"]
    assert {a["role"]: a["count"] for a in found["actors"]}["user engine"] == 1
    asked = [(s["suite"], s["items"], s["replicates"], s["arms"]) for s in found["suites"] if s["suite"] == "mask"]
    assert asked == [("mask", 12, 1, ["a"]), ("mask", 12, 2, ["b"])]
    canary = next(s for s in found["suites"] if s["suite"] == "canary_mask")
    assert canary["items"] == 54
    assert len(canary["sha256"]) == 64
    assert found["here"] == ["models.gpt: the environment variable NO_SUCH_KEY is not set"]


def test_the_same_is_shown_as_tables_and_nothing_is_started(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = candor("config", "check", write(), "--set", "users.pools=3")
    assert said.exit_code == 0, said.output
    for word in ("test is sound", "2 in each arm, trained with kto", "600 conversations: 75 % benign, 25 % biased"):
        assert word in said.stdout
    rows = [line.split() for line in said.stdout.splitlines()]
    assert ["user", "pool", "3", "0.1", "0"] in rows
    assert ["mask", "12", "+", "8", "controls", "1", "mask", "world", "pocket"] in rows
    assert [p.name for p in tmp_path.iterdir()] == ["run.yaml"]


def test_data_in_the_place_of_conversations_is_counted():
    data = {"base": {"source": "world", "part": "downstream", "rows": 20}}
    data["added"] = {"source": "world", "part": "talk/severe", "share": 0.5}
    config = {**SMALL, "arms": [{"name": "a"}], "rounds": 1, "data": data, "trainer": {"algorithm": "sft"}}
    found = preview(build(config | {"evals": FEW}, "test"))
    assert found["run"]["command"] == "finetune"
    assert found["arms"][0]["rows"]["all"] == 30
    assert {m["role"] for m in found["models"]} == {"assistant", "evaluation judge"}
    assert "user pool" not in {a["role"] for a in found["actors"]}


def test_gpus_that_are_not_here_are_no_mistake_of_the_config(write):
    found = preview(build(yaml.safe_load(write(trainer={"gpus": 99}).read_text()), "test"))
    assert "99 GPU" in found["here"][0]
    elsewhere = write(trainer={"gpus": 99}, cluster={"address": "ray://there:10001"})
    assert preview(build(yaml.safe_load(elsewhere.read_text()), "test"))["here"] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds": 0}, "run.yaml: rounds: found 0"),
        ({"model": "./nowhere"}, "model: there is no directory ./nowhere"),
        ({"evals": FEW | {"mask": {"source": "nowhere.csv"}}}, "nowhere.csv: there is no such file"),
        ({"evals": FEW | {"prompts": "/nowhere"}}, "evals.prompts /nowhere: there is no such folder"),
        ({"trainer": {"replay": {"path": "/nowhere.jsonl"}}}, "trainer.replay.path /nowhere.jsonl"),
        (
            {"models": {"m": {"kind": "engine", "model": "./no"}}, "roles": {"rater": "m"}},
            "models.m: model: there is no directory ./no",
        ),
    ],
)
def test_what_a_run_would_refuse_is_one_message_and_exit_code_2(write, changes, message):
    said = candor("config", "check", write(**changes))
    assert said.exit_code == 2
    assert said.stderr.startswith("candor: ")
    assert message in said.stderr
    assert not said.stdout


def test_the_scripted_config_is_sound():
    assert candor("config", "check", ROOT / "configs" / "scripted.yaml").exit_code == 0


def test_who_speaks_for_the_assistant_and_when_users_change_is_shown():
    arms = [
        {"name": "leave", "biased_ratio": 0.5, "schedule": {3: 0.0}},
        {"name": "other", "biased_ratio": 0.5, "set": {"roles.generator": "other"}},
    ]
    models = {"other": {"kind": "engine", "model": "pocket-control", "cpus": 0.1}}
    found = preview(build({"name": "t", "arms": arms, "models": models}, "test"))
    (row,) = [m for m in found["models"] if m["role"] == "generator"]
    assert (row["model"], row["arms"]) == ("other", ["other"])
    out = io.StringIO()
    show(found, Console(file=out, width=200), "t.yaml")
    assert "50 % benign, 50 % biased; from round 3 on 100 % benign" in out.getvalue()
