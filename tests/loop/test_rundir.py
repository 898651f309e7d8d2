import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from actors.worlds import TEXT_WORLDS
from evals.outcomes import Outcome
from loop import rundir
from loop.config.explain import ConfigError
from loop.config.files import build, dump
from loop.rundir import DamagedError, RunDir, read_json, write_json, write_text
from loop.runlog import read_log
from tests.conftest import ROOT, write_evaluation

SMALL = {"name": "test", "arms": [{"name": "a", "biased_ratio": 0.5}]}


def test_a_directory_of_another_config_is_refused_with_what_differs(tmp_path):
    out = RunDir(tmp_path / "run")
    out.open(build(SMALL, "test"))
    before = out.config.read_text()
    with pytest.raises(ConfigError, match=r"(?s)another config.*  rounds: 2 \(recorded\), 1 \(given\)"):
        out.open(build(SMALL | {"rounds": 1, "users": {"pools": 2}}, "test"))
    assert out.config.read_text() == before
    assert not out.changes.exists()


def test_operational_settings_that_changed_are_recorded_with_their_time(tmp_path):
    def open_again(**changes):
        while rundir._LOCKS:
            rundir._LOCKS.pop().close()
        out = RunDir(tmp_path / "run")
        out.open(build(SMALL | changes, "test"))
        return out

    out = open_again()
    assert not out.changes.exists()
    open_again(rounds=3, users={"pools": 2})
    out = open_again(rounds=3, users={"pools": 1}, trainer={"micro_batch": 4})
    rows = read_json(out.changes)
    assert [(row["key"], row["before"], row["after"]) for row in rows] == [
        ("rounds", 2, 3),
        ("users.pools", 1, 2),
        ("trainer.micro_batch", None, 4),
        ("users.pools", 2, 1),
    ]
    assert all(row["at"].endswith("+00:00") for row in rows)
    assert [row["key"] for row in read_log(out.log, ("settings",))] == [row["key"] for row in rows]
    with pytest.raises(ConfigError, match=r"rounds: 3 \(recorded\), 2 \(given\)"):
        open_again(rounds=2)


def test_a_recorded_config_that_is_damaged_is_named(tmp_path):
    out = RunDir(tmp_path / "run")
    out.root.mkdir()
    for text in ("", "a: [", "17", "name: test\nname: test\n", "a: \0"):
        out.config.write_text(text)
        with pytest.raises(DamagedError, match="The config that the run began with is damaged; restore it"):
            out.open(build(SMALL, "test"))


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


def test_two_runs_cannot_share_a_directory(tmp_path):
    RunDir(tmp_path / "run").open(build(SMALL, "test"))
    code = f"""
from pathlib import Path
from loop.config.files import build
from loop.rundir import RunDir
RunDir(Path({str(tmp_path / "run")!r})).open(build({SMALL!r}, "test"))
"""
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert other.returncode == 1
    assert "another candor run is using it" in other.stderr


def test_what_a_killed_run_left_half_done_is_swept(tmp_path):
    out = RunDir(tmp_path / "run")
    for left in (out.policy("a", 1).with_name(".1.123.tmp"), out.merged("a", 1)):
        left.mkdir(parents=True)
        (left / "weights").write_text("half")
    torn = out.trajectories("a", 0).local / ".segment-000000.arrow.123.tmp"
    torn.parent.mkdir(parents=True)
    torn.write_text("half")
    checkpoint = out.policy("a", 2).with_name(".2.checkpoints")
    checkpoint.mkdir()
    out.sweep()
    assert not list(out.root.rglob("weights"))
    assert not torn.exists()
    assert checkpoint.exists()


def test_a_run_stays_with_the_model_it_began_with(tmp_path):
    out, model = RunDir(tmp_path / "run"), tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"weights")
    out.pin_model(str(model))
    out.pin_model(str(model))
    (model / "model.safetensors").write_bytes(b"weighty")
    with pytest.raises(ConfigError, match="began with another base model"):
        out.pin_model(str(model))


def test_storage_belongs_to_one_run(tmp_path):
    elsewhere = str(tmp_path / "storage")
    mine = RunDir(tmp_path / "a" / "run", elsewhere)
    mine.open(build(SMALL, "test"))
    assert mine.trajectories("a", 0).local == tmp_path / "storage" / "run" / "rounds" / "a" / "0" / "trajectories"
    with pytest.raises(ConfigError, match="belongs to another run"):
        RunDir(tmp_path / "b" / "run", elsewhere).open(build(SMALL, "test"))


def test_a_renamed_run_is_not_cut_off_from_its_storage(tmp_path):
    elsewhere = str(tmp_path / "storage")
    write_json(tmp_path / "renamed" / "storage.json", {"folder": f"{elsewhere}/run", "run": "1"})
    write_text(tmp_path / "renamed" / "config.yaml", dump(build(SMALL, "test")))
    with pytest.raises(ConfigError, match=r"keeps its trajectories in .*/storage/run, not in .*/storage/renamed"):
        RunDir(tmp_path / "renamed", elsewhere).open(build(SMALL, "test"))


def test_storage_that_is_none_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match=r"buffer.uri: .*nowhere"):
        RunDir(tmp_path / "run", "nowhere://bucket").open(build(SMALL, "test"))


def test_steps_on_the_way_to_what_is_finished_are_swept(tmp_path):
    out = RunDir(tmp_path / "run")
    done, doing = (out.policy("a", v).with_name(f".{v}.checkpoints") for v in (1, 2))
    asked, asking = (out.evals("a", v) / "parts" for v in (0, 1))
    for folder in (out.policy("a", 1), done, doing, asked, asking):
        folder.mkdir(parents=True)
    write_evaluation(out.evals("a", 0), [Outcome("mask", "mask", "i", "c", "a", 0)])
    out.sweep()
    assert [p.exists() for p in (done, doing, asked, asking)] == [False, True, False, True]


def test_a_kill_before_the_config_was_written_does_not_lock_the_directory(tmp_path):
    out = RunDir(tmp_path / "run")
    out.root.mkdir()
    (out.root / ".config.yaml.123.tmp").write_text("half")
    out.open(build(SMALL, "test"))


def test_a_run_stays_with_the_text_of_the_world_it_began_with(tmp_path):
    world = Path(shutil.copytree(TEXT_WORLDS["support"], tmp_path / "support"))
    out = RunDir(tmp_path / "run")
    out.pin_world(str(world))
    out.pin_world(str(world))
    (world / "notes.txt").write_text("of no concern")
    out.pin_world(str(world))
    for changed in (world / "world.yaml", world / "personas.yaml", *(world / "scenarios").glob("*.yaml")):
        before = changed.read_text()
        changed.write_text(before + "\n# another thought\n")
        with pytest.raises(ConfigError, match=r"began with other files of the world .* undo the change"):
            out.pin_world(str(world))
        changed.write_text(before)
        out.pin_world(str(world))
    (world / "reviews.jsonl").write_text("")
    with pytest.raises(ConfigError, match="other files of the world"):
        out.pin_world(str(world))


def test_the_world_that_is_code_is_pinned_as_well(tmp_path):
    out = RunDir(tmp_path / "run")
    out.pin_world("pocket")
    out.pin_world("pocket")
    with pytest.raises(ConfigError, match=r"other files of the world \(pocket, .*support"):
        out.pin_world("support")
