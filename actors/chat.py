"""ChatModel: the one way in which actors talk to a language model."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from actors.lifeline import answer
from actors.worlds.base import Message


class ChatError(RuntimeError):
    """A model could not answer; the caller may try again, and never turns it into a score."""


@dataclass(frozen=True)
class Sampling:
    """How a reply is sampled; `seed` makes it repeatable where the engine allows it."""

    max_tokens: int
    temperature: float = 1.0
    seed: int | None = None


@dataclass(frozen=True)
class Reply:
    """What a model said.

    Attributes:
        token_ids: The completion's tokens, its end token included.
        logprobs: Natural-log probability of each of them.
        finish_reason: `stop` (the model ended its message) or `length` (it was cut).
        prompt_tokens: Length of the rendered prompt.
        weights: The name of the policy that the engine served the request with.
    """

    text: str
    token_ids: list[int]
    logprobs: list[float]
    finish_reason: str
    prompt_tokens: int
    weights: str


class ChatModel(Protocol):
    """A model that continues chats; failures are raised as `ChatError`."""

    async def reply(self, messages: Sequence[Message], sampling: Sampling) -> Reply:
        """The next assistant message."""

    async def choose(self, messages: Sequence[Message], choices: Sequence[str]) -> dict[str, float]:
        """Probability of each one-token choice as the first token of the reply; they need not add up to one."""


def prompt_ids(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Token ids of a prompt, as engine and trainer both see it: the chat template with the assistant's turn opened."""
    text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


class EngineChat:
    """A policy served by the run's own engines, reached by actor handle; requests go round the replicas."""

    def __init__(self, engines: Sequence[Any], policy: str) -> None:
        self._engines = itertools.cycle(engines)
        self._policy = policy

    async def reply(self, messages: Sequence[Message], sampling: Sampling) -> Reply:
        return await answer(next(self._engines).reply.remote(self._policy, list(messages), sampling), "engine")

    async def choose(self, messages: Sequence[Message], choices: Sequence[str]) -> dict[str, float]:
        return await answer(next(self._engines).choose.remote(self._policy, list(messages), tuple(choices)), "engine")
