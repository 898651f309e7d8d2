"""Processes that are stopped, but not dead (SIGSTOP): the stall rule names, kills and replaces them, and the run ends
like the one that nobody disturbed. And runs that go on with other operational settings, or whose directory is removed.
"""

import fcntl
import json
import os
import pty
import random
import select
import shutil
import signal
import subprocess
import termios
import threading
import time

import psutil
import pytest

from loop.rundir import RunDir, read_json
from loop.runlog import read_log
from tests.chaos.harness import CANDOR, Life, check_whole, content, until
from tests.conftest import ROOT

SHORT = "cluster: {max_restarts: 50, stall_minutes: 0.25}"


@pytest.mark.slow
@pytest.mark.parametrize("role", ["engine", "user pool", "buffer", "trainer"])
def test_what_stands_still_is_named_and_replaced(small_untouched, tmp_path, role):
    config, expected = small_untouched
    short = tmp_path / "short.yaml"
    short.write_text(config.read_text().replace("cluster: {max_restarts: 50}", SHORT))
    life = Life(short, tmp_path / "out", random.Random(0))
    out = RunDir(life.out)
    life.start()
    stage = "train" if role == "trainer" else "rollout"
    (stopped,) = until(life, lambda: life.stage() == stage and life.find(role)[:1])
    stopped.send_signal(signal.SIGSTOP)
    try:
        named = until(life, lambda: read_log(out.log, ("stalled",)), 90)
        assert named[0]["pid"] == stopped.pid
        assert named[0]["actor"].startswith({"engine": ("assistant", "user-engine")}.get(role, role.replace(" ", "-")))
        assert "stacks" in named[0]
        assert life.wait(300) == 0, life.said()[-3000:]
    finally:
        if psutil.pid_exists(stopped.pid):
            stopped.send_signal(signal.SIGKILL)
    assert "is stalled: " in life.said()
    assert "killed by cluster.stall_minutes" in life.said()
    assert life.starts == 1
    check_whole(out)
    assert content(out) == expected
    assert life.left_behind() == []


@pytest.mark.slow
def test_other_operational_settings_change_no_result(small_untouched, tmp_path):
    config, expected = small_untouched
    life = Life(config, tmp_path / "out", random.Random(0))
    out = RunDir(life.out)
    life.start()
    until(life, lambda: life.stage() == "rollout" and len(out.trajectories("biased", 0).names()) > 3)
    life.process.send_signal(signal.SIGHUP)
    assert life.wait(60) == 130, life.said()[-3000:]
    assert "Continue with: " in life.said()
    other = tmp_path / "other.yaml"
    text = config.read_text().replace("users: {pools: 2, concurrency: 8}", "users: {pools: 1, concurrency: 5}")
    text = text.replace("buffer: {segment_rows: 7}", "buffer: {segment_rows: 11}").replace(
        "share: 0.0625", "share: 0.5"
    )
    other.write_text(
        text.replace("max_restarts: 50", "max_restarts: 7") + "assistant: {replicas: 2, max_num_seqs: 64, cpus: 0.2}\n"
    )
    life.config = other
    life.start()
    assert life.wait(300) == 0, life.said()[-3000:]
    check_whole(out)
    found = content(out)
    assert {row["key"] for row in found["summary"].pop("changes")} >= {"users.pools", "assistant.replicas"}
    expected = {**expected, "summary": {k: v for k, v in expected["summary"].items() if k != "changes"}}
    record = "biased/0/record", "biased/1/record"
    for key in record:  # it holds the settings themselves
        found[key], expected[key] = (
            {k: v for k, v in json.loads(of[key]).items() if k != "settings"} for of in (found, expected)
        )
    assert [k for k in expected if found[k] != expected[k]] == []
    assert "users.pools" in out.report.read_text()


@pytest.mark.slow
def test_a_terminal_that_is_closed_stops_the_run_cleanly(small_untouched, tmp_path):
    """The run is the leader of a session whose terminal goes away; whatever it writes there fails from then on."""
    out, (shown, terminal) = RunDir(tmp_path / "out"), pty.openpty()

    def own_terminal():
        os.setsid()
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)

    command = [CANDOR, "run", small_untouched[0], "--out", out.root]
    process = subprocess.Popen(
        command, stdin=terminal, stdout=terminal, stderr=terminal, cwd=ROOT, preexec_fn=own_terminal
    )
    os.close(terminal)
    reader = threading.Thread(target=drain, args=(shown, lambda: (out.root / "rounds/biased/0/plan.arrow").exists()))
    reader.start()
    reader.join(120)
    os.close(shown)
    assert process.wait(90) == 130
    assert read_json(out.summary)["status"] == "stopped"
    assert out.report.exists()
    assert [p for p in out.root.rglob("*") if p.name.endswith(".tmp")] == []


def drain(terminal: int, until_) -> None:
    """Read what is written to a terminal until something is so, and somewhat longer."""
    deadline = time.monotonic() + 110
    while not until_() and time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.05)[0]:
            os.read(terminal, 65536)
    time.sleep(0.3)


@pytest.mark.slow
def test_more_rounds_are_those_of_a_run_that_had_them_from_the_start(small_untouched, tmp_path):
    config, expected = small_untouched
    life = Life(config, tmp_path / "out", random.Random(0))
    life.start()
    assert life.wait(300) == 0, life.said()[-3000:]
    more = tmp_path / "more.yaml"
    more.write_text(config.read_text().replace("rounds: 1", "rounds: 2"))
    life.config = more
    life.start()
    assert life.wait(300) == 0, life.said()[-3000:]
    check_whole(RunDir(life.out))
    found = content(RunDir(life.out))
    assert [k for k in expected if k != "summary" and found[k] != expected[k]] == []
    assert read_json(RunDir(life.out).changes)[0]["key"] == "rounds"


@pytest.mark.slow
def test_a_directory_that_is_removed_is_the_cause_in_one_sentence(small_untouched, tmp_path):
    life = Life(small_untouched[0], tmp_path / "out", random.Random(0))
    out = RunDir(life.out)
    life.start()
    until(life, lambda: life.stage() == "rollout" and len(out.trajectories("biased", 0).names()) > 2)
    life.out.rename(tmp_path / "moved")  # at once, as actors go on writing
    shutil.rmtree(tmp_path / "moved", ignore_errors=True)
    assert life.wait(120) == 1, life.said()[-3000:]
    last = life.said().strip().splitlines()[-1]
    assert last.startswith(f"candor: the run directory {life.out} is gone: it was removed, renamed or unmounted"), last
    assert "b'" not in last
    assert "Traceback" not in life.said()
    assert not (life.out / "summary.json").exists()
