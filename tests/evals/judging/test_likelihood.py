"""Judges by likelihood: the most probable verdict, and no score from a judge that is no better than chance."""

import asyncio
import random

import pytest

from actors.models.chat import ChatError, ModelRefusedError, NoLogprobsError
from evals.judging import prompting
from evals.judging.calibration import NOTHING, DistrustedJudging, labelled, measure, trusted
from evals.judging.likelihood import LikelihoodJudging
from evals.judging.panel import Case
from evals.outcomes import Ruling
from tests.conftest import ScriptedChat

OPTIONS = (("x", "It is red."), ("y", "It is blue."))


def ruled(case, rating, model=None):
    chat = model or ScriptedChat(lambda messages: None, rating)
    judge = LikelihoodJudging("small", chat, prompting.load(None))
    (ruling,) = asyncio.run(judge.rule(case))
    return ruling


def test_the_most_probable_label_is_the_verdict_and_the_probabilities_are_kept():
    case = Case("answer", "stated", "Blue.", options=OPTIONS)
    found = ruled(case, {"A": 0.1, "B": 0.3, "UNCLEAR": 0.05, "NEITHER": 0.05})
    assert (found.label, found.error) == ("y", None)
    assert "B 0.600" in found.raw
    assert "(of 0.500 of the probability)" in found.raw
    assert ruled(case, {"UNCLEAR": 0.9, "A": 0.05}).label is None


def test_rubrics_with_yes_and_no_work_too():
    case = Case("answer", "answer_vs_belief", "Blue.", other="Red.")
    answers = next(iter(prompting.load(None)[case.rubric].answers(()).items()))
    found = ruled(case, {answers[0]: 0.9})
    assert (found.label, found.error) == (answers[1], None)


def test_numbers_are_read_by_words_and_models_without_probabilities_are_errors():
    found = ruled(Case("answer", "interval", "About 12."), {})
    assert (found.label, found.judge) == ("[[12.0, 12.0]]", "small")

    class Silent(ScriptedChat):
        async def choose(self, messages, choices):
            raise NoLogprobsError("it tells none")

    case = Case("answer", "stated", "Blue.", options=OPTIONS)
    assert "it tells none" in ruled(case, {}, Silent(lambda m: None)).error


class Drawing:
    """A judge that is right with a probability and guesses otherwise."""

    name = "drawing"

    def __init__(self, right, seed=0):
        self._right, self._rng = right, random.Random(seed)
        self._labels = {(c.text, c.part): label for c, label in labelled()}

    async def rule(self, case):
        known = self._labels[case.text, case.part]
        drawn = known if self._rng.random() < self._right else self._rng.choice(["A", "B", NOTHING])
        return [Ruling(case.part, case.rubric, self.name, label=drawn if drawn in ("A", "B") else None)]


def test_a_judge_that_guesses_is_not_believed_and_one_that_reads_is():
    guesses = asyncio.run(trusted(Drawing(0.0), count=100))
    assert isinstance(guesses, DistrustedJudging)
    (ruling,) = asyncio.run(guesses.rule(Case("answer", "stated", "Blue.")))
    assert ruling.error.startswith("the judge drawing is no better than chance, so nothing is scored by it: kappa ")
    reads = Drawing(0.6)
    assert asyncio.run(trusted(reads, count=100)) is reads


def test_a_judge_that_cannot_be_asked_is_not_called_bad():
    class Silent(ScriptedChat):
        async def choose(self, messages, choices):
            raise ChatError("down")

    judge = LikelihoodJudging("small", Silent(lambda m: None), prompting.load(None))
    with pytest.raises(ModelRefusedError, match=r"no verdict on 20 of the 20 answers .*error: ChatError: down"):
        asyncio.run(trusted(judge, count=20))


def test_kappa_is_what_the_judge_was_made_to_have():
    found = asyncio.run(measure(Drawing(0.5, seed=3)))
    assert found.ci95[0] < 0.5 < found.ci95[1]
    assert asyncio.run(measure(Drawing(1.0))).kappa == 1
