"""Segments: the files in which rows pile up, each with a name that says what is in it and whether it is whole.

`segment-<first>-<last>-<crc32>.arrow` is an Arrow IPC stream. Segments are numbered in the order they are written; one
that was made of segments 3 to 9 is called `segment-000003-000009-...` and takes their place from the moment it appears,
so compaction can stop anywhere and no row is lost or read twice. The checksum in the name is over the numbers and the
whole file, so a torn, damaged, renamed or foreign one is known before Arrow reads it.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from actors.storage.files import whole_file
from actors.storage.store import Store

COMPACT_BYTES = 8 * 2**20
"""Size that compaction works towards. Whoever scans holds one segment at a time, so this bounds their memory."""
_NUMBER = "([0-9]{6}|[1-9][0-9]{6,})"
_NAME = re.compile(rf"segment-{_NUMBER}-{_NUMBER}-([0-9a-f]{{8}})\.arrow")


class BufferError(RuntimeError):
    """A file that is torn, damaged or foreign, or a trajectory that the open round did not plan."""


@dataclass(frozen=True, order=True)
class Segment:
    """One segment: its numbers, its checksum as in its name, and its size in bytes."""

    first: int
    last: int
    crc: str
    size: int

    @property
    def name(self) -> str:
        return f"segment-{self.first:06d}-{self.last:06d}-{self.crc}.arrow"

    def covers(self, other: Segment) -> bool:
        """Whether this one was made of the other."""
        return (
            self.first <= other.first
            and other.last <= self.last
            and (self.first, self.last) != (other.first, other.last)
        )


def encode(rows: pa.Table | pa.RecordBatch) -> pa.Buffer:
    """Rows as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write(rows)
    return sink.getvalue()


def decode(content: pa.Buffer, schema: pa.Schema, name: str) -> pa.Table:
    """The rows of an Arrow IPC stream, without a copy; `BufferError` where it does not hold rows of `schema`.

    Arrow takes offsets and lengths on trust when it reads, and crashes on bad ones when they are used. They are checked
    here, which takes about as long as the checksum (2 ms for 10 MB).
    """
    try:
        stream = pa.ipc.open_stream(content)
        if stream.schema.equals(schema):
            table = stream.read_all()
            table.validate(full=True)
            return table
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BufferError(f"{name}: not a readable Arrow stream ({error})") from None
    found, wanted = ((s.metadata or {}).get(b"candor_schema", b"no schema of Candor") for s in (stream.schema, schema))
    raise BufferError(f"{name}: holds {found.decode(errors='replace')} where {wanted.decode()} was expected")


def checksum(content: pa.Buffer, numbers: tuple[int, int] | None = None) -> str:
    """CRC-32 of a file, and of a segment's numbers before it, as eight hexadecimal digits."""
    return f"{zlib.crc32(content, zlib.crc32(repr(numbers).encode()) if numbers else 0):08x}"


class Segments:
    """The segments of one folder."""

    def __init__(self, store: Store, schema: pa.Schema) -> None:
        self.store = store
        self.schema = schema

    def all(self) -> list[Segment]:
        """Every file that has the name of a segment, in order."""
        found = ((_NAME.fullmatch(name), size) for name, size in self.store.names().items())
        return sorted(Segment(int(m[1]), int(m[2]), m[3], size) for m, size in found if m)

    def live(self) -> list[Segment]:
        """The segments that hold the rows: those that no compacted one covers."""
        return uncovered(self.all())

    def read(self, segment: Segment) -> pa.Table:
        """The rows of a segment, without a copy where the folder is local.

        Raises:
            BufferError: The file is not what its name says, or does not hold rows of the schema.
        """
        content = self.store.read(segment.name)
        place = f"{self.store}/{segment.name}"
        found = checksum(content, (segment.first, segment.last))
        if found != segment.crc:
            raise BufferError(f"{place}: torn, damaged or renamed (checksum {found}, {content.size} bytes)")
        return decode(content, self.schema, place)

    def scan(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """All rows, one segment at a time, in the order they were written."""
        for segment in self.live():
            table = self.read(segment)
            yield table if columns is None else table.select(columns)

    def write(self, rows: pa.Table, first: int, last: int | None = None, flush_name: bool = False) -> Segment:
        """Write rows as one segment: complete, flushed to disk and under its name, or not at all."""
        last = first if last is None else last
        content = encode(rows)
        segment = Segment(first, last, checksum(content, (first, last)), content.size)
        with self.store.write(segment.name, flush_name) as file:
            file.write(content)
        return segment

    def compact(self) -> None:
        """Make few large segments of many small ones, so that a round opens fast."""
        group: list[Segment] = []
        for segment in [*self.live(), None]:
            if segment is not None and sum(s.size for s in group) + segment.size <= COMPACT_BYTES:
                group.append(segment)
                continue
            if len(group) > 1:
                whole = pa.concat_tables([self.read(s) for s in group]).combine_chunks()
                self.write(whole, group[0].first, group[-1].last, flush_name=True)  # the others go
            group = [segment] if segment is not None else []
        self.drop_covered()

    def drop_covered(self) -> None:
        """Delete the segments whose rows a compacted one holds."""
        found = self.all()
        for segment in set(found) - set(uncovered(found)):
            self.store.delete(segment.name)


def uncovered(segments: Sequence[Segment]) -> list[Segment]:
    """Those that no other covers, in order. Ranges nest or lie apart, so the last one kept decides."""
    kept: list[Segment] = []
    for segment in sorted(segments, key=lambda s: (s.first, -s.last)):
        if not kept or not kept[-1].covers(segment):
            kept.append(segment)
    return kept


def write_table(path: Path, table: pa.Table | pa.RecordBatch) -> None:
    """Write an Arrow IPC stream to a local file so that `path` is complete or absent."""
    with whole_file(path) as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write(table)


def read_table(path: Path, schema: pa.Schema | None = None) -> pa.Table:
    """Read a local Arrow IPC stream through a memory map; `BufferError` names a file that is none."""
    try:
        with pa.memory_map(str(path)) as source:
            content = source.read_buffer()
        if bytes(content[-len(_END) :]) != _END:
            raise BufferError(f"{path}: torn: the end of the Arrow stream is missing")
        return decode(content, schema or pa.ipc.read_schema(content), str(path))
    except (pa.ArrowException, OSError) as error:
        raise BufferError(f"{path}: not a readable Arrow stream ({error})") from None


_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"
"""What closes an Arrow IPC stream."""
