"""What model calls cost: counted for each conversation by role and model, and paid from a budget where there is one."""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actors.models.answers import tokens_needed
from actors.models.chat import ChatError, ChatModel, Choice, Reply, Sampling
from actors.settings import Prices
from actors.worlds.base import Message

TOKENS_PER_MESSAGE = 16
"""What a chat template may add to a message, generously."""
MARGIN = 1.25
"""How much dearer than the dearest one so far the conversations to come are taken to be."""


class BudgetError(RuntimeError):
    """There is not enough money left for a request that is about to be made."""


@dataclass
class UsageEntry:
    """One entry of a ledger: successful requests of one role to one model, their tokens, and what failed on the way."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    faults: Counter = field(default_factory=Counter)


@dataclass
class Asked:
    """A prompt that is in neither side's transcript, and what the model said to it."""

    role: str
    messages: list[Message]
    answer: str


@dataclass
class UsageLedger:
    """What one conversation has cost so far, all of its attempts together, and the prompts of the last one."""

    entries: dict[tuple[str, str], UsageEntry] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)

    def entry(self, role: str, model: str) -> UsageEntry:
        return self.entries.setdefault((role, model), UsageEntry())

    def usage(self) -> list[dict[str, Any]]:
        """Rows of the trajectory's column `usage`."""
        return [
            {
                "role": role,
                "model": model,
                "requests": entry.requests,
                "prompt_tokens": entry.prompt_tokens,
                "completion_tokens": entry.completion_tokens,
            }
            for (role, model), entry in self.entries.items()
            if entry.requests
        ]

    def faults(self) -> list[dict[str, Any]]:
        """Rows of the trajectory's column `faults`."""
        return [
            {"role": role, "model": model, "kind": kind, "count": count}
            for (role, model), entry in self.entries.items()
            for kind, count in entry.faults.items()
        ]


USED = ("requests", "prompt_tokens", "completion_tokens")


@dataclass
class UsageTotals:
    """Rows of `actors.storage.trajectory.USAGE`, added up by role and model."""

    entries: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)

    def add(self, usage: Iterable[Mapping[str, Any]]) -> None:
        for row in usage:
            self.entries.setdefault((row["role"], row["model"]), Counter()).update({k: row[k] for k in USED})

    def rows(self) -> list[dict[str, Any]]:
        """One row for each role and model, in alphabetical order."""
        return [{"role": role, "model": model, **entry} for (role, model), entry in sorted(self.entries.items())]


@dataclass
class CacheUse:
    """What an engine was asked, and how much of the prompts it did not have to compute, as they began like others."""

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0

    def add(self, prompt_tokens: int, cached_tokens: int) -> None:
        self.requests += 1
        self.prompt_tokens += prompt_tokens
        self.cached_tokens += cached_tokens

    @property
    def hit_rate(self) -> float | None:
        """Share of the prompts' tokens that were cached."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else None


def cost_of(usage: Iterable[Mapping[str, Any]], prices: Mapping[str, Prices | None]) -> float:
    """What rows of `usage` cost; a model without a price costs nothing.

    Args:
        prices: By model.
    """
    total = 0.0
    for row in usage:
        if price := prices.get(row["model"]):
            total += price.of(row["prompt_tokens"], row["completion_tokens"])
    return total


class BudgetLease:
    """The money that one process may spend. Without a limit it only counts.

    No request is sent whose largest possible price does not fit beside those under way; it waits until they have turned
    out cheaper. And a conversation begins only when the dearest one so far would fit beside those under way, so that
    in the ordinary case all that were begun are finished; until the first has shown what one costs, it is held alone.
    """

    def __init__(self, allowance: float | None) -> None:
        self.spent = 0.0
        self._allowance = math.inf if allowance is None else allowance
        self._limited = allowance is not None
        self._reserved = 0.0
        self._requests = 0  # under way
        self._running = 0
        self._dearest: float | None = None
        self._largest = 0.0  # of all reservations
        self._changed = asyncio.Event()

    async def begin(self) -> bool:
        """Wait until a conversation may begin; False when the money does not reach for another one."""
        while self._limited:
            if self._dearest is None:
                fits = self._running == 0
            else:
                needed = (self._running + 1) * self._dearest * MARGIN + self._largest
                fits = self._allowance - self.spent >= needed
            if fits:
                break
            if not self._running:
                return False
            await self._changed.wait()
        self._running += 1
        return True

    def end(self, cost: float, held: bool = True) -> None:
        """A conversation that `begin` let begin is over.

        Args:
            held: Whether it took place, so that its cost says what one costs.
        """
        self._running -= 1
        if held:
            self._dearest = max(self._dearest or 0.0, cost)
        self._tell()

    async def reserve(self, most: float) -> None:
        """Put the largest possible price of a request aside; `BudgetError` where it will not fit."""
        while self.spent + self._reserved + most > self._allowance:
            if not self._requests:
                raise BudgetError("the budget does not reach for the next request")
            await self._changed.wait()
        self._reserved += most
        self._requests += 1
        self._largest = max(self._largest, most)

    def pay(self, reserved: float, price: float) -> None:
        """A request is over: what was put aside for it is free again but for its price."""
        self._requests -= 1
        self._reserved = max(0.0, self._reserved - reserved) if self._requests else 0.0  # no rounding errors stay
        self.spent += price
        self._tell()

    def _tell(self) -> None:
        if self._limited:
            self._changed.set()
            self._changed = asyncio.Event()


class MeteredModel:
    """A model whose calls are entered in a conversation's ledger, and paid for.

    Args:
        keep: Whether prompts and answers are kept, because no transcript has them.
    """

    def __init__(
        self,
        model: ChatModel,
        name: str,
        role: str,
        ledger: UsageLedger,
        lease: BudgetLease,
        price: Prices | None,
        keep: bool,
    ) -> None:
        self._model = model
        self._entry = ledger.entry(role, name)
        self._role = role
        self._ledger = ledger
        self._lease = lease
        self._price = price
        self._keep = keep

    async def reply(self, messages: Sequence[Message], sampling: Sampling) -> Reply:
        return await self._count(messages, sampling.max_tokens, lambda: self._model.reply(messages, sampling))

    async def choose(self, messages: Sequence[Message], choices: Sequence[str]) -> Choice:
        longest = tokens_needed(choices)
        return await self._count(messages, longest, lambda: self._model.choose(messages, choices))

    async def _count(self, messages: Sequence[Message], max_tokens: int, call: Callable[[], Awaitable[Any]]) -> Any:
        most, price = self._most(messages, max_tokens), 0.0
        await self._lease.reserve(most)
        try:
            answer = await call()
            price = self._cost(answer.prompt_tokens, answer.completion_tokens)
        except ChatError as error:  # an answer that cannot be used may still have cost something
            self._entry.faults.update(error.faults)
            price = self._cost(error.prompt_tokens, error.completion_tokens)
            self._entry.requests += error.prompt_tokens > 0
            self._entry.prompt_tokens += error.prompt_tokens
            self._entry.completion_tokens += error.completion_tokens
            raise
        finally:
            self._lease.pay(most, price)
        self._entry.requests += 1
        self._entry.prompt_tokens += answer.prompt_tokens
        self._entry.completion_tokens += answer.completion_tokens
        self._entry.faults.update(answer.faults)
        if self._keep:
            self._ledger.asked.append(Asked(self._role, list(messages), _said(answer)))
        return answer

    def _most(self, messages: Sequence[Message], max_tokens: int) -> float:
        """The largest possible price of a request: a token is a byte at least."""
        if self._price is None:
            return 0.0
        longest = sum(len(m["content"].encode()) + TOKENS_PER_MESSAGE for m in messages)
        return self._cost(longest, max_tokens)

    def _cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        if self._price is None:
            return 0.0
        return self._price.of(prompt_tokens, completion_tokens)


def _said(answer: Reply | Choice) -> str:
    if isinstance(answer, Reply):
        return answer.text
    return json.dumps({c: round(p, 6) for c, p in answer.probabilities.items()})
