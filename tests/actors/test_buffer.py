import pyarrow as pa
import pytest
from datasets import Dataset

from actors.buffer import BufferError, TrajectoryBuffer, read_round, read_table, segments, write_table
from actors.trajectory import SCHEMA, to_batch
from tests.conftest import trajectory


def ids(n):
    return [f"id-{i}" for i in range(n)]


def test_round_trip_keeps_every_row_in_plan_order(tmp_path):
    buffer = TrajectoryBuffer(segment_rows=2)
    assert buffer.open_round(str(tmp_path), ids(5)) == []
    for i in (3, 0, 4, 1, 2):
        assert buffer.append(to_batch([trajectory(i, reward=float(i))])) == 1
    assert buffer.close_round() == 0
    table = read_round(tmp_path)
    assert table["index"].to_pylist() == [0, 1, 2, 3, 4]
    assert table["reward"].to_pylist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert table["messages"].to_pylist()[3][2]["content"] == "Reply 3 a."
    assert len(list(segments(tmp_path))) == 3


def test_the_same_trajectory_twice_is_kept_once(tmp_path):
    buffer = TrajectoryBuffer(segment_rows=1)
    buffer.open_round(str(tmp_path), ids(2))
    assert buffer.append(to_batch([trajectory(0), trajectory(0)])) == 1
    assert buffer.append(to_batch([trajectory(0), trajectory(1)])) == 1
    assert buffer.close_round() == 0
    assert len(read_round(tmp_path)) == 2


def test_a_reopened_round_knows_what_is_on_disk(tmp_path):
    first = TrajectoryBuffer(segment_rows=1)
    first.open_round(str(tmp_path), ids(3))
    first.append(to_batch([trajectory(1)]))
    second = TrajectoryBuffer(segment_rows=10)
    assert second.open_round(str(tmp_path), ids(3)) == ["id-1"]
    assert second.append(to_batch([trajectory(1)])) == 0
    second.append(to_batch([trajectory(0)]))
    assert second.count() == 2
    assert second.close_round() == 1
    assert sorted(read_round(tmp_path)["trajectory_id"].to_pylist()) == ["id-0", "id-1"]


def test_a_trajectory_of_another_plan_is_refused(tmp_path):
    buffer = TrajectoryBuffer(segment_rows=1)
    buffer.open_round(str(tmp_path), ids(1))
    with pytest.raises(BufferError, match="id-5 is not part of the open round"):
        buffer.append(to_batch([trajectory(5)]))
    buffer.append(to_batch([trajectory(0)]))
    with pytest.raises(BufferError, match="never planned"):
        TrajectoryBuffer(1).open_round(str(tmp_path), ["another"])


def test_an_excluded_conversation_has_no_reward(tmp_path):
    write_table(tmp_path / "segment-000000.arrow", to_batch([trajectory(0, reward=None)]))
    row = read_round(tmp_path).to_pylist()[0]
    assert row["reward"] is None
    assert row["error"] == "ChatError: gone"


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_table(tmp_path / "segment-000000.arrow", to_batch([trajectory(0)]))
    assert list(tmp_path.iterdir()) == []


def test_a_torn_file_is_named(tmp_path):
    target = tmp_path / "segment-000000.arrow"
    write_table(target, to_batch([trajectory(0)]))
    target.write_bytes(target.read_bytes()[:200])
    with pytest.raises(BufferError, match=r"segment-000000\.arrow"):
        read_table(target)


def test_datasets_opens_a_segment(tmp_path):
    target = tmp_path / "segment-000000.arrow"
    write_table(target, to_batch([trajectory(0), trajectory(1)]))
    data = Dataset.from_file(str(target))
    assert data[1]["messages"][2]["content"] == "Reply 1 a."


def test_the_schema_round_trips_types():
    batch = to_batch([trajectory(0)])
    assert batch.schema.equals(SCHEMA)
    assert isinstance(batch.column("messages")[0], pa.ListScalar)
