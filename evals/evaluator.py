"""The evaluator actor: asks a policy every item of every suite and keeps the outcome of each."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from actors.chat import ChatModel
from actors.files import whole_file
from actors.judge import JudgeHandle
from actors.lifeline import Actor, collect_seldom
from actors.roles import Door, open_door
from actors.segments import BufferError, Segments, read_table, write_table
from actors.store import Store
from actors.usage import Bill, Metered, Purse, Tally
from evals import harness_suites, prompting, scoring
from evals.asking import Asker, Work
from evals.cache import Cached, ReplyCache, default_file
from evals.judging import ModelJudging, Panel, WorldJudging
from evals.outcomes import SCHEMA, Outcome, to_table
from evals.settings import PROTOCOLS, EvalSettings
from evals.sources import Loaded, load_all, suites_of

PART_ROWS = 128
"""Outcomes that are written together while an evaluation is under way; after a crash, at most so many are lost."""
AHEAD = 1.5
"""Requests per place in an engine that may all be used: the others wait there for a place to fall free."""
ITEMS_PER_REQUEST = 2
"""Items under way per request that may be: an item waits for judges and for shared beliefs too."""
RECORD = "evaluation.json"
USAGE = "usage.json"
_Key = tuple[str, str, int]
"""Suite, item and replicate of an outcome."""


@dataclass(frozen=True)
class Access:
    """Whom an evaluator works with; handles may be others after an actor died.

    Attributes:
        model: How to reach the policy.
        judges: How to reach the models that judge.
        world_judge: Handle of the world's exact judge; None where it is not on the panel.
        capacity: Requests that the policy takes at once.
        allowance: The money that may be spent on judges; None for any.
    """

    model: Door
    judges: tuple[Door, ...]
    world_judge: Any
    capacity: int
    allowance: float | None = None


def record(folder: Path) -> dict[str, Any]:
    """What an evaluation consists of: suites with source and hash, judges, prompts, settings; empty until it is
    complete."""
    try:
        return json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}


def complete(folder: Path) -> bool:
    """Whether a policy has been asked everything."""
    return (folder / RECORD).exists()


def summarise(folder: Path, max_error_share: float) -> dict[str, dict]:
    """All figures of one policy by suite, from the outcomes in `folder`; what `summary.json` holds under `evals`."""
    suites = record(folder)["suites"]
    return {s: scoring.figures(read_table(folder / f"{s}.arrow", SCHEMA), max_error_share) for s in suites}


def usage(folder: Path) -> list[dict[str, Any]]:
    """What asking and judging cost, all attempts together: rows of `actors.trajectory.USAGE`."""
    try:
        return json.loads((folder / USAGE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []


def _write_json(path: Path, value: Any) -> None:
    with whole_file(path) as file:
        file.write((json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


class Evaluator(Actor):
    """Evaluates one policy at a time; run as a Ray actor.

    Outcomes are kept in `parts/` as they come, so an evaluation that was cut short goes on with the missing items.
    """

    def __init__(self, world: str | None, seed: int) -> None:
        collect_seldom()
        self._world = world
        self._seed = seed
        self._done = self._total = 0
        self._endpoints: dict[str, ChatModel] = {}
        self._loaded: dict[str, dict[str, Loaded]] = {}

    async def progress(self) -> tuple[int, int]:
        """Answers done and answers in all of the evaluation at work."""
        return self._done, self._total

    async def prepare(self, settings: EvalSettings) -> str | None:
        """Read items, prompts and cache; returns what is wrong with them, None when nothing is."""
        try:
            if fault := harness_suites.fault(suites_of(self._world, settings), settings, self._seed):
                return fault
            self._items(settings)
            prompting.load(settings.prompts)
            if settings.cache:
                ReplyCache(default_file())
        except (ValueError, OSError) as error:
            return str(error)
        return None

    async def close(self) -> None:
        """Close the lines to endpoints; they open again when they are needed."""
        for endpoint in self._endpoints.values():
            await endpoint.close()

    async def evaluate(self, arm: str, version: int, access: Access, folder: str, settings: EvalSettings) -> float:
        """Ask a policy every item and write `<suite>.arrow` for each suite; what is on disk already is kept.

        Returns:
            Seconds from the first request to the last outcome.

        Raises:
            ActorGone: An engine or the judge died; the outcomes so far are on disk.
            ModelRefusedError: A model answers nobody until a person has acted; likewise.
            BudgetError: The allowance does not reach; likewise.
        """
        started = time.monotonic()
        place, bill = Path(folder), Bill()
        loaded = self._items(settings)
        model, panel, at_once = self._open(access, settings, bill)
        asker = Asker(model, panel, at_once, settings, self._seed)
        parts = _Parts(place / "parts")
        todo = [
            Work(s, item, replicate, arm, version)
            for s in loaded
            if not (place / f"{s}.arrow").exists()
            for item in loaded[s].items
            for replicate in range(settings.suite(s).replicates)
        ]
        missing = [w for w in todo if _key(w) not in parts.keys]
        self._done, self._total = len(todo) - len(missing), len(todo)
        order = iter(random.Random(self._seed).sample(missing, len(missing)))  # shared: each worker takes the next one
        failed: list[Exception] = []

        async def work() -> None:
            for one in order:
                try:
                    parts.add(await asker.ask(one))
                    self._done += 1
                except Exception as error:
                    failed.append(error)
                if failed:  # of no single item, so nothing more is asked
                    return

        try:
            await asyncio.gather(*(work() for _ in range(ITEMS_PER_REQUEST * at_once)))
            if failed:
                raise failed[0]
            await self._harness(arm, version, access.model, at_once, place, settings)
        finally:
            self._count(place, bill)
            parts.flush()
        for suite in {w.suite for w in todo}:
            write_table(place / f"{suite}.arrow", parts.rows([_key(w) for w in todo if w.suite == suite]))
        _write_json(place / RECORD, self._record(loaded, access, settings, place))
        shutil.rmtree(parts.folder, ignore_errors=True)
        return time.monotonic() - started

    async def _harness(
        self, arm: str, version: int, door: Door, at_once: int, folder: Path, settings: EvalSettings
    ) -> None:
        """Ask lm-eval's suites, which are no coroutines, in a thread."""
        for suite in harness_suites.of(suites_of(self._world, settings)):
            if not (folder / f"{suite}.arrow").exists():
                terms = (suite, door, at_once, settings, self._seed, folder, arm, version)
                self._count(folder, await asyncio.to_thread(harness_suites.ask, *terms))

    def _items(self, settings: EvalSettings) -> dict[str, Loaded]:
        key = settings.model_dump_json()
        if key not in self._loaded:
            self._loaded[key] = load_all(self._world, settings, self._seed)
        return self._loaded[key]

    def _open(self, access: Access, settings: EvalSettings, bill: Bill) -> tuple[ChatModel, Panel, int]:
        """The policy, the judges, and how many requests the policy is sent at once."""

        purse = Purse(access.allowance)

        def metered(door: Door, role: str) -> ChatModel:
            model = open_door(door, self._endpoints)
            return Metered(model, door.model, role, bill, purse, door.price, keep=False)

        cache = ReplyCache(default_file()) if settings.cache and access.judges else None
        judges = []
        for door in access.judges:
            model = metered(door, "eval judge")
            if cache and door.identity:
                model = Cached(model, door.identity, cache)
            judges.append(
                ModelJudging(
                    door.model,
                    model,
                    prompting.load(settings.prompts),
                    settings.judge_max_tokens,
                    settings.judge_temperature,
                    settings.judge_repeats,
                    settings.retries,
                )
            )
        exact = WorldJudging(JudgeHandle(access.world_judge)) if access.world_judge else None
        at_once = max(1, int(settings.share * access.capacity))
        if settings.share == 1 and access.model.endpoint is None:
            at_once = int(AHEAD * at_once)
        return metered(access.model, "evaluated"), Panel(exact, judges), at_once

    def _record(
        self, loaded: dict[str, Loaded], access: Access, settings: EvalSettings, folder: Path
    ) -> dict[str, Any]:
        prompts = prompting.load(settings.prompts)
        about = {s: found.record for s, found in loaded.items()}
        about |= {s: harness_suites.record(s, folder) for s in harness_suites.of(suites_of(self._world, settings))}
        return {
            "schema": "evaluation/1",
            "seed": self._seed,
            "model": access.model.model,
            "suites": {
                s: {"protocol": PROTOCOLS[s], **about[s], "replicates": settings.suite(s).replicates} for s in about
            },
            "judges": [*(["world"] if access.world_judge else []), *(d.model for d in access.judges)],
            "judge_identities": {d.model: d.identity for d in access.judges},
            "rule": settings.rule,
            "settings": settings.model_dump(mode="json"),
            "prompts": {r: {"sha256": p.sha256, "text": p.text} for r, p in prompts.items()} if access.judges else {},
        }

    def _count(self, folder: Path, bill: Bill) -> None:
        tally = Tally()
        tally.add(usage(folder))
        tally.add(bill.usage())
        if tally.lines:
            _write_json(folder / USAGE, tally.rows())


class _Parts:
    """Outcomes of an evaluation that is under way, in segments, whatever their suite."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keys: set[_Key] = set()
        self._segments = Segments(Store(str(folder)), SCHEMA)
        self._pending: list[Outcome] = []
        for segment in self._segments.all():
            try:
                self.keys.update(_keys(self._segments.read(segment)))
            except BufferError:  # what it held is asked again
                self._segments.store.set_aside(segment.name)
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

    def rows(self, keys: Sequence[_Key]) -> pa.Table:
        """The rows that were flushed, in the order of `keys`."""
        table = pa.concat_tables(self._segments.scan())
        place = {key: n for n, key in enumerate(_keys(table))}
        return table.take([place[key] for key in keys]).combine_chunks()


def _key(work: Work) -> _Key:
    return work.suite, work.item.item_id, work.replicate


def _keys(table: pa.Table) -> Iterable[_Key]:
    return zip(*(table[c].to_pylist() for c in ("suite", "item_id", "replicate")), strict=True)
