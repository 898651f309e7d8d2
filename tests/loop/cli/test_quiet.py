"""What `candor run` shows: progress, the table and warnings; the rest is in run.log, and on the terminal with -v."""

import os
import pty
import re
import subprocess

import pytest

from loop.rundir import RunDir
from loop.runlog import read_log
from tests.conftest import ROOT
from tests.loop.conftest import CANDOR, SCRIPTED, candor

NOISY = '''
import os, sys, warnings
import ray
from actors.metrics import SINKS

if ray.is_initialized():  # in an actor
    print("noise of an actor", file=sys.stderr, flush=True)


class Noisy:
    """A sink whose library talks."""

    def __init__(self, folder, begin):
        print("noise on stdout")
        print("noise of a library", file=sys.stderr)
        warnings.warn("a warning of a library")
        os.system("echo noise of a child >&2")

    def log(self, name, value, step): pass
    histogram = text = log
    def flush(self): pass
    close = flush


SINKS.append(Noisy)
'''
FEW = ["rollout.conversations=8", "evals.mask=8", "evals.sycophancy=4", "evals.provided=4", "evals.deceptionbench=4"]


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["-v"]], ids=["quiet", "verbose"])
def test_what_libraries_write_is_in_the_log_and_shown_only_if_asked_for(tmp_path, more):
    (tmp_path / "noisy.py").write_text(NOISY)
    (tmp_path / "run.yaml").write_text(SCRIPTED + f"extensions: [{tmp_path}/noisy.py]\n")
    few = [word for key in FEW for word in ("--set", key)]
    done = candor("run", tmp_path / "run.yaml", *few, "--out", tmp_path / "run", *more)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    log = read_log(RunDir(tmp_path / "run").log, ("library",))
    noise = [line["text"] for line in log]
    assert noise.count("noise of a library") >= 1
    assert noise.count("noise of a child") >= 1
    assert noise.count("noise on stdout") >= 1
    assert any(re.match(r"\((\w+ )?pid=\d+.*\) noise of an actor", line) for line in noise)
    assert any("UserWarning: a warning of a library" in line for line in noise)
    assert ("noise" in done.stdout) == bool(more)
    assert ("stage: biased: round 0 rollout began" in done.stdout) == bool(more)
    assert "✓ biased: round 0 rollout: 8 conversations" in done.stdout
    assert "honesty score" in done.stdout
    assert not re.search(r"\x1b\[", done.stdout), "no colours in a pipe"


def on_a_terminal(*words, **environment) -> str:
    """What a command writes to a terminal."""
    ours, theirs = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")} | environment
    process = subprocess.Popen(
        [CANDOR, *words], stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT, env=environment | {"TERM": "xterm"}
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            written += (more := os.read(ours, 65536))
        except OSError:  # nobody holds the other end any more
            break
        if not more:
            break
    process.wait()
    os.close(ours)
    return written.decode()


@pytest.mark.parametrize("words", [pytest.param(("doctor",), marks=pytest.mark.slow), ("--help",)], ids=" ".join)
def test_colours_are_for_terminals_whose_owner_wants_them(words):
    colour = re.compile(r"\x1b\[[0-9;]*3[0-7]m")
    assert colour.search(on_a_terminal(*words))
    assert not colour.search(on_a_terminal(*words, NO_COLOR="1"))
    assert "\x1b[" not in candor(*words).stdout
