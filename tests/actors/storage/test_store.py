import io
import pickle

import pyarrow as pa
import pytest

from actors.storage.store import ASIDE, StorageError, Store


def put(store, name, content, fails=False):
    with store.write(name) as file:
        file.write(content)
        if fails:
            raise InterruptedError("killed")


@pytest.fixture(params=["path", "file", "mock"])
def store(request, tmp_path):
    """A folder that is not there yet, on a disk by path and by URI, and where there is no renaming into place."""
    roots = {"path": str(tmp_path), "file": tmp_path.as_uri(), "mock": f"mock://{tmp_path}"}
    return Store(roots[request.param]) / "a" / "b"


def test_what_is_written_is_listed_and_read(store):
    store.create()
    store.create()
    put(store, "empty", b"")
    put(store, "one", b"old")
    put(store, "one", b"newer")
    assert store.names() == {"empty": 0, "one": 5}
    assert store.read("one").to_pybytes() == b"newer"
    assert store.read("empty").to_pybytes() == b""
    store.delete("one")
    assert store.names() == {"empty": 0}


def test_what_is_not_there(store):
    assert store.names() == {}
    with pytest.raises(FileNotFoundError):
        store.read("one")
    with pytest.raises(FileNotFoundError):
        store.delete("one")


def test_a_write_that_fails_leaves_what_was_there(store):
    store.create()
    put(store, "old", b"old")
    for name in ("old", "new"):
        with pytest.raises(StorageError, match=f"/a/b/{name} cannot be written: killed"):
            put(store, name, b"half", fails=True)
    assert store.names() == {"old": 3}
    assert store.read("old").to_pybytes() == b"old"


def test_a_file_that_is_being_written_is_not_there(store):
    store.create()
    with store.write("new") as file:
        file.write(bytes(2**20))
        assert store.names() == {}
    assert store.names() == {"new": 2**20}


def test_what_is_set_aside_replaces_nothing(store):
    store.create()
    for content in (b"1", b"22", b"333"):
        put(store, "torn", content)
        store.set_aside("torn")
    assert store.names() == {}
    assert sorted((store / ASIDE).names().values()) == [1, 2, 3]


def test_a_file_is_copied_in(store):
    store.create()
    content = bytes(range(256)) * 10_000
    store.copy_in("big", io.BytesIO(content))
    assert store.read("big").to_pybytes() == content


def test_folders_and_hidden_files_are_not_listed(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / ".segment.arrow.12.tmp").write_bytes(b"half")
    assert Store(str(tmp_path)).names() == {}


def test_a_local_file_is_read_without_a_copy(tmp_path):
    put(Store(str(tmp_path)), "big", bytes(2**22))
    before = pa.total_allocated_bytes()
    content = Store(str(tmp_path)).read("big")
    assert content.size == 2**22
    assert pa.total_allocated_bytes() == before


def test_the_address_shows_neither_keys_nor_options():
    assert str(Store("s3://key:se%2Fcret@bucket/runs/?scheme=http&region=x") / "a") == "s3://bucket/runs/a"
    assert str(Store("s3://bucket") / "a" / "b") == "s3://bucket/a/b"
    assert str(Store("/what?/a@b/") / "a") == "/what?/a@b/a"


def test_only_disks_have_local_paths(tmp_path):
    assert (Store(str(tmp_path)) / "a").local == tmp_path / "a"
    assert (Store(tmp_path.as_uri()) / "a").local == tmp_path / "a"
    assert (Store("mock:///a") / "a").local is None


def test_the_root_of_the_disk_is_a_folder_too(tmp_path):
    put(Store("/") / str(tmp_path)[1:], "one", b"1")
    assert [p.name for p in tmp_path.iterdir()] == ["one"]


def test_a_pickled_store_is_its_address(tmp_path):
    store = Store(str(tmp_path)) / "a"
    put(store, "one", b"1")
    again = pickle.loads(pickle.dumps(store))
    assert again == store
    assert again.names() == {"one": 1}


def test_every_failure_names_the_place_and_the_cause(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    store = Store(str(tmp_path)) / "file"
    with pytest.raises(StorageError, match=rf"^{store} cannot be created: .*non-directory"):
        store.create()
    with pytest.raises(StorageError, match=rf"^{store} cannot be listed: .*[Nn]ot a directory"):
        store.names()
    with pytest.raises(StorageError, match=rf"^{store}/a cannot be written: "):
        put(store, "a", b"1")
    with pytest.raises(StorageError, match=rf"^{store}/a cannot be read: .*[Nn]ot a directory"):
        store.read("a")


@pytest.mark.parametrize(
    ("root", "cause"),
    [
        ("nowhere://bucket/a", "[Uu]nrecognized"),
        ("s3://bucket/a?no_such_option=1", "no_such_option"),
    ],
)
def test_an_address_that_is_none_is_told(root, cause):
    with pytest.raises(StorageError, match=cause):
        Store(root).create()
