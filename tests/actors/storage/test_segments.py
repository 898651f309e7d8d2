import random
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.storage.segments import BufferError, Segment, Segments, checksum, encode, read_table, uncovered, write_table
from actors.storage.store import Store
from actors.storage.trajectory import SCHEMA as TRAJECTORY
from actors.storage.trajectory import to_batch
from tests.conftest import ROOT, trajectory

SCHEMA = pa.schema([("n", pa.int64()), ("text", pa.string())], metadata={"candor_schema": "test/1"})


def rows(*ns: int) -> pa.Table:
    return pa.table({"n": ns, "text": [f"row {n} " * 100 for n in ns]}, SCHEMA)


@pytest.fixture
def segments(tmp_path) -> Segments:
    return Segments(Store(str(tmp_path)), SCHEMA)


def numbers(segments: Segments) -> list[int]:
    return [n for table in segments.scan() for n in table["n"].to_pylist()]


def test_segments_are_read_in_the_order_they_were_written(segments):
    written = [segments.write(rows(2 * i, 2 * i + 1), i) for i in range(3)]
    assert segments.all() == segments.live() == written
    assert numbers(segments) == [0, 1, 2, 3, 4, 5]
    assert segments.read(written[1]).equals(rows(2, 3))
    assert [t.column_names for t in segments.scan(["text"])] == [["text"]] * 3


def test_a_segment_is_an_arrow_stream_named_by_what_is_in_it(segments, tmp_path):
    segment = segments.write(rows(1, 2), 3, 12)
    assert segment.name == f"segment-000003-000012-{segment.crc}.arrow"
    with pa.memory_map(str(tmp_path / segment.name)) as file:
        assert pa.ipc.open_stream(file).read_all().equals(rows(1, 2), check_metadata=True)
    assert segments.write(rows(1, 2), 3, 12).name == segment.name
    assert segments.write(rows(1, 2), 4, 12).crc != segment.crc


@pytest.mark.parametrize(
    "name",
    [
        "segment-000001-000001-0000000.arrow",
        "segment-000001-000001-0000000G.arrow",
        "segment-00001-000001-00000000.arrow",
        "segment-0000001-000001-00000000.arrow",
        "segment-\N{ARABIC-INDIC DIGIT ONE}00001-000001-00000000.arrow",
        "segment-000001-000001-00000000.arrow.tmp",
        ".segment-000001-000001-00000000.arrow",
        "a-segment-000001-000001-00000000.arrow",
    ],
)
def test_files_of_other_names_are_no_segments(segments, tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    (tmp_path / "segment-000001-000001-00000000.arrow").mkdir()
    assert segments.all() == []


def test_long_numbers_stay_in_order(segments):
    for n in (10**6, 999_999, 10**7):
        segments.write(rows(n), n)
    assert numbers(segments) == [999_999, 10**6, 10**7]


def test_a_renamed_segment_is_known(segments, tmp_path):
    segment = segments.write(rows(1), 1)
    (tmp_path / segment.name).rename(tmp_path / segment.name.replace("1-", "9-"))
    with pytest.raises(BufferError, match=r"segment-000009-000009-.*: torn, damaged or renamed"):
        list(segments.scan())


def test_rows_of_another_kind_are_told_apart(segments):
    other = pa.schema([("n", pa.int32())], metadata={"candor_schema": "other/7"})
    Segments(segments.store, other).write(pa.table({"n": [1]}, other), 0)
    with pytest.raises(BufferError, match=r"segment-000000-.*: holds other/7 where test/1 was expected"):
        list(segments.scan())
    plain = pa.schema([("n", pa.int32())])
    strange = SCHEMA.append(pa.field("more", pa.int8())).with_metadata({"candor_schema": b"\xff"})
    with pytest.raises(BufferError, match="holds \N{REPLACEMENT CHARACTER} where"):
        segments.read(Segments(segments.store, strange).write(strange.empty_table(), 2))
    with pytest.raises(BufferError, match="holds no schema of Candor"):
        segments.read(Segments(segments.store, plain).write(pa.table({"n": [1]}, plain), 1))


def test_compaction_makes_few_of_many(segments, monkeypatch):
    sizes = [segments.write(rows(i), i).size for i in range(10)]
    monkeypatch.setattr("actors.storage.segments.COMPACT_BYTES", 4 * sizes[0])
    segments.compact()
    assert [(s.first, s.last) for s in segments.all()] == [(0, 3), (4, 7), (8, 9)]
    assert numbers(segments) == list(range(10))
    before = segments.all()
    segments.compact()
    assert segments.all() == before


def test_a_large_segment_stays_as_it_is(segments, monkeypatch):
    large = segments.write(rows(*range(1000)), 0)
    small = [segments.write(rows(1000 + i), 1 + i) for i in range(3)]
    monkeypatch.setattr("actors.storage.segments.COMPACT_BYTES", large.size - 1)
    segments.compact()
    assert segments.all()[0] == large
    assert len(segments.all()) == 2
    assert numbers(segments) == list(range(1000 + len(small)))


class Death(BaseException):
    """The process is killed."""


@dataclass(frozen=True)
class Mortal(Store):
    """A folder whose user is killed after so many changes, or in the middle of the next."""

    changes: list[int] = field(default_factory=list, compare=False)

    def _change(self) -> None:
        self.changes[0] -= 1
        if self.changes[0] < 0:
            raise Death

    @contextmanager
    def write(self, name: str, flush_name: bool = False) -> Iterator:
        with super().write(name, flush_name) as file:
            yield file
            self._change()

    def delete(self, name: str) -> None:
        self._change()
        super().delete(name)


@pytest.mark.parametrize("survived", range(9))
def test_compaction_can_stop_anywhere(segments, monkeypatch, survived):
    monkeypatch.setattr("actors.storage.segments.COMPACT_BYTES", 3 * segments.write(rows(0), 0).size)
    for i in range(1, 7):
        segments.write(rows(i), i)
    changes = 2 + 6  # two segments are written and six deleted
    with pytest.raises(Death) if survived < changes else nullcontext():
        Segments(Mortal(segments.store.root, changes=[survived]), SCHEMA).compact()
    assert numbers(segments) == list(range(7))
    segments.compact()
    assert numbers(segments) == list(range(7))
    assert [(s.first, s.last) for s in segments.all()] == [(0, 2), (3, 5), (6, 6)]


@given(st.sets(st.tuples(st.integers(0, 12), st.integers(0, 12), st.sampled_from("ab"))))
@settings(deadline=None)
def test_live_segments_are_those_that_no_other_covers(numbers):
    found = [Segment(min(a, b), max(a, b), crc, 1) for a, b, crc in numbers]
    assert set(uncovered(found)) == {s for s in found if not any(o.covers(s) for o in found)}
    assert uncovered(found) == sorted(uncovered(found), key=lambda s: (s.first, -s.last))


def test_a_table_round_trips_through_a_file(tmp_path):
    write_table(tmp_path / "a" / "one.arrow", rows(1, 2))
    assert read_table(tmp_path / "a" / "one.arrow").equals(rows(1, 2))
    assert read_table(tmp_path / "a" / "one.arrow", SCHEMA).equals(rows(1, 2))
    with pytest.raises(BufferError, match=r"one\.arrow: holds test/1 where trajectory/2 was expected"):
        read_table(tmp_path / "a" / "one.arrow", TRAJECTORY)
    with pytest.raises(BufferError, match=r"two\.arrow: not a readable Arrow stream .*No such file"):
        read_table(tmp_path / "a" / "two.arrow")


def test_every_torn_table_is_named(tmp_path):
    target = tmp_path / "one.arrow"
    write_table(target, rows(1, 2))
    whole = target.read_bytes()
    for length in range(len(whole)):
        target.write_bytes(whole[:length])
        with pytest.raises(BufferError, match=r"one\.arrow"):
            read_table(target, SCHEMA)


KINDS = ("cut", "flip", "zeros", "noise", "garbage", "empty", "length", "swap", "drop", "repeat", "splice")


def damaged(source: bytes, other: bytes, kind: str, rng: random.Random) -> bytes:
    """What a disk, a program or a person may make of an Arrow stream."""
    out = bytearray(source)
    at = rng.randrange(len(out))
    messages = split(source)
    one, two = sorted(rng.sample(range(len(messages)), 2))
    match kind:
        case "cut":
            return source[:at]
        case "flip":
            for at in rng.sample(range(len(out)), rng.randint(1, 4)):
                out[at] ^= rng.randint(1, 255)
        case "zeros" | "noise":
            size = rng.choice((4, 64, 4096))
            out[at : at + size] = bytes(size) if kind == "zeros" else rng.randbytes(size)
        case "garbage":
            return source[: rng.choice((0, 8, at))] + rng.randbytes(rng.randint(0, 5000))
        case "empty":
            return b""
        case "length":
            at = at // 8 * 8
            out[at : at + 8] = struct.pack("<q", rng.choice((-1, 2**31 - 1, 2**31, 2**40, 2**62, -(2**63), 7)))
        case "swap":
            messages[one], messages[two] = messages[two], messages[one]
            return b"".join(messages)
        case "drop":
            return b"".join(messages[:one] + messages[one + 1 :])
        case "repeat":
            return b"".join(messages[:two] + messages[one:])
        case "splice":
            return source[:at] + other[at:]
    return bytes(out)


def split(content: bytes) -> list[bytes]:
    """The messages of an Arrow stream, and its end as the last one."""
    stream, ends = pa.BufferReader(content), [0]
    while stream.tell() < len(content) - 8:
        pa.ipc.read_message(stream)
        ends.append(stream.tell())
    return [content[a:b] for a, b in zip(ends, [*ends[1:], len(content)], strict=True)]


def sources() -> list[bytes]:
    """Streams of every kind that a reader may meet: nested, of several batches, compressed, with a dictionary."""
    held = pa.Table.from_batches([to_batch([trajectory(i), trajectory(i + 1, reward=None)]) for i in range(3)])
    column = pa.chunked_array([pa.array(["a", None, "b"] * 50).dictionary_encode()] * 2)
    out = []
    for table, codec in ((held, None), (held, "zstd"), (held, "lz4"), (pa.table({"word": column}), None)):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
            writer.write(table)
        out.append(sink.getvalue().to_pybytes())
    return out


def cases(seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    rng, streams = random.Random(seed), sources()
    for i in range(count):
        kind = rng.choice(KINDS)
        yield f"seed {seed} case {i} {kind}", damaged(rng.choice(streams), rng.choice(streams), kind, rng)


def test_damage_is_known_by_the_checksum(segments, tmp_path):
    whole = {checksum(pa.py_buffer(s), (0, 0)) for s in sources()}
    for case, content in cases(seed=0, count=300):
        if checksum(pa.py_buffer(content), (0, 0)) in whole:
            continue  # both halves of a splice were the same
        segment = Segment(0, 0, min(whole), len(content))
        (tmp_path / segment.name).write_bytes(content)
        with pytest.raises(BufferError, match=f"{segment.name}: torn, damaged or renamed"):
            pytest.fail(f"{case}: {Segments(segments.store, TRAJECTORY).read(segment)}")


def use(table: pa.Table) -> None:
    """Touch every value in the ways that Candor does; where the names of columns are no text Python refuses to."""
    if "\N{REPLACEMENT CHARACTER}" in str(table.schema):
        return
    table.to_pylist()
    encode(table.combine_chunks())
    if table.schema.equals(TRAJECTORY):
        table.filter(pc.is_in(table["trajectory_id"], pa.array(["id-1"]))).sort_by("index")
        pa.concat_tables([table.select(["index", "reward"])] * 2).combine_chunks()


def fuzz(folder: str, seed: int, count: int) -> None:
    """Give damaged files to the readers with nothing to warn them; prints each case before it can crash."""
    segments = Segments(Store(folder), TRAJECTORY)
    read = 0
    for case, content in cases(seed, count):
        print(case, flush=True)
        segment = Segment(0, 0, checksum(pa.py_buffer(content), (0, 0)), len(content))
        path = Path(folder, segment.name)
        path.write_bytes(content)
        for reader in (lambda: segments.read(segment), lambda: read_table(path), lambda: read_table(path, TRAJECTORY)):  # noqa: B023
            try:
                use(reader())
                read += 1
            except BufferError as error:
                if segment.name not in str(error):
                    raise
        path.unlink()
    print(f"{read} could be read")


@pytest.mark.parametrize(("seed", "files"), [(1, 500), pytest.param(2, 4000, marks=pytest.mark.slow)])
def test_nothing_that_is_read_crashes_the_interpreter(tmp_path, seed, files):
    script = f"from tests.actors.storage.test_segments import fuzz; fuzz({str(tmp_path)!r}, {seed}, {files})"
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{done.stdout.splitlines()[-1:]}\n{done.stderr}"
    assert int(done.stdout.splitlines()[-1].split()[0]) > files / 20, "some damage is to values only, or to nothing"
