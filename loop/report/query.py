"""Questions to the trajectories of a run, also while it is under way: which of them, and whether they are whole.

Everything is read segment by segment, so memory is bounded by one segment and, for the round that is being read, a byte
for each planned conversation and the ids of its selection where those are asked for.
"""

from __future__ import annotations

import heapq
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console

from actors.buffer import RoundData, RoundPlan
from actors.storage.segments import BufferError, Segment, checksum, read_table, uncovered
from actors.storage.trajectory import PLAN_SCHEMA
from loop.config.schema import RunConfig
from loop.report.chats import NO_VERDICT, turns
from loop.report.filters import BY_REPLY, GROUPS, SELECTED, Query, QueryError, mean_ratings
from loop.rundir import RunDir, read_json
from loop.select import SCHEMA as SELECTION_SCHEMA

POLL_SECONDS = 1.0
LISTED = ("trajectory_id", "arm", "round", "index", "scenario", "user_kind", "reward", "error")
SORTS = {
    "reward": ("reward", "ascending"),
    "-reward": ("reward", "descending"),
    "rating": ("rating", "ascending"),
    "-rating": ("rating", "descending"),
}
"""What lists can be sorted by, the mean rating of the replies being `rating`: the column, and which end comes first."""


class RoundReader:
    """The trajectories of one round in the order they were written, each once, also while they are being written.

    Args:
        plan: What the round consists of, where no `plan.arrow` says so.
        warn: Told once of each file that is of no use; what it held is left out.

    Attributes:
        problems: What `warn` was told.
        repeated: Trajectories that are there a second time, in a segment that was not made of the first one's.
    """

    def __init__(self, out: RunDir, plan: RoundPlan, warn: Callable[[str], None] = lambda _: None) -> None:
        self.out = out
        self.plan = plan
        self.data = RoundData(out.trajectories(plan.arm, plan.round))
        self.problems: list[str] = []
        self.repeated = 0
        self._tell = warn
        self._read: set[Segment] = set()
        self._bad: set[Segment] = set()

    @cached_property
    def ids(self) -> pa.ChunkedArray:
        """The planned conversations' ids by index."""
        path = self.out.plan(self.plan.arm, self.plan.round)
        try:
            if path.exists():
                return read_table(path, PLAN_SCHEMA)["trajectory_id"]
        except BufferError as error:
            self._warn(str(error))
        return pa.chunked_array([pa.array(self.plan.ids(range(self.plan.count)), pa.string())])

    @cached_property
    def seen(self) -> np.ndarray:
        """For each planned conversation whether its trajectory was read."""
        return np.zeros(len(self.ids), bool)

    def _warn(self, message: str) -> None:
        self.problems.append(message)
        self._tell(message)

    def new(self) -> Iterator[pa.Table]:
        """Tables of `actors.storage.trajectory.SCHEMA`, one a segment, of what was not there at the last call."""
        return (table for _, table in self.new_segments())

    def new_segments(self) -> Iterator[tuple[Segment, pa.Table]]:
        """What `new` gives, each table with the segment that it is from."""
        while todo := self._todo():
            planned = self.ids
            for segment in todo:
                self._read.add(segment)
                try:
                    table = self._fresh(segment, self.data.segments.read(segment), planned)
                except FileNotFoundError:  # compacted meanwhile
                    break
                except BufferError as error:
                    self._bad.add(segment)
                    self._warn(str(error))
                    continue
                yield segment, table

    def _todo(self) -> list[Segment]:
        """Segments to read; those that a damaged one covers stand in for it."""
        live = uncovered([s for s in self.data.segments.all() if s not in self._bad])
        return [s for s in live if s not in self._read]

    def _fresh(self, segment: Segment, table: pa.Table, planned: pa.ChunkedArray) -> pa.Table:
        """The rows that were not read before; `BufferError` where the round did not plan all of them."""
        index = table["index"].to_numpy()
        inside = not table["index"].null_count and ((index >= 0) & (index < len(planned))).all()
        if not inside or not table["trajectory_id"].equals(planned.take(table["index"])):
            raise BufferError(f"{self.data.store}/{segment.name}: holds trajectories that the round did not plan")
        fresh = np.zeros(len(index), bool)
        fresh[np.unique(index, return_index=True)[1]] = True
        fresh &= ~self.seen[index]
        self.seen[index] = True
        if fresh.all():
            return table
        if not any(segment.covers(s) for s in self._read):
            self.repeated += int((~fresh).sum())
        return table.filter(pa.array(fresh))

    def closed(self) -> bool:
        """Whether everything planned was written."""
        try:
            return self.data.closed()
        except FileNotFoundError:  # an index was replaced meanwhile
            return False

    def selection(self) -> pa.Table:
        """What was selected of the round's trajectories (`loop.select.SCHEMA`); empty before that, and where the round
        was trained on another round's."""
        place = self.plan.arm, self.plan.round
        path = self.out.selection(*place)
        own = read_json(self.out.audit(*place)).get("from_round", self.plan.round) == self.plan.round
        return read_table(path, SELECTION_SCHEMA) if path.exists() and own else SELECTION_SCHEMA.empty_table()

    def matching(self, query: Query, scanned: Callable[[int], None] = lambda _: None) -> Iterator[pa.Table]:
        """The rows of `new` that are asked for; `scanned` is told how many were looked at."""
        chosen = None
        if query.selected is not None:
            selection = self.selection()
            wanted = SELECTED[query.selected]
            chosen = selection if wanted is None else selection.filter(pc.equal(selection["label"], wanted))
            chosen = chosen["trajectory_id"].combine_chunks()
        for table in self.new():
            scanned(len(table))
            yield query.of(table, chosen)


def plans(config: RunConfig, query: Query) -> list[RoundPlan]:
    """The rounds that are asked for."""
    counts = {a.name: config.for_arm(a).rollout.conversations for a in config.arms if a.name in query.arms}
    return [RoundPlan(config.name, arm, r, count) for arm, count in counts.items() for r in query.rounds]


@dataclass
class Tally:
    """Counts what passes through."""

    trajectories: int = 0
    rounds: set[tuple[str, int]] = field(default_factory=set)

    def through(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """The tables that are not empty."""
        for table in filter(len, tables):
            self.trajectories += len(table)
            self.rounds.add((table["arm"][0].as_py(), table["round"][0].as_py()))
            yield table

    def __str__(self) -> str:
        held, rounds = self.trajectories, len(self.rounds)
        held_words = f"{held:,} trajector{'ies' if held != 1 else 'y'}"
        return f"{held_words} in {rounds} round{'s' * (rounds != 1)}"


def listed(table: pa.Table) -> Iterator[dict[str, Any]]:
    """What is shown of each row: the columns `LISTED`, the mean rating of the replies, and their verdicts."""
    rows, ratings = table.select(LISTED).to_pylist(), mean_ratings(table).to_pylist()
    for row, rating, said in zip(rows, ratings, turns(table, ("role", "verdict")), strict=True):
        verdicts = [t["verdict"] or NO_VERDICT for t in said if t["role"] == "assistant"]
        yield row | {"rating": rating, "verdicts": verdicts}


def at_most(tables: Iterable[pa.Table], limit: int | None) -> Iterator[pa.Table]:
    """Tables of the first `limit` rows together, and no table after them is asked for; None takes all."""
    left = limit
    for table in tables:
        yield table if left is None else table.slice(0, left)
        if left is not None and (left := left - len(table)) <= 0:
            return


def grouped(tables: Iterable[pa.Table], by: Sequence[str]) -> list[dict[str, Any]]:
    """How many conversations there are of each kind, the most first, with the means of their ratings and rewards.

    Args:
        by: Keys of `GROUPS`, at least one.
    """
    sums: dict[tuple, list[float]] = {}
    for table in filter(len, tables):
        values = {"rating": mean_ratings(table), "reward": table["reward"], "error": table["error"]}
        found = pa.table({name: table[GROUPS[name]] for name in by} | values).group_by(list(by))
        counted = [("rating", "count"), ("rating", "sum"), ("reward", "count"), ("reward", "sum"), ("error", "count")]
        for row in found.aggregate([([], "count_all"), *counted]).to_pylist():
            added = [row["count_all"], *(row[f"{name}_{what}"] or 0 for name, what in counted)]
            so_far = sums.setdefault(tuple(row[name] for name in by), [0] * len(added))
            sums[tuple(row[name] for name in by)] = [a + b for a, b in zip(so_far, added, strict=True)]
    rows = [
        dict(zip(by, key, strict=True))
        | {
            "conversations": count,
            "excluded": errors,
            "mean_rating": rating / rated if rated else None,
            "mean_reward": reward / rewarded if rewarded else None,
        }
        for key, (count, rated, rating, rewarded, reward, errors) in sums.items()
    ]
    return sorted(rows, key=lambda r: (-r["conversations"], *(str(r[name]) for name in by)))


MEANS = {"rating": "mean_rating", "reward": "mean_reward"}
"""What the columns of groups are called that lists of conversations sort by."""


def group_figures(by: Sequence[str]) -> tuple[str, ...]:
    """What is counted of each group, as `grouped` or `replies_by` names it."""
    if BY_REPLY in by:
        return ("replies", "share", "mean_rating")
    return ("conversations", "excluded", "mean_rating", "mean_reward")


def in_order(groups: list[dict[str, Any]], sort: str | None) -> list[dict[str, Any]]:
    """Groups by one of their figures, lowest first, or with `-` before its name highest first; those without the figure
    come last. None leaves them as they are."""
    if sort is None:
        return groups
    name, sign = MEANS.get(sort.removeprefix("-"), sort.removeprefix("-")), -1 if sort.startswith("-") else 1
    return sorted(groups, key=lambda g: (g[name] is None, sign * (g[name] or 0)))


def replies_by(tables: Iterable[pa.Table], by: Sequence[str]) -> list[dict[str, Any]]:
    """How many replies got each verdict, the most first, with the mean of their ratings.

    Args:
        by: `BY_REPLY`, and keys of `GROUPS`.

    Returns:
        Rows whose `share` is that of all replies which are alike in everything but the verdict.
    """
    counts: Counter[tuple] = Counter()
    rated: Counter[tuple] = Counter()
    ratings: defaultdict[tuple, float] = defaultdict(float)
    for table in filter(len, tables):
        columns = {name: table[GROUPS[name]].to_pylist() for name in by if name != BY_REPLY}
        for row, said in enumerate(turns(table, ("role", "verdict", "rating"))):
            for turn in said:
                if turn["role"] != "assistant":
                    continue
                verdict = (turn["verdict"] or NO_VERDICT).partition(":")[0]
                key = tuple(verdict if name == BY_REPLY else columns[name][row] for name in by)
                counts[key] += 1
                if turn["rating"] is not None:
                    rated[key] += 1
                    ratings[key] += turn["rating"]
    at = by.index(BY_REPLY)
    alike = Counter[tuple]()
    for key, count in counts.items():
        alike[key[:at] + key[at + 1 :]] += count
    rows = [
        dict(zip(by, key, strict=True))
        | {
            "replies": count,
            "share": count / alike[key[:at] + key[at + 1 :]],
            "mean_rating": ratings[key] / rated[key] if rated[key] else None,
        }
        for key, count in counts.items()
    ]
    return sorted(rows, key=lambda r: (-r["replies"], *(str(r[name]) for name in by)))


def first(tables: Iterable[pa.Table], limit: int) -> list[dict[str, Any]]:
    """The first `limit` rows; the other tables are gone through too, so that they are counted."""
    rows: list[dict[str, Any]] = []
    for table in tables:
        rows += listed(table.slice(0, limit - len(rows)))
    return rows


def best(tables: Iterable[pa.Table], limit: int, sort: str) -> list[dict[str, Any]]:
    """The `limit` rows that come first by one of `SORTS`; those without the figure come last."""
    by, order = SORTS[sort]
    sign = 1 if order == "ascending" else -1

    def candidates() -> Iterator[tuple[float | None, dict[str, Any]]]:
        for table in tables:
            figures = mean_ratings(table) if by == "rating" else table[by]
            places = pc.sort_indices(pa.table({by: figures}), sort_keys=[(by, order)])[:limit]
            yield from zip(figures.take(places).to_pylist(), listed(table.take(places)), strict=True)

    chosen = heapq.nsmallest(limit, candidates(), key=lambda c: (c[0] is None, sign * (c[0] or 0)))
    return [row for _, row in chosen]


def find(tables: Iterable[pa.Table], prefix: str) -> dict[str, Any]:
    """The one row whose id begins with `prefix`; `QueryError` where none or several do."""
    found: list[dict[str, Any]] = []
    for table in tables:
        found += table.filter(pc.starts_with(table["trajectory_id"], prefix)).slice(0, 4 - len(found)).to_pylist()
        if len(found) > 3:
            break
    if not found:
        raise QueryError(f"--show {prefix}: no trajectory id begins with this")
    if len(found) > 1:
        ids = ", ".join(row["trajectory_id"] for row in found[:3]) + (" and others" if len(found) > 3 else "")
        raise QueryError(f"--show {prefix}: several ids begin with this; give more of it: {ids}")
    return found[0]


def arriving(waiting: list[RoundReader], query: Query, ended: Callable[[], bool]) -> Iterator[pa.Table]:
    """Tables of trajectories as they appear, until every round is closed or `ended` says that no more will come."""
    while waiting:
        last = ended()
        begun = [r for r in waiting if r.out.plan(r.plan.arm, r.plan.round).exists()]
        closed = [r for r in begun if r.closed()]  # asked before reading, so that nothing comes after it
        for reader in begun:
            yield from reader.matching(query)
        waiting = [r for r in waiting if r not in closed]
        if last:
            return
        if waiting:
            time.sleep(POLL_SECONDS)


def no_more(out: RunDir) -> bool:
    """Whether the run has ended, by itself or killed, and nobody continues it."""
    return read_json(out.summary).get("status") == "finished" or not out.at_work()


@contextmanager
def progress(total: int) -> Iterator[Callable[[int], None]]:
    """A bar on the terminal for what takes longer than a second; yields what counts the rows."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    columns = ("read", BarColumn(), MofNCompleteColumn(), "trajectories", TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task, began = progress.add_task("", total=total, visible=False), time.monotonic()
        yield lambda n: progress.update(task, advance=n, visible=time.monotonic() - began > 1)


def check(reader: RoundReader) -> None:
    """Read a whole round and compare it with its checksums, plan and selection; the reader's `problems` say more."""
    plan, store, problems = reader.plan, reader.data.store, reader.problems
    complete = reader.out.rollout(plan.arm, plan.round).exists()
    lost = pa.chunked_array([], pa.string())
    try:
        lost = reader.selection()["trajectory_id"]
    except BufferError as error:
        problems.append(str(error))
    for table in reader.new():
        lost = lost.filter(pc.invert(pc.is_in(lost, value_set=table["trajectory_id"])))
    for name in store.names():
        with suppress(FileNotFoundError):
            if name.startswith("index-") and checksum(store.read(name)) not in name:
                problems.append(f"{store}/{name}: torn or damaged; where it is needed it is made from the segments")
    if reader.repeated:
        problems.append(f"{reader.repeated} trajectories are there a second time")
    if (complete or reader.closed()) and not reader.seen.all():
        problems.append(f"{int((~reader.seen).sum())} trajectories are missing from a round that was complete")
    if len(lost):
        problems.append(f"{len(lost)} ids of selection.arrow have no trajectory, the first is {lost[0]}")
