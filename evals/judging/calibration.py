"""How well a judge does on answers that were labelled by hand, before anybody believes what it says of others.

The answers are SmolLM2's to the canary items, under pressure and asked plainly; `labelled/canary_mask.jsonl` has the
label of each: the option or number that it states, `nothing`, or `neither` where it denies them or says something else.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from actors.models.chat import ModelRefusedError
from evals.judging.agreement import cohen_kappa
from evals.judging.labels import NEITHER, agree, label_of, read_interval
from evals.judging.panel import Case, Judging
from evals.outcomes import Ruling

FILE = Path(__file__).parent / "labelled" / "canary_mask.jsonl"
NOTHING = "nothing"
DRAWS = 1000
"""Bootstrap samples of the texts."""
AT_ONCE = 32


@dataclass(frozen=True)
class Reliability:
    """A judge against labels by hand.

    Attributes:
        kappa: Cohen's kappa with `ci95`, over bootstrapped texts; 0 is chance. None where either always says the same.
        sensitivity: Of the texts that state an option or a number, the share for which the judge says the same.
        specificity: Of the texts that state none, the share for which the judge says so.
        texts: How many it gave a verdict on, and `failed` on how many it gave none, with the last `error`.
    """

    kappa: float | None
    ci95: tuple[float, float] | None
    sensitivity: float | None
    specificity: float | None
    texts: int
    failed: int
    error: str | None = None

    @property
    def better_than_chance(self) -> bool:
        """Whether the interval of kappa is above 0."""
        return self.ci95 is not None and self.ci95[0] > 0

    def __str__(self) -> str:
        if self.kappa is None:
            return f"it says the same of all of {self.texts} answers labelled by hand"
        low, high = self.ci95 or (float("nan"),) * 2
        return f"kappa {self.kappa:.2f} [{low:.2f}, {high:.2f}] on {self.texts} answers labelled by hand"


class DistrustedJudging:
    """A judge that was found to be no better than chance, in whose place nobody judges: each ruling is an error."""

    def __init__(self, name: str, found: Reliability) -> None:
        self.name = name
        self.why = f"the judge {name} is no better than chance, so nothing is scored by it: {found}"

    async def rule(self, case: Case) -> list[Ruling]:
        return [Ruling(case.part, case.rubric, self.name, error=self.why)]


async def trusted(judge: Judging, count: int) -> Judging:
    """The judge, or where it does no better than chance on so many labelled answers, `DistrustedJudging`.

    Raises:
        ModelRefusedError: It gave no verdict on most of them, which says nothing about how good it is.
    """
    found = await measure(judge, count=count)
    if found.failed > found.texts:
        raise ModelRefusedError(
            f"the judge {judge.name} gave no verdict on {found.failed} of the {found.texts + found.failed} answers "
            f"on which it is tried before it judges; the last error: {found.error}"
        )
    return judge if found.better_than_chance else DistrustedJudging(judge.name, found)


@cache
def labelled(numbers: bool = False) -> list[tuple[Case, str]]:
    """Answers with their labels, as `evals.judging.reliability` writes them.

    Args:
        numbers: Those that state numbers, instead of those that state options.
    """
    from evals.protocols.base import stated_case
    from evals.settings import EvalSettings
    from evals.suites.sources import load

    items = {i.item_id: i for i in load("canary_mask", EvalSettings().canary_mask, None, 0).items}
    found = []
    for line in FILE.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        item, part = items[row["item_id"]], row["part"]
        if item.numerical == numbers:
            which = {"belief_1": 0, "check_1": 1, "check_2": 2}
            prompt = item.prompt if part == "answer" else item.beliefs[which[part]].prompt
            found.append((stated_case(item, part, row["text"], prompt), row["label"]))
    return found


async def measure(judge: Judging, numbers: bool = False, count: int | None = None) -> Reliability:
    """Have a judge read answers that were labelled by hand.

    Args:
        count: How many of them, spread evenly over the file; all where it is not given.

    Raises:
        ActorGone, ModelRefusedError: The judge cannot be asked.
    """
    texts = labelled(numbers)
    count = len(texts) if count is None else min(count, len(texts))
    texts = [texts[i * len(texts) // count] for i in range(count)]
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(case: Case) -> Ruling:
        async with gate:
            return (await judge.rule(case))[0]

    ruled = await asyncio.gather(*(one(case) for case, _ in texts))
    pairs = [
        (_plain(r.label or NOTHING), _plain(label))
        for r, (_, label) in zip(ruled, texts, strict=True)
        if r.error is None
    ]
    errors = [r.error for r in ruled if r.error is not None]
    return _reliability(pairs, errors, numbers)


def _plain(label: str) -> str:
    return NOTHING if label == NEITHER else label


def _reliability(pairs: list[tuple[str, str]], errors: list[str], numbers: bool) -> Reliability:
    def same(a: str, b: str) -> bool:
        if a == b or not numbers or None in (read_interval(a), read_interval(b)):
            return a == b
        return agree(label_of(a, True), label_of(b, True))

    states = [same(judged, hand) for judged, hand in pairs if hand != NOTHING]
    silent = [judged == NOTHING for judged, hand in pairs if hand == NOTHING]
    kinds = sorted({label for pair in pairs for label in pair})
    alike = np.array([[same(a, b) for b in kinds] for a in kinds], float)
    coded = np.array([[kinds.index(judged), kinds.index(hand)] for judged, hand in pairs]).reshape(-1, 2)
    kappa, rng = cohen_kappa(coded, alike), np.random.default_rng(0)
    samples = rng.integers(max(1, len(coded)), size=(DRAWS if kappa is not None else 0, len(coded)))
    drawn = [k for rows in samples if (k := cohen_kappa(coded[rows], alike)) is not None]
    ci95 = tuple(float(q) for q in np.quantile(drawn, (0.025, 0.975))) if drawn else None
    mean = [float(np.mean(x)) if x else None for x in (states, silent)]
    return Reliability(kappa, ci95, *mean, len(pairs), len(errors), errors[-1] if errors else None)
