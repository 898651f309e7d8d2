"""The Arrow trajectory buffer: what pools hand in becomes segments on disk, and a finished round gets an index.

A round's trajectories are rows of `actors.storage.trajectory.SCHEMA` in the segments of one folder. When the last
planned one is there the round is closed: small segments are put together, and `index-<crc32>.arrow` says where each
trajectory is and what it was worth, so that a large round opens and is selected from without reading it. The index says
nothing that the segments do not say; without it, it is made again.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from actors.actor import Actor, Pulse, family_memory
from actors.models.usage import UsageTotals
from actors.storage.segments import BufferError, Segment, Segments, checksum, decode
from actors.storage.store import StorageError, Store
from actors.storage.tables import take_rows
from actors.storage.trajectory import SCHEMA, trajectory_ids

_FROM_SEGMENTS = (
    *("trajectory_id", "index", "reward", "validates", "contradicts", "scenario", "persona", "user_kind"),
    *("completion_tokens", "error"),
)
INDEX_SCHEMA = pa.schema(
    [*map(SCHEMA.field, _FROM_SEGMENTS), ("segment", pa.int32()), ("row", pa.int32())],
    metadata={"candor_schema": "index/2"},
)
"""`segment` counts the live segments in order, `row` the rows in it."""
SAMPLED_IDS = 1000
_INDEX = re.compile(r"index-([0-9a-f]{8})\.arrow")


class RoundData:
    """The trajectories of one round, for reading; memory does not grow with how many there are.

    Args:
        store: The round's `trajectories` folder.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.segments = Segments(store, SCHEMA)

    def scan(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """All trajectories, one segment at a time, in the order they were written; each is there once."""
        return self.segments.scan(columns)

    def index(self) -> pa.Table:
        """The round's index (`INDEX_SCHEMA`) in the order of the plan; made from the segments where none fits them."""
        found = self.read_index()
        if found is None:
            found = pa.Table.from_batches(self._index_batches(self.segments.live()), INDEX_SCHEMA)
        order = np.argsort(found["index"].to_numpy(), kind="stable")
        return found if (order == np.arange(len(order))).all() else found.take(pa.array(order))

    def closed(self) -> bool:
        """Whether every planned trajectory is there and the index says so."""
        return self.read_index() is not None

    def read_index(self) -> pa.Table | None:
        """The index file, where there is one and it speaks of the segments that are there."""
        now = _listing(self.segments.live())
        for name in filter(_INDEX.fullmatch, self.store.names()):
            content = self.store.read(name)
            if checksum(content) != _INDEX.fullmatch(name)[1]:
                continue
            try:
                table = decode(content, INDEX_SCHEMA, name)
            except BufferError:
                continue
            if (table.schema.metadata or {}).get(b"segments") == now:
                return table
        return None

    def write_index(self) -> int:
        """Write the index and drop older ones; returns how many rows it has. It streams, so memory stays flat."""
        live = self.segments.live()
        schema = INDEX_SCHEMA.with_metadata({**INDEX_SCHEMA.metadata, b"segments": _listing(live)})
        rows = 0
        with tempfile.TemporaryFile() as scratch:
            with pa.ipc.new_stream(scratch, schema) as writer:
                for batch in self._index_batches(live):
                    writer.write(batch.replace_schema_metadata(schema.metadata))
                    rows += len(batch)
            scratch.seek(0)
            crc = 0
            while block := scratch.read(2**20):
                crc = zlib.crc32(block, crc)
            scratch.seek(0)
            name = f"index-{crc:08x}.arrow"
            self.store.copy_in(name, scratch)
        for old in filter(_INDEX.fullmatch, self.store.names()):
            if old != name:
                self.store.delete(old)
        return rows

    def _index_batches(self, live: Sequence[Segment]) -> Iterator[pa.RecordBatch]:
        for number, segment in enumerate(live):
            rows = self.segments.read(segment).select(_FROM_SEGMENTS).combine_chunks()
            place = {
                "segment": pa.array(np.full(len(rows), number, np.int32)),
                "row": pa.array(np.arange(len(rows), dtype=np.int32)),
            }
            columns = [c.combine_chunks() for c in rows.columns] + list(place.values())
            yield pa.RecordBatch.from_arrays(columns, schema=INDEX_SCHEMA)

    def rows(self, trajectory_ids: Iterable[str]) -> pa.Table:
        """The trajectories with these ids, in the order of the plan; memory grows with their number only."""
        wanted = pa.array(sorted(set(trajectory_ids)), pa.string())
        found = []
        for table in self.scan():
            chosen = table.filter(pc.is_in(table["trajectory_id"], wanted))
            if len(chosen):
                found.append(chosen.combine_chunks())
        return _in_order(found)


def _in_order(tables: Sequence[pa.Table]) -> pa.Table:
    """Trajectories in the order of the plan."""
    if not tables:
        return SCHEMA.empty_table()
    table = pa.concat_tables(tables)
    return take_rows(table, np.argsort(table["index"].to_numpy(), kind="stable"))


def _failed(rows: pa.Table | pa.RecordBatch) -> int:
    """How many of these conversations are excluded, because they failed."""
    return len(rows) - rows["error"].null_count


def _listing(segments: Iterable[Segment]) -> bytes:
    return json.dumps([[s.name, s.size] for s in segments]).encode()


def read_round(store: Store) -> pa.Table:
    """All trajectories of a round at once, in the order of the plan; for notebooks, as memory grows with them."""
    return _in_order(list(RoundData(store).scan()))


@dataclass(frozen=True)
class RoundPlan:
    """Which trajectories a round consists of: indices 0 to `count` - 1, with ids that follow from the rest."""

    run: str
    arm: str
    round: int
    count: int

    def ids(self, indices: Iterable[int]) -> list[str]:
        return trajectory_ids(self.run, self.arm, self.round, indices)

    def id(self, index: int) -> str:
        return self.ids([index])[0]


@dataclass(frozen=True)
class Opened:
    """What an opened round still lacks (indices of the plan, ascending), and which files were set aside and why."""

    missing: np.ndarray
    set_aside: list[str] = field(default_factory=list)


class TrajectoryBuffer(Actor):
    """Collects the trajectories of one round at a time; run as a Ray actor.

    What it holds in memory is bounded by `segment_rows`, and one bit of the plan for each conversation. A caller that
    waits for `append` is slowed to the speed of the storage.
    """

    def __init__(self, segment_rows: int, segment_seconds: float) -> None:
        """Args:
        segment_rows: Trajectories that are written together.
        segment_seconds: Longest time that a trajectory waits to be written, while anybody calls.
        """
        self._segment_rows = segment_rows
        self._segment_seconds = segment_seconds
        self._data: RoundData | None = None
        self._kept = np.zeros(0, bool)
        self._excluded = 0
        self._usage = UsageTotals()
        self._unwritten: pa.Table | None = None  # a segment that may be half or wholly there: to be written just so
        self._pending: list[pa.RecordBatch] = []
        self._pending_rows = 0
        self._oldest = 0.0

    def pulse(self) -> Pulse:
        """Trajectories of the open round; every call to it is short, so what counts is that it answers."""
        held = int(self._kept.sum())
        doing = f"{held:,} of {len(self._kept):,} trajectories, {self._pending_rows:,} not written yet"
        figures = {"planned": len(self._kept), "unwritten": self._pending_rows, "excluded": self._excluded}
        return Pulse(False, held, doing, memory=family_memory(), figures=figures)

    def open_round(self, store: Store, plan: RoundPlan, verify: bool = True) -> Opened:
        """Begin or go on with a round; files that are torn, foreign or hold nothing new are set aside.

        Args:
            store: The round's `trajectories` folder.
            plan: What the round consists of.
            verify: Read every segment and compare its checksum, also where an index vouches for it.

        Raises:
            StorageError: It could not be opened, or what is pending of the round before could not be written.
        """
        self.flush()
        self._data = None
        self._plan = plan
        self._kept = np.zeros(plan.count, bool)
        self._excluded = 0
        self._usage = UsageTotals()
        data = RoundData(store)
        store.create()
        aside = [] if not verify and self._vouched_for(data) else self._take_stock(data)
        self._next = 1 + max((s.last for s in data.segments.all()), default=-1)
        self._data = data
        return Opened(self.missing(), aside)

    def _vouched_for(self, data: RoundData) -> bool:
        """Find out from the index what is there; False without an index of this round.

        The index was made of checked segments, so a sample of its ids tells whether it is this round's.
        """
        index = data.read_index()
        if index is None:
            return False
        places = index["index"].to_numpy()
        if (
            not len(places)
            or len(np.unique(places)) < len(places)
            or places.min() < 0
            or places.max() >= self._plan.count
        ):
            return False
        try:
            self._places(index.take(np.linspace(0, len(index) - 1, min(len(index), SAMPLED_IDS)).astype(int)))
        except BufferError:
            return False
        self._kept[places] = True
        self._excluded = _failed(index)
        return True

    def _take_stock(self, data: RoundData) -> list[str]:
        """Find out from the segments what is there; returns what had to be set aside."""
        segments = data.segments
        aside: list[str] = []
        sound: set[Segment] = set()
        while todo := [s for s in segments.live() if s not in sound]:  # again: without a bad one those it covers show
            for segment in todo:
                try:
                    rows = segments.read(segment)
                    self._kept[self._checked(rows, f"{data.store}/{segment.name}")] = True
                    self._add_usage(rows["usage"])
                    self._excluded += _failed(rows)
                    sound.add(segment)
                except BufferError as error:
                    data.store.set_aside(segment.name)
                    aside.append(str(error))
        segments.drop_covered()
        return aside

    def _checked(self, rows: pa.Table, name: str) -> np.ndarray:
        """Plan indices of a file's rows; `BufferError` unless the round planned each and has none of them yet."""
        try:
            indices, fresh = self._places(rows)
        except BufferError as error:
            raise BufferError(f"{name}: {error}") from None
        if not fresh.all():
            raise BufferError(f"{name}: holds {int((~fresh).sum())} trajectories that are there already")
        return indices

    def _places(self, rows: pa.Table | pa.RecordBatch) -> tuple[np.ndarray, np.ndarray]:
        """Plan index of each row, and whether the round lacked it."""
        indices = rows["index"].to_numpy(zero_copy_only=False)
        numbers, ids = indices.tolist(), rows["trajectory_id"].to_pylist()
        inside = (indices >= 0) & (indices < self._plan.count)
        if not inside.all() or ids != self._plan.ids(numbers):
            told = zip(inside, ids, numbers, strict=True)
            name, index = next((n, i) for fits, n, i in told if not fits or n != self._plan.id(i))
            raise BufferError(f"trajectory {name} (index {index}) is not part of the open round")
        fresh = np.zeros(len(indices), bool)
        fresh[np.unique(indices, return_index=True)[1]] = True
        return indices, fresh & ~self._kept[indices]

    def append(self, batch: pa.RecordBatch) -> int:
        """Take finished trajectories (`actors.storage.trajectory.SCHEMA`); returns how many were new to the round.

        Raises:
            BufferError: One of them is not a trajectory, or not part of the open round; none of the batch is taken.
            StorageError: They could not be written; they are kept and the next call tries again.
        """
        if self._data is None:
            raise BufferError("no round is open")
        if not batch.schema.equals(SCHEMA):
            raise BufferError("what was handed in does not have the columns of a trajectory")
        indices, fresh = self._places(batch)
        if fresh.any():
            if not self._pending_rows:
                self._oldest = time.monotonic()
            self._pending.append(batch if fresh.all() else batch.filter(pa.array(fresh)))
            self._add_usage(self._pending[-1]["usage"])
            self._excluded += _failed(self._pending[-1])
            self._pending_rows += int(fresh.sum())
            self._kept[indices] = True
        self._flush_when_due()
        return int(fresh.sum())

    def take_over(self, store: Store, indices: np.ndarray) -> int:
        """Take conversations that another arm has held, those that were excluded there left out; returns how many. What
        they cost stays with that arm. They are read here, so that they do not pass through the driver.

        Args:
            store: The other arm's `trajectories` folder of the same round.
            indices: Indices of conversations that both arms plan alike.
        """
        taken, wanted = 0, pa.array(indices, pa.int32())
        for table in RoundData(store).scan():
            rows = table.filter(pc.and_(pc.is_in(table["index"], wanted), pc.is_null(table["error"]))).combine_chunks()
            if not len(rows):
                continue
            nothing = pa.array([[]] * len(rows))
            own = {
                "trajectory_id": pa.array(self._plan.ids(rows["index"].to_pylist())),
                "arm": pa.array([self._plan.arm] * len(rows)),
                "usage": nothing.cast(SCHEMA.field("usage").type),
                "faults": nothing.cast(SCHEMA.field("faults").type),
            }
            columns = [own.get(name, rows[name]) for name in SCHEMA.names]
            for batch in pa.table(columns, SCHEMA).combine_chunks().to_batches():
                taken += self.append(batch)
        return taken

    def _flush_when_due(self) -> None:
        waited = time.monotonic() - self._oldest if self._pending_rows else 0.0
        if self._pending_rows >= self._segment_rows or waited > self._segment_seconds:
            self.flush()

    def flush(self) -> None:
        """Write what is pending. Where that fails the next call writes the same file, so that no row is there twice."""
        while self._unwritten is not None or self._pending:
            if self._unwritten is None:
                self._unwritten = pa.Table.from_batches(self._pending, SCHEMA).combine_chunks()
                self._pending = []
            self._data.segments.write(self._unwritten, self._next)
            self._next += 1
            self._pending_rows -= len(self._unwritten)
            self._unwritten = None

    def _add_usage(self, column: pa.Array | pa.ChunkedArray) -> None:
        self._usage.add(pc.list_flatten(column).to_pylist())

    def count(self) -> int:
        """Trajectories of the open round, on disk or pending."""
        self._flush_when_due()
        return int(self._kept.sum())

    def usage(self) -> list[dict]:
        """What the trajectories cost that were handed in since the round was opened, and those that it found then in
        segments without an index: rows of `actors.storage.trajectory.USAGE`, one for each role and model."""
        return self._usage.rows()

    def missing(self) -> np.ndarray:
        """Indices of the planned conversations that the round lacks, ascending."""
        return np.flatnonzero(~self._kept)

    def close_round(self) -> int:
        """Write what is pending and, when nothing is missing, compact and index the round.

        Returns:
            How many planned conversations are missing.
        """
        if self._data is None:
            raise BufferError("no round is open")
        self.flush()
        missing = len(self.missing())
        if not missing and not self._data.closed():
            self._data.segments.compact()
            rows = self._data.write_index()
            if rows != self._plan.count:  # somebody else writes here; the next open sorts it out
                raise BufferError(f"{self._data.store}: holds {rows} trajectories where {self._plan.count} are planned")
        return missing


__all__ = ["BufferError", "Opened", "RoundData", "RoundPlan", "StorageError", "TrajectoryBuffer", "read_round"]
