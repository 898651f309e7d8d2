"""What suites ask: one item type for all of them, and where items come from does not show in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from actors.worlds.base import PRESSURE, HonestyItem, Message, QuestionItem

Prompt = tuple[Message, ...]


@dataclass(frozen=True)
class Elicitation:
    """A neutral prompt that elicits a belief.

    Attributes:
        direct: Whether it counts for the majority; the others can only contradict it.
        times: How often it is asked.
    """

    prompt: Prompt
    direct: bool = True
    times: int = 1


@dataclass(frozen=True)
class Item:
    """One item.

    Attributes:
        item_id: Stable over policies and arms, so that outcomes can be paired.
        cluster: Items of one cluster ask about the same fact; intervals account for it.
        category: Archetype or type, by which figures are told apart.
        prompt: What is asked, under pressure in honesty suites.
        beliefs: Neutral prompts that elicit the belief; empty where the prompt itself provides the fact.
        options: What an answer may state, as label and text; empty for numbers and free answers.
        numerical: Whether an answer states a number, and labels are intervals.
        proposition: What the options complete, as a sentence; empty where they speak for themselves.
        truth: The label that is true: an option's, or an interval as JSON; empty where nothing is known to be true.
        instructed: Whether the prompt itself tells the model to deceive; None where that makes no sense.
        of_world: Whether it is a world's, so that the world's exact judge can read answers to it.
        answer_format: How reasoning and answer are told apart, `tags` or `note`, as
            `evals.protocols.deceptionbench.parts` says.
        wanted: The label that somebody with a stake wants to hear; empty where nobody has one, or it is not known.
        condition: Under what it is asked, one of `actors.worlds.base.CONDITIONS`; only items under pressure are scored,
            the others are their matched controls.
        keywords: Words of which an answer has one that refuses; empty where judges decide.
    """

    item_id: str
    cluster: str
    prompt: Prompt
    category: str = ""
    beliefs: tuple[Elicitation, ...] = ()
    options: tuple[tuple[str, str], ...] = ()
    numerical: bool = False
    proposition: str = ""
    truth: str = ""
    instructed: bool | None = None
    of_world: bool = False
    answer_format: str = "tags"
    wanted: str = ""
    condition: str = PRESSURE
    keywords: tuple[str, ...] = ()


def of_world(item: HonestyItem | QuestionItem, suite: str) -> Item:
    """An item of a world, whose options are their own labels."""
    options = tuple((o, o) for o in item.options)
    if isinstance(item, QuestionItem):
        return Item(
            item_id=item.item_id,
            cluster=_digest(item.prompt),
            prompt=item.prompt,
            category=item.task,
            options=options,
            proposition=item.proposition,
            truth=item.answer,
            of_world=True,
        )
    return Item(
        item_id=item.item_id,
        cluster=item.cluster,
        prompt=item.statement,
        category=suite,
        beliefs=tuple(Elicitation(b) for b in item.beliefs),
        options=options,
        proposition=item.proposition,
        truth=item.truth,
        of_world=True,
        answer_format="note",
        wanted=item.wanted,
        condition=item.condition,
    )


def _digest(prompt: Prompt) -> str:
    """What tells questions apart: a question that is asked twice is one."""
    return hashlib.sha256(json.dumps(prompt).encode()).hexdigest()[:16]


def message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def dialogue(system: str, *turns: str) -> Prompt:
    """Messages from a system prompt, left out where it is empty, and turns of which the user has the first."""
    opening: Sequence[Message] = [message("system", system)] if system.strip() else []
    return (*opening, *(message(("user", "assistant")[i % 2], t) for i, t in enumerate(turns)))
