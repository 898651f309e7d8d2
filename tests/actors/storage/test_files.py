import threading

import pytest

from actors.storage.files import whole_file, whole_folder


def fill(folder, content, fails=False):
    with whole_folder(folder) as scratch:
        (scratch / "weights").write_text(content)
        if fails:
            raise OSError("disk full")


def write(path, content, fails=False):
    with whole_file(path) as file:
        file.write(content)
        if fails:
            raise OSError("disk full")


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(OSError, match="disk full"):
        fill(tmp_path / "1", "half", fails=True)
    assert list(tmp_path.iterdir()) == []
    fill(tmp_path / "1", "whole")
    fill(tmp_path / "1", "newer")
    assert [p.name for p in tmp_path.iterdir()] == ["1"]
    assert (tmp_path / "1" / "weights").read_text() == "newer"


def test_a_file_that_fails_leaves_the_older_one(tmp_path):
    write(tmp_path / "new" / "a", b"old")
    with pytest.raises(OSError, match="disk full"):
        write(tmp_path / "new" / "a", b"half", fails=True)
    assert [p.read_bytes() for p in (tmp_path / "new").iterdir()] == [b"old"]


def test_threads_that_write_the_same_file_leave_one_of_their_contents(tmp_path):
    path, contents = tmp_path / "summary.json", [bytes([65 + n]) * 200_000 for n in range(4)]
    failed = []

    def write(content):
        try:
            for _ in range(20):
                with whole_file(path, flush_name=False) as file:
                    file.write(content)
                assert path.read_bytes() in contents
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(c,)) for c in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert list(tmp_path.iterdir()) == [path]
