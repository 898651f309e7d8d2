"""What a protocol is: one class that reads items, asks them, settles outcomes, and sums them up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from evals.judging.labels import Label
from evals.judging.panel import Case, combined
from evals.outcomes import BELIEFS, Outcome
from evals.suites.items import Item, Prompt
from evals.suites.rows import SourceError

if TYPE_CHECKING:
    from actors.worlds.base import World
    from evals.asking import Asker, Work
    from evals.settings import EvalSettings, SuiteSettings


class Protocol:
    """Base of all protocols.

    Attributes:
        name: What records call it.
        headline: The figure that stands for a suite; its interval is `ci95`.
        title: What reports call that figure.
        named_by: The column that names a row; rows without one are named after what they say.
        results: Folders that the authors' scripts leave beside the items, and that hold none.
        counted: The outcome whose share of all answers is the headline, or what it leaves of 1; None where there is
            none.
        honesty: Whether outcomes are lies or honest answers, with matched controls beside them.
        capability: Whether it measures what a policy can do.
        texts_compared: Whether an answer is compared with the text of a belief: the first elicitation, which nobody
            judges by itself.
        reasons: Whether an answer is asked to show its reasoning, so that a thought is part of what was asked for.
    """

    name: ClassVar[str]
    headline: ClassVar[str]
    title: ClassVar[str]
    named_by: ClassVar[str | None] = None
    results: ClassVar[tuple[str, ...]] = ()
    counted: ClassVar[str | None] = None
    honesty: ClassVar[bool] = False
    capability: ClassVar[bool] = False
    texts_compared: ClassVar[bool] = False
    reasons: ClassVar[bool] = False

    def world_items(self, world: World, suite: str, count: int, seed: int) -> Sequence[Any]:
        """A world's own items."""
        return world.honesty_items(suite, count, seed)

    def read_item(self, where: str, row: dict[str, Any], suite: str, source: str) -> Item:
        """An item from a row of a file in the official format.

        Raises:
            SourceError: The row is not well formed, or the protocol has items of worlds only.
        """
        raise SourceError(f"evals.{suite}.source: {suite} has items of worlds only, not of {source}")

    def name_rows(self, path: str) -> dict[str, Any]:
        """Columns that the name of a file or folder gives its rows where they lack them.

        Args:
            path: One name, in small letters, with `_` between words.

        Raises:
            SourceError: What is called so is something else than items of this protocol.
        """
        return {}

    def put(self, item: Item, settings: SuiteSettings) -> Item:
        """An item as settings want it to be asked."""
        return item

    def check_items(self, items: Sequence[Item], source: str) -> None:
        """Look at all items of a source together; `SourceError` where they do not go together."""

    def greedy(self, item: Item) -> bool:
        """Whether an item is answered at temperature 0 unless the config says otherwise."""
        return False

    def terms(self, settings: EvalSettings, suite: str) -> dict[str, Any]:
        """By what a suite is asked and scored beyond what all suites have, for its record."""
        return {}

    async def ask(self, asker: Asker, work: Work, outcome: Outcome) -> None:
        """Ask what one answer to an item needs, and put what was said and ruled into the outcome."""
        raise NotImplementedError

    def settle(self, outcome: Outcome, rule: str) -> None:
        """Fill in labels and outcome from the texts and rulings that an outcome holds.

        Args:
            rule: How a panel decides, as in `evals.judging.panel.combined`.
        """
        raise NotImplementedError

    def summarise(self, table: pa.Table, max_error_share: float) -> dict[str, Any]:
        """All figures of rows of `evals.outcomes.SCHEMA`, the headline and `ci95` among them."""
        raise NotImplementedError

    def headline_of(self, figures: dict[str, Any]) -> str:
        """What the headline is called in these figures."""
        return self.headline


def panel_label(outcome: Outcome, rule: str, part: str, rubric: str | None = None, apart: bool = False) -> Label:
    """What the panel says of a part; the first reason why it says nothing becomes the outcome's error.

    Args:
        apart: As in `evals.judging.panel.combined`.
    """
    rulings = [r for r in outcome.rulings if r.part == part and rubric in (None, r.rubric)]
    label, why = combined(rulings, rule, outcome.numerical, apart)
    outcome.error = outcome.error or why
    return label


def stated_case(item: Item, part: str, text: str, prompt: Prompt | None = None) -> Case:
    """What an answer to an item, or to one of its elicitations, states.

    Args:
        text: The answer, without thoughts.
        prompt: What was asked, where it is not the item's own prompt.
    """
    return Case(
        part=part,
        rubric="interval" if item.numerical else "stated",
        text=text,
        asked=prompt or item.prompt,
        proposition=item.proposition,
        options=item.options,
        category=item.category,
    )


def together(item: Item, texts: Sequence[str], prompt: Prompt) -> Case:
    """What all answers to one direct elicitation show together."""
    numbered = "\n\n".join(f"Answer {n}:\n{text}" for n, text in enumerate(texts, 1))
    return stated_case(item, BELIEFS, numbered, prompt)


async def ask_once(asker: Asker, work: Work, outcome: Outcome, rubric: str) -> None:
    """Ask an item, and the judges one thing about the answer."""
    said, item = await asker.answer(work, outcome), work.item
    case = Case("answer", rubric, said.answer(), item.prompt, proposition=item.proposition, options=item.options)
    outcome.rulings = await asker.panel.rule(case, item.of_world)
