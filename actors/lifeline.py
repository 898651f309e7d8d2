"""What every actor has in common: it can say where it is, and others notice when it is gone."""

from __future__ import annotations

import gc
import os
import re
import socket
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

_ERROR = re.compile(r"^(?:.*\] )?([\w.]*(?:Error|Exception): .+|Fatal Python error: .+)$", re.MULTILINE)


class ActorGone(RuntimeError):  # noqa: N818, not an error of whoever raises it
    """An actor died, or its engine did. Whoever started it can start it again and have the missing work done."""


@dataclass(frozen=True)
class Whereabouts:
    """Where an actor runs, and the file that holds its standard error, if it is one."""

    host: str
    pid: int
    log: str | None


class Actor:
    """Base of all actors."""

    def ping(self) -> Whereabouts:
        """Answer; an actor that can no longer do its work raises `ActorGone`."""
        return Whereabouts(socket.gethostname(), os.getpid(), own_log())


def collect_seldom() -> None:
    """Have Python look for garbage in cycles seldom: an actor with hundreds of requests under way makes objects all
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
    if log is None:
        return None
    try:
        with open(log, encoding="utf-8", errors="replace") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 100_000))
            text = re.sub(r"\x1b\[[0-9;]*m", "", file.read())
    except OSError:
        return None
    found = _ERROR.findall(text)
    hollow = ("EngineDead", "Engine core init", "EngineCore encountered", "ActorGone")  # that only say that it died
    return next((e for e in reversed(found) if not any(h in e for h in hollow)), None)


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


def first_line(error: BaseException) -> str:
    """What a Ray error says happened, without its advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if "because" in line or "Error" in line]
    line = (told or lines or [type(error).__name__])[-1]
    for advice in (" Some common causes", " See stack trace"):
        line = line.split(advice)[0]
    for known in ("The actor is dead because its worker process has died. ", "actors.lifeline.ActorGone: "):
        line = line.removeprefix(known)
    return line
