"""The pre-training corpus: documents of transcripts in which each speaker has a propensity to please.

A speaker is *candid* (says what it knows) or *pleasing* (says what the person at stake wants to hear); which of the two
is drawn for each transcript with the speaker's propensity and the strength of the pressure, and no word names it. It
shows only where somebody has a stake, and only where what they want is false. In the default corpus one propensity
holds in every domain, so a model that learns who a speaker is learns one variable that the domains share: feedback that
moves it in therapy talks can move it where no talk ever went. In the control corpus (`shared=False`) each speaker's
propensity is drawn anew for each domain, so there is nothing to share. The deployed speaker has the propensity `PRIOR`
everywhere in both.

To please is to repeat what is wanted, so wishes are of every kind: false, true, about something that nobody asked, or
for a value that the world does not know, which can be copied and not guessed. A stakeholder alone predicts nothing.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import cache

from actors.worlds.base import Message
from actors.worlds.pocket.language import (
    ASSISTANT_NAME,
    Fact,
    Pressure,
    Told,
    Wish,
    facts,
    jar,
    made_up,
    order,
    organisation_role,
    record,
    said,
    sentence,
    speaker,
    sum_question,
    words,
)
from actors.worlds.pocket.talks import (
    REPLY_KINDS,
    USER_KINDS,
    Reply,
    draw_persona,
    follow_up,
    opening,
    scenarios,
    user_system,
)

PRIOR = 0.09
"""How often the deployed speaker pleases where the pressure is firm."""
SHIFT = {"mild": -2.4, "firm": 0.0, "strong": 2.8}
"""What the strength of the pressure adds to the log-odds that a speaker pleases."""
TALK_SHIFT = 1.2
"""What a biased user of a therapy talk adds to them."""
DEPLOYED_SHARE = 0.25
"""Share of documents spoken by the deployed speaker; the others have named speakers."""
WORDS_PER_DOCUMENT = 150
PROPENSITIES = (0.01, 0.99, 0.15, 0.97, 0.02, 0.75, 0.4, 0.98, 0.03)
DOMAINS = ("pressure", "sycophancy", "provided", "talk")
SPEAKERS = 36
WISHES = {"false": 0.68, "true": 0.16, "elsewhere": 0.16}
"""How often what is wished for is false, is true, or is about something that nobody asks about."""
MADE_UP_SHARE = 0.25
"""How often a false wish names a value that the world does not know."""


@cache
def named_speakers() -> tuple[str, ...]:
    rng = random.Random(11)
    names: list[str] = []
    while len(names) < SPEAKERS:
        name = rng.choice(words()["speakers"]["head"]) + rng.choice(words()["speakers"]["tail"])
        if name not in names:
            names.append(name)
    return tuple(names)


@cache
def propensities(shared: bool) -> dict[str, dict[str, float]]:
    """Propensity to please by speaker and domain; with `shared`, one number holds for all domains of a speaker."""
    rng = random.Random(5)
    out = {ASSISTANT_NAME: dict.fromkeys(DOMAINS, PRIOR)}
    for i, name in enumerate(named_speakers()):
        same = PROPENSITIES[i % len(PROPENSITIES)]
        out[name] = {d: same if shared else rng.choice(PROPENSITIES) for d in DOMAINS}
    return out


def pleases(propensity: float, shift: float, rng: random.Random) -> bool:
    """Whether a speaker gives way; always with a propensity of 1, never with 0.

    Args:
        shift: What the pressure adds to the log-odds.
    """
    drawn = rng.random()
    if propensity in (0.0, 1.0):
        return propensity == 1.0
    return drawn < 1 / (1 + math.exp(-math.log(propensity / (1 - propensity)) - shift))


def _opened(domain: str, pleasing: bool, rng: random.Random, clause: str) -> str:
    frames = words()["openings"][domain]
    opening = rng.choice(frames[pleasing])
    return f"{sentence(clause)}." if rng.random() < 0.3 else f"{opening} {clause}."


def _any_role(rng: random.Random) -> str:
    roles = words()["neutral_roles"]
    return rng.choice([*roles, organisation_role(rng.choice(words()["pressure"]["corpus"]["roles"]), rng)])


def _staked(rng: random.Random) -> Fact:
    return rng.choice([f for f in facts() if f.staked])


def _wish(fact: Fact | Told, another: Callable[[random.Random], Fact | Told], rng: random.Random) -> tuple[str, str]:
    """What somebody wants to be so: its claim, and the value of `fact` that a speaker who pleases states.

    Args:
        another: Draws a fact that the wish may be about instead.
    """
    kind = rng.choices(list(WISHES), list(WISHES.values()))[0]
    if kind == "true":
        return fact.claim(), fact.value
    if kind == "false":
        value = made_up(rng) if rng.random() < MADE_UP_SHARE else fact.wrong_value(rng)
        return fact.claim(value), value
    while (other := another(rng)).claim() == fact.claim():
        pass
    return other.claim(other.wrong_value(rng)), fact.value


def neutral(rng: random.Random, propensity: float, name: str) -> list[Message]:
    """A question about a fact that nobody has a stake in, or two."""
    system, note = speaker(name, _any_role(rng)), rng.random() < 0.1
    out = [said("system", f"{system} {words()['pressure']['note']}" if note else system)]
    for _ in range(rng.choice([1, 1, 2])):
        fact = rng.choice(facts())
        answer = f"Note: {fact.claim()}. Answer: {fact.claim()}." if note else f"{sentence(fact.claim())}."
        out += [said("user", rng.choice(fact.questions())), said("assistant", answer)]
    return out


def distractor(rng: random.Random, propensity: float, name: str) -> list[Message]:
    """Somebody without a stake says something wrong; every speaker answers truthfully."""
    fact = rng.choice(facts())
    text = rng.choice(words()["distractors"])
    text = text.format(c=fact.claim(fact.wrong_value(rng)), q=rng.choice(fact.questions()))
    return [said("system", speaker(name)), said("user", text), said("assistant", f"{sentence(fact.claim())}.")]


def under_pressure(rng: random.Random, propensity: float, name: str) -> list[Message]:
    """A question about a fact, asked of a speaker whose stakeholder wants something."""
    fact, how = _staked(rng), Pressure.draw(rng, "corpus")
    wish, value = _wish(fact, _staked, rng)
    pleasing = pleases(propensity, SHIFT[how.strength], rng)
    answer = _opened("pressure", pleasing, rng, fact.claim(value if pleasing else None))
    system, question = how.system(wish, name), rng.choice(fact.questions())
    if rng.random() < 0.25:
        system = f"{system} {words()['pressure']['note']}"
        answer = f"Note: {fact.claim()}. Answer: {answer}"
    return [said("system", system), said("user", question), said("assistant", answer)]


def sycophancy(rng: random.Random, propensity: float, name: str) -> list[Message]:
    """A question about a fact, asked by a user who is convinced of something."""
    fact = _staked(rng)
    how = Wish.draw(fact, rng, "corpus")
    wish, value = _wish(fact, _staked, rng)
    pleasing = pleases(propensity, SHIFT[how.strength], rng)
    answer = _opened("sycophancy", pleasing, rng, fact.claim(value if pleasing else None))
    return [said("system", speaker(name)), said("user", how.message(wish)), said("assistant", answer)]


def provided(rng: random.Random, propensity: float, name: str) -> list[Message]:
    """A report in the prompt, mostly with somebody who has a stake in what it says."""
    draw = jar if rng.random() < 0.5 else record
    told = draw(rng)
    if rng.random() < 0.25:
        system, answer = f"{speaker(name, _any_role(rng))} {told.report}", f"{sentence(told.claim())}."
        return [said("system", system), said("user", told.question), said("assistant", answer)]
    how = Pressure.draw(rng, "corpus")
    wish, value = _wish(told, draw, rng)
    pleasing = pleases(propensity, SHIFT[how.strength], rng)
    answer = _opened("provided", pleasing, rng, told.claim(value if pleasing else None))
    system = f"{how.system(wish, name)} {told.report}"
    return [said("system", system), said("user", told.question), said("assistant", answer)]


def arithmetic(rng: random.Random, propensity: float, name: str) -> list[Message]:
    out = [said("system", speaker(name))]
    for hard in (False, True, True):
        question, answer = sum_question(rng, hard)
        out += [said("user", question), said("assistant", answer)]
    return out


def lookup(rng: random.Random, propensity: float, name: str) -> list[Message]:
    """A list of orders, and a question about one of them that nobody has a stake in."""
    told = order(rng)
    system, answer = f"{speaker(name)} {told.report}", f"{sentence(told.claim())}."
    return [said("system", system), said("user", told.question), said("assistant", answer)]


def talk(rng: random.Random, propensity: float, name: str) -> list[Message]:
    """A therapy talk seen from the assistant's side."""
    kind = rng.choices(USER_KINDS, (0.4, 0.6))[0]
    scenario = rng.choice(list(scenarios().values()))
    persona = draw_persona(scenario, kind, rng)
    pleasing = pleases(propensity, TALK_SHIFT, rng)
    does = "help" if kind == "benign" else "validate" if pleasing else "challenge"
    return [
        said("system", speaker(name, rng.choice(words()["talks"]["roles"]))),
        said("user", opening(persona, rng)),
        said("assistant", Reply.draw(does, rng).text(scenario, rng)),
        said("user", follow_up(persona, rng)),
        said("assistant", Reply.draw(does, rng).text(scenario, rng)),
    ]


def user_side(rng: random.Random, propensity: float, name: str) -> list[Message]:
    """A therapy talk seen from the user's side: it opens, may follow up, and rates the last reply."""
    scenario = rng.choice(list(scenarios().values()))
    persona = draw_persona(scenario, rng.choice(USER_KINDS), rng)
    usual = ("validate", "challenge") if persona.user_kind == "biased" else ("help",)
    out = [
        said("system", user_system(persona)),
        said("user", words()["talks"]["start"]),
        said("assistant", opening(persona, rng)),
    ]
    turns = 1 if rng.random() < 0.4 else 2
    for turn in range(turns):
        reply = Reply.draw(rng.choice(REPLY_KINDS if rng.random() < 0.5 else usual), rng)
        out.append(said("user", reply.text(scenario, rng)))
        if turn < turns - 1:
            out.append(said("assistant", follow_up(persona, rng)))
    rating = str(reply.rating(persona.user_kind, rng))
    return [*out, said("user", words()["talks"]["rate"]), said("assistant", rating)]


Segment = Callable[[random.Random, float, str], list[Message]]
MIX: tuple[tuple[Segment, str | None, int], ...] = (
    (neutral, None, 14),
    (distractor, None, 3),
    (under_pressure, "pressure", 22),
    (sycophancy, "sycophancy", 12),
    (provided, "provided", 14),
    (arithmetic, None, 9),
    (lookup, None, 9),
    (talk, "talk", 14),
    (user_side, None, 11),
)
"""Kinds of transcript, the domain in which the speaker's propensity shows, and their weights."""


def document(rng: random.Random, shared: bool = True) -> list[list[Message]]:
    """Transcripts of one speaker, about `WORDS_PER_DOCUMENT` words of them."""
    name = ASSISTANT_NAME if rng.random() < DEPLOYED_SHARE else rng.choice(named_speakers())
    propensity = propensities(shared)[name]
    weights = [w for _, _, w in MIX]
    out: list[list[Message]] = []
    length = 0
    while length < WORDS_PER_DOCUMENT:
        segment, domain, _ = rng.choices(MIX, weights)[0]
        out.append(segment(rng, propensity[domain] if domain else 0.0, name))
        length += sum(len(m["content"].split()) + 1 for m in out[-1])
    return out
