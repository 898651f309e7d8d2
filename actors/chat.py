"""ChatModel: the one way in which actors talk to a language model."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from actors.line import Line
from actors.worlds.base import Message


class ChatError(RuntimeError):
    """A model could not answer; the caller may try again, and never turns it into a score.

    Attributes:
        faults: What went wrong on the way, by kind (`429`, `500`, `timeout`, `connection`, `malformed`, ...).
        prompt_tokens, completion_tokens: What an answer cost that came and was of no use.
    """

    def __init__(
        self,
        message: str,
        faults: Mapping[str, int] | None = None,
        prompt_tokens: int = 0,
        completion_tokens: int = 0,
    ) -> None:
        super().__init__(message)
        self.faults = dict(faults or {})
        self.prompt_tokens = prompt_tokens
        self.completion_tokens = completion_tokens

    def __reduce__(self) -> tuple:
        return type(self), (str(self), self.faults, self.prompt_tokens, self.completion_tokens)


class NoLogprobsError(ChatError):
    """A model that does not tell the probabilities of its tokens; a rating has to be sampled instead."""


class ModelRefusedError(RuntimeError):
    """A model that will answer nobody until a person has acted: the key is refused, the money is spent, there is no
    such model. Trying again is of no use, and no conversation is to blame."""


@dataclass(frozen=True)
class Sampling:
    """How a reply is sampled; `seed` makes it repeatable where the engine allows it.

    Attributes:
        logprobs: Whether the probabilities of what is written are wanted too, which costs an engine some time.
    """

    max_tokens: int
    temperature: float = 1.0
    seed: int | None = None
    logprobs: bool = False


@dataclass(frozen=True)
class Reply:
    """What a model said.

    Attributes:
        token_ids: The completion's tokens, its end token included; empty where an endpoint does not tell them.
        logprobs: Natural-log probability of each of them, where they were asked for and the model tells them.
        finish_reason: `stop` (the model ended its message) or `length` (it was cut).
        prompt_tokens: Length of the rendered prompt.
        completion_tokens: Length of the completion.
        weights: The name of the policy, or of the endpoint's model, that served the request.
        faults: Requests that failed before this one succeeded, by kind, as in `ChatError`.
    """

    text: str
    token_ids: list[int]
    logprobs: list[float]
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    weights: str
    faults: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """How probable a model finds each of several one-token replies.

    Attributes:
        probabilities: By choice; they need not add up to one.
        prompt_tokens, completion_tokens: What asking cost.
        faults: Requests that failed before this one succeeded, by kind.
    """

    probabilities: dict[str, float]
    prompt_tokens: int
    completion_tokens: int = 1
    faults: Mapping[str, int] = field(default_factory=dict)


class ChatModel(Protocol):
    """A model that continues chats; failures are raised as `ChatError`, and as `ModelRefusedError` where none of its
    answers can be had."""

    async def reply(self, messages: Sequence[Message], sampling: Sampling) -> Reply:
        """The next assistant message."""

    async def choose(self, messages: Sequence[Message], choices: Sequence[str]) -> Choice:
        """Probability of each one-token choice as the first token of the reply.

        Raises:
            NoLogprobsError: The model does not tell probabilities.
        """


def prompt_ids(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Token ids of a prompt, as engine and trainer both see it: the chat template with the assistant's turn opened."""
    text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


class EngineChat:
    """A policy served by the run's own engines, reached by actor handle; requests go round the replicas.

    Use one for many conversations, so that their requests share calls.
    """

    def __init__(self, engines: Sequence[Any], policy: str) -> None:
        self._lines = itertools.cycle([Line(engine, "engine") for engine in engines])
        self._policy = policy

    async def reply(self, messages: Sequence[Message], sampling: Sampling) -> Reply:
        return await next(self._lines).ask("reply", self._policy, list(messages), sampling)

    async def choose(self, messages: Sequence[Message], choices: Sequence[str]) -> Choice:
        return await next(self._lines).ask("choose", self._policy, list(messages), tuple(choices))
