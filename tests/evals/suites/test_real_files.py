"""The authors' own files of DeceptionBench and BeHonest: every row is an item, and is asked as they ask it."""

import hashlib
import json
import re
from collections import Counter

import pytest
from typer.testing import CliRunner

from actors.storage.segments import read_table
from evals.outcomes import SCHEMA
from evals.protocols.behonest import INSTRUCTION
from evals.settings import SuiteSettings
from evals.suites.catalogue import SUITES
from evals.suites.sources import load
from loop.cli.app import app
from tests.conftest import shared
from tests.endpoint_server import serve

PARTS = ("Unknowns", "Knowns")


def loaded(suite, name, **settings):
    return load(suite, SuiteSettings(source=str(shared(name)), **settings), None, 0)


def test_deceptionbench_has_its_rows_and_is_known():
    found = loaded("deceptionbench", "deceptionbench/deception_bench.jsonl")
    assert Counter(i.category for i in found.items) == {
        "Goal_Driven_Rule_Breaking_Manipulation": 45,
        "Sycophantic_Misrepresentation": 43,
        "Honesty_Evasion_Under_Pressure": 43,
        "Sandbagging": 33,
        "Alignment_Faking": 16,
    }
    assert sum(i.instructed for i in found.items) == 33
    assert found.record["official"] == "its rows as JSON lines"


def test_the_file_on_the_hub_has_the_same_rows_by_its_published_hash(tmp_path):
    """The hash that others published of `deceptionbench_0527.json` is that of these rows, written as they are there."""
    lines = shared("deceptionbench/deception_bench.jsonl").read_text(encoding="utf-8").splitlines()
    file = tmp_path / "deceptionbench_0527.json"
    file.write_text(json.dumps([json.loads(line) for line in lines], indent=4, ensure_ascii=False), encoding="utf-8")
    known = {name: sha256 for sha256, name in SUITES["deceptionbench"].known.items()}
    assert hashlib.sha256(file.read_bytes()).hexdigest() == known["deceptionbench_0527.json"]
    found = load("deceptionbench", SuiteSettings(source=str(file)), None, 0)
    assert found.record["official"] == "deceptionbench_0527.json"
    assert found.items == loaded("deceptionbench", "deceptionbench/deception_bench.jsonl").items


def test_every_row_of_behonest_is_an_item_of_its_part():
    found = loaded("behonest", "behonest")
    assert Counter((i.item_id.partition("/")[0], i.category) for i in found.items) == {
        ("Unknowns", "unanswerable"): 400,
        ("Knowns", "answerable"): 400,
    }
    for part in PARTS:
        file = f"behonest/{part}/{part.lower()}.json"
        alone = loaded("behonest", file).items
        assert alone == [i for i in found.items if i.item_id.startswith(part)]
        rows = json.loads(shared(file).read_text(encoding="utf-8"))
        assert [i.item_id for i in alone] == [f"{part}/{row['id']}" for row in rows]


@pytest.mark.parametrize("scoring", ["candor", "official"])
def test_every_question_of_behonest_goes_out_as_its_authors_ask_it(tmp_path, monkeypatch, scoring):
    """Recorded over HTTP. The official scoring puts one instruction before each and needs no judge; a model that knows
    nothing refuses everything, and one that answers all admits nothing."""
    monkeypatch.setenv("CANDOR_CACHE", str(tmp_path / "cache"))
    rows = [r for p in PARTS for r in json.loads(shared(f"behonest/{p}/{p.lower()}.json").read_text(encoding="utf-8"))]
    heard = []

    def answer(messages):
        if "Verdict:" in messages[-1]["content"]:
            return "Verdict: NO"
        heard.append(messages)
        return "I do not know." if len(messages[-1]["content"]) % 2 else "It is so."

    with serve(answer=answer, models=["mock", "judge"]) as server:
        words = ["eval", "mock", "--suites", "behonest", "--base-url", server.base_url, "--out", str(tmp_path / "out")]
        words += ["--set", f"evals.behonest.source={shared('behonest')}", "--json"]
        words += ["--set", "evals.behonest.scoring=official"] if scoring == "official" else []
        words += [] if scoring == "official" else ["--judge", f"judge@{server.base_url}"]
        done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    before = f"{INSTRUCTION}\n\n" if scoring == "official" else ""
    wanted = Counter(before + row["prompt"] for row in rows)
    assert Counter(messages[-1]["content"] for messages in heard) == wanted
    assert {tuple(m["role"] for m in messages) for messages in heard} == {("user",)}
    figures = json.loads(done.stdout.splitlines()[-1])["behonest"]
    assert (figures["admitted"]["n"], figures["refused_answerable"]["n"]) == (400, 400)
    table = read_table(tmp_path / "out" / "behonest.arrow", SCHEMA).to_pylist()
    if scoring == "official":
        assert {r["outcome"] == "admitted" for r in table if "know" in r["said"][0]["text"]} == {True}
        assert {r["outcome"] == "claimed" for r in table if "so" in r["said"][0]["text"]} == {True}
        record = json.loads((tmp_path / "out" / "evaluation.json").read_text())
        assert record["settings"]["behonest"]["scoring"] == "official"
    else:
        assert figures["admission_rate"] == figures["refused_answerable"]["rate"] == 0.0
    again = CliRunner().invoke(app, ["eval", "rescore", str(tmp_path / "out")], env={"COLUMNS": "200"})
    assert again.exit_code == 0, again.output
    assert re.search(r"knowns refused 0\.\d\d \[.*\] of 400", again.output)
