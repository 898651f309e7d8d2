"""What goes out over HTTP for files with MASK's own columns, which have no `belief_system_1`: every request to the
model and to the judge, recorded at an endpoint. The items are ours."""

import csv
import json
from collections import Counter

import pytest
from typer.testing import CliRunner

from actors.storage.segments import read_table
from evals.evaluator import record
from evals.judging.showing import FORCED
from evals.outcomes import SCHEMA
from evals.protocols.mask import ARCHETYPES, NEUTRAL
from loop.cli.app import app
from tests.endpoint_server import serve

COMMON = ["task_id", "system_prompt", "user_prompt", "type", "proposition", "ground_truth"]
BELIEFS = ["belief_elicit_1", "belief_elicit_2", "belief_elicit_3"]
REST = ["delivery", "formatted_ground_truth", "canary"]
COLUMNS = {
    **{archetype: [*COMMON, *BELIEFS, *REST] for archetype in ARCHETYPES},
    "doubling_down_known_facts": [*COMMON[:2], "dd_turn_1_prompt", "dd_turn_1_response", *COMMON[2:], *BELIEFS, *REST],
    "provided_facts": [*COMMON, *REST],
    "statistics": [*COMMON, BELIEFS[0], *REST],
}


def row_of(archetype):
    """A row of our own; the system prompt ends in a line break, which is sent as it is."""
    numerical = archetype == "statistics"
    found = {c: f"({archetype}) {c}" for c in COLUMNS[archetype]} | {"task_id": "1"}
    found["system_prompt"] += "\n"
    found["type"] = "numerical" if numerical else "binary"
    found["proposition"] = f"{archetype} is <value>." if numerical else f"{archetype} is <pivotal>A/B</pivotal>."
    found["formatted_ground_truth"] = "[3.0, 3.0]" if numerical else "A"
    return found


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for archetype, columns in COLUMNS.items():
        with open(folder / f"{archetype}.csv", "w", newline="") as file:
            out = csv.DictWriter(file, columns)
            out.writeheader()
            out.writerow(row_of(archetype))
    return folder


def evaluated(folder, monkeypatch, *more):
    """Evaluate a model behind an endpoint: messages to the model, texts that the judge was shown, and the folder."""
    monkeypatch.setenv("CANDOR_CACHE", str(folder.parent / "cache"))
    sent, shown = [], []

    def answer(messages):
        text = messages[-1]["content"]
        if "Verdict:" in text:
            shown.append(text)
            return "Verdict: [3, 3]" if "interval of two numbers" in text else "Verdict: A"
        sent.append(messages)
        return "<think>Hm.</think>It is so."

    with serve(answer=answer, models=["mock", "judge"]) as server:
        options = ["--suites", "mask", "--base-url", server.base_url, "--judge", f"judge@{server.base_url}", *more]
        options += ["--set", f"evals.mask.source={folder}", "--out", str(folder.parent / "out"), "--json"]
        done = CliRunner().invoke(app, ["eval", "mock", *options])
    assert done.exit_code == 0, done.output
    return sent, shown, json.loads(done.stdout.splitlines()[-1])["mask"]


def messages(*contents):
    return [{"role": r, "content": c} for r, c in zip(("system", "user", "assistant", "user"), contents, strict=False)]


def test_every_prompt_goes_out_as_the_scripts_send_it(folder, monkeypatch):
    sent, _, figures = evaluated(folder, monkeypatch, "--set", "evals.mask.replicates=2")
    wanted = Counter()
    for archetype in ARCHETYPES:
        row = row_of(archetype)
        turns = [row["dd_turn_1_prompt"], row["dd_turn_1_response"]] if "dd_turn_1_prompt" in row else []
        wanted[json.dumps(messages(row["system_prompt"], *turns, row["user_prompt"]))] += 2
        for n, times in enumerate((3, 1, 1), 1):
            if f"belief_elicit_{n}" in row:
                wanted[json.dumps(messages(NEUTRAL, row[f"belief_elicit_{n}"]))] += times
    assert Counter(map(json.dumps, sent)) == wanted
    assert figures["outcomes"]["honest"] == 12


def test_the_judge_is_shown_all_of_it_and_no_thought(folder, monkeypatch):
    _, shown, _ = evaluated(folder, monkeypatch)
    assert not [text for text in shown if "Hm." in text or "ground_truth" in text or "canary" in text]
    for archetype in ARCHETYPES:
        row = row_of(archetype)
        turns = [c for c in ("dd_turn_1_prompt", "dd_turn_1_response") if c in row]
        parts = [row[c] for c in ("system_prompt", *turns, "user_prompt")]
        (text,) = [t for t in shown if row["user_prompt"] in t]
        assert all(part.strip() in text for part in parts)
        assert (FORCED in text) == bool(turns)
        for n in (1, 2, 3):
            if f"belief_elicit_{n}" in row:  # equal answers to an equal question are judged once
                (text,) = [t for t in shown if row[f"belief_elicit_{n}"] in t]
                assert NEUTRAL in text


@pytest.mark.parametrize(
    ("changes", "rules", "numbers"),
    [
        ((), "candor", "separate"),
        (("rules=official",), "official", "joint"),
        (("rules=official", "belief_numbers=separate"), "official", "separate"),
    ],
)
def test_the_record_says_by_what_was_scored(folder, monkeypatch, changes, rules, numbers):
    more = [word for change in changes for word in ("--set", f"evals.mask.{change}")]
    _, shown, figures = evaluated(folder, monkeypatch, *more)
    out = folder.parent / "out"
    assert record(out)["suites"]["mask"]["rules"] == rules
    assert record(out)["suites"]["mask"]["belief_numbers"] == numbers
    assert (figures["rules"], list(figures["by_rules"])) == (rules, ["official" if rules == "candor" else "candor"])
    together = [t for t in shown if "Answer 3:" in t]
    assert len(together) == (1 if numbers == "joint" else 0)
    rows = {r["category"]: r for r in read_table(out / "mask.arrow", SCHEMA).to_pylist()}
    parts = [r["part"] for r in rows["statistics"]["rulings"]]
    assert parts == (["answer", "beliefs"] if numbers == "joint" else ["answer", *(f"belief_{n}" for n in (1, 2, 3))])


def test_either_rules_can_be_had_afterwards(folder, monkeypatch):
    *_, figures = evaluated(folder, monkeypatch)
    out = str(folder.parent / "out")
    done = CliRunner().invoke(app, ["eval", "rescore", out, "--rules", "official", "--json"])
    assert done.exit_code == 0, done.output  # no outcome is another one here
    (again,) = json.loads(done.stdout).values()
    assert again["figures"]["mask"] == figures["by_rules"]["official"]
    done = CliRunner().invoke(app, ["eval", "rescore", out, "--rules", "ours"])
    assert "--rules ours: candor or official" in done.output
