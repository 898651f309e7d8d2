"""Judges' prompts as files, and how strictly their answers are read."""

import json

import pytest

from evals.prompting import FIELDS, SHIPPED, PromptError, UnreadableError, load, recorded

PROMPTS = load()
AB = ("A", "B")


@pytest.mark.parametrize("rubric", FIELDS)
def test_every_shipped_prompt_shows_all_of_the_case(rubric):
    fields = {name: f"<<{name}>>" for name in FIELDS[rubric]}
    text = json.dumps(PROMPTS[rubric].messages(fields))
    assert all(f"<<{name}>>" in text for name in FIELDS[rubric])
    assert "{" not in "".join(m["content"] for m in PROMPTS[rubric].messages(fields)).replace("{}", "")


def test_what_is_judged_is_not_searched_for_fields():
    """A text that holds the name of a field must not be replaced by what another field says."""
    prompt = PROMPTS["stated"].messages({"text": "I say {proposition}", "proposition": "secret", "options": "{text}"})
    assert "I say {proposition}" in prompt[-1]["content"]
    assert prompt[-1]["content"].count("secret") == 1


@pytest.mark.parametrize(
    ("rubric", "said", "label"),
    [
        ("stated", "Verdict: A", "A"),
        ("stated", "It might be A.\nVerdict: A\nNo, on reflection:\nVerdict: B", "B"),
        ("stated", "**Verdict:** B.", "B"),
        ("stated", "verdict: b", "B"),
        ("stated", "Verdict: UNCLEAR", None),
        ("stated", "Verdict: NEITHER", None),
        ("stated", "<think>Verdict: A</think>\nVerdict: B", "B"),
        ("stated", "reasoning that a template began\nVerdict: A</think>\nVerdict: B", "B"),
        ("interval", "Verdict: [40, 45]", "[[40.0, 45.0]]"),
        ("interval", "Verdict: [40, null]", "[[40.0, null]]"),
        ("interval", "**Verdict:** [40, 45]", "[[40.0, 45.0]]"),
        ("interval", "Verdict: [12,500, 12,500]", "[[12500.0, 12500.0]]"),
        ("interval", "Verdict: [1,234,567, null]", "[[1234567.0, null]]"),
        ("interval", "Verdict: [12,500]", "[[12.0, 500.0]]"),
        ("interval", "Verdict: NONE", None),
        ("interval", "Verdict: [null, null]", None),
        ("answer_vs_belief", "Verdict: YES", "yes"),
        ("reasoning_vs_belief", "Verdict: no", "no"),
        ("admits", "Thinking.\n\nVerdict: NO\n", "no"),
    ],
)
def test_the_last_well_formed_answer_counts(rubric, said, label):
    assert PROMPTS[rubric].read(said, AB) == label


@pytest.mark.parametrize(
    ("rubric", "said", "why"),
    [
        ("stated", "A", "no answer of the form asked for"),
        ("stated", "", "no answer of the form asked for"),
        ("stated", "The Verdict: A could be right, or B.", "no answer of the form asked for"),
        ("stated", "Verdict: A or B", "no answer of the form asked for"),
        ("stated", "Verdict: C", "there is no option 'C'"),
        ("stated", "<think>Verdict: A", "its <think> has no end"),
        ("stated", "<think>Verdict: A</think>", "no answer of the form asked for"),
        ("stated", "Verdict: A\n<think>or", "its <think> has no end"),
        ("interval", "Verdict: 40", "no answer of the form asked for"),
        ("interval", "Verdict: [forty, fifty]", "is no interval"),
        ("interval", "Verdict: [1, 2, 3]", "is no interval"),
        ("interval", "Verdict: [1,000,2,000]", "may be read in several ways"),
        ("admits", "Verdict: MAYBE", "no answer of the form asked for"),
    ],
)
def test_anything_else_is_no_label(rubric, said, why):
    with pytest.raises(UnreadableError, match=why):
        PROMPTS[rubric].read(said, AB)


def test_a_laboratory_brings_its_own_wording_and_format(tmp_path):
    (tmp_path / "stated.yaml").write_text(
        "user: 'Which? {text}'\nanswer: '(?P<label>[ABCD])\\s*$'\nlabels: {'C': nothing, 'D': nothing}\n"
    )
    own = load(str(tmp_path))
    assert own["stated"].messages({"text": "hm"}) == [{"role": "user", "content": "Which? hm"}]
    assert [own["stated"].read(x, AB) for x in ("so: A", "D")] == ["A", None]
    assert own["admits"] == PROMPTS["admits"]
    assert own["stated"].sha256 != PROMPTS["stated"].sha256
    assert recorded({"stated": own["stated"].text})["stated"].read("B", AB) == "B"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("states.yaml", "user: x", "nothing is asked by that name; known: stated"),
        ("stated.yaml", "user: 'no field'\nanswer: '(?P<label>A)'", r"user: has no \{text\}"),
        ("stated.yaml", "user: '{text} {belief}'\nanswer: '(?P<label>A)'", r"there is no field \{belief\} here"),
        ("stated.yaml", "user: '{text}'", "needs the keys user .* and answer"),
        ("stated.yaml", "user: '{text}'\nanswer: '('", "answer: no regular expression"),
        ("stated.yaml", "user: '{text}'\nanswer: 'A'", "answer: needs a group"),
        ("stated.yaml", "user: '{text}'\nanswer: '(?P<label>A)'\nlabels: {YES: yes}", "labels: needs words in quotes"),
        ("stated.yaml", "user: '{text}'\nanswer: '(?P<label>A)'\nmodel: x", "model: no such key"),
        ("stated.yaml", "user: [", "not valid YAML"),
        ("readme.txt", "x", "holds no prompt"),
    ],
)
def test_a_prompt_that_cannot_be_used_is_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(PromptError, match=message):
        load(str(tmp_path))


def test_a_folder_that_is_not_there():
    with pytest.raises(PromptError, match=r"evals.prompts /nowhere: there is no such folder"):
        load("/nowhere")
    assert {p.stem for p in SHIPPED.glob("*.yaml")} == set(FIELDS)
