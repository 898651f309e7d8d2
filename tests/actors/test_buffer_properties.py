"""Whatever is appended, killed, torn and lost, in whatever order: each planned trajectory is there once."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from actors.buffer import RoundData, TrajectoryBuffer, read_round
from actors.storage.segments import BufferError, Segments
from actors.storage.store import ASIDE, Store
from actors.storage.trajectory import SCHEMA
from tests.actors.test_buffer import COUNT, _damage, _delete, batch, files, indices, opened, plan


@contextmanager
def folder() -> Iterator[Store]:
    """Properties are tried many times within one test."""
    with tempfile.TemporaryDirectory(prefix="candor-") as place:
        yield Store(place)


@given(st.data(), st.integers(1, 5), st.integers(1, 12))
@settings(deadline=None, max_examples=100)
def test_every_index_is_there_once_and_is_the_first_one_given(data, segment_rows, count):
    order = data.draw(st.permutations(list(range(count)) + data.draw(st.lists(st.integers(0, count - 1)))))
    first: dict[int, float] = {}
    with folder() as store:
        buffer = opened(store, count, segment_rows)
        at = 0
        while at < len(order):
            size = data.draw(st.integers(1, 6), "size of batch")
            rows = [batch(i, reward=at + n) for n, i in enumerate(order[at : at + size])]
            buffer.append(pa.Table.from_batches(rows).combine_chunks().to_batches()[0])
            for n, i in enumerate(order[at : at + size]):
                first.setdefault(i, 100.0 * (at + n) + i)
            at += size
            match data.draw(st.sampled_from(["go on", "flush", "close", "reopen"])):
                case "flush":
                    buffer.flush()
                case "close":
                    buffer.close_round()
                case "reopen":
                    buffer.flush()
                    buffer = opened(store, count, segment_rows, verify=data.draw(st.booleans()))
        assert buffer.close_round() == 0
        table = read_round(store)
        assert table["index"].to_pylist() == list(range(count))
        assert table["reward"].to_pylist() == [first[i] for i in range(count)]
        assert RoundData(store).index()["reward"].equals(table["reward"])


@given(st.data())
@settings(deadline=None, max_examples=100)
def test_any_damage_costs_the_rows_of_that_segment_and_no_others(data):
    with folder() as store:
        buffer = opened(store, segment_rows=2)
        for i in range(COUNT):
            buffer.append(batch(i))
        number = data.draw(st.integers(0, 2), "segment")
        bad = files(store, "segment-*")[number]
        content = bytearray(bad.read_bytes())
        at = data.draw(st.integers(0, len(content) - 1), "byte")
        if data.draw(st.booleans(), "tear"):
            del content[at:]
        else:
            content[at] ^= data.draw(st.integers(1, 255), "flip")
        bad.write_bytes(content)
        with pytest.raises(BufferError, match=bad.name):
            indices(store)
        found = TrajectoryBuffer(1, 3600).open_round(store, plan())
        assert found.missing.tolist() == [2 * number, 2 * number + 1]
        assert [bad.name in m for m in found.set_aside] == [True]
        kept = [i for i in range(COUNT) if i // 2 != number]
        assert read_round(store)["reward"].to_pylist() == [100.0 + i for i in kept]


class Life(RuleBasedStateMachine):
    """What may happen to a round on disk, beside a model of it: which rewards are written, and which are pending."""

    ROWS = 3
    COUNT = 8

    @initialize()
    def begin(self) -> None:
        self.place = tempfile.TemporaryDirectory(prefix="candor-")
        self.store = Store(self.place.name)
        self.written: dict[int, float] = {}
        self.pending: dict[int, float] = {}
        self.torn: set[Path] = set()
        self.aside = 0
        self.clock = 0
        self.buffer: TrajectoryBuffer | None = opened(self.store, self.COUNT, self.ROWS)

    def up(self) -> bool:
        return self.buffer is not None

    def rows_of(self, path: Path) -> dict[int, float]:
        [segment] = [s for s in Segments(self.store, SCHEMA).all() if s.name == path.name]
        table = Segments(self.store, SCHEMA).read(segment)
        return dict(zip(table["index"].to_pylist(), table["reward"].to_pylist(), strict=True))

    def wrote(self) -> None:
        self.written |= self.pending
        self.pending = {}

    @precondition(up)
    @rule(given=st.lists(st.integers(0, COUNT - 1), min_size=1, max_size=5))
    def append(self, given: list[int]) -> None:
        self.clock += 1
        fresh = set(given) - set(self.written) - set(self.pending)
        assert self.buffer.append(batch(*given, reward=self.clock)) == len(fresh)
        self.pending |= {i: 100.0 * self.clock + i for i in fresh}
        if len(self.pending) >= self.ROWS:
            self.wrote()

    @precondition(up)
    @rule()
    def flush(self) -> None:
        self.buffer.flush()
        self.wrote()

    @precondition(up)
    @rule(interrupted=st.booleans())
    def close(self, interrupted: bool) -> None:
        """Close; or be killed after compaction has written and before it has deleted."""
        self.buffer.flush()
        self.wrote()
        before = {p: p.read_bytes() for p in files(self.store, "segment-*")}
        assert self.buffer.close_round() == self.COUNT - len(self.written)
        assert RoundData(self.store).closed() == (len(self.written) == self.COUNT)
        if interrupted:
            for path, content in before.items():
                path.write_bytes(content)
            self.buffer = None

    @rule()
    def kill(self) -> None:
        self.buffer, self.pending = None, {}

    @rule(verify=st.booleans())
    def reopen(self, verify: bool) -> None:
        """With another buffer after a kill, with the same one otherwise."""
        torn = {p for p in self.torn if p.exists()}
        if self.buffer is None:
            self.buffer = TrajectoryBuffer(self.ROWS, 3600)
        found = self.buffer.open_round(self.store, plan(self.COUNT), verify)
        self.wrote()
        assert all(any(p.name in m for p in torn) for m in found.set_aside)
        self.aside += len(found.set_aside)
        assert len(files(self.store / ASIDE, "*")) == self.aside
        self.torn = set()

    @rule(which=st.integers(0, 99), share=st.floats(0, 1, exclude_max=True))
    def kill_and_tear(self, which: int, share: float) -> None:
        sound = [p for p in files(self.store, "segment-*") if p not in self.torn]
        if not sound:
            return
        self.kill()
        bad = sound.pop(which % len(sound))
        lost = set(self.rows_of(bad)) - {i for p in sound for i in self.rows_of(p)}
        self.written = {i: reward for i, reward in self.written.items() if i not in lost}
        bad.write_bytes(bad.read_bytes()[: int(share * bad.stat().st_size)])
        self.torn.add(bad)

    @rule(damage=st.booleans())
    def lose_the_index(self, damage: bool) -> None:
        before = None if self.torn else RoundData(self.store).index()
        for index in files(self.store, "index-*"):
            (_damage if damage else _delete)(index)
        assert before is None or RoundData(self.store).index().equals(before)

    @rule(content=st.binary(max_size=100), name=st.sampled_from(["segment-000000-000000-00000000", "index-00000000"]))
    def leave_half_a_file(self, content: bytes, name: str) -> None:
        (Path(self.place.name) / f".{name}.arrow.{self.clock}.tmp").write_bytes(content)

    @invariant()
    def nothing_is_lost_or_there_twice(self) -> None:
        if self.torn:
            return
        rows = [r for t in RoundData(self.store).scan() for r in t.select(["index", "reward"]).to_pylist()]
        assert len(rows) == len(self.written)
        assert {r["index"]: r["reward"] for r in rows} == self.written
        if self.buffer is not None:
            there = set(self.written) | set(self.pending)
            assert self.buffer.missing().tolist() == sorted(set(range(self.COUNT)) - there)
            assert self.buffer.count() == len(there)

    def teardown(self) -> None:
        self.kill()
        self.reopen(verify=False)
        for i in range(self.COUNT):
            self.append([i])
        self.close(interrupted=False)
        self.nothing_is_lost_or_there_twice()
        assert read_round(self.store)["index"].to_pylist() == list(range(self.COUNT))
        assert len(RoundData(self.store).index()) == self.COUNT
        self.place.cleanup()


TestLife = Life.TestCase
TestLife.settings = settings(deadline=None, max_examples=150, stateful_step_count=30)
