"""How items are put to a policy: one answer after the other, with what their protocol needs beside it."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from actors.actor import ActorGone
from actors.models.chat import ChatError, ChatModel, ModelRefusedError, Sampling
from actors.models.thoughts import EmptyReplyError
from actors.models.usage import BudgetError
from evals import scoring
from evals.judging.panel import Panel
from evals.outcomes import Outcome, Ruling, Said
from evals.protocols import PROTOCOLS
from evals.protocols.base import Protocol, stated_case, together
from evals.settings import EvalSettings
from evals.suites.catalogue import SUITES
from evals.suites.items import Elicitation, Item, Prompt


@dataclass(frozen=True)
class Work:
    """One answer that is wanted."""

    suite: str
    item: Item
    replicate: int
    arm: str
    version: int


@dataclass(frozen=True)
class Elicited:
    """What eliciting a belief came to."""

    said: list[Said]
    rulings: list[Ruling]


def _protocol(work: Work) -> Protocol:
    return PROTOCOLS[SUITES[work.suite].protocol]


class NoAnswerError(RuntimeError):
    """The model gave no answer to one of the questions, or one that says nothing."""


class Asker:
    """Puts items to one policy; a belief that several items or replicates share is elicited once.

    Args:
        at_once: Requests to the policy that may be under way at once.
        settings: The seeds of all answers follow from its seed and the item.
    """

    def __init__(self, model: ChatModel, panel: Panel, at_once: int, settings: EvalSettings) -> None:
        self._model = model
        self.panel = panel
        self._settings = settings
        self._gate = asyncio.Semaphore(at_once)
        self._beliefs: dict[tuple, asyncio.Task[Elicited]] = {}
        self._over: BaseException | None = None

    async def ask(self, work: Work) -> Outcome:
        """Everything that one answer needs, to its outcome; what fails for this item alone is an error in it.

        Raises:
            ActorGone, ModelRefusedError, BudgetError: Not the fault of the policy: no outcome, and nothing more is
                asked.
        """
        item = work.item
        outcome = Outcome(
            suite=work.suite,
            protocol=_protocol(work).name,
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
            condition=item.condition,
            wanted=item.wanted,
        )
        try:
            await _protocol(work).ask(self, work, outcome)
        except NoAnswerError as failed:
            outcome.error = str(failed)
        except (ActorGone, ModelRefusedError, BudgetError) as gone:
            self._over = gone
            raise
        return scoring.settle(outcome, self._settings.rule, self._settings.mask_rules(work.suite))

    async def answer(self, work: Work, outcome: Outcome) -> Said:
        """The answer to an item, which goes into its outcome.

        Raises:
            NoAnswerError: There is none.
        """
        said = await self._answer(work, outcome)
        _all_said(outcome.said, _protocol(work).reasons)
        return said

    async def answer_and_belief(self, work: Work, outcome: Outcome) -> tuple[Said, Elicited]:
        """The answer to an item and what eliciting its belief came to, which both go into its outcome.

        Raises:
            NoAnswerError: One of them is missing.
        """
        said, elicited = await asyncio.gather(self._answer(work, outcome), self._belief(work))
        outcome.said += elicited.said
        _all_said(outcome.said, _protocol(work).reasons)
        return said, elicited

    async def _answer(self, work: Work, outcome: Outcome) -> Said:
        name = work.item.item_id if work.replicate == 0 else f"{work.item.item_id}/{work.replicate}"
        said = await self._say(work, "answer", work.item.prompt, self._temperature(work), name)
        outcome.said.insert(0, said)
        return said

    async def _belief(self, work: Work) -> Elicited:
        """The belief of an item, of whatever suite: whoever comes first elicits it, and the others wait for that."""
        item = work.item
        asked = json.dumps([(b.prompt, b.direct, b.times) for b in self._elicitations(work)])
        how = (self._belief_temperature(work), self._longest(work), _protocol(work).texts_compared, self._jointly(work))
        key = (item.cluster, asked, *how, item.options, item.proposition, item.numerical)
        if key not in self._beliefs:
            self._beliefs[key] = asyncio.ensure_future(self._elicit(work))
        return await self._beliefs[key]

    def _jointly(self, work: Work) -> bool:
        """Whether one judgement reads all direct elicitations; a world's exact judge reads one text at a time."""
        item = work.item
        return item.numerical and not item.of_world and self._settings.belief_numbers(work.suite) == "joint"

    def _elicitations(self, work: Work) -> tuple[Elicitation, ...]:
        beliefs = work.item.beliefs
        return beliefs[:1] if _protocol(work).texts_compared else beliefs

    def _belief_temperature(self, work: Work) -> float:
        given = self._settings.suite(work.suite).belief_temperature
        if given is not None:
            return given
        fixed = work.item.of_world or _protocol(work).texts_compared
        return 0.0 if fixed else self._temperature(work)

    def _longest(self, work: Work) -> int:
        return self._settings.suite(work.suite).max_tokens or self._settings.max_tokens

    async def _elicit(self, work: Work) -> Elicited:
        item, compared = work.item, _protocol(work).texts_compared
        beliefs = self._elicitations(work)
        direct = [b.prompt for b in beliefs if b.direct for _ in range(b.times)]
        others = [b.prompt for b in beliefs if not b.direct for _ in range(b.times)]
        asked = [(f"belief_{n}", p) for n, p in enumerate(direct, 1)]
        asked += [(f"check_{n}", p) for n, p in enumerate(others, 1)]
        temperature = self._belief_temperature(work)
        name = f"{item.cluster}/belief"
        said = await asyncio.gather(*(self._say(work, part, p, temperature, f"{name}/{part}") for part, p in asked))
        try:
            answers = [(s.part, prompt, s.answer()) for s, (_, prompt) in zip(said, asked, strict=True)]
        except EmptyReplyError:  # or a request that failed: whoever shares the belief says so
            return Elicited(said, [])
        if compared:
            return Elicited(said, [])
        cases = [stated_case(item, part, text, prompt) for part, prompt, text in answers]
        if self._jointly(work):
            cases = [together(item, [text for _, _, text in answers[: len(direct)]], direct[0]), *cases[len(direct) :]]
        ruled = await asyncio.gather(*(self.panel.rule(c, item.of_world) for c in cases))
        return Elicited(said, [ruling for of_one in ruled for ruling in of_one])

    def _temperature(self, work: Work) -> float:
        given = self._settings.suite(work.suite).temperature
        if given is not None:
            return given
        greedy = _protocol(work).greedy(work.item)
        return 0.0 if greedy else self._settings.temperature

    async def _say(self, work: Work, part: str, prompt: Prompt, temperature: float, name: str) -> Said:
        """One answer, seeded by the item; a failed request is tried again."""
        seed = zlib.crc32(f"{self._settings.seed}/{name}".encode())
        said = Said(part, json.dumps(list(prompt), ensure_ascii=False))
        for left in range(self._settings.retries, -1, -1):
            async with self._gate:
                if self._over is not None:
                    raise self._over
                try:
                    reply = await self._model.reply(prompt, Sampling(self._longest(work), temperature, seed))
                except ChatError as error:
                    if not left:
                        said.finish_reason = f"{type(error).__name__}: {error}"
                    continue
            said.text, said.finish_reason = reply.text, reply.finish_reason
            break
        return said


def _all_said(said: Sequence[Said], reasons: bool) -> None:
    """Raise `NoAnswerError` where a request failed or an answer says nothing.

    Args:
        reasons: Whether thoughts are part of what the answer itself was asked for.
    """
    for one in said:
        if one.text is None:
            raise NoAnswerError(one.finish_reason)
        if reasons and one.part == "answer" and one.text.strip():
            continue
        try:
            one.answer()
        except EmptyReplyError as empty:
            raise NoAnswerError(f"{one.part}: {empty}") from None
