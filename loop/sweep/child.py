"""One run of a sweep, in a process of its own: `python -m loop.sweep.child CONFIG OUT PARENT CORES`.

It is `candor run` but for three things: an arm that fails leaves the others their turn, it computes on the cores that
it is given, and it ends when the sweep does, however that ends.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1
"""Of Linux's `prctl`: which signal a process gets when the one that started it is gone."""


def end_with(parent: int) -> None:
    """Be stopped, as by SIGTERM, when the process `parent` is gone; end at once where it is gone already."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(128 + signal.SIGTERM)


def main(config: str, out: str, parent: str, cores: str) -> None:
    """Run a config on some cores, numbers with commas between; empty for all."""
    import typer

    from loop.cli.run import start

    end_with(int(parent))
    if cores:
        os.sched_setaffinity(0, map(int, cores.split(",")))
    try:
        start(Path(config), [], Path(out), "run", keep_going=True)
    except typer.Exit as end:
        sys.exit(end.exit_code)


if __name__ == "__main__":
    main(*sys.argv[1:])
