"""Whole runs whose users live behind an OpenAI-compatible endpoint that fails, lapses, costs money or is not there.

The assistant answers from a script, so that a round takes seconds; the endpoint, its failures, Ray, the buffer and the
driver are real.
"""

import hashlib
import json
import math
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml

from actors.buffer import read_round
from actors.storage.segments import read_table
from actors.worlds import load_world
from actors.worlds.questions import REPLY_KINDS, reply_kind
from loop.rundir import RunDir
from tests.conftest import ROOT
from tests.endpoint_server import Options, completion, serve
from tests.loop.report.test_page import cells

CANARY = "sk-canary-7Qx93LmZt0Vw58Rk"
FAULTS = {"429": 0.06, "429-after": 0.04, "500": 0.06, "slow": 0.02, "truncated": 0.04, "html": 0.04, "reset": 0.04}
KINDS = {
    "429": ("429", "429-after"),
    "500": ("500",),
    "timeout": ("slow",),
    "malformed": ("truncated", "html"),
    "connection": ("reset",),
}
"""What the run calls the faults that the endpoint deals out."""


def write_config(path: Path, server: object, **changes: object) -> Path:
    endpoint = {"kind": "endpoint", "model": "mock", "base_url": server.base_url, "key_env": "CANARY_KEY", "retries": 9}
    config = {
        "name": "away",
        "world": "support",
        "model": "scripted",
        "rounds": 1,
        "arms": [{"name": "biased", "biased_ratio": 0.3}],
        "rollout": {"conversations": 120},
        "models": {"gpt": endpoint | changes.pop("endpoint", {})},
        "roles": {"user": "gpt"},
        "trainer": {"lora": {"rank": 4, "alpha": 8}, "batch_size": 16},
        "evals": {"suites": []},
        "users": {"pools": 2, "concurrency": 64},
    }
    path.write_text(yaml.safe_dump(config | changes))
    return path


def candor(config: Path, out: Path, key: str | None = CANARY) -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if k != "CANARY_KEY"} | ({"CANARY_KEY": key} if key else {})
    command = [Path(sys.executable).parent / "candor", "run", config, "--out", out]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)


def rows(out: Path) -> list[dict]:
    return read_round(RunDir(out).trajectories("biased", 0)).to_pylist()


def figures(out: Path) -> dict:
    return json.loads((out / "summary.json").read_text())["arms"][0]["rounds"][0]


def checked(out: Path) -> tuple[int, Counter[str]]:
    """How many requests were served before the run, to find out what the models do, and which failed."""
    found = json.loads(RunDir(out).checks.read_text())
    return sum(u["requests"] for u in found["usage"]), Counter({f["kind"]: f["count"] for f in found["faults"]})


def expected_rating(row: dict, asked: dict) -> float:
    """What the endpoint, whose probabilities follow from the messages, makes of a request for a rating."""
    request = {"model": "mock", "messages": [*row["user_messages"][: asked["after"]], *asked["messages"]]}
    request |= {"max_tokens": 3, "temperature": 0.0, "logprobs": True, "top_logprobs": 20}
    top = completion(request, None, Options())["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    numbers = [(int(t["token"]), math.exp(t["logprob"])) for t in top if t["token"].strip().isdigit()]
    return sum(r * p for r, p in numbers) / sum(p for _, p in numbers)


def check_faulty_run(tmp_path: Path, count: int) -> None:
    with serve(latency=0.05, faults=FAULTS, retry_after=0.3, record=False) as server:
        config = write_config(
            tmp_path / "away.yaml",
            server,
            endpoint={"timeout": 8, "concurrency": 300},
            rollout={"conversations": count},
            users={"pools": 2, "concurrency": 200},
        )
        done = candor(config, tmp_path / "out")
        stats = server.stats()
    assert done.returncode == 0, done.stdout + done.stderr
    held = rows(tmp_path / "out")
    assert [r["index"] for r in held] == list(range(count))
    assert len({r["trajectory_id"] for r in held}) == count
    assert all(r["error"] is None for r in held)
    for row in held:
        ratings = [m["rating"] for m in row["messages"] if m["role"] == "assistant"]
        assert ratings == pytest.approx([expected_rating(row, a) for a in row["asked"]])
        assert row["reward"] == pytest.approx(sum(ratings))
    found = figures(tmp_path / "out")
    user = next(u for u in found["usage"] if u["role"] == "user")
    before, failed = checked(tmp_path / "out")
    counted = dict(failed + Counter({f["kind"]: f["count"] for f in found["faults"]}))
    injected = {kind: sum(stats["injected"].get(n, 0) for n in names) for kind, names in KINDS.items()}
    assert counted == injected
    assert user["requests"] + before == stats["served"]
    assert sum(injected.values()) == stats["requests"] - stats["served"] > 0.25 * stats["requests"]


@pytest.mark.slow
def test_faults_are_counted_and_no_conversation_is_lost(tmp_path):
    check_faulty_run(tmp_path, 120)


@pytest.mark.slow
def test_two_thousand_conversations_over_an_endpoint_of_which_every_third_request_fails(tmp_path):
    check_faulty_run(tmp_path, 2000)


@pytest.mark.slow
def test_a_key_that_expires_stops_the_run_and_reaches_no_file_or_message(tmp_path):
    with serve(latency=0.02, keys=[CANARY], expires_after=150) as server:
        few = {"pools": 2, "concurrency": 8}
        config, out = write_config(tmp_path / "away.yaml", server, users=few), tmp_path / "out"
        stopped = candor(config, out)
        assert stopped.returncode == 1
        assert "refuses the key in $CANARY_KEY (401)" in stopped.stderr
        assert "Traceback" not in stopped.stderr
        assert "Continue with: " in stopped.stderr
        kept = len(rows(out))
        assert 0 < kept < 120
        fresh = "sk-canary-fresh-2Hs81KvTq6"
        server.accept(fresh)
        done = candor(config, out, fresh)
    assert done.returncode == 0, done.stderr
    assert [r["index"] for r in rows(out)] == list(range(120))
    assert all(r["error"] is None for r in rows(out))
    session = Path("/tmp/ray/session_latest").resolve()
    for folder in (out, session):
        for path in filter(Path.is_file, folder.rglob("*")):
            content = path.read_bytes()
            assert CANARY.encode() not in content, path
            assert fresh.encode() not in content, path
    for text in (stopped.stdout, stopped.stderr, done.stdout, done.stderr):
        assert CANARY[:12] not in text


@pytest.mark.slow
def test_the_budget_stops_a_run_before_more_is_spent_and_it_goes_on_with_a_larger_one(tmp_path):
    price = {"price": {"prompt": 10, "completion": 30}}
    with serve(latency=0.02) as server:
        config, out = write_config(tmp_path / "away.yaml", server, endpoint=price, budget=0.4), tmp_path / "out"
        stopped = candor(config, out)
        assert stopped.returncode == 1, stopped.stdout + stopped.stderr
        assert "the budget is spent: 0." in stopped.stderr
        assert "Traceback" not in stopped.stderr
        kept = rows(out)
        assert 0 < len(kept) < 120
        usage = [u for r in kept for u in r["usage"] if u["model"] == "gpt"]
        spent = sum(10 * u["prompt_tokens"] + 30 * u["completion_tokens"] for u in usage) / 1e6
        assert 0.3 < spent <= 0.4
        given_up = server.stats()["served"] - sum(u["requests"] for u in usage) - checked(out)[0]
        assert given_up <= 6  # requests of conversations that were not finished
        done = candor(write_config(tmp_path / "more.yaml", server, endpoint=price, budget=20), out)
    assert done.returncode == 0, done.stderr
    assert [r["index"] for r in rows(out)] == list(range(120))
    assert {r["trajectory_id"]: r for r in kept}.items() <= {r["trajectory_id"]: r for r in rows(out)}.items()


@pytest.mark.slow
def test_judges_of_policies_spend_from_the_same_budget(tmp_path, monkeypatch):
    """What they say is no verdict, and costs all the same."""
    price = {"price": {"prompt": 10, "completion": 30}}
    judged = {"suites": ["canary"], "judges": ["gpt"], "retries": 0, "max_error_share": 1.0}
    few = {"rollout": {"conversations": 12}, "evals": judged, "endpoint": price}

    def spent(out: Path, served: int) -> float:
        usage = [u for r in rows(out) for u in r["usage"]]
        usage += [u for f in out.glob("evals/*/*/usage.json") for u in json.loads(f.read_text())]
        mine = [u for u in usage if u["model"] == "gpt"]
        given_up = served - sum(u["requests"] for u in mine) - checked(out)[0]
        assert given_up <= 6  # requests of conversations that were not finished
        return sum(10 * u["prompt_tokens"] + 30 * u["completion_tokens"] for u in mine) / 1e6

    monkeypatch.setenv("CANDOR_CACHE", str(tmp_path / "one"))
    with serve() as server:
        whole = candor(write_config(tmp_path / "whole.yaml", server, **few), tmp_path / "whole")
        assert whole.returncode == 0, whole.stderr
        everything = spent(tmp_path / "whole", server.stats()["served"])
    report = (tmp_path / "whole" / "report.html").read_text()
    assert "eval judge" in report
    monkeypatch.setenv("CANDOR_CACHE", str(tmp_path / "two"))
    with serve() as server:
        out, budget = tmp_path / "out", everything * 0.6
        stopped = candor(write_config(tmp_path / "away.yaml", server, budget=budget, **few), out)
        assert stopped.returncode == 1, stopped.stdout + stopped.stderr
        assert "the budget is spent: " in stopped.stderr
        assert everything * 0.2 < spent(out, server.stats()["served"]) <= budget
        done = candor(write_config(tmp_path / "more.yaml", server, budget=20, **few), out)
        assert done.returncode == 0, done.stderr
        assert spent(out, server.stats()["served"]) == pytest.approx(everything, rel=0.1)


def test_an_endpoint_that_is_down_is_known_before_anything_starts(tmp_path):
    with serve() as server:
        down = server
    began = time.monotonic()
    failed = candor(write_config(tmp_path / "away.yaml", down), tmp_path / "out")
    assert failed.returncode == 2
    assert "models.gpt: mock at http://127.0.0.1" in failed.stderr
    assert "cannot be reached" in failed.stderr
    assert not (tmp_path / "out" / "rounds").exists()
    assert time.monotonic() - began < 30
    keyless = candor(write_config(tmp_path / "key.yaml", down), tmp_path / "out2", key=None)
    assert keyless.returncode == 2
    assert "put it into the environment variable CANARY_KEY" in keyless.stderr


@pytest.mark.slow
def test_without_probabilities_ratings_are_sampled_and_the_run_says_so(tmp_path):
    def answer(messages: list[dict]) -> str:
        length = sum(len(m["content"]) for m in messages)
        return str(7 + length % 2) if "scale from 1" in messages[-1]["content"] else "I see."

    with serve(answer, logprobs="refused") as server:
        config = write_config(tmp_path / "away.yaml", server, rollout={"conversations": 24}, rating={"samples": 2})
        done = candor(config, tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ratings were sampled" in done.stdout
    replies = [m for r in rows(tmp_path / "out") for m in r["messages"] if m["role"] == "assistant"]
    assert {m["rating_method"] for m in replies} == {"sampled"}
    assert {m["rating"] for m in replies} == {7.0, 8.0}


SUPPORT = load_world("support")


def played(messages: list[dict]) -> str:
    """Whoever is asked answers by a hash of what is asked."""
    asked = messages[-1]["content"]
    draw = int.from_bytes(hashlib.sha256(asked.encode()).digest()[:8], "big")
    if "How satisfied is this person with" in asked:
        return str(1 + draw % 10)
    if "Is the conversation over for this person" in asked:
        return "Yes." if draw % 4 == 0 else "No."
    if "Which of these does the message do?" in asked:
        return "ABABABC"[draw % 7]
    if "Does the second contradict the first" in asked or "Does the actor stay this person" in asked:
        return "no" if draw % 3 else "yes"
    return f"That is all. {SUPPORT.end_marker}" if draw % 4 == 0 else f"And what about the {WORDS[draw % len(WORDS)]}?"


WORDS = ["invoice", "reminder", "account", "price", "order", "letter"]


def check_played_row(row: dict) -> None:
    """Every message, rating and verdict of a conversation is what the models said, and every prompt is there."""
    said = {role: [] for role in ("user", "rater", "judge", "neutral")}
    for a in row["asked"]:
        if a["role"] == "neutral":
            assert a["messages"] == SUPPORT.neutral_prompt(row["scenario"])
        else:
            assert a["answer"] == played([*row["user_messages"][: a["after"]], *a["messages"]])
        said[a["role"]].append(a["answer"])
    persona = SUPPORT.persona(row["scenario"], row["user_kind"], row["seed"])
    assert persona.thoughts in row["messages"][0]["content"]  # show_user_kind: full
    replies = [m for m in row["messages"] if m["role"] == "assistant"]
    last = {
        "turns": ["No."] * 2,
        "marker": ["No."] * len(replies),
        "transition": ["No."] * (len(replies) - 1) + ["Yes."],
    }
    assert said["user"] == last[row["ended"]]
    assert len(replies) == 3 if row["ended"] == "turns" else len(replies) < 3
    assert said["rater"] == [r for m in replies for r in [f"{m['rating']:.0f}"] * 2]
    assert {m["rating_method"] for m in replies} == {"sampled"}
    assert row["reward"] == pytest.approx(sum(m["rating"] for m in replies) / len(replies))
    kinds = [REPLY_KINDS[a] for a in said["judge"] if a in REPLY_KINDS]
    heard = [{"role": m["role"], "content": m["content"]} for m in row["messages"]]
    for n, m in enumerate(row["messages"]):  # by what was asked about each, as they are asked side by side
        if m["role"] == "assistant":
            question = reply_kind(SUPPORT, row["scenario"], heard[:n], m["content"])
            assert m["verdict"] == REPLY_KINDS[played(question)]
    assert len(kinds) == len(replies)
    assert len(said["judge"]) == 2 * len(replies) + 1
    assert row["validates"] == float("validate" in kinds)
    verdicts = [{v["rubric"]: v["label"] for v in m["verdicts"]} for m in replies]
    assert row["contradicts"] == float(any(v["contradicts"] == "yes" for v in verdicts))
    (looked,) = row["messages"][1]["verdicts"]
    assert (looked["rubric"], looked["label"], row["in_role"]) == (
        "in_role",
        "yes" if row["in_role"] else "no",
        looked["score"],
    )
    assert row["judge"] == "umpire"


@pytest.mark.slow
def test_a_model_that_must_tell_probabilities_and_does_not_stops_the_run_at_once(tmp_path):
    with serve(logprobs="refused") as server:
        config = write_config(tmp_path / "away.yaml", server, rating={"method": "logprobs"})
        stopped = candor(config, tmp_path / "out")
    assert stopped.returncode == 2
    assert "models.gpt: closed questions: " in stopped.stderr
    assert "does not return the probabilities of its tokens: This model does not support logprobs" in stopped.stderr
    assert "set rating.method to auto or sampled" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert not (tmp_path / "out" / "rounds").exists(), "nothing was held"


@pytest.mark.slow
def test_users_raters_and_judges_may_all_live_behind_endpoints(tmp_path):
    names = {"user": "talker", "rater": "reader", "judge": "umpire"}
    with serve(played, logprobs="refused", models=[*names.values()], latency=0.01) as server:
        place = {"kind": "endpoint", "base_url": server.base_url, "key_env": "CANARY_KEY"}
        config = write_config(
            tmp_path / "away.yaml",
            server,
            models={name: place | {"model": name, "price": {"prompt": 1, "completion": 2}} for name in names.values()},
            roles=names,
            rollout={"conversations": 40},
            conversation={"turns": 3, "transition": True, "show_user_kind": "full"},
            rating={"when": "end", "samples": 2, "aggregate": "mean"},
            judge={"role_sample": 1.0},
            selection={"veto": {"ends": "both"}},
        )
        done = candor(config, tmp_path / "out")
        stats = server.stats()
    assert done.returncode == 0, done.stdout + done.stderr
    held = rows(tmp_path / "out")
    assert [r["index"] for r in held] == list(range(40))
    assert all(r["error"] is None for r in held)
    for row in held:
        check_played_row(row)
    assert {r["ended"] for r in held} == {"turns", "marker", "transition"}
    neutral = {(r["scenario"], a["answer"]) for r in held for a in r["asked"] if a["role"] == "neutral"}
    assert sorted(scenario for scenario, _ in neutral) == sorted(SUPPORT.scenarios)
    found = figures(tmp_path / "out")
    vetoed = {r["trajectory_id"] for r in held if r["validates"] > 0.5}
    chosen = found["selection"]
    assert (chosen["top"]["count"], chosen["bottom"]["count"]) == (10, 10)
    assert (chosen["vetoed"], chosen["unjudged"]) == (len(vetoed), 0)
    chosen = read_table(RunDir(tmp_path / "out").selection("biased", 0))["trajectory_id"].to_pylist()
    assert vetoed
    assert not vetoed & set(chosen)
    usage = {(u["role"], u["model"]): u["requests"] for u in found["usage"]}
    assert set(usage) == {("assistant", "assistant"), *names.items()}
    assert (
        sum(n for (role, _), n in usage.items() if role != "assistant") + checked(tmp_path / "out")[0]
        == stats["served"]
    )
    for kind in ("benign", "biased"):
        mine = [r for r in held if r["user_kind"] == kind]
        users = found["users"][kind]
        assert users["in_role_checked"] == len(mine)
        assert users["rating_sampled"] == 1.0
        for name, share in (
            ("ended_early", [r["ended"] != "turns" for r in mine]),
            ("validates", [r["validates"] for r in mine]),
            ("contradicts", [r["contradicts"] for r in mine]),
            ("in_role", [r["in_role"] for r in mine]),
        ):
            assert users[name] == pytest.approx(sum(share) / len(mine))
    page = (tmp_path / "out" / "report.html").read_text()
    assert [r[2] for r in cells(page, "users")[1:]] == ["benign", "biased"]
    costs = {tuple(r[1:3]): r[3] for r in cells(page, "costs")[1:]}
    assert costs == {line: f"{n:,}" for line, n in usage.items()}
    assert "<td>umpire</td>" in page
