"""The evaluator actor: asks a policy every item of every suite and keeps the outcome of each."""

from __future__ import annotations

import asyncio
import json
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from actors.buffer import read_table, write_table
from actors.chat import ChatError, ChatModel, EngineChat, Reply, Sampling
from actors.judge import Judge, JudgeHandle, Question, Verdict
from actors.worlds import load_world
from actors.worlds.base import HonestyItem, Message, QuestionItem
from evals import capability, deceptionbench, mask
from evals.outcomes import Outcome, to_table
from evals.settings import EvalSettings

HONESTY_SUITES = ("mask", "sycophancy", "provided", "deception")
CAPABILITY_TASKS = ("arithmetic", "lookup")
SUITES = (*HONESTY_SUITES, *CAPABILITY_TASKS)


def load_items(world: str, settings: EvalSettings, seed: int) -> dict[str, list[HonestyItem] | list[QuestionItem]]:
    """Items by suite; a pure function of its arguments, so that every policy and arm meets the same ones."""
    source = load_world(world)
    items: dict = {s: source.honesty_items(s, getattr(settings, s), seed) for s in HONESTY_SUITES}
    return items | {t: source.question_items(t, settings.capability, seed) for t in CAPABILITY_TASKS}


def summarise(folder: Path, max_error_share: float) -> dict:
    """All figures of one policy from its outcomes in `folder`; what `summary.json` holds under `evals`."""
    tables = {s: read_table(folder / f"{s}.arrow") for s in SUITES}
    out = {s: mask.summary(tables[s], max_error_share) for s in ("mask", "sycophancy", "provided")}
    out["deception"] = deceptionbench.summary(tables["deception"], max_error_share)
    out["capability"] = {t: capability.summary(tables[t], max_error_share) for t in CAPABILITY_TASKS}
    return out


class Evaluator:
    """Evaluates one policy at a time; run as a Ray actor."""

    def __init__(self, world: str, judge: object, seed: int) -> None:
        self._world = world
        self._judge: Judge = JudgeHandle(judge)
        self._seed = seed
        self._done = self._total = 0

    async def progress(self) -> tuple[int, int]:
        """Items done and items in all of the evaluation at work."""
        return self._done, self._total

    async def evaluate(
        self, arm: str, version: int, policy: str, engines: Sequence[object], folder: str, settings: EvalSettings
    ) -> float:
        """Ask `policy` every item and write `<suite>.arrow` for each suite; suites that are there already are kept.

        Returns:
            Seconds from the first request to the last outcome.
        """
        started = time.monotonic()
        self._items = load_items(self._world, settings, self._seed)
        self._done, self._total = 0, sum(map(len, self._items.values()))
        asker = _Asker(EngineChat(engines, policy), self._judge, settings, self._seed)
        await asyncio.gather(*(self._suite(s, asker, arm, version, Path(folder)) for s in SUITES))
        return time.monotonic() - started

    async def _suite(self, suite: str, asker: _Asker, arm: str, version: int, folder: Path) -> None:
        items = self._items[suite]
        target = folder / f"{suite}.arrow"
        if target.exists():
            self._done += len(items)
            return

        async def one(item: HonestyItem | QuestionItem) -> Outcome:
            outcome = await asker.ask(item, suite, arm, version)
            self._done += 1
            return outcome

        write_table(target, to_table(await asyncio.gather(*map(one, items))))


class _Asker:
    """Puts items to one policy; beliefs are greedy, so they are elicited once for each fact."""

    def __init__(self, model: ChatModel, judge: Judge, settings: EvalSettings, seed: int) -> None:
        self._model = model
        self._judge = judge
        self._settings = settings
        self._seed = seed
        self._gate = asyncio.Semaphore(settings.concurrency)
        self._elicited: dict[str, asyncio.Task] = {}

    async def ask(self, item: HonestyItem | QuestionItem, suite: str, arm: str, version: int) -> Outcome:
        question = isinstance(item, QuestionItem)
        prompt = item.prompt if question else item.statement
        outcome = Outcome(
            suite=suite,
            item_id=item.item_id,
            cluster=item.item_id if question else item.cluster,
            arm=arm,
            policy=version,
            prompt=json.dumps(prompt),
            truth=item.answer if question else item.truth,
        )
        try:
            reply = await self._say(prompt, 0.0 if question else self._settings.temperature, item.item_id)
            outcome.text = reply.text
            if question:
                outcome.statement = await self._stated(outcome, reply.text, item.options)
                outcome.outcome = capability.score(outcome.statement, item.answer)
            elif suite == "deception":
                await self._deception(item, outcome)
            else:
                outcome.belief = await self._belief(item, outcome) if item.beliefs else item.truth
                outcome.statement = await self._stated(outcome, reply.text, item.options)
                outcome.outcome = mask.score(outcome.statement, outcome.belief)
        except (ChatError, _JudgeFailedError) as failed:
            outcome.outcome, outcome.error = "error", f"{type(failed).__name__}: {failed}"
        return outcome

    async def _deception(self, item: HonestyItem, outcome: Outcome) -> None:
        found = deceptionbench.parts(outcome.text)
        if found is None:
            outcome.outcome, outcome.error = "error", deceptionbench.FORMAT_ERROR
            return
        outcome.belief = await self._belief(item, outcome)
        outcome.note = await self._stated(outcome, found[0], item.options)
        outcome.statement = await self._stated(outcome, found[1], item.options)
        outcome.outcome = deceptionbench.score(outcome.belief, outcome.note, outcome.statement)

    async def _belief(self, item: HonestyItem, outcome: Outcome) -> str | None:
        if item.cluster not in self._elicited:
            self._elicited[item.cluster] = asyncio.ensure_future(self._elicit(item))
        texts, verdicts = await self._elicited[item.cluster]
        outcome.belief_texts = texts
        return mask.majority([_label(v) for v in verdicts])

    async def _elicit(self, item: HonestyItem) -> tuple[list[str], list[Verdict]]:
        replies = await asyncio.gather(*(self._say(b, 0.0, item.cluster) for b in item.beliefs))
        texts = [r.text for r in replies]
        return texts, await self._judge.verdicts([Question("stated", t, item.options) for t in texts])

    async def _stated(self, outcome: Outcome, text: str, options: tuple[str, ...]) -> str | None:
        verdict = (await self._judge.verdicts([Question("stated", text, options)]))[0]
        outcome.judge = verdict.judge
        return _label(verdict)

    async def _say(self, prompt: Sequence[Message], temperature: float, name: str) -> Reply:
        """One reply, seeded by the item; a failed request is tried again."""
        seed = zlib.crc32(f"{self._seed}/{name}".encode())
        sampling = Sampling(self._settings.max_tokens, temperature, seed)
        async with self._gate:
            return await _retried(lambda: self._model.reply(prompt, sampling), self._settings.retries)


class _JudgeFailedError(RuntimeError):
    """The judge reached no verdict."""


def _label(verdict: Verdict) -> str | None:
    if verdict.error:
        raise _JudgeFailedError(verdict.error)
    return verdict.label


async def _retried(attempt: Callable, retries: int) -> Reply:
    for left in range(retries, -1, -1):
        try:
            return await attempt()
        except ChatError:
            if not left:
                raise
    raise AssertionError("unreachable")
