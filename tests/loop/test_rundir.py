import pytest

from loop.config import ConfigError, build
from loop.rundir import RunDir, read_json, write_json, write_text

SMALL = {"name": "test", "arms": [{"name": "a", "biased_ratio": 0.5}]}


def test_a_directory_of_another_config_is_refused_with_what_differs(tmp_path):
    out = RunDir(tmp_path / "run")
    out.open(build(SMALL, "test"))
    before = out.config.read_text()
    out.open(build(SMALL, "test"))
    with pytest.raises(ConfigError, match=r"(?s)another config.*-rounds: 2\n\+rounds: 3"):
        out.open(build(SMALL | {"rounds": 3}, "test"))
    assert out.config.read_text() == before


def test_files_are_complete_or_absent(tmp_path, monkeypatch):
    write_json(tmp_path / "a.json", {"x": 1})

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(tmp_path / "a.json", "new")
    assert read_json(tmp_path / "a.json") == {"x": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert read_json(tmp_path / "none.json") == {}
