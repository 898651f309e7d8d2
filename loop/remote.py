"""What a driver does on the machine of an actor: read what it left in its log, look into it, and end it."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from actors.actor import ActorLocation, left_behind

REMOTE_SECONDS = 20
"""Longest time that another machine may take; one that is gone does not answer."""
DUMP_SECONDS = 10


def what_it_left(at: ActorLocation | None) -> tuple[str | None, list[str]]:
    """The last error in an actor's log and its last lines, from whatever machine it was on; nothing where that cannot
    be had any more."""
    return (_there(at, left_behind, at.log) if at is not None else None) or (None, [])


def stacks_of(at: ActorLocation) -> str:
    """Where each thread of an actor's processes is, as py-spy shows it; empty where py-spy is not there or not
    allowed."""
    return _there(at, _stacks, at.pid) or ""


def end_family(at: ActorLocation) -> None:
    """Kill an actor's process and those that it started, as one that was stopped or hangs takes no other signal."""
    _there(at, _end_family, at.pid)


def _there(at: ActorLocation, work: Callable[[Any], Any], given: Any) -> Any:
    """What a function gives on an actor's machine; None where that does not answer."""
    if at.host == socket.gethostname() or at.node is None:
        return work(given) if at.host == socket.gethostname() else None
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    try:
        here = NodeAffinitySchedulingStrategy(at.node, soft=False)
        task = ray.remote(work).options(num_cpus=0, max_retries=0, scheduling_strategy=here).remote(given)
        return ray.get(task, timeout=REMOTE_SECONDS)
    except Exception:  # the machine is gone, or busy beyond answering: whatever it knew is lost
        return None


def _family(pid: int) -> list[psutil.Process]:
    try:
        actor = psutil.Process(pid)
        return [actor, *actor.children(recursive=True)]
    except psutil.Error:
        return []


def _stacks(pid: int) -> str:
    beside = Path(sys.executable).parent / "py-spy"
    tool = str(beside) if beside.exists() else shutil.which("py-spy")
    if tool is None:
        return ""
    told = []
    for process in _family(pid):
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            command = [tool, "dump", "--nonblocking", "--pid", str(process.pid)]
            ran = subprocess.run(command, capture_output=True, text=True, timeout=DUMP_SECONDS, check=False)
            told.append(ran.stdout or ran.stderr)
    return "\n".join(filter(None, told))


def _end_family(pid: int) -> None:
    for process in reversed(_family(pid)):
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGKILL)
