"""What every actor has in common: it can say where it is, and others notice when it is gone."""

from __future__ import annotations

import gc
import os
import re
import socket
import sys
from collections.abc import Awaitable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import psutil

_ERROR = re.compile(r"^(?:.*\] )?([\w.]*(?:Error|Exception): .+|Fatal Python error: .+)$", re.MULTILINE)


class ActorGone(RuntimeError):  # noqa: N818, not an error of whoever raises it
    """An actor died, or its engine did. Whoever started it can start it again and have the missing work done."""


@dataclass(frozen=True)
class ActorLocation:
    """Where an actor runs, and the file that holds its standard error, if it is one."""

    host: str
    pid: int
    log: str | None
    node: str | None = None
    """Ray's name of the machine."""


@dataclass(frozen=True)
class Pulse:
    """What an actor is at.

    Attributes:
        working: Whether somebody waits for what it does.
        done: A count that grows while it gets on.
        doing: The same in words, for people.
        waits_for: Whose answers it waits for, for people; empty where it computes by itself.
        memory: Bytes in memory of its process and of those that it started.
        figures: What is counted there, by name: `requests`, `prompt_tokens` and `cached_tokens` of engines,
            `conversations` of pools, `planned`, `unwritten` and `excluded` of the buffer.
    """

    working: bool
    done: float
    doing: str
    waits_for: str = ""
    memory: int = 0
    figures: Mapping[str, float] = field(default_factory=dict)


class Actor:
    """Base of all actors."""

    def ping(self) -> ActorLocation:
        """Answer; an actor that can no longer do its work raises `ActorGone`."""
        return ActorLocation(socket.gethostname(), os.getpid(), own_log(), _own_node())

    def pulse(self) -> Pulse:
        """What it is at just now; those that say nothing of it are at work only while they are called."""
        return Pulse(False, 0.0, "waits for calls", memory=family_memory())


def _own_node() -> str | None:
    ray = sys.modules.get("ray")
    return ray.get_runtime_context().get_node_id() if ray is not None and ray.is_initialized() else None


def family_memory() -> int:
    """Bytes in memory of this process and of those that it started."""
    own = psutil.Process()
    found = 0
    for process in (own, *own.children(recursive=True)):
        with suppress(psutil.Error):
            found += process.memory_info().rss
    return found


def collect_seldom() -> None:
    """Have Python's garbage collector run seldom: an actor with hundreds of requests under way makes objects all
    the time, and to walk those that live is a tenth of its work, for next to nothing found."""
    gc.set_threshold(10_000, 20, 10)


def own_log() -> str | None:
    """The file that this process's standard error goes to, where Ray keeps it in one."""
    try:
        target = os.readlink("/proc/self/fd/2")
    except OSError:
        return None
    return target if target.startswith("/") and os.path.isfile(target) else None


def last_error(log: str | None) -> str | None:
    """The last error in an actor's log, `Type: message`; None where it left none, as after `kill -9`."""
    found = _ERROR.findall(_end_of(log))
    hollow = ("EngineDead", "Engine core init", "EngineCore encountered", "ActorGone")  # that only say that it died
    return next((e for e in reversed(found) if not any(h in e for h in hollow)), None)


def _end_of(log: str | None) -> str:
    """The last 100 kB of a log, without colours; empty where it cannot be read."""
    if log is None:
        return ""
    try:
        with open(log, encoding="utf-8", errors="replace") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 100_000))
            return re.sub(r"\x1b\[[0-9;]*m", "", file.read())
    except OSError:
        return ""


def left_behind(log: str | None, lines: int = 40) -> tuple[str | None, list[str]]:
    """The last error in an actor's log, as of `last_error`, and the last lines of it."""
    return last_error(log), [line for line in _end_of(log).splitlines() if line.strip()][-lines:]


@contextmanager
def gone_if_dead(role: str = "") -> Iterator[None]:
    """Turn whatever Ray says when an actor is dead, killed for memory or out of reach into `ActorGone`."""
    from ray.exceptions import RayError, RayTaskError

    try:
        yield
    except RayTaskError:  # what the actor itself raised
        raise
    except RayError as error:
        raise ActorGone(f"the {role} died: {first_line(error)}" if role else first_line(error)) from error


async def answer(work: Awaitable[Any], role: str) -> Any:
    """What another actor answers; `ActorGone` where it died, so that its caller is not blamed."""
    with gone_if_dead(role):
        return await work


def unwrapped(error: BaseException) -> BaseException:
    """The actor's own error, where the one at hand only wraps it."""
    while isinstance(inner := getattr(error, "cause", None), BaseException):
        error = inner
    return error


def first_line(error: BaseException) -> str:
    """What a Ray error says happened, without its advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if "because" in line or "Error" in line]
    line = (told or lines or [type(error).__name__])[-1]
    for advice in (" Some common causes", " See stack trace"):
        line = line.split(advice)[0]
    for known in ("The actor is dead because its worker process has died. ", "actors.actor.ActorGone: "):
        line = line.removeprefix(known)
    return line
