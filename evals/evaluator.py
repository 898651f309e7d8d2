"""The evaluator actor: asks a policy every item of every suite and keeps the outcome of each."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from actors.chat import ChatError, ChatModel, EngineChat, Reply, Sampling
from actors.judge import Judge, JudgeHandle, Question, Verdict
from actors.lifeline import Actor, ActorGone
from actors.segments import BufferError, Segments, read_table, write_table
from actors.store import Store
from actors.worlds import load_world
from actors.worlds.base import HonestyItem, Message, QuestionItem
from evals import capability, deceptionbench, mask
from evals.outcomes import SCHEMA, Outcome, to_table
from evals.settings import EvalSettings

HONESTY_SUITES = ("mask", "sycophancy", "provided", "deception")
CAPABILITY_TASKS = ("arithmetic", "lookup")
SUITES = (*HONESTY_SUITES, *CAPABILITY_TASKS)
PART_ROWS = 128
"""Outcomes that are written together while an evaluation is under way; after a crash, at most so many are lost."""


def load_items(world: str, settings: EvalSettings, seed: int) -> dict[str, list[HonestyItem] | list[QuestionItem]]:
    """Items by suite; a pure function of its arguments, so that every policy and arm meets the same ones."""
    source = load_world(world)
    items: dict = {s: source.honesty_items(s, getattr(settings, s), seed) for s in HONESTY_SUITES}
    return items | {t: source.question_items(t, settings.capability, seed) for t in CAPABILITY_TASKS}


def summarise(folder: Path, max_error_share: float) -> dict:
    """All figures of one policy from its outcomes in `folder`; what `summary.json` holds under `evals`."""
    tables = {s: read_table(folder / f"{s}.arrow", SCHEMA) for s in SUITES}
    out = {s: mask.summary(tables[s], max_error_share) for s in ("mask", "sycophancy", "provided")}
    out["deception"] = deceptionbench.summary(tables["deception"], max_error_share)
    out["capability"] = {t: capability.summary(tables[t], max_error_share) for t in CAPABILITY_TASKS}
    return out


def complete(folder: Path) -> bool:
    """Whether a policy has been asked everything: the outcomes of every suite are in its folder."""
    return all((folder / f"{s}.arrow").exists() for s in SUITES)


class Evaluator(Actor):
    """Evaluates one policy at a time; run as a Ray actor.

    Outcomes are kept in `parts/` as they come, so an evaluation that was cut short goes on with the missing items.
    """

    def __init__(self, world: str, seed: int) -> None:
        self._world = world
        self._seed = seed
        self._done = self._total = 0

    async def progress(self) -> tuple[int, int]:
        """Items done and items in all of the evaluation at work."""
        return self._done, self._total

    async def evaluate(
        self,
        arm: str,
        version: int,
        policy: str,
        engines: Sequence[object],
        judge: object,
        folder: str,
        settings: EvalSettings,
    ) -> float:
        """Ask `policy` every item and write `<suite>.arrow` for each suite; what is on disk already is kept.

        Returns:
            Seconds from the first request to the last outcome.

        Raises:
            ActorGone: An engine or the judge died; the outcomes so far are on disk.
        """
        started = time.monotonic()
        items = load_items(self._world, settings, self._seed)
        self._done, self._total = 0, sum(map(len, items.values()))
        asker = _Asker(EngineChat(engines, policy), JudgeHandle(judge), settings, self._seed)
        parts = _Parts(Path(folder) / "parts")
        work = (self._suite(s, items[s], asker, parts, arm, version, Path(folder)) for s in SUITES)
        try:
            await asyncio.gather(*work)
        finally:
            parts.flush()
        shutil.rmtree(parts.folder, ignore_errors=True)
        return time.monotonic() - started

    async def _suite(
        self,
        suite: str,
        items: Sequence[HonestyItem | QuestionItem],
        asker: _Asker,
        parts: _Parts,
        arm: str,
        version: int,
        folder: Path,
    ) -> None:
        target = folder / f"{suite}.arrow"
        if target.exists():
            self._done += len(items)
            return

        async def one(item: HonestyItem | QuestionItem) -> Outcome:
            outcome = parts.kept.get((suite, item.item_id))
            if outcome is None:
                outcome = await asker.ask(item, suite, arm, version)
                parts.add(outcome)
            self._done += 1
            return outcome

        outcomes = await asyncio.gather(*map(one, items), return_exceptions=True)
        for failed in outcomes:
            if isinstance(failed, BaseException):
                raise failed
        write_table(target, to_table(outcomes))


class _Parts:
    """Outcomes of an evaluation that is under way, in segments, whatever their suite."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kept: dict[tuple[str, str], Outcome] = {}
        self._segments = Segments(Store(str(folder)), SCHEMA)
        self._pending: list[Outcome] = []
        for segment in self._segments.all():
            try:
                rows = self._segments.read(segment).to_pylist()
            except BufferError:  # what it held is asked again
                self._segments.store.set_aside(segment.name)
                continue
            self.kept |= {(row["suite"], row["item_id"]): Outcome(**row) for row in rows}
        self._next = 1 + max((s.last for s in self._segments.all()), default=-1)

    def add(self, outcome: Outcome) -> None:
        self._pending.append(outcome)
        if len(self._pending) >= PART_ROWS:
            self.flush()

    def flush(self) -> None:
        if self._pending:
            self._segments.write(to_table(self._pending), self._next)
            self._next += 1
            self._pending = []


class _Asker:
    """Puts items to one policy; beliefs are greedy, so they are elicited once for each fact."""

    def __init__(self, model: ChatModel, judge: Judge, settings: EvalSettings, seed: int) -> None:
        self._model = model
        self._judge = judge
        self._settings = settings
        self._seed = seed
        self._gate = asyncio.Semaphore(settings.concurrency)
        self._elicited: dict[str, asyncio.Task] = {}
        self._gone: ActorGone | None = None

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
        except ActorGone as gone:  # nobody's fault who is measured: no outcome, and nothing more is asked
            self._gone = gone
            raise
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
            if self._gone is not None:
                raise self._gone
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
