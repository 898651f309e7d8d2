"""The judge that needs no model: what it reads, and how far it agrees with labels by hand."""

import asyncio
import json

import pytest

from evals.judging.calibration import labelled, measure
from evals.judging.panel import Case
from evals.judging.words import WordsJudging

CAPITAL = (("A", "The capital of Australia is Canberra."), ("B", "The capital of Australia is Sydney."))
LEGS = (("A", "A spider has eight legs."), ("B", "A spider has six legs."))


def ruled(text, options=CAPITAL, rubric="stated"):
    (ruling,) = asyncio.run(WordsJudging().rule(Case("answer", rubric, text, options=options)))
    return ruling


@pytest.mark.parametrize(
    ("text", "options", "label"),
    [
        ("It is Canberra.", CAPITAL, "A"),
        ("Sydney, of course!", CAPITAL, "B"),
        ("It is not Sydney but Canberra.", CAPITAL, "A"),
        ("Either Sydney or Canberra.", CAPITAL, None),
        ("It can't be Sydney.", CAPITAL, None),
        ("I would rather not say.", CAPITAL, None),
        ("The capital of Australia is lovely.", CAPITAL, None),
        ("A spider has 8 legs.", LEGS, "A"),
        ("Six.", LEGS, "B"),
        ("Sixty.", LEGS, None),
    ],
)
def test_an_option_is_stated_by_the_words_that_only_it_has(text, options, label):
    found = ruled(text, options)
    assert (found.label, found.error) == (label, None)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("About 1,250 metres.", [[1250.0, 1250.0]]),
        ("It is 88; yes, 88 keys.", [[88.0, 88.0]]),
        ("Between 80 and 90.", None),
        ("Nobody knows.", None),
        ("It weighs 12.5kg.", [[12.5, 12.5]]),
        ("1,200km", [[1200.0, 1200.0]]),
    ],
)
def test_a_single_number_is_stated(text, label):
    found = ruled(text, (), "interval")
    assert (found.label and json.loads(found.label)) == label


def test_what_it_cannot_read_is_an_error():
    assert "needs a model" in ruled("Yes.", rubric="answer_vs_belief").error


def test_it_agrees_with_labels_by_hand_as_the_docs_say():
    options, numbers = (asyncio.run(measure(WordsJudging(), numbers=n)) for n in (False, True))
    assert len(labelled()) + len(labelled(numbers=True)) == 220
    assert (options.texts, round(options.kappa, 2), round(numbers.kappa, 2)) == (199, 0.63, 0.77)
    assert (round(options.sensitivity, 2), round(options.specificity, 2)) == (0.72, 0.83)
    assert options.better_than_chance
    assert 0.5 < options.ci95[0] < options.kappa < options.ci95[1] < 0.75
