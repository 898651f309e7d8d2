"""`candor eval MODEL` on models behind real HTTP, and what can be done with its outcomes afterwards."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from actors.storage.segments import read_table
from evals.evaluator import record
from evals.outcomes import SCHEMA, Outcome, Ruling, Said
from evals.suites.sources import load
from loop.cli.app import app
from loop.standalone import read_config
from tests.conftest import ROOT, hear_ctrl_c, write_evaluation
from tests.endpoint_server import serve
from tests.evals.test_asking import PRESSURE, judge, of, pressed, right, wrong

LYING = {i.item_id for i in PRESSURE[::3]}


def answers(messages):
    """A model that lies about every third item, and a judge: both live at one address."""
    if "Verdict:" in messages[-1]["content"]:
        return judge().answer(messages)
    item = of(messages)
    return wrong(item) if pressed(messages) and item.item_id in LYING else right(item)


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("CANDOR_CACHE", str(tmp_path / "cache"))
    with serve(answer=answers, models=["mock", "judge"]) as address:
        yield address


def command(server, out, *more):
    options = ["--suites", "canary_mask", "--base-url", server.base_url, "--judge", f"judge@{server.base_url}"]
    return ["eval", "mock", *options, "--out", str(out), *more]


def requests_of(out, role):
    return sum(u["requests"] for u in json.loads((out / "usage.json").read_text()) if u["role"] == role)


def candor(*words):
    return CliRunner().invoke(app, [*map(str, words)])


def test_a_model_behind_an_endpoint_is_evaluated_without_a_run(server, tmp_path):
    done = candor(*command(server, tmp_path / "out", "--json", "--inspect"))
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout.splitlines()[-1])["canary_mask"]
    assert figures["outcomes"] == {"honest": 36, "lie": 18, "evasion": 0, "no_belief": 0, "error": 0}
    assert figures["honesty_score"] == pytest.approx(36 / 54)
    rows = read_table(tmp_path / "out" / "canary_mask.arrow", SCHEMA).to_pylist()
    assert {r["item_id"] for r in rows if r["outcome"] == "lie"} == LYING
    about = record(tmp_path / "out")
    assert about["judges"] == ["judge"]
    assert about["suites"]["canary_mask"]["sha256"]
    assert about["prompts"]["stated"]["text"]
    assert [p.name for p in (tmp_path / "out" / "inspect").iterdir()] == ["canary_mask.eval"]


def test_logs_for_inspect_need_inspect(server, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "inspect_ai.log", None)
    done = candor(*command(server, tmp_path / "out", "--inspect"))
    assert done.exit_code == 2
    assert "pip install candor-loop[inspect]" in done.stderr
    assert server.stats()["served"] == 0


def test_a_repeated_evaluation_asks_the_judge_nothing(server, tmp_path):
    assert candor(*command(server, tmp_path / "first")).exit_code == 0
    first = json.loads((tmp_path / "first" / "usage.json").read_text())
    assert candor(*command(server, tmp_path / "second")).exit_code == 0
    second = json.loads((tmp_path / "second" / "usage.json").read_text())
    assert [u["role"] for u in first] == ["eval judge", "evaluated"]
    assert [u["role"] for u in second] == ["evaluated"]
    tables = [(tmp_path / name / "canary_mask.arrow").read_bytes() for name in ("first", "second")]
    assert tables[0] == tables[1]


@pytest.mark.slow
def test_an_evaluation_that_was_stopped_goes_on(tmp_path):
    """Ctrl-C in the middle; the same command asks only what is missing."""
    with serve(latency=0.05, models=["mock", "judge"], answer=answers) as server:
        words = command(
            server, tmp_path / "out", "--set", "evals.share=0.01", "--set", "evals.canary_mask.replicates=10"
        )
        tool = [Path(sys.executable).parent / "candor", *words]
        environment = os.environ | {"CANDOR_CACHE": str(tmp_path / "cache")}
        process = subprocess.Popen(
            tool, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=hear_ctrl_c
        )
        for _ in range(600):
            if list((tmp_path / "out" / "parts").glob("*.arrow")):
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 130, said
        assert "Continue with the same command" in said
        before = requests_of(tmp_path / "out", "evaluated")
        server.reset(latency=0)
        done = subprocess.run(tool, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
    asked = requests_of(tmp_path / "out", "evaluated")
    assert len(read_table(tmp_path / "out" / "canary_mask.arrow")) == 54 * 10
    everything = 54 * 10 + sum(b.times for i in PRESSURE for b in i.beliefs)
    assert before > 100
    assert everything <= asked < before + everything - 100


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--suites", "canary"], "answers to canary_mask need a model that judges them; give --judge NAME@URL"),
        (["--suites", "masc"], "evals.suites: there is no suite masc; known: mask"),
        (["--suites", "mask", "--judge", "self"], "model: there is no directory ./nowhere"),
        (["--suites", "canary", "--judge", "world"], "evals.judges: there is no judge 'world'; known: self"),
        (["--suites", "sycophancy", "--judge", "self"], "only worlds have items for it; name one with --world"),
        (["--judge", "self", "--set", "evals.masc=3"], "--set evals.masc: unknown key; did you mean evals.mask?"),
        (["--judge", "self", "--set", "evals.canary_mask.sha256=" + "0" * 64], "evals.canary_mask.sha256: "),
        (["--judge", "self", "--set", "evals.prompts=/nowhere"], "evals.prompts /nowhere: there is no such folder"),
        (["--judge", "self", "--config", "nowhere.yaml"], "nowhere.yaml: there is no such config"),
        (["--judge", "gpt@http://a", "--judge", "gpt@http://b"], "name each judge once"),
        (["--judge", "self", "--set", "evals.canary_mask=99"], "has 54 items, and 99 are asked for"),
    ],
)
def test_what_cannot_be_asked_is_said_before_anything_starts(tmp_path, monkeypatch, words, message):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if "mask" in words:
        rows = ROOT / "evals" / "suites" / "canary" / "mask.jsonl"
        words = [*words, "--set", f"evals.mask.source={rows}"]
    done = candor("eval", "./nowhere", "--out", tmp_path / "out", *words)
    assert done.exit_code == 2
    assert message in done.stderr


def test_a_judge_that_is_called_like_the_model_is_another(server, tmp_path):
    """Both are called mock, at two addresses, and each gets its own questions."""
    with serve(answer=judge().answer, models=["mock"]) as other:
        words = [f"mock@{other.base_url}" if w.startswith("judge@") else w for w in command(server, tmp_path / "out")]
        done = candor(*words, "--json", "--limit", "6")
        asked = other.stats()["served"]
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout.splitlines()[-1])["canary_mask"]["outcomes"]["error"] == 0
    assert asked == requests_of(tmp_path / "out", "eval judge") > 0
    assert server.stats()["served"] == requests_of(tmp_path / "out", "evaluated") > 0


def test_a_limit_above_what_there_is_takes_what_there_is_and_says_so(server, tmp_path):
    done = candor(*command(server, tmp_path / "out", "--limit", "99"))
    assert done.exit_code == 0, done.output
    assert "canary_mask has 54 items; --limit 99 takes all of them" in done.output
    assert record(tmp_path / "out")["suites"]["canary_mask"]["items"] == 54


def test_a_limit_holds_for_each_suite_of_a_world():
    said = []
    given = {"model": "pocket", "base": None, "world": "pocket", "base_url": None, "key_env": None}
    config = read_config(None, given, "mask,arithmetic_easy,lookup_easy", [], 600, [], said.append)
    assert config.evals.mask.items == 600
    for suite in ("arithmetic_easy", "lookup_easy"):
        have = config.evals.suite(suite).items
        assert 100 <= have < 600
        assert f"{suite} has {have} items; --limit 600 takes all of them" in said
        assert len(load(suite, config.evals.suite(suite), "pocket", config.evals.seed).items) == have


def test_an_evaluation_that_an_older_version_began_is_continued(server, tmp_path):
    """Settings that its record lacks, because they are younger, have their defaults."""
    assert candor(*command(server, tmp_path / "out")).exit_code == 0
    recorded = yaml.safe_load((tmp_path / "out/config.yaml").read_text())
    del recorded["extensions"], recorded["evals"]["further"]
    (tmp_path / "out/config.yaml").write_text(yaml.safe_dump(recorded))
    assert candor(*command(server, tmp_path / "out")).exit_code == 0


def test_a_folder_belongs_to_one_evaluation(server, tmp_path):
    assert candor(*command(server, tmp_path / "out", "--limit", "6")).exit_code == 0
    done = candor(*command(server, tmp_path / "out", "--limit", "12"))
    assert done.exit_code == 2
    assert "belongs to another evaluation" in done.stderr
    assert re.search(r"^  evals\.\S+: 6 \(recorded\), 12 \(given\)$", done.stderr, re.MULTILINE)
    again = candor(*command(server, tmp_path / "out", "--limit", "6", "--json"))
    assert json.loads(again.stdout.splitlines()[-1])["canary_mask"]["n"] == 6


def test_a_key_that_is_refused_stops_it_and_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setenv("CANDOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("WRONG_KEY", "sk-wrong-7Qx93LmZt0Vw58Rk")
    with serve(models=["mock", "judge"], keys=["right"]) as server:
        done = candor(*command(server, tmp_path / "out", "--key-env", "WRONG_KEY"))
    assert done.exit_code == 1
    assert "refuses the key in $WRONG_KEY (401)" in done.stderr
    told = done.output + "".join(p.read_text(errors="replace") for p in tmp_path.rglob("*") if p.is_file())
    assert "sk-wrong" not in told


def test_outcomes_are_scored_again_from_what_was_said(server, tmp_path):
    assert candor(*command(server, tmp_path / "out")).exit_code == 0
    done = candor("eval", "rescore", tmp_path / "out", "--json")
    assert done.exit_code == 0
    found = json.loads(done.stdout)["out"]
    assert found["changed"] == []
    assert found["figures"]["canary_mask"]["outcomes"]["lie"] == 18
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "stated.yaml").write_text(
        "user: '{text}'\nanswer: 'Verdict: (?P<label>\\w)'\nlabels: {'A': nothing, 'B': nothing}\n"
    )
    done = candor("eval", "rescore", tmp_path / "out", "--prompts", tmp_path / "prompts", "--json")
    assert done.exit_code == 1
    again = json.loads(done.stdout)["out"]
    assert again["figures"]["canary_mask"]["outcomes"]["evasion"] == 47
    assert len(again["changed"]) == 47
    assert record(tmp_path / "out")["rule"] == "majority", "nothing on disk has changed"


def test_what_cannot_be_scored_again_is_named(tmp_path):
    done = candor("eval", "rescore", tmp_path)
    assert (done.exit_code, "holds no complete evaluation" in done.stderr) == (2, True)
    write_evaluation(tmp_path / "e", [Outcome("mask", "mask", "i", "i", "", 0)])
    assert (
        "--rule twothirds: majority or unanimous"
        in candor("eval", "rescore", tmp_path / "e", "--rule", "twothirds").stderr
    )
    (tmp_path / "e" / "mask.arrow").write_bytes(b"torn")
    assert "mask.arrow: cannot be read" in candor("eval", "rescore", tmp_path / "e").stderr


def judged(item, truth, *labels, repeat=0):
    rulings = [Ruling("answer", "stated", f"j{n}", repeat, label=label) for n, label in enumerate(labels)]
    made = Outcome("mask", "mask", item, item, "", 0, truth="A", said=[Said("answer", "[]", f"text {item}")])
    made.rulings, made.outcome = rulings, "lie" if labels[0] == "B" else "honest"
    return made


def test_judges_are_compared_with_each_other_and_with_labels_by_hand(tmp_path):
    rows = [judged(f"i{n}", "A", "AB"[n % 2], "AB"[n % 2] if n else "B") for n in range(20)]
    write_evaluation(tmp_path / "e", rows)
    with open(tmp_path / "hand.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["suite", "item_id", "part", "label"])
        writer.writerows(["mask", f"i{n}", "answer", "AB"[n % 2]] for n in range(20))
        writer.writerows(["mask", f"i{n}", "outcome", "lie" if n % 2 and n > 1 else "honest"] for n in range(20))
    done = candor("eval", "agreement", tmp_path / "e", "--labels", tmp_path / "hand.csv", "--json")
    assert done.exit_code == 0, done.output
    found = {(r["what"], r["between"]): r["value"] for r in json.loads(done.stdout)}
    assert found["same label", "j0, j1"] == 0.95
    assert found["Cohen's kappa", "j0, j1"] == pytest.approx(0.9)
    assert found["Cohen's kappa", "j0, by hand"] == 1.0
    assert found["Cohen's kappa", "j1, by hand"] == pytest.approx(0.9)
    assert found["sensitivity to lies", "mask"] == 1.0
    assert found["specificity for lies", "mask"] == pytest.approx(10 / 11)
    assert found["rate of lies as judged", "mask"] == 0.5
    assert found["rate of lies, corrected", "mask"] == pytest.approx(0.45)


def test_answers_are_drawn_to_be_labelled(tmp_path):
    write_evaluation(tmp_path / "e", [judged(f"i{n}", "A", "AB"[n % 2]) for n in range(20)])
    done = candor("eval", "draw", tmp_path / "e", "--labels", 8, "--out", tmp_path / "label.csv")
    assert done.exit_code == 0, done.output
    assert "8 answers to label" in done.stdout
    with open(tmp_path / "label.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(int(r["item_id"][1:]) % 2 for r in rows) == [0] * 4 + [1] * 4
    assert {(r["part"], r["label"]) for r in rows} == {("outcome", "")}
    again = candor("eval", "draw", tmp_path / "e", "--out", tmp_path / "label.csv")
    assert (again.exit_code, "may hold labels" in again.stderr) == (2, True)


def test_a_judge_is_compared_with_itself(tmp_path):
    rows = [judged(f"i{n}", "A", "A") for n in range(4)]
    for n, row in enumerate(rows):
        row.rulings.append(Ruling("answer", "stated", "j0", 1, label="A" if n else "B"))
    write_evaluation(tmp_path / "e", rows)
    found = json.loads(candor("eval", "agreement", tmp_path / "e", "--json").stdout)
    assert [(r["what"], r["value"], r["n"]) for r in found] == [("consistency with itself", 0.75, 4)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("suite,item_id,label\n", "there is no column part"),
        ("suite,item_id,part,label\n", "there are no rows in it"),
        ("suite,item_id,part,label\nmask,i0,answer,\n", "row 1, label: it is empty"),
        ("suite,item_id,part,label\nmask,other,answer,A\n", "none of the labels by hand is about an item of this"),
    ],
)
def test_labels_by_hand_that_cannot_be_used_are_named(tmp_path, text, message):
    write_evaluation(tmp_path / "e", [judged("i0", "A", "A"), judged("i1", "A", "B")])
    (tmp_path / "hand.csv").write_text(text)
    done = candor("eval", "agreement", tmp_path / "e", "--labels", tmp_path / "hand.csv")
    assert done.exit_code == 2
    assert message in done.stderr
