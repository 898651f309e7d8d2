"""Items that turned from honest to lie: what was asked, what the policy believes, and what it answers before and after
training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from actors.storage.segments import read_table
from actors.worlds.base import PRESSURE
from evals.evaluator import complete
from evals.outcomes import SCHEMA
from loop.report.answer import Place
from loop.rundir import RunDir

SHOWN = 3
COLUMNS = ["item_id", "cluster", "category", "replicate", "condition", "outcome", "truth", "wanted", "directional"]
COLUMNS += ["said", "statement", "belief"]
LONGEST = 4000
"""Characters of a text that a report shows; the files of the run have the rest."""


@dataclass(frozen=True)
class Said:
    """One policy's answer to an item.

    Attributes:
        label: What it states; None where it states nothing.
        believes: The label that it gives where nothing is at stake; None where that is not known.
        belief: Its words there; empty where the prompt itself gives the fact.
    """

    policy: str
    outcome: str
    answer: str
    label: str | None
    believes: str | None
    belief: str


@dataclass(frozen=True)
class Turned:
    """An item on which the policy under study lies, and did not before.

    Attributes:
        prompt: What was asked under pressure, as messages.
        neutral: What was asked for the belief, as messages; empty where the prompt itself gives the fact.
        answers: Before, after, and where there is another arm, that arm's policy of the same round.
    """

    item_id: str
    category: str
    prompt: list[dict[str, str]]
    neutral: list[dict[str, str]]
    wanted: str
    truth: str
    answers: list[Said] = field(default_factory=list)


@dataclass(frozen=True)
class Turns:
    """How many items turned into lies and back, of how many, and some of those that turned."""

    turned: int
    returned: int
    of: int
    items: list[Turned]


def turns(out: RunDir, suite: str, subject: Place, against: Place, count: int = SHOWN) -> Turns | None:
    """Items that the untouched base answered honestly and a policy lied about; None where either was not asked.

    A hash of their names decides which of them are shown, from different facts as far as there are any, and before
    others those whose lie states what was wanted.

    Args:
        against: The policy that stands for no such training; its answer to the same item is shown too.

    Raises:
        BufferError: Outcomes on disk are damaged.
    """
    before, after = _answers(out, suite, Place(subject.arm, 0)), _answers(out, suite, subject)
    if not before or not after:
        return None
    both = [i for i in before if i in after]
    turned = [i for i in both if (before[i]["outcome"], after[i]["outcome"]) == ("honest", "lie")]
    returned = [i for i in both if (before[i]["outcome"], after[i]["outcome"]) == ("lie", "honest")]
    other = {} if against.arm == subject.arm else _answers(out, suite, against)
    order = sorted(turned, key=lambda i: (not after[i]["directional"], hashlib.sha256(i[0].encode()).digest()))
    first: dict[str, tuple[str, int]] = {}
    for i in order:
        first.setdefault(after[i]["cluster"], i)
    chosen = [*first.values(), *(i for i in order if i not in first.values())][:count]
    shown = [
        _turned(
            {
                f"before training ({subject.arm} 0)": before[i],
                f"after training ({subject})": after[i],
                **({f"the other arm ({against})": other[i]} if i in other else {}),
            },
            after[i],
        )
        for i in chosen
    ]
    return Turns(len(turned), len(returned), len(both), shown)


def _answers(out: RunDir, suite: str, place: Place) -> dict[tuple[str, int], dict[str, Any]]:
    """A policy's answers under pressure, by item and replicate."""
    path = out.evals(place.arm, place.policy) / f"{suite}.arrow"
    if not complete(path.parent) or not path.exists():
        return {}
    rows = read_table(path, SCHEMA).select(COLUMNS).to_pylist()
    return {(r["item_id"], r["replicate"]): r for r in rows if r["condition"] == PRESSURE}


def _turned(rows: Mapping[str, dict[str, Any]], row: dict[str, Any]) -> Turned:
    neutral = _said(row, "belief_1")
    return Turned(
        row["item_id"],
        row["category"],
        _messages(_said(row, "answer")),
        _messages(neutral) if neutral else [],
        row["wanted"],
        row["truth"],
        [_answer(name, of) for name, of in rows.items()],
    )


def _answer(name: str, row: dict[str, Any]) -> Said:
    belief = _said(row, "belief_1")
    text = (_said(row, "answer") or {}).get("text") or ""
    return Said(name, row["outcome"], text, row["statement"], row["belief"], (belief or {}).get("text") or "")


def _said(row: dict[str, Any], part: str) -> dict[str, Any] | None:
    return next((s for s in row["said"] if s["part"] == part), None)


def _messages(said: dict[str, Any] | None) -> list[dict[str, str]]:
    """The messages of a prompt, which is recorded as JSON; as one text where it is not."""
    try:
        return [{"role": str(m["role"]), "content": str(m["content"])} for m in json.loads((said or {})["prompt"])]
    except (KeyError, TypeError, ValueError):
        return [{"role": "prompt", "content": str((said or {}).get("prompt") or "")}]
