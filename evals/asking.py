"""How the items of each protocol are put to a policy, and its answers to the judges."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from actors.chat import ChatError, ChatModel, ModelRefusedError, Sampling
from actors.lifeline import ActorGone
from actors.usage import BudgetError
from evals import deceptionbench, scoring
from evals.items import Item, Prompt
from evals.judging import Case, Panel
from evals.outcomes import Outcome, Ruling, Said
from evals.settings import PROTOCOLS, EvalSettings


@dataclass(frozen=True)
class Work:
    """One answer that is wanted."""

    suite: str
    item: Item
    replicate: int
    arm: str
    version: int


@dataclass(frozen=True)
class _Elicited:
    """What eliciting a belief came to."""

    said: list[Said]
    rulings: list[Ruling]


class _NoAnswerError(RuntimeError):
    """The model gave no answer to one of the questions."""


class Asker:
    """Puts items to one policy; a belief that several items or replicates share is elicited once.

    Args:
        at_once: Requests to the policy that may be under way at once.
        seed: The seeds of all answers follow from it and the item.
    """

    def __init__(self, model: ChatModel, panel: Panel, at_once: int, settings: EvalSettings, seed: int) -> None:
        self._model = model
        self._panel = panel
        self._settings = settings
        self._seed = seed
        self._gate = asyncio.Semaphore(at_once)
        self._beliefs: dict[tuple, asyncio.Task[_Elicited]] = {}
        self._over: BaseException | None = None

    async def ask(self, work: Work) -> Outcome:
        """Everything that one answer needs, to its outcome; what fails for this item alone is an error in it.

        Raises:
            ActorGone, ModelRefusedError, BudgetError: Nobody's fault who is measured: no outcome, and nothing more is
                asked.
        """
        item = work.item
        outcome = Outcome(
            suite=work.suite,
            protocol=PROTOCOLS[work.suite],
            item_id=item.item_id,
            cluster=item.cluster,
            arm=work.arm,
            policy=work.version,
            replicate=work.replicate,
            category=item.category,
            instructed=item.instructed,
            options=[label for label, _ in item.options],
            numerical=item.numerical,
            elicited=bool(item.beliefs),
            truth=item.truth,
        )
        answer = {"mask": self._mask, "deceptionbench": self._deceptionbench}.get(outcome.protocol, self._question)
        try:
            await answer(work, outcome)
        except _NoAnswerError as failed:
            outcome.error = str(failed)
        except (ActorGone, ModelRefusedError, BudgetError) as gone:
            self._over = gone
            raise
        return scoring.settle(outcome, self._settings.rule)

    async def _mask(self, work: Work, outcome: Outcome) -> None:
        said, elicited = await asyncio.gather(self._answer(work, outcome), self._belief(work))
        outcome.said += elicited.said
        _all_said(outcome.said)
        rulings = await self._panel.rule(_case(work.item, "answer", said.text), work.item.of_world)
        outcome.rulings = rulings + elicited.rulings

    async def _deceptionbench(self, work: Work, outcome: Outcome) -> None:
        said, elicited = await asyncio.gather(self._answer(work, outcome), self._belief(work))
        outcome.said += elicited.said
        _all_said(outcome.said)
        found = deceptionbench.parts(said.text, work.item.answer_format, said.finish_reason == "length")
        if found is None:
            return
        (reasoning, answer), belief = found, elicited.said[0].text
        compared = zip(
            deceptionbench.JUDGEMENTS, ((answer, belief), (reasoning, belief), (answer, reasoning)), strict=True
        )
        cases = [Case("answer", r, text, other=o, options=work.item.options) for r, (text, o) in compared]
        ruled = await asyncio.gather(*(self._panel.rule(c, work.item.of_world) for c in cases))
        outcome.rulings = [ruling for of_one in ruled for ruling in of_one]

    async def _question(self, work: Work, outcome: Outcome) -> None:
        said = await self._answer(work, outcome)
        _all_said(outcome.said)
        rubric = "admits" if outcome.protocol == "unknowns" else "stated"
        case = Case("answer", rubric, said.text, _question(work.item.prompt), options=work.item.options)
        outcome.rulings = await self._panel.rule(case, work.item.of_world)

    async def _answer(self, work: Work, outcome: Outcome) -> Said:
        name = work.item.item_id if work.replicate == 0 else f"{work.item.item_id}/{work.replicate}"
        said = await self._say(work, "answer", work.item.prompt, self._temperature(work), name)
        outcome.said.insert(0, said)
        return said

    async def _belief(self, work: Work) -> _Elicited:
        """The belief of an item; whoever comes first elicits it, and does not begin anew what another one began."""
        item = work.item
        key = (work.suite, json.dumps([b.prompt for b in item.beliefs]), item.options, item.proposition)
        if key not in self._beliefs:
            self._beliefs[key] = asyncio.ensure_future(self._elicit(work))
        return await self._beliefs[key]

    async def _elicit(self, work: Work) -> _Elicited:
        item, compared = work.item, PROTOCOLS[work.suite] == "deceptionbench"
        beliefs = item.beliefs[:1] if compared else item.beliefs  # DeceptionBench compares answers with one text
        direct = [b.prompt for b in beliefs if b.direct for _ in range(b.times)]
        others = [b.prompt for b in beliefs if not b.direct for _ in range(b.times)]
        asked = [(f"belief_{n}", p) for n, p in enumerate(direct, 1)]
        asked += [(f"check_{n}", p) for n, p in enumerate(others, 1)]
        temperature = self._settings.suite(work.suite).belief_temperature
        if temperature is None:
            temperature = 0.0 if item.of_world or compared else self._temperature(work)
        name = f"{item.cluster}/belief"
        said = await asyncio.gather(*(self._say(work, part, p, temperature, f"{name}/{part}") for part, p in asked))
        if compared or any(s.text is None for s in said):
            return _Elicited(said, [])
        cases = [_case(item, s.part, s.text, prompt) for s, (_, prompt) in zip(said, asked, strict=True)]
        ruled = await asyncio.gather(*(self._panel.rule(c, item.of_world) for c in cases))
        return _Elicited(said, [ruling for of_one in ruled for ruling in of_one])

    def _temperature(self, work: Work) -> float:
        given = self._settings.suite(work.suite).temperature
        if given is not None:
            return given
        greedy = ("questions", "unknowns") if work.item.of_world else ("questions", "unknowns", "deceptionbench")
        return 0.0 if PROTOCOLS[work.suite] in greedy else self._settings.temperature

    async def _say(self, work: Work, part: str, prompt: Prompt, temperature: float, name: str) -> Said:
        """One answer, seeded by the item; a failed request is tried again."""
        seed = zlib.crc32(f"{self._seed}/{name}".encode())
        longest = self._settings.suite(work.suite).max_tokens or self._settings.max_tokens
        said = Said(part, json.dumps(list(prompt), ensure_ascii=False))
        for left in range(self._settings.retries, -1, -1):
            async with self._gate:
                if self._over is not None:
                    raise self._over
                try:
                    reply = await self._model.reply(prompt, Sampling(longest, temperature, seed))
                except ChatError as error:
                    if not left:
                        said.finish_reason = f"{type(error).__name__}: {error}"
                    continue
            said.text, said.finish_reason = reply.text, reply.finish_reason
            break
        return said


def _all_said(said: Sequence[Said]) -> None:
    for one in said:
        if one.text is None:
            raise _NoAnswerError(one.finish_reason)


def _question(prompt: Prompt) -> str:
    return prompt[-1]["content"]


def _case(item: Item, part: str, text: str, prompt: Prompt | None = None) -> Case:
    """What an answer to an item, or to one of its elicitations, states."""
    rubric = "interval" if item.numerical else "stated"
    question = _question(prompt or item.prompt)
    return Case(part, rubric, text, question, proposition=item.proposition, options=item.options)
