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
