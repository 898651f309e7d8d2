import json
import shutil
import time

import pytest
from typer.testing import CliRunner

from loop.cli.app import app
from loop.config.files import load
from loop.rundir import RunDir, read_json, write_json
from loop.runlog import RunLog, read_log
from loop.status import status

pytestmark = pytest.mark.heavy


@pytest.fixture
def run(scripted_run, tmp_path):
    """The config, and a copy of a finished run."""
    return load(scripted_run[0]), RunDir(shutil.copytree(scripted_run[1], tmp_path / "run"))


def at_work(out, age=0.0):
    """Make a run look like one that is under way."""
    write_json(out.summary, read_json(out.summary) | {"status": "running"})
    write_json(out.heartbeat, read_json(out.heartbeat) | {"at": time.time() - age})


def test_a_run_left_a_heartbeat_with_every_actor_and_a_log_of_its_stages(run):
    _, out = run
    beat = read_json(out.heartbeat)
    names = [
        "assistant-0",
        "user-engine-0",
        "trainer-0",
        "judge-0",
        "buffer-0",
        "user-pool-0",
        "user-pool-1",
        "evaluator-0",
    ]
    assert [a["name"] for a in beat["actors"]] == names
    assert all(a["restarts"] == 0 and a["last_error"] is None for a in beat["actors"])
    up = [a for a in beat["actors"] if "pid" in a]
    assert all(a["host"] and a["doing"] for a in up)
    assert any(a["memory"] > 10 * 2**20 for a in up)
    log = read_log(out.log)
    assert any("rollout: 40 conversations" in row["text"] for row in log if row["kind"] == "said")
    assert any(row.get("stage") == "biased: round 0 train policy 1" for row in log if row["kind"] == "stage")


def test_a_finished_run_says_so_and_has_nothing_left(run):
    config, out = run
    found = status(config, out)
    assert found["state"] == "finished"
    assert found["actors"] == []
    assert [r["left"] for r in found["arms"][0]["rounds"]] == [[], []]
    assert found["arms"][0]["rounds"][0]["done"] == ["publish", "rollout", "select", "evaluate", "train"]
    assert set(found["seconds"]) == {"start", "publish", "rollout", "evaluate", "train"}
    whole = round(sum(found["seconds"].values()))
    told = CliRunner().invoke(app, ["status", str(out.root)]).stdout
    assert f"took {whole} s: start {round(found['seconds']['start'])} s" in " ".join(told.split())


def test_a_run_at_work_shows_its_actors_and_what_is_left(run):
    config, out = run
    at_work(out, age=2)
    (out.evals("biased", 1) / "evaluation.json").unlink()
    RunLog(out.log).write("died", "buffer-0 died: OSError: no room", actor="buffer-0")
    found = status(config, out)
    assert found["state"] == "at work"
    assert len(found["actors"]) == 8
    assert found["arms"][0]["rounds"][1]["left"] == ["evaluate"]
    shown = CliRunner().invoke(app, ["status", str(out.root)]).output
    assert "scripted: at work, heartbeat 2 s ago" in shown
    assert "biased: 1 of 2 policies done; policy 1 lacks evaluate" in shown
    assert "user-pool-1" in shown
    assert "buffer-0 died: OSError: no room" in shown
    told = json.loads(CliRunner().invoke(app, ["status", str(out.root), "--json"]).output)
    assert told["state"] == "at work"


def test_a_run_whose_driver_vanished_died_and_one_that_holds_the_lock_is_silent(run):
    config, out = run
    at_work(out, age=500)
    assert status(config, out)["state"] == "died"
    out._lock()
    assert status(config, out)["state"] == "silent"


def test_a_run_that_was_damaged_or_never_began_has_a_state_too(run):
    config, out = run
    out.heartbeat.write_text("{")
    out.summary.write_text("[")
    found = status(config, out)
    assert (found["state"], found["heartbeat_age"]) == ("died", None)
    nowhere = CliRunner().invoke(app, ["status", str(out.root.parent)])
    assert nowhere.exit_code == 2
    assert "is not a run directory" in nowhere.output
