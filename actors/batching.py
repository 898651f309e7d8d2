"""Many small calls to one actor, carried in few: what is asked within a tick goes in one call, which brings back what
has been answered meanwhile, and what comes after a pause goes at once.

A Ray call costs both sides about a millisecond of processor time, whatever is in it. Hundreds of conversations that
each ask an engine for a sentence would spend as much on calls as on sentences. So one call at a time travels
between a `BatchedClient`, which gathers what its process asks of an actor, and the actor's `BatchedServer`, where it
waits for whatever is answered next.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from actors.actor import Pulse, answer, family_memory

TICK_SECONDS = 0.05
"""Least time between two answers of a server; little beside the time that an answer takes."""

Call = tuple[int, str, tuple]
"""A number, a method's name and its arguments."""


class _Ticks:
    """Time since something was sent."""

    def __init__(self) -> None:
        self._last = -math.inf

    def sent(self) -> None:
        self._last = time.monotonic()

    async def wait(self, ticks: int = 1) -> None:
        """Until so many have gone by since the last sending, of which there may be more meanwhile."""
        while (left := self._last + ticks * TICK_SECONDS - time.monotonic()) > 0:
            await asyncio.sleep(left)


@dataclass
class _Outbox:
    """What has been answered to one caller and not been fetched yet."""

    done: list[tuple[int, Any, Exception | None]] = field(default_factory=list)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    ticks: _Ticks = field(default_factory=_Ticks)
    tasks: set[asyncio.Future] = field(default_factory=set)


class BatchedServer:
    """The actor's end: a base of actors whose async methods are called through a `BatchedClient`."""

    _outboxes: dict[str, _Outbox]
    _answered = 0

    def pulse(self) -> Pulse:
        """How many calls are under way, and how many were answered."""
        asked = sum(len(o.tasks) for o in getattr(self, "_outboxes", {}).values())
        figures = {"requests": asked}
        return Pulse(
            asked > 0, self._answered, f"{asked:,} requests under way", memory=family_memory(), figures=figures
        )

    async def submit(self, caller: str, calls: Sequence[Call]) -> None:
        """Begin to work on calls; `exchange` brings the answers, in the order in which they are ready."""
        outbox = self._outbox(caller)
        for number, method, args in calls:
            task = asyncio.ensure_future(getattr(self, method)(*args))
            outbox.tasks.add(task)
            task.add_done_callback(lambda t, n=number: self._put(outbox, n, t))

    async def exchange(self, caller: str, calls: Sequence[Call]) -> list[tuple[int, Any, Exception | None]]:
        """Begin to work on calls, wait until something is answered to this caller, and hand over whatever is."""
        await self.submit(caller, calls)
        outbox = self._outbox(caller)
        await outbox.ready.wait()
        await outbox.ticks.wait()
        outbox.ticks.sent()
        done, outbox.done = outbox.done, []
        outbox.ready.clear()
        return done

    def _outbox(self, caller: str) -> _Outbox:
        if not hasattr(self, "_outboxes"):
            self._outboxes = {}
        return self._outboxes.setdefault(caller, _Outbox())

    def _put(self, outbox: _Outbox, number: int, task: asyncio.Future) -> None:
        error = RuntimeError("the actor gave the call up") if task.cancelled() else task.exception()
        if error is not None and not type(error).__module__.startswith(("actors.", "builtins")):
            error = RuntimeError(f"{type(error).__name__}: {error}")  # others may not survive the way
        outbox.tasks.discard(task)
        self._answered += 1
        outbox.done.append((number, None if error else task.result(), error))
        outbox.ready.set()


class BatchedClient:
    """The caller's end, for one actor; belongs to the event loop in which it is first used.

    Args:
        handle: Of an actor that is a `BatchedServer`.
        role: What the actor is called in errors.
    """

    def __init__(self, handle: Any, role: str) -> None:
        self._handle = handle
        self._role = role
        self._name = uuid.uuid4().hex
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future] = {}
        self._calls: list[Call] = []
        self._exchanging: asyncio.Task | None = None
        self._sending: asyncio.Task | None = None
        self._ticks = _Ticks()

    async def call(self, method: str, *args: Any) -> Any:
        """What the actor's method answers.

        Raises:
            ActorGone: The actor died; otherwise what the method raises.
        """
        number, asked = next(self._numbers), asyncio.get_running_loop().create_future()
        self._waiting[number] = asked
        self._calls.append((number, method, args))
        if self._exchanging is None:
            self._exchanging = asyncio.ensure_future(self._exchange())
        elif self._sending is None:
            self._sending = asyncio.ensure_future(self._send())
        return await asked

    async def _exchange(self) -> None:
        """Exchange calls for answers until nobody waits."""
        while self._waiting:
            try:
                self._settle(await answer(self._handle.exchange.remote(self._name, self._take()), self._role))
            except Exception as error:
                self._calls.clear()
                self._settle([(number, None, error) for number in self._waiting])
            await asyncio.sleep(0)  # whoever got an answer may ask again, and that goes along
        self._exchanging = None

    async def _send(self) -> None:
        """Send what was asked while an exchange is away, unless it comes back soon."""
        await asyncio.sleep(0)  # what is asked in the same turn goes along
        await self._ticks.wait(2)
        self._sending = None
        if calls := self._take():
            try:
                await answer(self._handle.submit.remote(self._name, calls), self._role)
            except Exception as error:
                self._settle([(number, None, error) for number, _, _ in calls])

    def _take(self) -> list[Call]:
        calls, self._calls = self._calls, []
        if calls:
            self._ticks.sent()
        return calls

    def _settle(self, done: Sequence[tuple[int, Any, Exception | None]]) -> None:
        for number, result, error in done:
            asked = self._waiting.pop(number, None)
            if asked is None or asked.done():  # whoever asked does not wait any more
                continue
            if error is None:
                asked.set_result(result)
            else:
                asked.set_exception(error)
