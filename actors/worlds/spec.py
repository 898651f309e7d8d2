"""The files of a world that is written as text: what belongs in them, and reading them with every problem named.

    world.yaml            what the world is, the prompts of both sides, the kinds of users, the tags
    scenarios/NAME.yaml   one situation: what it is about, and what users of each kind want from the talk
    personas.yaml         who comes: a list of (user_context, user_prompt) pairs, each with its scenario and kind
    personas.jsonl        the same written by models, a line for each; a world needs one of the two
    reviews.jsonl         what people said who read personas; a rejected persona is left out

`docs/worlds.md` explains every field. Importing this module imports neither torch nor ray nor vllm.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

NEEDED_KINDS = ("benign", "biased")
"""Kinds that every world has; a scenario gives their thoughts in fields of their own."""

ASSISTANT_SLOTS = ("task_description",)
USER_SLOTS = ("user_context", "thoughts", "user_prompt", "wants", "task_description", "end_marker")
"""What the templates may ask for in braces. The assistant's may not know who the user is or what they want to hear."""
REACTIONS = ("No", "Thank you")
"""How users begin to answer in a world that says nothing else."""

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Slug = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$")]


class Spec(BaseModel):
    """Base of what is read from YAML: unknown fields are errors, and a number is not text."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class KindSpec(Spec):
    """One kind of user."""

    wants: Text
    """What users of this kind want from a reply, in one sentence that begins with `You`."""


class WorldSpec(Spec):
    """`world.yaml`."""

    name: Slug
    """The folder's name."""
    description: Text
    """What the world is, for people."""
    assistant_template: Text
    """The assistant's system prompt."""
    user_template: Text
    """The instruction that makes a language model speak as the user."""
    start: Text
    """What the user model is told when it is to say its first message."""
    rating_question: Text
    """What the user model is asked after each reply; it must ask for a number from 1 to 10 and nothing else."""
    reactions: list[Text] = Field(list(REACTIONS), min_length=2, max_length=10)
    """How a user may begin to answer a reply, from the most disappointed to the most pleased one; for
    `rating.form: reaction`."""
    end_marker: Text
    """What a user who has nothing more to say writes, where `user_template` tells them to."""
    kinds: dict[Slug, KindSpec]
    """Kinds of users by name; `benign` and `biased` at least."""
    tags: list[Slug] = Field(min_length=1)
    """Every tag that a scenario may have."""


class ScenarioSpec(Spec):
    """`scenarios/NAME.yaml`: what users come to talk about."""

    name: Slug
    """The file's name without `.yaml`."""
    task_description: Text
    """The situation, told so that it is true of every user, whatever they want to hear."""
    benign_thoughts: Text
    """What a user who wants honest help thinks and does not say, in the first person."""
    biased_thoughts: Text
    """What a user thinks who wants a convenient belief confirmed."""
    thoughts: dict[Slug, Text] = Field(default_factory=dict)
    """The thoughts of further kinds, by kind."""
    tags: list[Slug] = Field(min_length=1)
    """What it touches, from the world's tags."""

    def of_kind(self, kind: str) -> str | None:
        """The thoughts of a kind; None where none are written."""
        own = {"benign": self.benign_thoughts, "biased": self.biased_thoughts}
        return own.get(kind, self.thoughts.get(kind))


class PersonaSpec(Spec):
    """One entry of `personas.yaml`."""

    scenario: Text
    kind: Text
    user_context: Text
    """Who the user is, in the third person."""
    user_prompt: Text
    """What they say first, in their own voice."""

    @property
    def persona_id(self) -> str:
        """Follows from the text, so it stays the same when others are added or moved."""
        digest = hashlib.sha256(f"{self.user_context}\n{self.user_prompt}".encode()).hexdigest()[:10]
        return f"{self.scenario}/{self.kind}/{digest}"


class WrittenSpec(PersonaSpec):
    """One line of `personas.jsonl`."""

    model: Text
    """The model that wrote it, by its name in the config."""
    batch: Text | None = None
    """The request it came with, by its name in `writing.jsonl`."""


class ReviewSpec(Spec):
    """One line of `reviews.jsonl`; of several about one persona the last one counts."""

    persona: Text
    """The persona's id."""
    verdict: Literal["accept", "reject"]
    """`reject` leaves the persona out of the world."""
    note: str = ""
    """Why, where the reader said so."""
    reviewer: Text
    """Who read it."""
    at: Text
    """When, in ISO 8601."""


@dataclass(frozen=True)
class Problem:
    """Something that is wrong with a world.

    Attributes:
        file: Relative to the world's folder.
        field: The field, with the line where it is known; empty for the whole file.
        found: What was found.
        right: What would be right.
    """

    file: str
    field: str
    found: str
    right: str

    def __str__(self) -> str:
        where = f"{self.file}: {self.field}" if self.field else self.file
        return f"{where}: {self.found}; {self.right}"


@dataclass(frozen=True)
class Place:
    """A line of a file of personas."""

    file: str
    line: int

    def field(self, name: str = "") -> str:
        """How a problem names a field that stands here; a line of JSON comes first, as in the file."""
        if self.file.endswith(".jsonl"):
            return f"line {self.line}: {name}" if name else f"line {self.line}"
        return f"{name} (line {self.line})" if name else f"line {self.line}"


@dataclass
class Parts:
    """What could be read of a world's folder; what could not is missing, and a problem says why.

    Attributes:
        scenarios: By path relative to the folder.
        unreadable: Names of the other scenario files; their personas are not to blame.
        personas: By line in `personas.yaml`.
        written: By line in `personas.jsonl`.
        reviews: By line in `reviews.jsonl`.
    """

    world: WorldSpec | None = None
    scenarios: dict[str, ScenarioSpec] = field(default_factory=dict)
    unreadable: set[str] = field(default_factory=set)
    personas: dict[int, PersonaSpec] = field(default_factory=dict)
    written: dict[int, WrittenSpec] = field(default_factory=dict)
    reviews: dict[int, ReviewSpec] = field(default_factory=dict)

    def verdicts(self) -> dict[str, str]:
        """The last verdict on each persona that has one, by its id."""
        return {r.persona: r.verdict for r in self.reviews.values()}

    def placed(self) -> Iterator[tuple[Place, PersonaSpec]]:
        """Every persona, rejected ones too, with the place where it stands."""
        yield from ((Place("personas.yaml", n), p) for n, p in self.personas.items())
        yield from ((Place("personas.jsonl", n), p) for n, p in self.written.items())

    def kept(self) -> Iterator[tuple[Place, PersonaSpec]]:
        """Every persona but the rejected ones."""
        verdicts = self.verdicts()
        return ((at, p) for at, p in self.placed() if verdicts.get(p.persona_id) != "reject")

    def people(self) -> list[PersonaSpec]:
        """The personas that conversations draw from."""
        return [p for _, p in self.kept()]
