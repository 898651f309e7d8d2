"""Storage on a real S3 server, `s3rver`, on this machine."""

import os
import re
import signal
import time

import pytest

from actors.buffer import RoundData, TrajectoryBuffer, read_round
from actors.storage.store import ASIDE, StorageError, Store
from tests.actors.storage.test_store import put
from tests.actors.test_buffer import COUNT, batch, indices, opened, plan
from tests.s3 import Server


@pytest.fixture
def store(s3_server: Server) -> Store:
    store = s3_server.store()
    store.create()
    return store


def test_a_folder_on_s3_is_like_any_other(store):
    store.create()
    put(store, "empty", b"")
    put(store, "one", b"old")
    put(store, "one", b"newer")
    assert store.names() == {"empty": 0, "one": 5}
    assert store.read("one").to_pybytes() == b"newer"
    assert store.read("empty").to_pybytes() == b""
    store.delete("one")
    assert store.names() == {"empty": 0}
    assert (store / "nowhere").names() == {}
    for call in (store.read, store.delete):
        with pytest.raises(FileNotFoundError):
            call("one")
    assert store.local is None
    assert re.fullmatch(r"s3://bucket-\d+/runs/one/trajectories", str(store))


def test_an_upload_of_many_parts_is_whole_or_absent(store, tmp_path):
    content = os.urandom(2**24 + 1)
    (tmp_path / "big").write_bytes(content)
    with open(tmp_path / "big", "rb") as file:
        store.copy_in("big", file)
    assert store.read("big").to_pybytes() == content
    for size in (1, len(content)):
        with pytest.raises(StorageError, match="/half cannot be written: killed"):
            put(store, "half", content[:size], fails=True)
    assert store.names() == {"big": len(content)}


def test_what_is_set_aside_replaces_nothing(store):
    for content in (b"1", b"22", b"333"):
        put(store, "torn", content)
        store.set_aside("torn")
    assert store.names() == {}
    assert sorted((store / ASIDE).names().values()) == [1, 2, 3]


def test_a_round_lives_on_s3(store):
    buffer = opened(store, segment_rows=2)
    for i in (3, 0, 4, 1):
        buffer.append(batch(i))
    buffer.append(batch(5, reward=None))
    assert indices(store) == [3, 0, 4, 1]
    assert buffer.close_round() == 1

    again = TrajectoryBuffer(10, 3600)
    assert again.open_round(store, plan()).missing.tolist() == [2]
    assert again.append(batch(2, 3)) == 1
    assert again.close_round() == 0
    assert [name.partition("-")[0] for name in sorted(store.names())] == ["index", "segment"]

    for verify in (True, False):
        found = TrajectoryBuffer(1, 3600).open_round(store, plan(), verify)
        assert (found.missing.tolist(), found.set_aside) == ([], [])
    data = RoundData(store)
    assert data.closed()
    assert data.index()["index"].to_pylist() == list(range(COUNT))
    assert data.rows([plan().id(4)])["reward"].to_pylist() == [104.0]
    assert read_round(store)["reward"].to_pylist() == [100.0, 101.0, 102.0, 103.0, 104.0, None]


def test_a_torn_object_is_set_aside(store):
    buffer = opened(store, segment_rows=2)
    buffer.append(batch(0, 1))
    buffer.append(batch(2, 3))
    bad = sorted(store.names())[0]
    put(store, bad, store.read(bad).to_pybytes()[:-1])
    found = buffer.open_round(store, plan())
    assert found.missing.tolist() == [0, 1, 4, 5]
    [message] = found.set_aside
    assert message.startswith(f"{store}/{bad}: torn, damaged or renamed")
    assert list((store / ASIDE).names()) == [bad]
    buffer.append(batch(0, 1, 4, 5))
    assert buffer.close_round() == 0
    assert read_round(store)["index"].to_pylist() == list(range(COUNT))


def test_a_bucket_that_is_not_there(s3_server):
    store = s3_server.store(create=False)
    with pytest.raises(StorageError, match=rf"^{store} cannot be created: Bucket '.*' not found"):
        opened(store)
    with pytest.raises(StorageError, match=rf"^{store}/one cannot be written: .*NO_SUCH_BUCKET"):
        put(store, "one", b"1")


def test_a_key_that_is_not_allowed(s3_server):
    store = s3_server.store(keys="nobody:secret@")
    with pytest.raises(StorageError, match=rf"^{store} cannot be created: .*ACCESS_DENIED") as told:
        opened(store)
    assert "secret" not in str(told.value)
    with pytest.raises(StorageError, match=rf"^{store} cannot be listed: .*INVALID_ACCESS_KEY_ID"):
        store.names()
    with pytest.raises(StorageError, match=rf"^{store}/one cannot be written: .*INVALID_ACCESS_KEY_ID"):
        put(store, "one", b"1")
    with pytest.raises(StorageError, match=rf"^{store}/one cannot be read: .*ACCESS_DENIED"):
        store.read("one")


@pytest.mark.slow
def test_a_buffer_goes_on_when_the_server_is_back(s3_server, store):
    buffer = opened(store, segment_rows=2)
    buffer.append(batch(0, 1))
    buffer.append(batch(2))
    s3_server.stop()
    try:
        began = time.monotonic()
        with pytest.raises(StorageError, match=rf"^{store}/segment-000001-.* cannot be written: .*Could not connect"):
            buffer.append(batch(3))
        assert time.monotonic() - began < 30
        with pytest.raises(StorageError, match=rf"^{store} cannot be listed: .*Could not connect"):
            indices(store)
    finally:
        s3_server.start()
    assert indices(store) == [0, 1]
    assert buffer.append(batch(3, 4)) == 1
    assert indices(store) == [0, 1, 2, 3, 4]
    buffer.append(batch(5))
    assert buffer.close_round() == 0
    assert read_round(store)["index"].to_pylist() == list(range(COUNT))


@pytest.mark.slow
def test_a_server_that_hangs_is_given_up(s3_server, store):
    buffer = opened(store)
    s3_server.process.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        with pytest.raises(StorageError, match=rf"^{store}/segment-000000-.* cannot be written: .*Timeout was reached"):
            buffer.append(batch(0))
        assert time.monotonic() - began < 60
    finally:
        s3_server.process.send_signal(signal.SIGCONT)
    assert buffer.append(batch(0, 1)) == 1
    assert sorted(indices(store)) == [0, 1]
