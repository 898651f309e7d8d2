import asyncio
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
from datasets import Dataset

from actors.buffer import INDEX_SCHEMA, RoundData, RoundPlan, TrajectoryBuffer, read_round
from actors.conversation import Terms
from actors.models.ref import ModelRef
from actors.roles import ActorHandles
from actors.scripted import ScriptedEngine
from actors.settings import EngineSettings, UserSettings
from actors.storage.segments import BufferError, Segments, checksum, encode, write_table
from actors.storage.store import ASIDE, StorageError, Store
from actors.storage.trajectory import PLAN_SCHEMA, SCHEMA, to_batch
from actors.users import UserPool
from actors.worlds.pocket.exact_judge import PocketJudge
from tests.conftest import ROOT, Local, conversation, trajectory

COUNT = 6


def plan(count: int = COUNT, round_: int = 0) -> RoundPlan:
    return RoundPlan("run", "arm", round_, count)


def batch(*indices: int, reward: float | None = 1.0, round_: int = 0, **changes: object) -> pa.RecordBatch:
    """Trajectories of the plan; each index is worth a hundred times as much as `reward`, plus itself."""
    rows = []
    for i in indices:
        held = trajectory(i, None if reward is None else 100 * reward + i)
        planned = replace(held.conversation, trajectory_id=plan(round_=round_).id(i), round=round_)
        rows.append(replace(held, conversation=planned, **changes))
    return to_batch(rows)


def opened(store: Store, count: int = COUNT, segment_rows: int = 1, verify: bool = True) -> TrajectoryBuffer:
    buffer = TrajectoryBuffer(segment_rows, segment_seconds=3600)
    buffer.open_round(store, plan(count), verify)
    return buffer


def closed(store: Store, count: int = COUNT) -> RoundData:
    """A round that is complete."""
    buffer = opened(store, count)
    for i in buffer.missing():
        buffer.append(batch(int(i)))
    assert buffer.close_round() == 0
    return RoundData(store)


def indices(store: Store) -> list[int]:
    return [i for table in RoundData(store).scan(["index"]) for i in table["index"].to_pylist()]


def files(store: Store, pattern: str) -> list[Path]:
    return sorted(store.local.glob(pattern))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path)) / "trajectories"


def test_round_trip_keeps_every_row_in_plan_order(store):
    buffer = TrajectoryBuffer(segment_rows=2, segment_seconds=3600)
    assert buffer.open_round(store, plan(5)).missing.tolist() == [0, 1, 2, 3, 4]
    for i in (3, 0, 4, 1, 2):
        assert buffer.append(batch(i)) == 1
    assert len(files(store, "segment-*")) == 2
    assert buffer.close_round() == 0
    table = read_round(store)
    assert table["index"].to_pylist() == [0, 1, 2, 3, 4]
    assert table["reward"].to_pylist() == [100.0, 101.0, 102.0, 103.0, 104.0]
    assert table["messages"].to_pylist()[3][2]["content"] == "Reply 3 a."
    assert indices(store) == [3, 0, 4, 1, 2]


def test_the_same_trajectory_twice_is_kept_once(store):
    buffer = opened(store, 2)
    assert buffer.append(batch(0, 0, 1, reward=1)) == 2
    assert buffer.append(batch(0, 1, reward=2)) == 0
    assert buffer.close_round() == 0
    assert read_round(store)["reward"].to_pylist() == [100.0, 101.0]


def test_a_reopened_round_knows_what_is_on_disk(store):
    opened(store, 3).append(batch(1))
    second = TrajectoryBuffer(10, 3600)
    assert second.open_round(store, plan(3)).missing.tolist() == [0, 2]
    assert second.append(batch(1)) == 0
    assert second.append(batch(0)) == 1
    assert second.count() == 2
    assert second.close_round() == 1
    assert sorted(indices(store)) == [0, 1]
    assert not RoundData(store).closed()


def test_what_is_pending_survives_opening_another_round(store):
    buffer = opened(store / "0", segment_rows=10)
    buffer.append(batch(1, 2))
    assert buffer.open_round(store / "1", plan(round_=1)).missing.tolist() == [0, 1, 2, 3, 4, 5]
    assert indices(store / "0") == [1, 2]
    assert buffer.append(batch(0, round_=1)) == 1


@pytest.mark.parametrize(
    ("stranger", "why"),
    [
        (batch(6), r"\(index 6\) is not part of the open round"),
        (batch(0, round_=1), r"\(index 0\) is not part of the open round"),
        (to_batch([trajectory(1)]), r"trajectory id-1 \(index 1\) is not part"),
        (pa.RecordBatch.from_pylist([{**batch(0).to_pylist()[0], "index": None}], SCHEMA), "is not part"),
        (batch(0).drop_columns("messages"), "does not have the columns of a trajectory"),
    ],
)
def test_what_was_not_planned_is_refused_with_its_batch(store, stranger, why):
    buffer = opened(store)
    mixed = pa.Table.from_batches([batch(1), stranger]).combine_chunks().to_batches()[0] if "part" in why else stranger
    with pytest.raises(BufferError, match=why):
        buffer.append(mixed)
    assert buffer.count() == 0
    assert buffer.append(batch(1)) == 1
    assert indices(store) == [1]


def test_conversations_that_cost_nothing_are_found_again(store):
    """Such as those that were excluded because nobody answered."""
    first = opened(store)
    for i in range(3):
        first.append(batch(i, usage=[]))
    again = opened(store)
    assert again.missing().tolist() == [3, 4, 5]
    assert again.usage() == []


def test_without_an_open_round_nothing_is_taken():
    buffer = TrajectoryBuffer(1, 3600)
    assert buffer.count() == 0
    buffer.flush()
    for call in (lambda: buffer.append(batch(0)), buffer.close_round):
        with pytest.raises(BufferError, match="no round is open"):
            call()


def test_a_round_that_could_not_be_opened_is_not_open(tmp_path):
    buffer = opened(Store(str(tmp_path)))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="file cannot be created"):
        buffer.open_round(Store(str(tmp_path / "file")), plan())
    with pytest.raises(BufferError, match="no round is open"):
        buffer.append(batch(0))


def test_an_excluded_conversation_has_no_reward(store):
    opened(store).append(batch(0, reward=None))
    row = read_round(store).to_pylist()[0]
    assert (row["reward"], row["error"]) == (None, "ChatError: gone")
    assert RoundData(store).index()["error"].to_pylist() == ["ChatError: gone"]


@pytest.mark.parametrize("verify", [True, False])
def test_its_pulse_counts_the_rounds_excluded_conversations_those_on_disk_among_them(store, verify):
    buffer = opened(store, segment_rows=4)
    buffer.append(batch(0, 1, error="it failed"))
    buffer.append(batch(1, 2))  # 1 is there already
    assert buffer.pulse().figures == {"planned": COUNT, "unwritten": 3, "excluded": 2}
    buffer.append(batch(3, 4, 5, error="it failed"))
    buffer.close_round()
    assert buffer.pulse().figures == {"planned": COUNT, "unwritten": 0, "excluded": 5}
    assert opened(store, verify=verify).pulse().figures["excluded"] == 5


def test_what_waits_too_long_is_written_when_anybody_calls(store, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("actors.buffer.time", SimpleNamespace(monotonic=lambda: clock[0]))
    buffer = TrajectoryBuffer(segment_rows=100, segment_seconds=0.4)
    buffer.open_round(store, plan())
    for i in (0, 1):
        buffer.append(batch(i))
        assert indices(store) == []
        clock[0] += 0.25
    assert buffer.count() == 2
    assert indices(store) == [0, 1]
    buffer.append(batch(2))
    assert indices(store) == [0, 1]


def test_a_closed_round_is_few_segments_and_an_index(store, monkeypatch):
    buffer = opened(store)
    for i in range(5):
        buffer.append(batch(i))
    assert buffer.close_round() == 1
    assert len(files(store, "*")) == 5
    monkeypatch.setattr("actors.storage.segments.COMPACT_BYTES", 4 * files(store, "*")[0].stat().st_size)
    buffer.append(batch(5))
    assert buffer.close_round() == 0
    assert len(files(store, "segment-*")) == 2
    assert len(files(store, "index-*")) == 1
    assert RoundData(store).closed()
    before = files(store, "*")
    assert buffer.close_round() == 0
    assert files(store, "*") == before


def test_the_index_says_where_everything_is(store, monkeypatch):
    buffer = opened(store)
    for i in (4, 0, 5, 1, 3):
        buffer.append(batch(i))
    buffer.append(batch(2, reward=None))
    monkeypatch.setattr("actors.storage.segments.COMPACT_BYTES", 4 * files(store, "*")[0].stat().st_size)
    made = RoundData(store).index()
    assert buffer.close_round() == 0
    data = RoundData(store)
    index = data.index()
    assert index.schema.equals(INDEX_SCHEMA)
    assert index["index"].to_pylist() == list(range(COUNT))
    assert index.drop_columns(["segment", "row"]).equals(made.drop_columns(["segment", "row"]))
    segments = list(data.scan())
    assert len(segments) == 2
    for entry in index.to_pylist():
        row = segments[entry["segment"]].slice(entry["row"], 1).to_pylist()[0]
        assert {k: row[k] for k in ("trajectory_id", "index", "reward", "persona", "error")}.items() <= entry.items()


def _delete(index: Path) -> None:
    index.unlink()


def _damage(index: Path) -> None:
    content = bytearray(index.read_bytes())
    content[len(content) // 2] ^= 1
    index.write_bytes(content)


def _of_others(index: Path) -> None:
    folder = Store(str(index.parent.parent)) / "another"
    closed(folder, 3)
    index.unlink()
    shutil.copy(files(folder, "index-*")[0], index.parent)


def _of_another_kind(index: Path) -> None:
    index.unlink()
    content = encode(pa.table({"index": [0]}))
    index.with_name(f"index-{checksum(content)}.arrow").write_bytes(content)


@pytest.mark.parametrize("harm", [_delete, _damage, _of_others, _of_another_kind])
@pytest.mark.parametrize("verify", [True, False])
def test_the_index_is_made_again(store, harm, verify):
    before = closed(store).index()
    index = files(store, "index-*")[0]
    content = index.read_bytes()
    harm(index)
    assert not RoundData(store).closed()
    assert RoundData(store).index().equals(before)
    again = TrajectoryBuffer(1, 3600)
    assert again.open_round(store, plan(), verify).missing.tolist() == []
    assert again.close_round() == 0
    assert files(store, "index-*") == [index]
    assert index.read_bytes() == content


def test_only_a_reader_that_verifies_finds_what_the_index_hides(store):
    closed(store)
    segment = files(store, "segment-*")[0]
    content = bytearray(segment.read_bytes())
    content[-200] ^= 1
    segment.write_bytes(content)
    assert TrajectoryBuffer(1, 3600).open_round(store, plan(), verify=False).missing.tolist() == []
    found = TrajectoryBuffer(1, 3600).open_round(store, plan(), verify=True)
    assert found.missing.tolist() == list(range(COUNT))
    assert segment.name in found.set_aside[0]


def test_an_index_is_not_believed_about_another_plan(store):
    closed(store)
    found = TrajectoryBuffer(1, 3600).open_round(store, plan(round_=1), verify=False)
    assert found.missing.tolist() == list(range(COUNT))
    assert len(found.set_aside) == 1


def _torn(folder: Path) -> str:
    target = sorted(folder.glob("segment-*"))[1]
    target.write_bytes(target.read_bytes()[:-9])
    return "torn, damaged or renamed"


def _empty(folder: Path) -> str:
    sorted(folder.glob("segment-*"))[1].write_bytes(b"")
    return "torn, damaged or renamed"


def _other_schema(folder: Path) -> str:
    sorted(folder.glob("segment-*"))[1].unlink()
    schema = pa.schema([("trajectory_id", pa.string()), ("index", pa.int32())], metadata={"candor_schema": "other/1"})
    Segments(Store(str(folder)), schema).write(pa.table({"trajectory_id": ["a"], "index": [1]}, schema), 1)
    return "holds other/1 where trajectory/2 was expected"


def _other_round(folder: Path) -> str:
    sorted(folder.glob("segment-*"))[1].unlink()
    Segments(Store(str(folder)), SCHEMA).write(pa.Table.from_batches([batch(1, round_=7)]), 1)
    return "is not part of the open round"


def _partly_known(folder: Path) -> str:
    sorted(folder.glob("segment-*"))[1].unlink()
    Segments(Store(str(folder)), SCHEMA).write(pa.Table.from_batches([batch(1, 0, 2)]), 9)
    return "holds 2 trajectories that are there already"


@pytest.mark.parametrize("harm", [_torn, _empty, _other_schema, _other_round, _partly_known])
def test_a_bad_segment_is_set_aside_and_its_rows_are_done_again(store, harm):
    buffer = opened(store)
    for i in range(4):
        buffer.append(batch(i))
    before = set(files(store, "segment-*"))
    why = harm(store.local)
    [bad] = set(files(store, "segment-*")) - before or {files(store, "segment-*")[1]}
    content = bad.read_bytes()
    again = TrajectoryBuffer(1, 3600)
    found = again.open_round(store, plan())
    assert found.missing.tolist() == [1, 4, 5]
    [message] = found.set_aside
    assert message.startswith(f"{store}/{bad.name}: ")
    assert why in message
    assert (store.local / ASIDE / bad.name).read_bytes() == content
    assert again.append(batch(0, 1, 2, 3, 4, 5)) == 3
    assert again.close_round() == 0
    assert read_round(store)["index"].to_pylist() == list(range(COUNT))
    assert TrajectoryBuffer(1, 3600).open_round(store, plan()).set_aside == []


@pytest.mark.parametrize(("first", "last"), [(9, 9), (0, 99)])
def test_a_copy_of_a_segment_takes_the_place_of_none(store, first, last):
    buffer = opened(store)
    for i in range(4):
        buffer.append(batch(i))
    original = files(store, "segment-*")[0]
    copy = original.with_name(original.name.replace("000000-000000", f"{first:06d}-{last:06d}"))
    shutil.copy(original, copy)
    found = TrajectoryBuffer(1, 3600).open_round(store, plan())
    assert found.missing.tolist() == [4, 5]
    assert [copy.name in m for m in found.set_aside] == [True]
    assert [p.name for p in files(store / ASIDE, "*")] == [copy.name]


def half_compacted(store: Store) -> tuple[Path, list[Path]]:
    """A round whose compaction was killed before it deleted anything: the large segment, and the small ones."""
    buffer = opened(store)
    for i in (2, 0, 1):
        buffer.append(batch(i))
    kept = {p: p.read_bytes() for p in files(store, "segment-*")}
    RoundData(store).segments.compact()
    [large] = files(store, "segment-*")
    for path, content in kept.items():
        path.write_bytes(content)
    return large, list(kept)


def test_after_an_interrupted_compaction_rows_are_read_once(store):
    large, _ = half_compacted(store)
    assert indices(store) == [2, 0, 1]
    assert TrajectoryBuffer(1, 3600).open_round(store, plan()).missing.tolist() == [3, 4, 5]
    assert files(store, "*") == [large]
    closed(store)
    assert sorted(indices(store)) == list(range(COUNT))


def test_a_compacted_segment_that_is_torn_gives_way_to_what_it_was_made_of(store):
    large, small = half_compacted(store)
    large.write_bytes(large.read_bytes()[:1000])
    with pytest.raises(BufferError, match=large.name):
        indices(store)
    found = TrajectoryBuffer(1, 3600).open_round(store, plan())
    assert found.missing.tolist() == [3, 4, 5]
    assert len(found.set_aside) == 1
    assert files(store, "segment-*") == small
    closed(store)
    assert sorted(indices(store)) == list(range(COUNT))


def test_readers_get_what_they_ask_for(store):
    data = closed(store)
    assert data.rows([plan().id(i) for i in (4, 1, 1)])["reward"].to_pylist() == [101.0, 104.0]
    assert data.rows(["nobody"]).equals(SCHEMA.empty_table())
    assert [t.column_names for t in data.scan(["reward", "index"])] == [["reward", "index"]]
    assert read_round(store).schema.equals(SCHEMA, check_metadata=True)
    nothing = store / "nothing"
    assert RoundData(nothing).index().num_rows == read_round(nothing).num_rows == 0


def test_rows_are_found_by_a_reader_that_imports_nothing_else(store):
    closed(store)
    script = (
        "from actors.buffer import RoundData; from actors.storage.store import Store; "
        f"print(RoundData({store!r}).rows([{plan().id(3)!r}])['index'].to_pylist())"
    )
    assert subprocess.check_output([sys.executable, "-c", script], cwd=ROOT, text=True) == "[3]\n"


def test_datasets_opens_segments(store):
    buffer = opened(store, segment_rows=2)
    for i in range(COUNT):
        buffer.append(batch(i))
    small = Dataset.from_file(str(files(store, "segment-*")[0]))
    assert small[1]["messages"][2]["content"] == "Reply 1 a."
    buffer.close_round()
    [large] = files(store, "segment-*")
    whole = Dataset.from_file(str(large))
    assert whole["index"][:] == list(range(COUNT))
    assert whole[5]["messages"][2]["content"] == "Reply 5 a."


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte with four kilobytes left, the rest of it in `ballast`."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a full disk needs a mount, which is not allowed here: {done.stderr.strip()}")
    (disk / "ballast").write_bytes(bytes(2**20 - 2**12))
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def write_until_there_is_room(store: Store, why: str, make_room: Callable[[], None]) -> None:
    """Hand in more than there is room for, until there is."""
    buffer = opened(store, segment_rows=4)
    buffer.append(batch(0, 1, 2))
    for more in (3, 4):
        with pytest.raises(StorageError, match=rf"^{store}/segment-000000-.* cannot be written: {why}"):
            buffer.append(batch(more))
        assert [p.name for p in store.local.iterdir()] == []
        assert buffer.missing().tolist() == list(range(more + 1, COUNT))
    make_room()
    assert buffer.append(batch(0, 1, 2, 3, 4, 5)) == 1
    assert buffer.close_round() == 0
    assert read_round(store)["index"].to_pylist() == list(range(COUNT))


def test_a_full_disk_loses_nothing(small_disk):
    write_until_there_is_room(Store(str(small_disk / "a")), "No space left", (small_disk / "ballast").unlink)


def reach_the_size_limit(folder: str) -> None:
    """Runs in a process of its own, which has a limit on the size of files."""
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, most))
    lift = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))  # noqa: E731
    write_until_there_is_room(Store(folder), "File too large", lift)


def test_a_file_that_may_not_grow_loses_nothing(tmp_path):
    script = f"from tests.actors.test_buffer import *; reach_the_size_limit({str(tmp_path / 'a')!r})"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


@dataclass(frozen=True)
class LostAnswer(Store):
    """A folder that fails to say that a file was written, as when the connection breaks just then."""

    losses: list[str] = field(default_factory=list, compare=False)

    @contextmanager
    def write(self, name: str, flush_name: bool = False) -> Iterator:
        with super().write(name, flush_name) as file:
            yield file
        if not self.losses:
            self.losses.append(name)
            raise StorageError(f"{self}/{name} cannot be written: connection reset")


def test_a_write_that_failed_and_did_not_is_there_once(tmp_path):
    store = LostAnswer(str(tmp_path))
    buffer = opened(store, segment_rows=2)
    with pytest.raises(StorageError, match="connection reset"):
        buffer.append(batch(0, 1))
    assert buffer.append(batch(2)) == 1
    assert buffer.append(batch(3, 4, 5)) == 3
    assert indices(store) == [0, 1, 2, 3, 4, 5]
    assert buffer.close_round() == 0


class SlowBuffer(TrajectoryBuffer):
    """Takes one trajectory at a time, each as slowly as a full network would."""

    def __init__(self) -> None:
        super().__init__(1, 3600)
        self.turn = asyncio.Lock()
        self.taken = 0

    async def append(self, batch: pa.RecordBatch) -> int:
        async with self.turn:
            await asyncio.sleep(0.02)
            self.taken += len(batch)
            return super().append(batch)


def test_a_slow_buffer_slows_the_pool(tmp_path, store):
    concurrency, count = 3, 20
    held = [replace(conversation(i), trajectory_id=plan().id(i)) for i in range(count)]
    write_table(tmp_path / "plan.arrow", pa.Table.from_pylist([vars(c) for c in held], PLAN_SCHEMA))
    buffer = SlowBuffer()
    buffer.open_round(store, plan(count))
    in_flight = []

    class Watched(ScriptedEngine):
        begun = 0

        async def reply(self, policy, messages, sampling):
            if sampling.seed % 1000 == 0:  # the first message of a conversation
                self.begun += 1
                in_flight.append(self.begun - buffer.taken)
            return await super().reply(policy, messages, sampling)

    engine = Local(Watched("scripted", EngineSettings()))
    models = {role: ModelRef(role, [engine], "candor/policy-0") for role in ("assistant", "user")}
    handles = ActorHandles(models, Local(PocketJudge()), Local(buffer), "scripted 1")
    pool = UserPool("pocket", UserSettings(concurrency=concurrency))
    asyncio.run(pool.run_conversations(tmp_path / "plan.arrow", range(count), Terms(), handles))
    assert len(in_flight) == count
    assert max(in_flight) == concurrency
    assert buffer.close_round() == 0
