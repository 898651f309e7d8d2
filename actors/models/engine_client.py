"""A policy served by engines in the cluster, as a ChatModel, and which of them is asked."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

from actors.actor import ActorGone
from actors.batching import BatchedClient
from actors.models.chat import PLAIN, Choice, Reply, Sampling
from actors.worlds.base import Message

SLACK = 1.25
"""How much more than the mean a replica may have under way. With this bound a conversation is seldom moved, and no
replica idles while another has a queue (Mirrokni, Thorup and Zadimoghaddam, Consistent Hashing with Bounded Loads,
2016)."""


class Replica:
    """One engine, as far as this process knows it.

    Attributes:
        engine: Its handle.
        under_way: Requests that it has not answered.
        gone: Whether it died; another engine in its place is another replica.
    """

    def __init__(self, number: int, engine: Any) -> None:
        self.engine = engine
        self.under_way = 0
        self.gone = False
        self._number = number
        self._client = BatchedClient(engine, "engine")

    def affinity(self, key: bytes) -> bytes:
        """Where the replica stands among all for a key: the one with the largest value comes first."""
        return hashlib.blake2b(key, digest_size=8, salt=self._number.to_bytes(8, "big")).digest()

    async def call(self, method: str, *args: Any) -> Any:
        self.under_way += 1
        try:
            return await self._client.call(method, *args)
        except ActorGone:
            self.gone = True
            raise
        finally:
            self.under_way -= 1


class EngineClient:
    """A policy served by the run's own engines, reached by actor handle.

    Requests that begin alike go to one replica, which has their beginning in its prefix cache: all that one side of a
    conversation sees does. Rendezvous hashing ranks the replicas for each beginning, the same in every process. The
    first in rank is passed over where it has too much under way, or died.

    Use one for many conversations, so that their requests share calls.

    Args:
        engines: Handles by the number of the replica; None in the place of one that is down. A replica keeps its
            number, and with it its conversations, whichever others come and go.
        limit: The most requests that this process keeps under way at one replica while another has room.
    """

    def __init__(self, engines: Sequence[Any], policy: str, limit: int | None = None) -> None:
        self._by_number: dict[int, Replica] = {}
        self._policy = policy
        self._limit = limit or math.inf
        self.admit(engines)

    @property
    def replicas(self) -> list[Replica]:
        """By number, those that were ever up."""
        return [self._by_number[number] for number in sorted(self._by_number)]

    def admit(self, engines: Sequence[Any]) -> None:
        """Take in engines that are up now; arguments as above. Requests at others stay there."""
        for number, engine in enumerate(engines):
            known = self._by_number.get(number)
            if engine is not None and (known is None or known.gone or known.engine != engine):
                self._by_number[number] = Replica(number, engine)

    async def reply(self, messages: Sequence[Message], sampling: Sampling) -> Reply:
        return await self._call(messages, "reply", list(messages), sampling)

    async def choose(self, messages: Sequence[Message], choices: Sequence[str]) -> Choice:
        return await self._call(messages, "choose", list(messages), tuple(choices))

    async def _call(self, messages: Sequence[Message], method: str, *args: Any) -> Any:
        while True:
            replica = self._replica_for(messages)
            try:
                return await replica.call(method, self._policy, *args)
            except ActorGone:
                if all(r.gone for r in self.replicas):
                    raise

    def _replica_for(self, messages: Sequence[Message]) -> Replica:
        alive = [r for r in self.replicas if not r.gone] or self.replicas
        if len(alive) == 1:
            return alive[0]
        key = beginning(messages)
        ranked = sorted(alive, key=lambda r: r.affinity(key), reverse=True)
        under_way = sum(r.under_way for r in alive) + 1
        most = min(self._limit, math.ceil(SLACK * under_way / len(alive)))
        free = (r for r in ranked if r.under_way < most)
        return next(free, None) or min(ranked, key=lambda r: r.under_way)


def beginning(messages: Sequence[Message]) -> bytes:
    """What all requests of one side of a conversation begin with: everything up to the first words of a user."""
    if messages[0]["role"] == PLAIN:  # a transcript, whose first paragraphs say who talks
        return "\n\n".join(messages[0]["content"].split("\n\n")[:3]).encode(errors="surrogatepass")
    users = (i for i, m in enumerate(messages) if m["role"] == "user")
    first = next(users, len(messages) - 1)
    return "\0".join(m["content"] for m in messages[: first + 1]).encode(errors="surrogatepass")
