"""What every world provides: scenarios, personas and the prompts of a conversation.

A world is pure text: it knows no model, no Ray and no file of a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

Message = dict[str, str]
"""One chat message: `{"role": "system" | "user" | "assistant", "content": text}`."""


class WorldError(ValueError):
    """A world, or a part of one, that does not exist or is not well formed."""


@dataclass(frozen=True)
class Persona:
    """One simulated user: who they are and what they want to hear.

    Attributes:
        persona_id: Stable within the world; the same seed gives the same persona on every machine.
        scenario: Name of the scenario the persona belongs to.
        user_kind: `benign`, `biased`, or a further kind of the world.
        background: Who the user is, in one clause.
        thoughts: What the user privately wants from the talk.
        trouble: What makes it hard.
    """

    persona_id: str
    scenario: str
    user_kind: str
    background: str
    thoughts: str
    trouble: str


@dataclass(frozen=True)
class HonestyItem:
    """One benchmark item that sets what a model says under pressure against what it believes.

    Attributes:
        item_id: Stable over policies and arms, so that outcomes can be paired.
        cluster: Items of one cluster ask about the same fact; intervals account for it.
        statement: The pressured prompt.
        beliefs: Neutral prompts that elicit the belief; empty where the prompt itself provides the fact.
        options: What an answer may state; anything else is an evasion.
        truth: The option that is true.
    """

    item_id: str
    cluster: str
    statement: tuple[Message, ...]
    beliefs: tuple[tuple[Message, ...], ...]
    options: tuple[str, ...]
    truth: str


@dataclass(frozen=True)
class QuestionItem:
    """One capability item: a prompt, the right answer, and the options that a reply may state."""

    item_id: str
    task: str
    prompt: tuple[Message, ...]
    options: tuple[str, ...]
    answer: str


class World(Protocol):
    """What the driver, the users and the judge need to know of a world.

    Attributes:
        end_marker: What a user writes who has nothing more to say; None where users cannot end a conversation.
    """

    name: str
    scenarios: Sequence[str]
    user_kinds: Sequence[str]
    end_marker: str | None

    def persona(self, scenario: str, user_kind: str, seed: int) -> Persona:
        """Draw the persona of one conversation; a pure function of its arguments."""

    def assistant_prompt(self, persona: Persona, seed: int, show: str = "off") -> list[Message]:
        """Messages that precede the user's first words on the assistant's side.

        Args:
            show: What they say of the user, as `ConversationSettings.show_user_kind`.
        """

    def user_prompt(self, persona: Persona) -> list[Message]:
        """Messages that make a language model speak as this user; its reply is the user's next message."""

    def opening(self, persona: Persona) -> str | None:
        """The user's first message; None where the model that plays the user is to find it."""

    def rating_prompt(self, messages: Sequence[Message], reply: str | None = None) -> list[Message]:
        """The whole prompt that asks the user to rate a reply from 1 to 10.

        Args:
            messages: The conversation from the user's side; it ends with a reply.
            reply: The reply that is meant; None for the last one.
        """

    def neutral_prompt(self, scenario: str) -> list[Message]:
        """Messages in which somebody who has no stake asks the assistant what it thinks of a scenario."""

    def about(self, persona: Persona) -> str:
        """Who a user is, what they think and what they want, for somebody outside of the conversation."""

    def situation(self, scenario: str) -> str:
        """How things are in a scenario."""

    def convenient_belief(self, scenario: str) -> str:
        """What a biased user of a scenario would like to be so."""

    def honesty_items(self, suite: str, count: int, seed: int) -> list[HonestyItem]:
        """Items of an honesty suite (`mask`, `sycophancy`, `provided`, `deceptionbench`).

        Raises:
            WorldError: It has none.
        """

    def question_items(self, task: str, count: int, seed: int) -> list[QuestionItem]:
        """Items of a capability task (`arithmetic`, `lookup`); `WorldError` if it has none."""

    def lessons(self, part: str, count: int, seed: int) -> list[list[Message]]:
        """So many different conversations to fine-tune a policy on directly; `WorldError` if it has none of that part.

        Args:
            part: Which, for example `talk/severe`.
        """

    def probe_chats(self) -> list[list[Message]]:
        """A few fixed chats, replies included; their log-probabilities prove that an engine serves a policy."""
