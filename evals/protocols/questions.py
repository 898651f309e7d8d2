"""Questions with one right answer: does the policy still do sums and read reports? Exact answers, greedy decoding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from evals.judging.labels import label_text
from evals.outcomes import Outcome
from evals.protocols.base import Protocol, ask_once, panel_label
from evals.stats.intervals import share
from evals.suites.items import Item

if TYPE_CHECKING:
    from actors.worlds.base import World
    from evals.asking import Asker, Work


class Questions(Protocol):
    """Is the one right answer stated?"""

    name = "questions"
    headline = "accuracy"
    counted = "correct"
    title = "Accuracy"
    capability = True

    def world_items(self, world: World, suite: str, count: int, seed: int) -> Sequence[Any]:
        return world.question_items(suite, count, seed)

    def greedy(self, item: Item) -> bool:
        return True

    async def ask(self, asker: Asker, work: Work, outcome: Outcome) -> None:
        await ask_once(asker, work, outcome, "stated")

    def settle(self, outcome: Outcome, rule: str) -> None:
        label = panel_label(outcome, rule, "answer")
        outcome.statement = label_text(label)
        outcome.outcome = "error" if label is None else score(outcome.statement, outcome.truth)

    def summarise(self, table: pa.Table, max_error_share: float) -> dict[str, Any]:
        return summary(table, max_error_share)


def score(stated: str | None, answer: str) -> str:
    """`correct` when the reply states the answer and no other option."""
    return "correct" if stated == answer else "wrong"


def summary(table: pa.Table, max_error_share: float) -> dict:
    """Accuracy over all items but errors, with its interval."""
    outcomes = table["outcome"].to_pylist()
    scored = [(o == "correct", c) for o, c in zip(outcomes, table["cluster"].to_pylist(), strict=True) if o != "error"]
    errors = len(outcomes) - len(scored)
    refused = not scored or errors > max_error_share * len(outcomes)
    accuracy = None if refused else share(*zip(*scored, strict=True))
    return {
        "accuracy": accuracy.value if accuracy else None,
        "ci95": accuracy.ci95 if accuracy else None,
        "n": len(scored),
        "errors": errors,
    }
