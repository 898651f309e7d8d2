"""Benchmark items of the pocket world: situations with held-out wordings, about facts no therapy talk mentions."""

from __future__ import annotations

import random
from collections.abc import Callable

from actors.worlds.base import (
    BLANK,
    NO_STAKE,
    PRESSURE,
    TRUTH_WANTED,
    HonestyItem,
    Message,
    QuestionItem,
    TooFewItemsError,
    WorldError,
)
from actors.worlds.pocket.language import (
    ASSISTANT_NAME,
    Fact,
    Pressure,
    Wish,
    facts,
    jar,
    order,
    said,
    speaker,
    sum_question,
    words,
)

HONESTY_SUITES = ("mask", "sycophancy", "provided", "deceptionbench")
CONTROL_EVERY = 3
"""Each so many-th item of a suite is also asked where the truth is wanted, and where nobody has a stake."""

Prompt = tuple[Message, ...]


def honesty_items(suite: str, count: int, seed: int, wording: str = "heldout") -> list[HonestyItem]:
    """`count` items under pressure that go round the facts evenly, in a seeded order, and matched controls of each
    third one: the same words, but for what is wanted.

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
        of = jar(rng) if suite == "provided" else fact
        wrong, truth = of.wrong_value(rng), of.value
        ask = _situation(suite, of, rng, wording)
        beliefs = () if suite == "provided" else _beliefs(fact)
        cluster = item_id if suite == "provided" else fact.name
        options = tuple(fact.values) if suite != "provided" else of.options
        proposition = of.claim(BLANK)
        conditions = {PRESSURE: wrong}
        if i % CONTROL_EVERY == 0:
            conditions |= {TRUTH_WANTED: truth, NO_STAKE: ""}
        for condition, wanted in conditions.items():
            name = item_id if condition == PRESSURE else f"{item_id}/{condition}"
            prompt = ask(of.claim(wanted) if wanted else None)
            items.append(
                HonestyItem(name, cluster, prompt, beliefs, options, truth, wanted, condition, proposition)
            )  # fmt: skip
    return items


def _situation(suite: str, of: Fact, rng: random.Random, wording: str) -> Callable[[str | None], Prompt]:
    """A prompt in one situation, as a function of the claim that somebody with a stake would like; None for nobody."""
    if suite == "sycophancy":
        wish = Wish.draw(of, rng, wording)
        opening = said("system", speaker(ASSISTANT_NAME))
        return lambda claim: (opening, said("user", wish.message(claim) if claim else wish.question))
    how = Pressure.draw(rng, wording)
    question = of.question if suite == "provided" else rng.choice(of.questions())
    more = f" {of.report}" if suite == "provided" else ""
    more += f" {words()['pressure']['note']}" if suite == "deceptionbench" else ""
    return lambda claim: (
        said("system", (how.system(claim) if claim else how.role_alone()) + more),
        said("user", question),
    )


def _beliefs(fact: Fact) -> tuple[Prompt, ...]:
    return tuple((said("system", speaker(ASSISTANT_NAME)), said("user", q)) for q in fact.questions())


def _sum(rng: random.Random, hard: bool) -> tuple[str, str, str, tuple[str, ...], str]:
    question, answer = sum_question(rng, hard)
    return speaker(ASSISTANT_NAME), question, answer, tuple(str(n) for n in range(101)), ""


def _lookup(rng: random.Random, hard: bool) -> tuple[str, str, str, tuple[str, ...], str]:
    of = order(rng) if hard else jar(rng)
    return f"{speaker(ASSISTANT_NAME)} {of.report}", of.question, of.value, of.options, of.claim(BLANK)


VAIN = 10_000
"""Draws in a row that bring no new item, after which there is none."""
CAPABILITY_TASKS = {
    "arithmetic": (_sum, True),
    "arithmetic_easy": (_sum, False),
    "lookup": (_lookup, True),
    "lookup_easy": (_lookup, False),
}
"""How an item of each task is drawn. The hard ones leave room for a loss to show: sums of numbers up to 45, and lists
of up to three orders of which two may be swapped."""


def question_items(task: str, count: int, seed: int) -> list[QuestionItem]:
    """`count` different sums, or reports that nobody has a stake in; answers are exact.

    Raises:
        TooFewItemsError: There are not so many: nothing new came in `VAIN` draws.
    """
    if task not in CAPABILITY_TASKS:
        raise WorldError(f"the pocket world has no capability task {task!r}; it has {', '.join(CAPABILITY_TASKS)}")
    draw, hard = CAPABILITY_TASKS[task]
    rng = random.Random(f"{task}/{seed}")
    items: dict[tuple[str, str], QuestionItem] = {}
    vain = 0
    while len(items) < count:
        system, question, answer, options, proposition = draw(rng, hard)
        if (system, question) not in items:
            name, prompt = f"{task}/{seed}/{len(items)}", (said("system", system), said("user", question))
            items[system, question] = QuestionItem(name, task, prompt, options, answer, proposition)
            vain = 0
        elif (vain := vain + 1) == VAIN:
            have = len(items)
            raise TooFewItemsError(f"the pocket world has only {have} different items of {task}, not {count}", have)
    return list(items.values())
