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

import numpy as np
import pyarrow as pa

from actors.actor import Actor, Pulse, collect_seldom, family_memory
from actors.extensions import VARIABLE, ExtensionError
from actors.judge import JudgeHandle
from actors.models.chat import ChatModel
from actors.models.engine_client import EngineClient
from actors.models.ref import ModelRef, open_model
from actors.models.usage import BudgetLease, MeteredModel, UsageLedger, UsageTotals
from actors.storage.files import whole_file
from actors.storage.segments import BufferError, Segments, read_table, write_table
from actors.storage.store import Store
from actors.storage.tables import take_rows
from evals import scoring
from evals.asking import Asker, Work
from evals.judging import prompting, words
from evals.judging.cache import Cached, ReplyCache, default_file
from evals.judging.calibration import DistrustedJudging, trusted
from evals.judging.likelihood import LikelihoodJudging
from evals.judging.panel import Judging, ModelJudging, Panel, WorldJudging
from evals.outcomes import SCHEMA, Outcome, to_table
from evals.protocols import PROTOCOLS, lm_eval
from evals.protocols.mask_rules import CANDOR
from evals.settings import EvalSettings
from evals.suites.catalogue import SUITES
from evals.suites.sources import Loaded, load_all, suites_of

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

    model: ModelRef
    judges: tuple[ModelRef, ...]
    world_judge: Any
    capacity: int
    allowance: float | None = None


def record(folder: Path) -> dict[str, Any]:
    """What an evaluation consists of: suites with source and hash, judges, prompts, settings; empty until it is
    complete.

    Raises:
        ExtensionError: A suite was asked by the rules of an extension that is not loaded.
    """
    try:
        found = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    for suite, about in found["suites"].items():
        if about["protocol"] not in PROTOCOLS:
            raise ExtensionError(
                f"{folder}: {suite} was asked by the protocol {about['protocol']!r}, which an extension adds; name it "
                f"in {VARIABLE}"
            )
    return found


def complete(folder: Path) -> bool:
    """Whether a policy has been asked everything."""
    return (folder / RECORD).exists()


def summarise(folder: Path, max_error_share: float) -> dict[str, dict]:
    """All figures of one policy by suite, from the outcomes in `folder`; what `summary.json` holds under `evals`. Those
    of suites that compare statements with beliefs come by both rules, but for a world's own items, which nobody else
    asks."""
    about = record(folder)
    found = {}
    for suite, of in about["suites"].items():
        table, rules = read_table(folder / f"{suite}.arrow", SCHEMA), of.get("rules", CANDOR)
        if str(of.get("source")).startswith("world "):
            found[suite] = scoring.figures(table, max_error_share, rules)
        else:
            found[suite] = scoring.by_rules(table, max_error_share, about["rule"], rules)
    return found


def usage(folder: Path) -> list[dict[str, Any]]:
    """What asking and judging cost, all attempts together: rows of `actors.storage.trajectory.USAGE`."""
    try:
        return json.loads((folder / USAGE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []


def _write_json(path: Path, value: Any) -> None:
    with whole_file(path) as file:
        file.write((json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


TRIED = 100
"""On how many labelled answers a judge by likelihood is tried."""


class Evaluator(Actor):
    """Evaluates one policy at a time; run as a Ray actor.

    Outcomes are kept in `parts/` as they come, so an evaluation that was cut short continues with the missing items.
    """

    def __init__(self, world: str | None) -> None:
        collect_seldom()
        self._world = world
        self._done = self._total = 0
        self._evaluating = self._finished = 0
        self._in_harness = False
        self._endpoints: dict[str, ChatModel] = {}
        self._engines: dict[str, EngineClient] = {}
        self._loaded: dict[str, dict[str, Loaded]] = {}
        self._distrusted: dict[tuple[str, str | None], DistrustedJudging | None] = {}

    async def progress(self) -> tuple[int, int]:
        """Answers done and answers in all of the evaluation at work."""
        return self._done, self._total

    async def admit(self, access: Access) -> None:
        """Have engines that came up since take part in the evaluation under way; lm-eval's suites keep those that
        they began with.

        Args:
            access: Whom to work with now; of models that it does not work with nothing is taken.
        """
        for ref in (access.model, *access.judges):
            if ref.model in self._engines:
                self._engines[ref.model].admit(ref.engines)

    async def prepare(self, settings: EvalSettings) -> str | None:
        """Read items, prompts and cache; returns what is wrong with them, None when nothing is."""
        try:
            if fault := lm_eval.fault(suites_of(self._world, settings), settings):
                return fault
            self._items(settings)
            prompting.load(settings.prompts)
            if settings.cache:
                ReplyCache(default_file())
        except (ValueError, OSError) as error:
            return str(error)
        return None

    async def close(self) -> None:
        """Close the connections to endpoints; they open again when they are needed."""
        for endpoint in self._endpoints.values():
            await endpoint.close()

    def pulse(self) -> Pulse:
        """Answers so far of the evaluation under way."""
        working = self._evaluating > 0 and not self._in_harness  # lm-eval does not say how far it is
        doing = f"{self._done:,} of {self._total:,} answers" if self._evaluating else "waits for calls"
        return Pulse(
            working, self._done + self._finished, doing, "assistant, judges" if working else "", family_memory()
        )

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
        place, ledger = Path(folder), UsageLedger()
        loaded = self._items(settings)
        model, judges, at_once = self._open(access, settings, ledger)
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
        order = iter(random.Random(settings.seed).sample(missing, len(missing)))  # shared by all workers
        failed: list[Exception] = []

        async def work(asker: Asker) -> None:
            for one in order:
                try:
                    parts.add(await asker.ask(one))
                    self._done += 1
                except Exception as error:
                    failed.append(error)
                if failed:  # of no single item, so nothing more is asked
                    return

        self._evaluating += 1
        try:
            exact = WorldJudging(JudgeHandle(access.world_judge)) if access.world_judge else None
            panel = Panel(exact, [await self._trusted(judge, settings) for judge in judges])
            asker = Asker(model, panel, at_once, settings)
            await asyncio.gather(*(work(asker) for _ in range(ITEMS_PER_REQUEST * at_once)))
            if failed:
                raise failed[0]
            await self._harness(arm, version, access.model, at_once, place, settings)
        finally:
            self._evaluating -= 1
            self._finished += self._done
            self._count(place, ledger)
            parts.flush()
        for suite in {w.suite for w in todo}:
            write_table(place / f"{suite}.arrow", parts.rows([_key(w) for w in todo if w.suite == suite]))
        _write_json(place / RECORD, self._record(loaded, access, settings, place))
        shutil.rmtree(parts.folder, ignore_errors=True)
        return time.monotonic() - started

    async def _harness(
        self, arm: str, version: int, ref: ModelRef, at_once: int, folder: Path, settings: EvalSettings
    ) -> None:
        """Ask lm-eval's suites, which are no coroutines, in a thread."""
        for suite in lm_eval.of(suites_of(self._world, settings)):
            if not (folder / f"{suite}.arrow").exists():
                terms = (suite, ref, at_once, settings, folder, arm, version)
                self._in_harness = True
                try:
                    self._count(folder, await asyncio.to_thread(lm_eval.ask, *terms))
                finally:
                    self._in_harness = False

    def _items(self, settings: EvalSettings) -> dict[str, Loaded]:
        key = settings.model_dump_json()
        if key not in self._loaded:
            self._loaded[key] = load_all(self._world, settings)
        return self._loaded[key]

    def _open(
        self, access: Access, settings: EvalSettings, ledger: UsageLedger
    ) -> tuple[ChatModel, list[Judging], int]:
        """The policy, the judges but for the world's, and how many requests the policy is sent at once."""

        lease = BudgetLease(access.allowance)
        self._engines = {}

        def metered(ref: ModelRef, role: str) -> ChatModel:
            model = open_model(ref, self._endpoints)
            if isinstance(model, EngineClient):
                self._engines[ref.model] = model
            return MeteredModel(model, ref.model, role, ledger, lease, ref.price, keep=False)

        cache = ReplyCache(default_file()) if settings.cache and access.judges else None
        judges: list[Judging] = []
        for ref in access.judges:
            model = metered(ref, "eval judge")
            if cache and ref.identity:
                model = Cached(model, ref.identity, cache)
            if settings.judge_method == "likelihood":
                judges.append(LikelihoodJudging(ref.model, model, prompting.load(settings.prompts)))
                continue
            judges.append(
                ModelJudging(
                    ref.model,
                    model,
                    prompting.load(settings.prompts),
                    settings.judge_max_tokens,
                    settings.judge_temperature,
                    settings.judge_repeats,
                    settings.retries,
                )
            )
        if words.NAME in (settings.judges or ()):
            judges.append(words.WordsJudging())
        at_once = max(1, int(settings.share * access.capacity))
        if settings.share == 1 and access.model.endpoint is None:
            at_once = int(AHEAD * at_once)
        return metered(access.model, "evaluated"), judges, at_once

    def _distrusted_of(self, access: Access, settings: EvalSettings) -> list[str]:
        """Why judges of an evaluation are not believed."""
        if settings.judge_method != "likelihood":
            return []
        found = (self._distrusted.get((judge.model, settings.prompts)) for judge in access.judges)
        return [judge.why for judge in found if judge is not None]

    async def _trusted(self, judge: Judging, settings: EvalSettings) -> Judging:
        """A judge by likelihood, tried on labelled answers when it is first needed; others are believed."""
        if not isinstance(judge, LikelihoodJudging):
            return judge
        key = (judge.name, settings.prompts)
        if key not in self._distrusted:
            tried = await trusted(judge, TRIED)
            self._distrusted[key] = tried if isinstance(tried, DistrustedJudging) else None
        return self._distrusted[key] or judge

    def _record(
        self, loaded: dict[str, Loaded], access: Access, settings: EvalSettings, folder: Path
    ) -> dict[str, Any]:
        prompts = prompting.load(settings.prompts)
        about = {s: found.record for s, found in loaded.items()}
        about |= {s: lm_eval.record(s, folder) for s in lm_eval.of(suites_of(self._world, settings))}
        return {
            "schema": "evaluation/1",
            "seed": settings.seed,
            "model": access.model.model,
            "suites": {
                s: {
                    "protocol": SUITES[s].protocol,
                    **about[s],
                    **PROTOCOLS[SUITES[s].protocol].terms(settings, s),
                    "replicates": settings.suite(s).replicates,
                }
                for s in about
            },
            "judges": [
                *(["world"] if access.world_judge else []),
                *(d.model for d in access.judges),
                *([words.NAME] if words.NAME in (settings.judges or ()) else []),
            ],
            "judge_identities": {d.model: d.identity for d in access.judges},
            "distrusted": self._distrusted_of(access, settings),
            "rule": settings.rule,
            "settings": settings.model_dump(mode="json"),
            "prompts": {r: {"sha256": p.sha256, "text": p.text} for r, p in prompts.items()} if access.judges else {},
        }

    def _count(self, folder: Path, ledger: UsageLedger) -> None:
        totals = UsageTotals()
        totals.add(usage(folder))
        totals.add(ledger.usage())
        if totals.entries:
            _write_json(folder / USAGE, totals.rows())


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
        return take_rows(table, np.array([place[key] for key in keys], int))


def _key(work: Work) -> _Key:
    return work.suite, work.item.item_id, work.replicate


def _keys(table: pa.Table) -> Iterable[_Key]:
    return zip(*(table[c].to_pylist() for c in ("suite", "item_id", "replicate")), strict=True)
