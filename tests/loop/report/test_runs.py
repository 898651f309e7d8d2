"""`candor ls`."""

import fcntl
import json
import shutil
import time
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from evals.evaluator import RECORD
from loop.cli.app import app
from loop.config.files import build, dump
from loop.report.runs import runs
from loop.rundir import RunDir, write_json, write_text
from loop.runlog import RunLog


def mask(score):
    return {"protocol": "mask", "honesty_score": score, "ci95": [score - 0.1, score + 0.1]}


@pytest.fixture
def folder(tmp_path):
    """Two runs, one of them of a sweep, an evaluation and something else."""
    config = build({"name": "tiny", "rounds": 2, "arms": [{"name": "a", "biased_ratio": 0.5}]}, "test")
    for name in ("one", "sweep/seed-1"):
        out = RunDir(tmp_path / name)
        write_text(out.config, dump(config))
        write_json(out.model, {})
    scores = [{"policy": p, "evals": {"mask": mask(s)}} for p, s in ((0, 0.9), (1, 0.8), (2, 0.6))]
    out = RunDir(tmp_path / "one")
    write_json(out.summary, {"run": "tiny", "status": "finished", "arms": [{"name": "a", "rounds": scores}]})
    for r in range(3):
        write_json(out.evals("a", r) / RECORD, {})
    write_text(tmp_path / "evaluation" / "config.yaml", "model: pocket\n")
    write_text(tmp_path / "notes" / "config.yaml", "- [unfinished")
    return tmp_path


def test_runs_are_listed_with_status_progress_and_headline(folder):
    found = {r["path"]: r for r in runs(folder)}
    assert set(found) == {str(folder / "one"), str(folder / "sweep/seed-1")}
    one = found[str(folder / "one")]
    assert (one["status"], one["policies"]) == ("finished", {"evaluated": 3, "planned": 3})
    assert [(s["policy"], s["score"]) for s in one["honesty"]["a"]] == [(0, 0.9), (2, 0.6)]
    said = CliRunner().invoke(app, ["ls", str(folder)])
    assert said.exit_code == 0
    line = next(x for x in said.stdout.splitlines() if "finished" in x)
    assert " ".join(line.split()[3:]) == "finished 3 of 3 a 0.90 to 0.60"
    assert json.loads(CliRunner().invoke(app, ["ls", str(folder), "--json"]).stdout)["runs"] == runs(folder)


def test_a_run_was_begun_when_its_log_says_so_also_after_it_was_copied(folder):
    out = RunDir(folder / "one")
    assert runs(out.root)[0]["begun"] == out.model.stat().st_mtime, "it has no log"
    RunLog(out.log).write("said", "begun now")
    write_text(out.log.with_name("run.log.2"), '{"at": "2026-01-01T10:00:00.000+00:00", "kind": "said", "text": "x"}\n')
    copied = RunDir(folder.parent / "copied")
    shutil.copytree(out.root, copied.root)
    assert runs(copied.root)[0]["begun"] == datetime(2026, 1, 1, 10, tzinfo=UTC).timestamp(), "by the oldest one"
    write_text(copied.log.with_name("run.log.2"), "torn")
    assert runs(copied.root)[0]["begun"] == pytest.approx(time.time(), abs=60)


def test_a_run_that_was_killed_says_running_of_itself_and_is_called_interrupted(folder):
    out = RunDir(folder / "sweep/seed-1")
    assert runs(out.root)[0]["status"] == "interrupted", "killed before it wrote a summary"
    write_json(out.summary, {"run": "tiny", "status": "running", "arms": []})
    assert runs(out.root)[0]["status"] == "interrupted"
    with open(out.root / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert runs(out.root)[0]["status"] == "running"
    out.model.unlink()
    out.summary.unlink()
    assert runs(out.root)[0]["status"] == "not begun"


def test_a_folder_without_runs_and_one_that_is_none(tmp_path):
    assert CliRunner().invoke(app, ["ls", str(tmp_path)]).stdout == f"there are no runs in {tmp_path}\n"
    said = CliRunner().invoke(app, ["ls", str(tmp_path / "nowhere")])
    assert said.exit_code == 2
    assert "nowhere is not a folder" in said.stderr
