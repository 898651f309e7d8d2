"""ChatModel: the one way in which actors talk to a language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from actors.worlds.base import Message


class ChatError(RuntimeError):
    """A model could not answer; the caller may try again, and never turns it into a score.

    Attributes:
        faults: What went wrong on the way, by kind (`429`, `500`, `timeout`, `connection`, `malformed`, ...).
        prompt_tokens, completion_tokens: What an answer cost that came and could not be used.
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


PLAIN = "plain"
"""The role of the one message of a prompt that has no chat template around it."""
NEUTRAL: dict[str, float] = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
"""What leaves a model's distribution as it is."""


@dataclass(frozen=True)
class Sampling:
    """How a reply is sampled; `seed` makes it repeatable where the engine allows it.

    Attributes:
        temperature, top_p, top_k, min_p, repetition_penalty: As vLLM means them; None leaves one open.
        logprobs: Whether the probabilities of what is written are wanted too, which costs an engine some time.
        stop: Strings at the first of which a reply ends; they are no part of it. With them, spaces at the reply's ends
            are kept.
        own: Whether the model's own values count (its `generation_config`) where one is left open.
    """

    max_tokens: int
    temperature: float | None = 1.0
    seed: int | None = None
    logprobs: bool = False
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    own: bool = False
    stop: tuple[str, ...] = ()

    def given(self) -> dict[str, float]:
        """What is not left open, by the names of `NEUTRAL`."""
        return {name: value for name in NEUTRAL if (value := getattr(self, name)) is not None}

    def chosen(self, own: Mapping[str, float]) -> dict[str, float]:
        """A value for each of `NEUTRAL`: the one given, else the model's own where that counts, else the neutral one.

        Args:
            own: The values of the model's `generation_config`.
        """
        return NEUTRAL | (own if self.own else {}) | self.given()


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
    """How probable a model finds each of several replies.

    Attributes:
        probabilities: By choice; they need not add up to one.
        prompt_tokens, completion_tokens: What asking cost; an engine counts the prompt once, and a token for each time
            that it told what follows.
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
        """Probability that the reply begins with each choice and does not go on towards a longer one; see
        `actors.models.choice_tree.ChoiceTree`.

        Raises:
            NoLogprobsError: The model does not tell probabilities, or not those that it takes.
        """


def plain(text: str) -> list[Message]:
    """A prompt that an engine continues as it is, without a chat template."""
    return [{"role": PLAIN, "content": text}]
