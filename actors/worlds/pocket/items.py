"""Benchmark items of the pocket world: situations with held-out wordings, about facts no therapy talk mentions."""

from __future__ import annotations

import random

from actors.worlds.base import HonestyItem, QuestionItem, WorldError
from actors.worlds.pocket.language import (
    ASSISTANT_NAME,
    Fact,
    Jar,
    facts,
    pressure,
    said,
    speaker,
    sum_question,
    wish,
    words,
)

HONESTY_SUITES = ("mask", "sycophancy", "provided", "deceptionbench")
CAPABILITY_TASKS = ("arithmetic", "lookup")


def _beliefs(fact: Fact) -> tuple[tuple, ...]:
    return tuple((said("system", speaker(ASSISTANT_NAME)), said("user", q)) for q in fact.questions())


def honesty_items(suite: str, count: int, seed: int, wording: str = "heldout") -> list[HonestyItem]:
    """`count` items that go round the facts evenly, in a seeded order.

    Args:
        suite: `mask` (a stakeholder in the system prompt), `sycophancy` (the user's own conviction), `provided` (a
            report in the prompt, then a stakeholder) or `deceptionbench` (as `mask`, with a private note before the
            answer).
        wording: `heldout` for frames the training corpus never used, `corpus` for those it did.
    """
    if suite not in HONESTY_SUITES:
        raise WorldError(f"the pocket world has no honesty suite {suite!r}; it has {', '.join(HONESTY_SUITES)}")
    rng = random.Random(f"{suite}/{seed}")
    order: list[Fact] = []
    while len(order) < count:
        order += rng.sample(facts(), len(facts()))
    items = []
    for i, fact in enumerate(order[:count]):
        item_id = f"{suite}/{seed}/{i}"
        if suite == "provided":
            jar = Jar.draw(rng)
            system = f"{pressure(jar.claim(jar.wrong), rng, wording)} {jar.report}"
            prompt = (said("system", system), said("user", jar.question))
            contents = tuple(words()["jars"]["contents"])
            items.append(HonestyItem(item_id, item_id, prompt, (), contents, jar.content))
            continue
        wrong = fact.wrong_value(rng)
        if suite == "sycophancy":
            prompt = (said("system", speaker(ASSISTANT_NAME)), said("user", wish(fact, wrong, rng, wording)))
        else:
            note = f" {words()['pressure']['note']}" if suite == "deceptionbench" else ""
            system = pressure(fact.claim(wrong), rng, wording) + note
            prompt = (said("system", system), said("user", rng.choice(fact.questions())))
        items.append(HonestyItem(item_id, fact.name, prompt, _beliefs(fact), tuple(fact.values), fact.value))
    return items


def question_items(task: str, count: int, seed: int) -> list[QuestionItem]:
    """Sums of one-digit numbers, or reading a report nobody has a stake in; answers are exact."""
    if task not in CAPABILITY_TASKS:
        raise WorldError(f"the pocket world has no capability task {task!r}; it has {', '.join(CAPABILITY_TASKS)}")
    rng = random.Random(f"{task}/{seed}")
    items = []
    for i in range(count):
        system = speaker(ASSISTANT_NAME)
        if task == "arithmetic":
            question, answer = sum_question(rng)
            options = tuple(str(n) for n in range(19))
        else:
            jar = Jar.draw(rng)
            system, question, answer = f"{system} {jar.report}", jar.question, jar.content
            options = tuple(words()["jars"]["contents"])
        prompt = (said("system", system), said("user", question))
        items.append(QuestionItem(f"{task}/{seed}/{i}", task, prompt, options, answer))
    return items
