"""Requests to an engine from people outside of the run, beside the run's own: `assistant.serve`.

They are extra work and nothing else. They are in no count of requests, tokens or cached prompts, nobody waits for them,
and whenever the engine has to be alone (new weights, the delivery probe, the trainer on its GPU) they are ended, and
whoever asked is told to come back.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from actors.models.chat import Sampling
from actors.worlds.base import Message

REFUSED, UNKNOWN, AWAY = 400, 404, 503
"""What a fault is, as HTTP has it: the request is wrong, there is no such policy, or it is to be tried again later."""
LONGEST_SECONDS = 3600
"""A visit is over after so long, whoever listens."""


@dataclass(frozen=True)
class Visit:
    """What somebody asks.

    Attributes:
        messages: A chat, or a text that is `actors.models.chat.plain`.
        ids: The prompt as token ids, where it was given so.
        sampling: Its `max_tokens` counts where `limited`; else the reply may fill the context.
        logprobs: How many alternatives are wanted for each token; None for no probabilities at all.
    """

    policy: str
    sampling: Sampling
    messages: Sequence[Message] = ()
    ids: Sequence[int] | None = None
    limited: bool = False
    logprobs: int | None = None


@dataclass(frozen=True)
class Told:
    """A token and its natural-log probability, and those of the most probable ones in its place."""

    token: str
    logprob: float
    top: list[tuple[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Part:
    """What was said since the last part.

    Attributes:
        tokens: Where probabilities were asked for.
        finish: `stop` or `length` with the last part, and None before.
        prompt_tokens, completion_tokens: Those of the whole visit so far.
        fault: What went wrong, which ends the visit; `status` says of which kind.
    """

    text: str = ""
    tokens: list[Told] = field(default_factory=list)
    finish: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    fault: str | None = None
    status: int = 200

    @property
    def last(self) -> bool:
        return self.finish is not None or self.fault is not None


def not_served(policy: str, served: Sequence[str]) -> Part:
    """The fault of a visit to a policy that an engine does not serve now; while it sleeps or takes weights, any."""
    if not served:
        return Part(fault="the trainer uses the engines; try again later", status=AWAY)
    return Part(fault=f"The model `{policy}` does not exist; served now: {', '.join(served)}", status=UNKNOWN)


def too_long(prompt: int, wanted: int, context: int) -> Part | None:
    """The fault of a visit that does not fit into a context of so many tokens; None where it does."""
    if prompt + wanted <= context:
        return None
    return Part(
        fault=f"This model's maximum context length is {context} tokens. However, you requested {wanted} output tokens "
        f"and your prompt contains {prompt} tokens. Please reduce the length of either.",
        status=REFUSED,
    )


@dataclass
class _Guest:
    parts: list[Part] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task | None = None

    def tell(self, part: Part) -> None:
        self.parts.append(part)
        self.news.set()


class Host:
    """A base of engines that answer visitors; `_answer` says how."""

    _guests: dict[str, _Guest]
    _shut = 0

    def _answer(self, visit: Visit) -> AsyncIterator[Part]:
        """Parts of the answer, of which the last one says so."""
        raise NotImplementedError

    async def served(self) -> list[str]:
        """The names of the policies that can be asked."""
        raise NotImplementedError

    async def visit(self, number: str, visit: Visit) -> None:
        """Begin to answer; `heard` brings what is said."""
        guest = self._all()[number] = _Guest()
        if self._shut:
            guest.tell(Part(fault="the run is at work on its engines; try again in a moment", status=AWAY))
        else:
            guest.task = asyncio.ensure_future(self._attend(guest, visit))
        asyncio.get_running_loop().call_later(LONGEST_SECONDS, self._end, number)

    async def heard(self, number: str) -> list[Part]:
        """Wait until something is said, and hand over whatever is; the last part ends the visit."""
        guest = self._all().get(number)
        if guest is None:
            return [Part(fault="the visit is over", status=AWAY)]
        await guest.news.wait()
        guest.news.clear()
        parts, guest.parts = guest.parts, []
        if parts[-1].last:
            self._end(number)
        return parts

    async def leave(self, number: str) -> None:
        """End a visit that nobody listens to any more."""
        self._end(number)

    def _end(self, number: str) -> None:
        guest = self._all().pop(number, None)
        if guest is not None and guest.task is not None:
            guest.task.cancel()

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Without visitors while the block runs."""
        self._shut += 1
        try:
            tasks = [g.task for g in self._all().values() if g.task is not None and not g.task.done()]
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)
            yield
        finally:
            self._shut -= 1

    async def _attend(self, guest: _Guest, visit: Visit) -> None:
        try:
            async with contextlib.aclosing(self._answer(visit)) as parts:
                async for part in parts:
                    guest.tell(part)
        except asyncio.CancelledError:
            guest.tell(Part(fault="the run needs its engines; try again in a moment", status=AWAY))
        except Exception as error:  # whatever it is, the run's own requests find it out for themselves
            guest.tell(Part(fault=f"{type(error).__name__}: {error}", status=AWAY))

    def _all(self) -> dict[str, _Guest]:
        if not hasattr(self, "_guests"):
            self._guests = {}
        return self._guests
