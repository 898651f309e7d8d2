"""Real sweeps with models that answer from a script: through failures, kills and stops, to the same tables."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from actors.storage.segments import read_table
from evals.evaluator import complete
from loop.rundir import RunDir, read_json
from loop.sweep.folder import SweepDir
from tests.conftest import ROOT, hear_ctrl_c

CANDOR = Path(sys.executable).parent / "candor"
SECONDS = 900
"""Longest that a sweep takes; on a machine with other work the start of Ray alone takes minutes."""
SMALL = {
    **{"rounds": 1, "rollout.conversations": 24, "users.pools": 1, "buffer.segment_rows": 5},
    **{"evals.mask": 24, "evals.sycophancy": 12, "evals.provided": 12, "evals.deceptionbench": 12},
    "evals.capability": 8,
}


def written(folder: Path, **sweep) -> Path:
    path = folder / "sweep.yaml"
    base = str(ROOT / "configs/scripted.yaml")
    path.write_text(yaml.safe_dump({"name": "tiny", "base": base, "set": SMALL, **sweep}))
    return path


def begin(file: Path, out: Path, parallel: int = 1) -> subprocess.Popen:
    log = open(out.with_name(f"{out.name}.log"), "a")  # noqa: SIM115, closed with the process
    return subprocess.Popen(
        [CANDOR, "sweep", file, "--out", out, "--parallel", str(parallel)],
        **{"stdout": log, "stderr": subprocess.STDOUT, "cwd": ROOT, "preexec_fn": hear_ctrl_c},
        env=os.environ | {"CANDOR_TEST": str(out), "PYTHONPATH": str(ROOT)},
    )


def left_behind(out: Path) -> list[psutil.Process]:
    """Processes of a sweep, itself among them."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("CANDOR_TEST") == str(out) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def content(out: Path) -> list[bytes]:
    folder = SweepDir(out)
    return [path.read_bytes() for path in (folder.table, folder.items, folder.figures)]


@pytest.mark.slow
def test_a_run_or_an_arm_that_fails_does_not_stop_the_others(tmp_path):
    """One of two runs has a model that is not there, and an arm of the other nobody to be trained on: their faults are
    told, and all else is done."""
    points = [
        {"name": "nobody", "set": {"biased_ratio": 0, "selection.kinds": ["biased"]}},
        {"name": "biased", "set": {"biased_ratio": 0.5}},
    ]
    file = written(tmp_path, grid={"model": [str(tmp_path / "gone"), "scripted"]}, points=points)
    out = tmp_path / "out"
    assert begin(file, out).wait(200) == 1
    said = out.with_name("out.log").read_text()
    assert "2 of 2 runs did not finish" in said
    assert re.search(r"continue with: \S*candor sweep ", said)
    gone, whole = sorted((out / "runs").iterdir(), key=lambda run: "scripted" in run.name)
    lacking = read_json(out / "report.json")["missing"]
    assert lacking == [[gone.name, "nobody"], [gone.name, "biased"], [whole.name, "nobody"]]
    assert "there is no directory" in (out / f"logs/{gone.name}.log").read_text()
    log = (out / f"logs/{whole.name}.log").read_text()
    assert "nobody failed (SelectionError: 0 of 24 trajectories have a reward by users who are biased" in log
    assert complete(RunDir(whole).evals("biased", 1))
    assert not (out / "sweep.arrow").exists()
    assert left_behind(out) == []


@pytest.mark.slow
def test_a_sweep_that_is_killed_at_five_random_moments_ends_with_the_same_tables(tmp_path):
    file = written(tmp_path, seeds=3, grid={"biased_ratio": [0, 0.5, 1]}, analysis={"dose": "biased_ratio"})
    untouched, killed = tmp_path / "untouched", tmp_path / "killed"
    assert begin(file, untouched, 2).wait(SECONDS) == 0
    rng, kills = random.Random(7), []
    while len(kills) < 5:
        process = begin(file, killed, 2)
        time.sleep(rng.uniform(4, 30))
        if process.poll() is not None:
            break
        how = rng.choice(["sweep", "sweep", "run", "stop"])
        kills.append(how)
        if how == "stop":
            process.send_signal(signal.SIGINT)
            assert process.wait(150) == 130
            continue
        target = process
        if how == "run":
            runs = [p for p in psutil.Process(process.pid).children() if "loop.sweep.child" in " ".join(p.cmdline())]
            target = rng.choice(runs) if runs else process
        target.send_signal(signal.SIGKILL)
        if target is process:
            process.wait(30)
        else:
            process.wait(SECONDS)
    assert begin(file, killed, 2).wait(SECONDS) == 0, killed.with_name("killed.log").read_text()[-3000:]
    assert content(killed) == content(untouched), kills
    assert len(read_table(SweepDir(killed).items)) > 1000
    deadline = time.monotonic() + 60
    while left_behind(killed) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert left_behind(killed) == []
