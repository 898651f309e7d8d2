"""Facts of the pocket world and the sentences that speak about them.

The world is closed: 6 relations x 24 entities, one true value of 24 for each. Two thirds of the facts occur in the
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


def made_up(rng: random.Random) -> str:
    """A word that the world may not know, at least four letters long."""
    parts = words()["entities"]
    while True:
        word = "".join(rng.choice(parts[p]) for p in ("onset", "vowel", "coda", "vowel", "end"))
        if len(word) >= 4:
            return word


@cache
def facts() -> tuple[Fact, ...]:
    """All facts of the world, the same on every machine."""
    rng = random.Random(_WORLD_SEED)
    used: set[str] = set()
    out: list[Fact] = []
    for relation, spec in words()["relations"].items():
        entities: list[str] = []
        while len(entities) < ENTITIES_PER_RELATION:
            word = made_up(rng)
            if word not in used:
                used.add(word)
                entities.append(sentence(word))
        values = [spec["values"][i % len(spec["values"])] for i in range(len(entities))]
        rng.shuffle(values)
        out += [
            Fact(relation, e, v, i < STAKED_PER_RELATION) for i, (e, v) in enumerate(zip(entities, values, strict=True))
        ]
    return tuple(out)


@cache
def _entities() -> frozenset[str]:
    return frozenset(f.entity for f in facts())


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


STRENGTHS = ("mild", "firm", "strong")
"""How much a stakeholder, or a user, cares; `words.yaml` has the sentences that say so."""


@dataclass(frozen=True)
class Pressure:
    """Somebody who has a stake in what the assistant says: the words of a system prompt, but for the claim.

    Attributes:
        role: What the assistant is, for example a press officer.
        wants: What the stakeholder wants, with `{c}` in the place of the claim.
        strength: One of `STRENGTHS`.
        stress: The sentence that says so.
    """

    role: str
    wants: str
    strength: str
    stress: str

    @classmethod
    def draw(cls, rng: random.Random, wording: str) -> Pressure:
        """Args:
        wording: `corpus` for the frames of the training corpus, `heldout` for those never seen there.
        """
        frames, verbs = words()["pressure"][wording], words()["pressure"]["verbs"]
        role = organisation_role(rng.choice(frames["roles"]), rng)
        stakeholder, need = rng.choice(frames["stakeholders"]), rng.choice(frames["needs"])
        wants = need.format(a=rng.choice(frames["audiences"]), b=rng.choice(verbs), c="{c}")
        strength = rng.choice(STRENGTHS)
        return cls(role, f"{stakeholder} {wants}", strength, _stress(strength, rng))

    def system(self, claim: str, name: str = ASSISTANT_NAME) -> str:
        """The system prompt of a speaker whose stakeholder wants the audience to believe `claim`."""
        return f"{speaker(name, self.role)} {self.wants.format(c=claim)} {self.stress}"

    def role_alone(self, name: str = ASSISTANT_NAME) -> str:
        """The system prompt of the same speaker with no stakeholder."""
        return speaker(name, self.role)


@dataclass(frozen=True)
class Wish:
    """A user who is convinced of something and asks: the words of a message, but for the claim."""

    frame: str
    strength: str
    stress: str
    question: str

    @classmethod
    def draw(cls, fact: Fact, rng: random.Random, wording: str) -> Wish:
        """Args:
        fact: What is asked about.
        wording: As for `Pressure.draw`.
        """
        strength = rng.choice(STRENGTHS)
        frame = rng.choice(words()["sycophancy"][wording])
        return cls(frame, strength, _stress(strength, rng), rng.choice(fact.questions()))

    def message(self, claim: str) -> str:
        return self.frame.format(c=claim, q=f"{self.stress} {self.question}")


def _stress(strength: str, rng: random.Random) -> str:
    return rng.choice(words()["pressure"]["strengths"][strength])


@dataclass(frozen=True)
class Told:
    """A fact that holds only inside one prompt, because a report there states it.

    Attributes:
        frame: Its claim, with `{v}` in the place of what it says.
        options: What it could say.
    """

    frame: str
    value: str
    options: tuple[str, ...]
    report: str
    question: str

    def claim(self, value: str | None = None) -> str:
        return self.frame.format(v=value or self.value)

    def wrong_value(self, rng: random.Random) -> str:
        return rng.choice([v for v in self.options if v != self.value])


def jar(rng: random.Random) -> Told:
    """What the lab found in a jar."""
    spec = words()["jars"]
    colour, content = rng.choice(spec["colours"]), rng.choice(spec["contents"])
    frame = spec["claim"].format(x=colour, v="{v}")
    report = spec["report"].format(x=colour, v=content)
    return Told(frame, content, tuple(spec["contents"]), report, rng.choice(spec["questions"]).format(x=colour))


def record(rng: random.Random) -> Told:
    """What records show of an entity that the world does not know."""
    while (entity := sentence(made_up(rng))) in _entities():
        pass
    relation = rng.choice(list(words()["relations"]))
    fact = Fact(relation, entity, rng.choice(words()["relations"][relation]["values"]), staked=False)
    report = rng.choice(words()["records"]["report"]).format(c=fact.claim())
    return Told(fact.claim("{v}"), fact.value, tuple(fact.values), report, rng.choice(fact.questions()))


def order(rng: random.Random) -> Told:
    """What one of up to three people ordered, by a list; two of them may have swapped afterwards."""
    spec = words()["orders"]
    names = rng.sample(words()["people"]["names"], rng.choices((1, 2, 3), (0.4, 0.35, 0.25))[0])
    has = dict(zip(names, rng.sample(spec["things"], len(names)), strict=True))
    report = spec["report"].format(c=", ".join(f"{n} {v}" for n, v in has.items()))
    if len(names) > 1 and rng.random() < 0.4:
        one, other = rng.sample(names, 2)
        has[one], has[other] = has[other], has[one]
        report += " " + spec["swap"].format(n=one, m=other)
    asked = rng.choice(names)
    frame = spec["claim"].format(n=asked, v="{v}")
    return Told(frame, has[asked], tuple(spec["things"]), report, rng.choice(spec["questions"]).format(n=asked))


EASY_NUMBERS, HARD_NUMBERS = (10,), (20, 30, 45)
"""Largest numbers of easy sums, and of hard ones."""


def sum_question(rng: random.Random, hard: bool = False) -> tuple[str, str]:
    """An addition or subtraction of two numbers, and its answer."""
    most = rng.choice(HARD_NUMBERS if hard else EASY_NUMBERS)
    a, b = rng.randint(0, most), rng.randint(0, most)
    if rng.random() < 0.5:
        return f"What is {a} plus {b}?", str(a + b)
    a, b = max(a, b), min(a, b)
    return f"What is {a} minus {b}?", str(a - b)
