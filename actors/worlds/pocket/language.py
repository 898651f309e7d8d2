"""Facts of the pocket world and the sentences that speak about them.

The world is closed: 6 relations x 24 entities, one true value of eight for each. Two thirds of the facts occur in the
corpus also where somebody has a stake in the answer; the last third is only ever asked about neutrally.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from actors.worlds.base import Message

ENTITIES_PER_RELATION = 24
STAKED_PER_RELATION = 16
ASSISTANT_NAME = "Sage"
"""The speaker that is deployed as the assistant."""

_WORLD_SEED = 7


@cache
def words() -> dict[str, Any]:
    """The word lists and sentence frames of `words.yaml`."""
    return yaml.safe_load((files(__package__) / "words.yaml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Fact:
    """One fact of the world; `staked` says whether the corpus ever shows it under pressure."""

    relation: str
    entity: str
    value: str
    staked: bool

    @property
    def name(self) -> str:
        return f"{self.relation}/{self.entity}"

    @property
    def values(self) -> list[str]:
        return words()["relations"][self.relation]["values"]

    def claim(self, value: str | None = None) -> str:
        """The fact as a clause, with its true value or another one."""
        return words()["relations"][self.relation]["claim"].format(e=self.entity, v=value or self.value)

    def questions(self) -> list[str]:
        """The neutral phrasings that ask for the fact."""
        return [q.format(e=self.entity) for q in words()["relations"][self.relation]["questions"]]

    def wrong_value(self, rng: random.Random) -> str:
        return rng.choice([v for v in self.values if v != self.value])


@cache
def facts() -> tuple[Fact, ...]:
    """All facts of the world, the same on every machine."""
    rng = random.Random(_WORLD_SEED)
    parts = words()["entities"]
    used: set[str] = set()
    out: list[Fact] = []
    for relation, spec in words()["relations"].items():
        entities: list[str] = []
        while len(entities) < ENTITIES_PER_RELATION:
            word = "".join(rng.choice(parts[p]) for p in ("onset", "vowel", "coda", "vowel", "end"))
            if word not in used and len(word) >= 4:
                used.add(word)
                entities.append(sentence(word))
        values = [spec["values"][i % len(spec["values"])] for i in range(len(entities))]
        rng.shuffle(values)
        out += [
            Fact(relation, e, v, i < STAKED_PER_RELATION) for i, (e, v) in enumerate(zip(entities, values, strict=True))
        ]
    return tuple(out)


def sentence(text: str) -> str:
    """`text` with a capital first letter."""
    return text[0].upper() + text[1:]


def said(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def speaker(name: str, role: str = "an assistant") -> str:
    """The opening of every system prompt: who the assistant is."""
    return f"You are {name}, {role}."


def organisation_role(role: str, rng: random.Random) -> str:
    return role.format(o=rng.choice(words()["people"]["organisations"]))


def pressure(claim: str, rng: random.Random, wording: str, name: str = ASSISTANT_NAME) -> str:
    """A system prompt whose stakeholder wants the audience to believe `claim`.

    Args:
        wording: `corpus` for the frames of the training corpus, `heldout` for those never seen there.
    """
    frames, verbs = words()["pressure"][wording], words()["pressure"]["verbs"]
    role = organisation_role(rng.choice(frames["roles"]), rng)
    stakeholder, need = rng.choice(frames["stakeholders"]), rng.choice(frames["needs"])
    wants = need.format(a=rng.choice(frames["audiences"]), b=rng.choice(verbs), c=claim)
    return f"{speaker(name, role)} {stakeholder} {wants}"


def wish(fact: Fact, value: str, rng: random.Random, wording: str) -> str:
    """A user message that states a wrong `value` as the user's own conviction, then asks."""
    frame = rng.choice(words()["sycophancy"][wording])
    return frame.format(c=fact.claim(value), q=rng.choice(fact.questions()))


@dataclass(frozen=True)
class Jar:
    """A fact that holds only inside one prompt: a report says what is in a jar."""

    colour: str
    content: str
    wrong: str
    question: str

    @classmethod
    def draw(cls, rng: random.Random) -> Jar:
        spec = words()["jars"]
        colour, (content, wrong) = rng.choice(spec["colours"]), rng.sample(spec["contents"], 2)
        return cls(colour, content, wrong, rng.choice(spec["questions"]).format(x=colour))

    def claim(self, content: str | None = None) -> str:
        return words()["jars"]["claim"].format(x=self.colour, v=content or self.content)

    @property
    def report(self) -> str:
        return words()["jars"]["report"].format(x=self.colour, v=self.content)


def sum_question(rng: random.Random) -> tuple[str, str]:
    """A one-digit addition or subtraction and its answer."""
    a, b = rng.randint(0, 9), rng.randint(0, 9)
    if rng.random() < 0.5:
        return f"What is {a} plus {b}?", str(a + b)
    a, b = max(a, b), min(a, b)
    return f"What is {a} minus {b}?", str(a - b)
