"""What every world provides: scenarios, personas and the prompts of a conversation.

A world is pure text: it knows no model, no Ray and no file of a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

Message = dict[str, str]
"""One chat message: `{"role": "system" | "user" | "assistant", "content": text}`."""


BLANK = "___"
"""Stands in a proposition where what may be stated goes."""
PRESSURE, TRUTH_WANTED, NO_STAKE = CONDITIONS = ("pressure", "truth_wanted", "no_stake")
"""What an honesty item is asked under: somebody wants something false said, somebody wants the truth said, or nobody
has a stake. The last two are matched controls: a drop in honesty that shows there too is not about pleasing."""


class WorldError(ValueError):
    """A world, or a part of one, that does not exist or is not well formed."""


class TooFewItemsError(WorldError):
    """A world has fewer different items than it is asked for.

    Attributes:
        have: How many it has.
    """

    def __init__(self, message: str, have: int) -> None:
        super().__init__(message)
        self.have = have


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
        wanted: The option that somebody with a stake wants to hear; empty where nobody has one.
        condition: One of `CONDITIONS`.
        proposition: The sentence that the options complete in the place of `BLANK`, so that an answer about something
            else states nothing.
    """

    item_id: str
    cluster: str
    statement: tuple[Message, ...]
    beliefs: tuple[tuple[Message, ...], ...]
    options: tuple[str, ...]
    truth: str
    wanted: str = ""
    condition: str = PRESSURE
    proposition: str = ""


@dataclass(frozen=True)
class QuestionItem:
    """One capability item: a prompt, the right answer, and the options that a reply may state; `proposition` as in
    `HonestyItem`."""

    item_id: str
    task: str
    prompt: tuple[Message, ...]
    options: tuple[str, ...]
    answer: str
    proposition: str = ""


class World(Protocol):
    """What the driver, the users and the judge need to know of a world.

    What a class says of all its worlds, before any is read (`actors.worlds.world_kind`): `suites`, `models`,
    `rates_after_reply`, `model_folder` and `exact_judge`.

    Attributes:
        suites: Names of the suites that it has items of its own for, `evals.suites.catalogue.SUITES`.
        models: Names of the models that come with it and speak of nothing else.
        rates_after_reply: Whether its users can rate a reply only right after it.
        reply_tokens: The longest reply in a conversation, in tokens, where the config does not say.
        answer_tokens: The longest answer to an item of a suite, likewise.
        reactions: How a user may begin to answer a reply, from the most disappointed to the most pleased one; empty
            where replies can only be rated by numbers.
        end_marker: What a user writes who has nothing more to say; None where users cannot end a conversation.
    """

    suites: ClassVar[tuple[str, ...]]
    models: ClassVar[tuple[str, ...]]
    rates_after_reply: ClassVar[bool]
    reply_tokens: ClassVar[int]
    answer_tokens: ClassVar[int]
    name: str
    scenarios: Sequence[str]
    user_kinds: Sequence[str]
    end_marker: str | None
    reactions: Sequence[str]

    @classmethod
    def read(cls, folder: Path) -> World:
        """The world in a folder; `WorldError` where it is not sound."""

    @staticmethod
    def model_folder(name: str) -> Path:
        """Where one of its models is; `WorldError` where it cannot be used."""

    @staticmethod
    def exact_judge() -> type | None:
        """The class of an actor that gives exact verdicts on what is said in the world (`actors.judge.Judge`); None
        where only models can judge."""

    def persona(self, scenario: str, user_kind: str, seed: int) -> Persona:
        """Draw the persona of one conversation; a pure function of its arguments."""

    def assistant_prompt(self, persona: Persona, seed: int, show: str = "off") -> list[Message]:
        """Messages that precede the user's first words on the assistant's side.

        Args:
            show: What they say of the user, as `ConversationSettings.show_user_kind`.
        """

    def user_prompt(self, persona: Persona) -> list[Message]:
        """Messages that make a language model speak as this user; its reply is the user's next message."""

    def user_transcript(self, persona: Persona, messages: Sequence[Message]) -> str:
        """A conversation as plain text that a model continues with the user's next words. Its last line is `Person: `
        and the first of them; `WorldError` where the world has no such form.

        Args:
            messages: The assistant's side of it.
        """

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
        """So many items of an honesty suite (`mask`, `sycophancy`, `provided`, `deceptionbench`), and their matched
        controls.

        Raises:
            WorldError: It has none.
        """

    def question_items(self, task: str, count: int, seed: int) -> list[QuestionItem]:
        """So many different items of a capability task (`arithmetic`, `lookup`, and an `_easy` tier of each);
        `WorldError` if it has none, or not so many."""

    def lessons(self, part: str, count: int, seed: int) -> list[list[Message]]:
        """So many different conversations to fine-tune a policy on directly; `WorldError` if it has none of that part.

        Args:
            part: Which, for example `talk/severe`.
        """

    def probe_chats(self) -> list[list[Message]]:
        """A few fixed chats, replies included; their log-probabilities prove that an engine serves a policy."""
