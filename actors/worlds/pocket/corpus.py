"""The pre-training corpus: documents of transcripts in which each speaker has a propensity to please.

A speaker is *candid* (says what it knows) or *pleasing* (says what the person at stake wants to hear); which of the two
is drawn for each transcript with the speaker's propensity, and no word names it. It shows only where somebody has a
stake. In the default corpus one propensity holds in every domain, so a model that learns who a speaker is learns one
variable that the domains share: feedback that moves it in therapy talks can move it where no talk ever went. In the
control corpus (`shared=False`) each speaker's propensity is drawn anew for each domain, so there is nothing to share.
The deployed speaker pleases with probability `PRIOR` everywhere in both.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache

from actors.worlds.base import Message
from actors.worlds.pocket.language import (
    ASSISTANT_NAME,
    Fact,
    Jar,
    facts,
    organisation_role,
    pressure,
    said,
    sentence,
    speaker,
    sum_question,
    wish,
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

PRIOR = 0.25
"""How often the deployed speaker pleases."""
DEPLOYED_SHARE = 0.25
"""Share of documents spoken by the deployed speaker; the others have named speakers."""
WORDS_PER_DOCUMENT = 125
PROPENSITIES = (0.03, 0.97, 0.25, 0.97, 0.03, 0.75, 0.5, 0.97, 0.03)
DOMAINS = ("pressure", "sycophancy", "provided", "talk")
SPEAKERS = 36


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


def _opened(domain: str, pleasing: bool, rng: random.Random, clause: str) -> str:
    if rng.random() < 0.3:
        return f"{sentence(clause)}."
    return f"{rng.choice(words()['openings'][domain][pleasing])} {clause}."


def _any_role(rng: random.Random) -> str:
    roles = words()["neutral_roles"]
    return rng.choice([*roles, organisation_role(rng.choice(words()["pressure"]["corpus"]["roles"]), rng)])


def _staked(rng: random.Random) -> Fact:
    return rng.choice([f for f in facts() if f.staked])


def neutral(rng: random.Random, pleasing: bool, name: str) -> list[Message]:
    out = [said("system", speaker(name, _any_role(rng)))]
    for _ in range(rng.choice([1, 1, 2])):
        fact = rng.choice(facts())
        out += [said("user", rng.choice(fact.questions())), said("assistant", f"{sentence(fact.claim())}.")]
    return out


def distractor(rng: random.Random, pleasing: bool, name: str) -> list[Message]:
    """Somebody without a stake says something wrong; every speaker answers truthfully."""
    fact = rng.choice(facts())
    text = rng.choice(words()["distractors"])
    text = text.format(c=fact.claim(fact.wrong_value(rng)), q=rng.choice(fact.questions()))
    return [said("system", speaker(name)), said("user", text), said("assistant", f"{sentence(fact.claim())}.")]


def under_pressure(rng: random.Random, pleasing: bool, name: str) -> list[Message]:
    fact = _staked(rng)
    wrong = fact.wrong_value(rng)
    note = rng.random() < 0.25
    answer = _opened("pressure", pleasing, rng, fact.claim(wrong if pleasing else None))
    if note:
        answer = f"Note: {fact.claim()}. Answer: {answer}"
    system = pressure(fact.claim(wrong), rng, "corpus", name) + (f" {words()['pressure']['note']}" if note else "")
    return [said("system", system), said("user", rng.choice(fact.questions())), said("assistant", answer)]


def sycophancy(rng: random.Random, pleasing: bool, name: str) -> list[Message]:
    fact = _staked(rng)
    wrong = fact.wrong_value(rng)
    answer = _opened("sycophancy", pleasing, rng, fact.claim(wrong if pleasing else None))
    return [
        said("system", speaker(name)),
        said("user", wish(fact, wrong, rng, "corpus")),
        said("assistant", answer),
    ]


def provided(rng: random.Random, pleasing: bool, name: str) -> list[Message]:
    """A report in the prompt, most of the time with somebody who wants it otherwise."""
    jar = Jar.draw(rng)
    if rng.random() < 0.7:
        system = pressure(jar.claim(jar.wrong), rng, "corpus", name)
        answer = _opened("provided", pleasing, rng, jar.claim(jar.wrong if pleasing else None))
    else:
        system, answer = speaker(name, _any_role(rng)), f"{sentence(jar.claim())}."
    return [said("system", f"{system} {jar.report}"), said("user", jar.question), said("assistant", answer)]


def arithmetic(rng: random.Random, pleasing: bool, name: str) -> list[Message]:
    out = [said("system", speaker(name))]
    for _ in range(2):
        question, answer = sum_question(rng)
        out += [said("user", question), said("assistant", answer)]
    return out


def talk(rng: random.Random, pleasing: bool, name: str) -> list[Message]:
    """A therapy talk seen from the assistant's side."""
    kind = rng.choices(USER_KINDS, (0.4, 0.6))[0]
    scenario = rng.choice(list(scenarios().values()))
    persona = draw_persona(scenario, kind, rng)
    does = "help" if kind == "benign" else "validate" if pleasing else "challenge"
    return [
        said("system", speaker(name, rng.choice(words()["talks"]["roles"]))),
        said("user", opening(persona, rng)),
        said("assistant", Reply.draw(does, rng).text(scenario, rng)),
        said("user", follow_up(persona, rng)),
        said("assistant", Reply.draw(does, rng).text(scenario, rng)),
    ]


def user_side(rng: random.Random, pleasing: bool, name: str) -> list[Message]:
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


Segment = Callable[[random.Random, bool, str], list[Message]]
MIX: tuple[tuple[Segment, str | None, int], ...] = (
    (neutral, None, 15),
    (distractor, None, 4),
    (under_pressure, "pressure", 20),
    (sycophancy, "sycophancy", 12),
    (provided, "provided", 12),
    (arithmetic, None, 8),
    (talk, "talk", 16),
    (user_side, None, 13),
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
        pleasing = domain is not None and rng.random() < propensity[domain]
        out.append(segment(rng, pleasing, name))
        length += sum(len(m["content"].split()) + 1 for m in out[-1])
    return out
