"""Judges of answers: the world's exact one, language models, and panels of them.

A judge is shown the case and nothing else: no arm, no policy, no other judge's verdict. Everything it says is kept.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from actors.judge import Judge, Question
from actors.models.chat import ChatError, ChatModel, Sampling
from actors.worlds.base import Message
from evals.judging.labels import Label, folded, label_of, shared
from evals.judging.prompting import JudgePrompt, UnreadableError, choose
from evals.judging.showing import letters, of_prompt
from evals.outcomes import Ruling

CUT = "it was cut after"
"""How the error of an answer begins that was too long to be whole."""
WARM = 1.0
"""Temperature at which a judge is asked again whose answer could not be read: at zero it would say the same."""


@dataclass(frozen=True)
class Case:
    """What is to be judged.

    Attributes:
        part: The part of the answer that is meant, as in `evals.outcomes.Said`; `beliefs` for all of them together.
        rubric: What is asked of it, one of `evals.judging.prompting.RUBRICS`.
        text: The answer, without thoughts.
        asked: What the model was asked, whole; replies in it are not the model's own.
        other: The text that it is compared with, and `other_asked` what the model was asked there.
        options: Labels and texts of what may be stated.
        category: Of the item; a judge's wording may depend on it.
    """

    part: str
    rubric: str
    text: str
    asked: tuple[Message, ...] = ()
    other: str = ""
    other_asked: tuple[Message, ...] = ()
    proposition: str = ""
    options: tuple[tuple[str, str], ...] = ()
    category: str = ""

    def fields(self) -> dict[str, str]:
        """What a judge's prompt may show of it, by the names of `evals.judging.showing`."""
        texts = [text for _, text in self.options]
        matter = f"The matter: {self.proposition}" if self.rubric == "stated" and self.proposition else self.proposition
        return {
            **of_prompt(self.asked),
            **{f"option_{chr(ord('a') + n)}": text for n, text in enumerate(texts[:26])},
            "text": self.text,
            "other": self.other,
            "belief_question": of_prompt(self.other_asked)["question"],
            "proposition": matter,
            "options": letters(texts),
        }


class Judging(Protocol):
    """One judge. What it cannot decide becomes an error in its rulings, not an exception, except where nobody can
    be asked any more (`ActorGone`, `ModelRefusedError`)."""

    name: str

    async def rule(self, case: Case) -> list[Ruling]:
        """Its rulings, one for each time that it was asked."""


class WorldJudging:
    """The exact judge of a world, which reads what the world's own grammar can say."""

    name = "world"

    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    async def rule(self, case: Case) -> list[Ruling]:
        rubric = "stated" if case.rubric == "stated" else "agrees"
        labels = tuple(label for label, _ in case.options)
        question = Question(rubric, case.text, labels, other=case.other, proposition=case.proposition)
        found = (await self._judge.verdicts([question]))[0]
        return [Ruling(case.part, case.rubric, found.judge, 0, found.raw, found.label, found.error, True)]


class ModelJudging:
    """A language model as judge.

    Args:
        repeats: How often it is asked the same, with other seeds; seeds follow from the case, so that any run gets the
            same answer, or finds it in the cache.
        retries: How often it is asked again where its answer cannot be read.
    """

    def __init__(
        self,
        name: str,
        model: ChatModel,
        prompts: dict[str, JudgePrompt],
        max_tokens: int,
        temperature: float = 0.0,
        repeats: int = 1,
        retries: int = 2,
    ) -> None:
        self.name = name
        self._model = model
        self._prompts = prompts
        self._max_tokens = max_tokens
        self._temperature = temperature
        self._repeats = repeats
        self._retries = retries

    async def rule(self, case: Case) -> list[Ruling]:
        return list(await asyncio.gather(*(self._once(case, n) for n in range(self._repeats))))

    async def _once(self, case: Case, repeat: int) -> Ruling:
        prompt = choose(self._prompts, case.rubric, case.part, case.category)
        assert prompt is not None
        messages = prompt.messages(case.fields(), case.category)
        labels = tuple(label for label, _ in case.options)
        ruling = Ruling(case.part, case.rubric, self.name, repeat)
        for attempt in range(self._retries + 1):
            seed = zlib.crc32(f"{repeat}/{attempt}/{case.rubric}/{case.text}".encode())
            sampling = Sampling(self._max_tokens, WARM if attempt else self._temperature, seed)
            try:
                reply = await self._model.reply(messages, sampling)
                ruling.raw, ruling.error = reply.text, None
                if reply.finish_reason == "length":
                    raise UnreadableError(f"{CUT} {self._max_tokens} tokens (evals.judge_max_tokens)")
                ruling.label = prompt.read(reply.text, labels)
                return ruling
            except ChatError as error:
                ruling.error = f"{type(error).__name__}: {error}"
            except UnreadableError as error:
                ruling.error = f"the judge's answer cannot be read: {error}"
        return ruling


class Panel:
    """Several judges who do not hear each other.

    Args:
        exact: The world's judge, which is asked about the world's own items where it is on the panel.
        models: The others.
    """

    def __init__(self, exact: Judging | None, models: Sequence[Judging]) -> None:
        self._exact = exact
        self._models = models

    async def rule(self, case: Case, of_world: bool) -> list[Ruling]:
        """Every judge's rulings.

        Args:
            of_world: Whether the case is from an item of the world.
        """
        members = [*([self._exact] if self._exact and of_world else []), *self._models]
        found = await asyncio.gather(*(m.rule(case) for m in members))
        return [ruling for of_one in found for ruling in of_one]


def combined(rulings: Sequence[Ruling], rule: str, numerical: bool, apart: bool = False) -> tuple[Label, str | None]:
    """What a panel says, and why it says nothing.

    Args:
        rulings: All votes on one part and rubric; a vote that failed is a vote for nobody. An exact judge knows, so
            beside one the votes of models are on record and do not count.
        rule: `majority` (more than half of all votes agree) or `unanimous`.
        numerical: Whether labels are intervals.
        apart: Whether a text that denies all options (`evals.judging.labels.NEITHER`) is told from one that states
            nothing.

    Returns:
        The label, `evals.judging.labels.NOTHING` where the panel finds that nothing is stated; or None and the reason.
    """
    if not rulings:
        return None, "no judge can judge this item; name a model in evals.judges"
    rulings = [r for r in rulings if r.exact] or rulings
    labels = [None if r.error else label_of(r.label, numerical) for r in rulings]
    labels = labels if apart else [folded(x) for x in labels]
    found = shared(labels, len(labels) if rule == "unanimous" else len(labels) // 2 + 1)
    if found is not None:
        return found, None
    failed = next((r.error for r in rulings if r.error), None)
    if failed and len(rulings) == 1:
        return None, failed
    votes = ", ".join(f"{r.judge}: {'error' if r.error else r.label or 'nothing'}" for r in rulings)
    return None, f"the panel has no verdict ({rule}): {votes}" + (f"; {failed}" if failed else "")
