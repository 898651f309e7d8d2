"""The heartbeat of a run: what each of its actors is at, written and shown as gauges every few seconds, and the stall
rule.

A thread of the driver asks every actor for its pulse and waits for none. An actor that for `cluster.stall_minutes` does
not answer, or has work and makes no progress, is named, looked into with py-spy, and killed. Whoever waits for it then
learns that it died, and it is replaced like any other that dies.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from actors.actor import ActorLocation, Pulse
from loop.gauges import Gauges, totals
from loop.remote import end_family, stacks_of
from loop.report.terminal import Stages
from loop.roster import SupervisedActor
from loop.rundir import RunDir, write_json
from loop.supervisor import ActorSupervisor

BEAT_SECONDS = 5.0
"""Between two heartbeats."""
ANSWER_SECONDS = 0.5
"""How long a beat waits for answers; those that come later are taken at the next."""
WAITERS = ("user pool", "evaluator")
"""Roles that mostly wait for others; they are blamed for a stall only where nobody else is."""


@dataclass
class Watched:
    """What is known of one actor.

    Attributes:
        handle: The actor that this is about; a new one begins anew.
        asked: The call for its pulse that is under way.
        answered, moved: When it last answered, and when it last got on or had nothing to do (monotonic seconds).
    """

    handle: Any
    answered: float
    moved: float
    asked: Any = None
    pulse: Pulse = field(default_factory=lambda: Pulse(False, 0.0, "has not answered yet"))

    def take(self, pulse: Pulse, now: float) -> None:
        """Note an answer."""
        if not pulse.working or pulse.done != self.pulse.done or not self.pulse.working:
            self.moved = now
        self.pulse, self.answered = pulse, now

    def stalled(self, now: float, limit: float) -> str | None:
        """Why it counts as stalled; None where it does not."""
        if now - self.answered > limit:
            return f"it has not answered for {(now - self.answered) / 60:.1f} minutes"
        if self.pulse.working and now - self.moved > limit:
            return f"it has made no progress for {(now - self.moved) / 60:.1f} minutes ({self.pulse.doing})"
        return None


def to_blame(stalled: dict[str, str]) -> list[str]:
    """Of the actors that are stalled, by name with their role, those that hold up the others."""
    first = [name for name, role in stalled.items() if role not in WAITERS]
    return first or list(stalled)


class Heartbeat:
    """Watches the actors of supervisors while the block runs.

    Args:
        supervisors: One for each arm that is at work side by side with others.
        ui: Says what stalls, and knows which stages are under way.
    """

    def __init__(
        self, supervisors: Sequence[ActorSupervisor], out: RunDir, ui: Stages, beat: float = BEAT_SECONDS
    ) -> None:
        self._supervisors = supervisors
        self._config = supervisors[0].config
        self._out = out
        self._ui = ui
        self._beat_seconds = beat
        minutes = self._config.cluster.stall_minutes
        self._limit = None if minutes is None else 60 * minutes
        self._watched: dict[str, Watched] = {}
        self._said = ""
        self._gauges = Gauges(out.root.name)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(timeout=30)

    def _run(self) -> None:
        while True:
            now = time.monotonic()
            with self._going_on("ask the actors"):
                self._listen(now)
                for supervisor in self._supervisors if self._limit is not None else ():
                    self._end_stalled(supervisor, now, self._limit)
            with contextlib.suppress(OSError):  # a disk that is full; the driver says so
                body = self._body(now)
                self._write(body)
                with self._going_on("set the gauges"):
                    self._gauges.show(body)
            if self._over.wait(self._beat_seconds):
                return

    @contextlib.contextmanager
    def _going_on(self, what: str) -> Iterator[None]:
        """Let nothing end the heartbeat: Ray may go down under it, and what matters fails in the driver too."""
        try:
            yield
        except Exception as error:
            if repr(error) != self._said:
                self._said = repr(error)
                self._ui.log("error", f"the heartbeat could not {what}: {error!r}")

    def _listen(self, now: float) -> None:
        """Ask those who are not asked yet, and take what is answered, now or at a later beat."""
        import ray

        for m in (m for s in self._supervisors for m in s.actors):
            handle = m.handle
            if handle is None or not m.up:
                self._watched.pop(m.name, None)
                continue
            w = self._watched.get(m.name)
            if w is None or w.handle is not handle:
                w = self._watched[m.name] = Watched(handle, now, now)
            if w.asked is None:
                w.asked = handle.pulse.remote()
        asked = {w.asked: w for w in self._watched.values()}
        if not asked:
            return
        answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_SECONDS)
        for ref in answered:
            w = asked[ref]
            w.asked = None
            with contextlib.suppress(ray.exceptions.RayError):  # it died, and whoever waits for it finds out
                w.take(ray.get(ref), time.monotonic())

    def _end_stalled(self, supervisor: ActorSupervisor, now: float, limit: float) -> None:
        by_name = {m.name: m for m in supervisor.actors}
        mine = {name: w for name, w in self._watched.items() if name in by_name}
        found = {name: why for name, w in mine.items() if (why := w.stalled(now, limit))}
        for name in to_blame({name: by_name[name].role for name in found}):
            m, w = by_name[name], self._watched[name]
            if m.stalled is None and m.location is not None and m.handle is w.handle:
                supervisor.stalled += 1
                self._end(m, m.location, found[name])
        if found:  # those that waited for it begin anew
            for w in mine.values():
                w.moved = time.monotonic()

    def _end(self, m: SupervisedActor, at: ActorLocation, why: str) -> None:
        import ray

        m.stalled = f"killed by cluster.stall_minutes, as {why}"
        self._ui.say(f"  {m.name} is stalled: {why}; it is killed and replaced")
        stacks = stacks_of(at)
        self._ui.log("stalled", f"{m.name} is stalled: {why}", actor=m.name, host=at.host, pid=at.pid, stacks=stacks)
        handle = m.handle
        end_family(at)
        with contextlib.suppress(Exception):
            ray.kill(handle)

    def _body(self, now: float) -> dict[str, Any]:
        """What is known of the run just now; the file, gauges and TensorBoard all show this."""
        actors = []
        for s in self._supervisors:
            lines = [self._line(m, now) for m in s.actors]
            s.figures = totals(lines)
            actors += lines
        disk = shutil.disk_usage(self._out.root)
        return {
            "schema": "heartbeat/1",
            "at": time.time(),
            "every": self._beat_seconds,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "stages": self._ui.under_way(),
            "actors": actors,
            "figures": totals(actors),
            "stalled": sum(s.stalled for s in self._supervisors),
            "budget": self._config.budget,
            "disk": {"free": disk.free, "total": disk.total},
        }

    def _write(self, body: dict[str, Any]) -> None:
        if self._out.config.exists():  # a directory that was removed does not come back
            write_json(self._out.heartbeat, body)

    def _line(self, m: SupervisedActor, now: float) -> dict[str, Any]:
        w, at = self._watched.get(m.name), m.location
        state = "down" if m.handle is None else "starting"
        line: dict[str, Any] = {"name": m.name, "role": m.role, "state": state}
        if w is not None and at is not None:
            silent, still = now - w.answered, now - w.moved
            if silent > 3 * self._beat_seconds + 5:
                state, since = "silent", silent
            else:
                state, since = ("working" if w.pulse.working else "idle"), still
            line |= {
                "state": state,
                "since": round(since, 1),
                "host": at.host,
                "pid": at.pid,
                "doing": w.pulse.doing,
                "waits_for": w.pulse.waits_for,
                "memory": w.pulse.memory,
                "figures": dict(w.pulse.figures),
            }
        return line | {"restarts": m.restarts, "last_error": m.last_error}
