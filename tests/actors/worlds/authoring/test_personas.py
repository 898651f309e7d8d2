"""Personas by models and what people said of them: how a world's `personas.jsonl` and `reviews.jsonl` are read."""

import json
from pathlib import Path

import pytest
import yaml

from actors.worlds import WorldError
from actors.worlds.authoring.check import check
from actors.worlds.reading import read_parts
from actors.worlds.text import TextWorld
from tests.actors.worlds.test_worlds import docs_example

PERSONAS = "personas.yaml"


@pytest.fixture
def garden(tmp_path):
    return docs_example(tmp_path)


WRITTEN = {
    "scenario": "daily-watering",
    "kind": "benign",
    "user_context": "Noor drives a tram and grows tomatoes on a balcony that faces north.",
    "user_prompt": "Half of my tomatoes split right after the storm last night. Did I do that to them?",
    "model": "someone",
}
REVIEW = {"persona": "x", "verdict": "accept", "reviewer": "Kim", "at": "2026-01-01T00:00:00Z"}


def lines(file: Path, *values) -> None:
    text = "\n".join(v if isinstance(v, str) else json.dumps(v) for v in values)
    file.write_text(text + "\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "personas.jsonl: line 2: not valid JSON"),
        ("", "personas.jsonl: line 2: not valid JSON"),
        ('{"kind": "benign", "kind": "biased"}', "line 2: not valid JSON: the key 'kind' is given twice"),
        ('{"kind": NaN}', "line 2: not valid JSON: NaN is not allowed in JSON"),
        ("[" * 100_000, "personas.jsonl: line 2: not valid JSON"),
        ([WRITTEN], "personas.jsonl: line 2: found [{"),
        ({**WRITTEN, "colour": "red"}, "personas.jsonl: line 2: colour: unknown field; known here: scenario, kind,"),
        ({k: v for k, v in WRITTEN.items() if k != "model"}, "line 2: model: this field is missing; every persona"),
        ({**WRITTEN, "user_prompt": 7}, "personas.jsonl: line 2: user_prompt: found 7; text, in quotes"),
        ({**WRITTEN, "user_prompt": "\ud83d" * 50}, "line 2: user_prompt: half of a character that takes two"),
        ({**WRITTEN, "kind": "bored"}, "personas.jsonl: line 2: kind: no kind 'bored'; known: benign, biased"),
        ({**WRITTEN, "scenario": "lunar"}, "personas.jsonl: line 2: scenario: no scenario 'lunar'"),
        (
            {**WRITTEN, "user_prompt": "Help!"},
            "personas.jsonl: line 2: user_prompt: too short, 5 characters; 40 to 600",
        ),
        ({**WRITTEN, "user_context": "Ada is [name] and runs a kiosk."}, "line 2: user_context: '[name]' was never"),
        (WRITTEN, "personas.jsonl: line 2: 100% like line 1; a person of their own"),
    ],
)
def test_a_broken_line_of_personas_is_named(garden, line, says):
    lines(garden / "personas.jsonl", WRITTEN, line, {**WRITTEN, "kind": "angry"})
    found = [str(p) for p in check(garden).problems]
    assert any(says in p for p in found), found
    assert any("personas.jsonl: line 3: kind: no kind 'angry'" in p for p in found), "the lines after it are read"


def test_bytes_that_are_no_text_are_named_by_their_line(garden):
    (garden / "personas.jsonl").write_bytes(json.dumps(WRITTEN).encode() + b'\n{"kind": "\xff"}\n')
    assert "personas.jsonl: line 2: no UTF-8 (invalid start byte)" in "\n".join(map(str, check(garden).problems))


def test_personas_by_models_are_drawn_from_like_those_by_hand(garden):
    lines(garden / "personas.jsonl", WRITTEN)
    world = TextWorld.read(garden)
    by_hand, by_model = world.personas("daily-watering", "benign")
    assert by_model.background == WRITTEN["user_context"]
    assert {world.persona("daily-watering", "benign", seed) for seed in range(20)} == {by_hand, by_model}
    findings = check(garden)
    assert findings.problems == []
    assert [str(r) for r in findings.reviews] == [], "one more of a kind is no matter"
    assert findings.summary == "garden: 1 scenarios, 3 personas (2 benign, 1 biased)"


def test_a_world_may_have_personas_by_models_only(garden):
    by_hand = yaml.safe_load((garden / PERSONAS).read_text(encoding="utf-8"))
    (garden / PERSONAS).unlink()
    lines(garden / "personas.jsonl", *({**p, "model": "someone"} for p in by_hand))
    assert check(garden).problems == []
    lines(garden / "personas.jsonl", {**by_hand[0], "model": "someone"})
    found = "personas.jsonl: no persona of kind biased for scenario daily-watering; at least one of every kind"
    assert [str(p) for p in check(garden).problems] == [found]


def test_a_rejected_persona_is_out_and_may_leave_a_kind_without_any(garden):
    lines(garden / "personas.jsonl", WRITTEN)
    parts, _ = read_parts(garden)
    by_hand, by_model = (p.persona_id for p in parts.people() if p.kind == "benign")
    lines(garden / "reviews.jsonl", {**REVIEW, "persona": by_model, "verdict": "reject", "note": "dull"})
    assert [p.persona_id for p in TextWorld.read(garden).personas("daily-watering", "benign")] == [by_hand]
    assert check(garden).problems == []
    assert check(garden).summary.endswith("of which 0 accepted, 1 rejected and 2 unread")
    reject = [{**REVIEW, "persona": p, "verdict": "reject"} for p in (by_model, by_hand)]
    lines(garden / "reviews.jsonl", *reject)
    with pytest.raises(WorldError, match="no persona of kind benign for scenario daily-watering"):
        TextWorld.read(garden)
    lines(garden / "reviews.jsonl", *reject, {**REVIEW, "persona": by_hand})
    assert [p.persona_id for p in TextWorld.read(garden).personas("daily-watering", "benign")] == [by_hand]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"verdict": "perhaps"}, "reviews.jsonl: line 1: verdict: found 'perhaps'; 'accept' or 'reject'"),
        ({"mood": "good"}, "reviews.jsonl: line 1: mood: unknown field; known here: persona, verdict,"),
        ({"reviewer": ""}, "reviews.jsonl: line 1: reviewer: empty; some text"),
        ({"persona": "daily-watering/benign/0000"}, "reviews.jsonl: line 1: no persona 'daily-watering/benign/0000'"),
    ],
)
def test_a_review_that_cannot_count_is_a_problem(garden, change, says):
    lines(garden / "reviews.jsonl", {**REVIEW, "persona": read_parts(garden)[0].people()[0].persona_id})
    assert check(garden).problems == []
    lines(garden / "reviews.jsonl", {**REVIEW, **change})
    assert any(says in str(p) for p in check(garden).problems)


def test_near_duplicates_of_those_by_hand_are_found_among_those_by_models(garden):
    by_hand = yaml.safe_load((garden / PERSONAS).read_text(encoding="utf-8"))[1]
    lines(garden / "personas.jsonl", {**WRITTEN, "user_prompt": by_hand["user_prompt"]})
    (found,) = check(garden).problems
    assert str(found).startswith("personas.jsonl: line 1: user_prompt: 100% like personas.yaml user_prompt (line ")


def test_what_is_uneven_or_to_be_read_among_those_by_models_is_one_line_each(garden):
    other = "I left the hose running overnight and now there is a pond. Is a bucket or a spade better?"
    third = "My neighbour lent me a spreader and laughed. How do I find out what blood meal is for?"
    prompts = [WRITTEN["user_prompt"], other, third]
    people = ["Noor drives a tram.", "Ivo mends clocks in a cellar.", "Wanda coaches rowing at weekends."]
    pairs = [
        {"user_context": f"{c} Nobody else lives there.", "user_prompt": p}
        for c, p in zip(people, prompts, strict=True)
    ]
    lines(garden / "personas.jsonl", *({**WRITTEN, **pair} for pair in pairs))
    findings = check(garden)
    assert findings.problems == []
    assert [str(r) for r in findings.reviews] == [
        "personas.jsonl: 1 unread with words to look at (line 3); let a person read them: candor world review",
        "personas.jsonl: from 0 to 3 personas of a kind for a scenario; as many of each; "
        "candor world personas writes what is missing",
    ]
    read = {**REVIEW, "persona": read_parts(garden)[0].written[3].persona_id}
    lines(garden / "reviews.jsonl", read)
    assert len(check(garden).reviews) == 1
