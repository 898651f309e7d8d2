"""The Arrow trajectory buffer: what pools hand in becomes segments on disk, each complete or absent.

A round's trajectories lie in `rounds/<arm>/<round>/trajectories/segment-<n>.arrow`, Arrow IPC streams of
`actors.trajectory.SCHEMA`. A segment is written under a temporary name, flushed to disk and renamed, so a reader never
sees half of one. A trajectory whose id the round already has is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from actors.files import whole_file
from actors.trajectory import SCHEMA


class BufferError(RuntimeError):
    """A segment that cannot be read, or a trajectory that the open round did not plan."""


def write_table(path: Path, table: pa.Table | pa.RecordBatch) -> None:
    """Write an Arrow IPC stream so that `path` is complete or absent."""
    with whole_file(path) as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write(table)


def read_table(path: Path) -> pa.Table:
    """Read an Arrow IPC stream through a memory map; `BufferError` names a file that is none."""
    try:
        with pa.memory_map(str(path)) as source:
            return pa.ipc.open_stream(source).read_all()
    except (pa.ArrowInvalid, pa.ArrowIOError) as error:
        raise BufferError(f"{path}: not a readable Arrow stream ({error})") from error


def segments(folder: Path) -> Iterator[Path]:
    """The segments of a round in the order they were written."""
    return iter(sorted(folder.glob("segment-*.arrow")))


def read_round(folder: Path) -> pa.Table:
    """All trajectories of a round, in the order of the plan."""
    tables = [read_table(p) for p in segments(folder)]
    table = pa.concat_tables(tables) if tables else SCHEMA.empty_table()
    return table.sort_by("index")


class TrajectoryBuffer:
    """Collects the trajectories of one round at a time; run as a Ray actor."""

    def __init__(self, segment_rows: int) -> None:
        self._segment_rows = segment_rows
        self._folder: Path | None = None
        self._pending: list[pa.RecordBatch] = []
        self._pending_rows = 0

    def open_round(self, folder: str, planned: list[str]) -> list[str]:
        """Begin or go on with a round; returns the ids that are on disk already.

        Args:
            folder: The round's `trajectories` folder.
            planned: Ids of every conversation of the round.
        """
        self._folder = Path(folder)
        self._planned = set(planned)
        self._pending, self._pending_rows = [], 0
        self._next = 1 + max((int(p.stem.split("-")[1]) for p in segments(self._folder)), default=-1)
        self._kept = {i for p in segments(self._folder) for i in read_table(p)["trajectory_id"].to_pylist()}
        unknown = self._kept - self._planned
        if unknown:
            raise BufferError(f"{folder} holds {len(unknown)} trajectories that this round never planned")
        return sorted(self._kept)

    def append(self, batch: pa.RecordBatch) -> int:
        """Take finished trajectories; returns how many were new to the round."""
        ids = batch["trajectory_id"].to_pylist()
        unknown = [i for i in ids if i not in self._planned]
        if unknown:
            raise BufferError(f"trajectory {unknown[0]} is not part of the open round")
        fresh = []
        for row, i in enumerate(ids):
            if i not in self._kept:
                self._kept.add(i)
                fresh.append(row)
        if fresh:
            self._pending.append(batch if len(fresh) == len(ids) else batch.take(pa.array(fresh)))
            self._pending_rows += len(fresh)
        if self._pending_rows >= self._segment_rows:
            self.flush()
        return len(fresh)

    def flush(self) -> None:
        """Write what is pending as one segment."""
        if self._pending and self._folder is not None:
            table = pa.Table.from_batches(self._pending, SCHEMA).combine_chunks()
            write_table(self._folder / f"segment-{self._next:06d}.arrow", table)
            self._next += 1
            self._pending, self._pending_rows = [], 0

    def count(self) -> int:
        """Trajectories of the open round, on disk or pending."""
        return len(self._kept) if self._folder is not None else 0

    def close_round(self) -> int:
        """Write what is pending; returns how many planned conversations are missing."""
        self.flush()
        return len(self._planned - self._kept)
