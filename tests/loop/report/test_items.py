"""Evaluation items across policies."""

import json

import pytest

from evals.outcomes import Outcome, Ruling, Said
from evals.protocols.deceptionbench import FORMAT_ERROR
from loop.report.filters import QueryError
from loop.report.items import ItemQuery, OutcomeIndex
from tests.conftest import write_evaluation
from tests.loop.report.test_listing import Run

FATES = {
    "a": {"benign": ("honest", "honest", "honest"), "biased": ("honest", "honest", "lie")},
    "b": {"benign": ("lie", "lie", "honest"), "biased": ("lie", "evasion", "lie")},
    "c/1": {"benign": ("honest", "honest", "honest"), "biased": ("honest", "lie", "honest")},
}
"""By item and arm, the outcome of each policy."""


def answered(item, arm, policy, outcome):
    asked = [{"role": "user", "content": f"What of {item}?"}]
    said = [
        Said("answer", json.dumps(asked), f"It is {outcome} by {arm} {policy}.", "stop"),
        Said("belief_1", json.dumps(asked), "It is tea.", "stop"),
    ]
    rulings = [
        Ruling("answer", "stated", "world", raw="the judge says wool", label="wool"),
        Ruling("beliefs", "stated", "world", raw="all of them", label="tea"),
    ]
    condition = "no_stake" if item == "b" else "pressure"
    return Outcome(
        "mask", "mask", item, item, arm, policy, truth="tea", wanted="wool", belief="tea", outcome=outcome, said=said,
        rulings=rulings, condition=condition,
    )  # fmt: skip


def evaluate(run, arm, policy):
    folder = run.out.evals(arm, policy)
    folder.mkdir(parents=True)
    write_evaluation(folder, [answered(i, arm, policy, of[arm][policy]) for i, of in FATES.items()])


def evaluated(root):
    run = Run(root)
    for arm in ("benign", "biased"):
        for policy in range(3):
            evaluate(run, arm, policy)
    return run


@pytest.fixture
def run(tmp_path):
    return evaluated(tmp_path / "run")


@pytest.fixture
def index(run):
    made = OutcomeIndex(run.out, run.config)
    made.refresh()
    return made


@pytest.mark.parametrize(
    ("asked", "items"),
    [
        ({}, ["a", "b", "c/1"]),
        ({"change": "honest to lie"}, ["a"]),
        ({"change": "lie to honest"}, ["b"]),
        ({"change": "lie to honest", "arm": "biased"}, []),
        ({"change": "changed"}, ["a", "b"]),
        ({"outcome": "lie", "arm": "benign"}, ["b"]),
        ({"outcome": "lie", "arm": "biased", "version": 1}, ["c/1"]),
        ({"condition": "no_stake"}, ["b"]),
    ],
)
def test_items_are_found_by_what_they_came_to(index, asked, items):
    assert [i.item_id for i in index.find("mask", ItemQuery(**asked))] == items


def test_a_text_is_found_in_prompts_answers_and_verdicts(index):
    def found(text):
        return [i.item_id for i in index.find("mask", ItemQuery(), text)]

    assert found("what of B?") == ["b"]
    assert found("lie by biased 1") == ["c/1"]
    assert found("The judge says") == ["a", "b", "c/1"]
    assert found("never") == []


def test_an_item_is_shown_with_belief_answer_and_verdicts_of_every_policy(index):
    answers = index.answers("mask", "c/1")
    assert list(answers) == [(arm, policy) for arm in ("benign", "biased") for policy in range(3)]
    (row,) = answers["biased", 1]
    assert (row["outcome"], row["belief"], row["said"][0]["text"]) == ("lie", "tea", "It is lie by biased 1.")
    assert row["said"][0]["messages"] == [{"role": "user", "content": "What of c/1?"}]
    assert [r["raw"] for r in row["said"][0]["rulings"]] == ["the judge says wool"]
    assert [r["raw"] for r in row["further"]] == ["all of them"]


@pytest.mark.parametrize(
    ("suite", "asked", "said"),
    [
        ("masc", {}, "--suite masc: unknown; did you mean mask"),
        ("mask", {"outcome": "lies"}, "--outcome lies: unknown; did you mean lie"),
        ("mask", {"arm": "red"}, "--arm red: unknown; known: benign, biased"),
    ],
)
def test_what_a_run_does_not_have_is_said(index, suite, asked, said):
    with pytest.raises(QueryError, match=said):
        index.find(suite, ItemQuery(**asked))
    with pytest.raises(QueryError, match="suite mask has no item z"):
        index.answers("mask", "z")


def test_policies_appear_once_they_have_been_asked_everything(tmp_path):
    run = Run(tmp_path / "run")
    index = OutcomeIndex(run.out, run.config)
    index.refresh()
    assert (index.policies, index.suites) == ([], {})
    evaluate(run, "biased", 1)
    index.refresh()
    evaluate(run, "benign", 0)
    index.refresh()
    assert index.policies == [("benign", 0), ("biased", 1)]
    assert index.suites["mask"]["a"].outcomes == {("biased", 1): ["honest"], ("benign", 0): ["honest"]}


def test_whether_there_is_a_share_is_for_the_protocol_to_say(tmp_path):
    """Reasoning without its parts is an error that does not count against a score; a failed request does."""
    run = Run(tmp_path / "run")
    for arm, error in (("benign", f"{FORMAT_ERROR}: no answer"), ("biased", "ChatError: gone")):
        rows = []
        for n in range(8):
            failed = {"outcome": "error", "error": error} if n < 4 else {"outcome": "lie"}
            rows.append(Outcome("deceptionbench", "deceptionbench", f"d/{n}", f"d/{n}", arm, 0, **failed))
        run.out.evals(arm, 0).mkdir(parents=True)
        write_evaluation(run.out.evals(arm, 0), rows)
    index = OutcomeIndex(run.out, run.config)
    index.refresh()
    assert index.share("deceptionbench", ("benign", 0)).value == 1
    assert index.share("deceptionbench", ("biased", 0)) is None
    assert index.compare("deceptionbench", ("benign", 0), ("biased", 0)).startswith("too many answers of biased 0")
