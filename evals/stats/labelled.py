"""Rates of what a judge looks for, corrected by labels of some of the answers, and how often the judge errs.

Answers are told apart by what the judge said of them, and labels are drawn within each of the two groups: among the
answers that it called lies, and among the others. The share of true lies in a group is that of its labels, so it does
not matter how many were drawn from which (double sampling, Tenenbein 1970; in the words of prediction-powered
inference, Angelopoulos et al. 2023, the judge's verdict is the prediction and the labels rectify it). Nothing is
assumed of the judge, and each policy is corrected by its own labels: a judge that errs at one rate for one policy may
err at another for the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from evals.stats.clusters import numbered, ratio
from evals.stats.inference import t_quantile
from evals.stats.intervals import design_effect, wilson

DRAWS = 20_000
"""Of what a judge's errors may be, given the labels."""


class LabelsError(ValueError):
    """Labels from which nothing can be concluded; the message says which are missing."""


@dataclass(frozen=True)
class Labelled:
    """The answers of one policy to one suite, of which some were labelled.

    Attributes:
        judged: Whether the judge called it a lie, shape (answers,).
        truth: Whether its label says so, 1 or 0; NaN where it was not labelled.
        clusters: Its cluster's name.
        weights: For how many answers of its group a label stands, but for a factor; None where labels were drawn at
            random within groups.
    """

    judged: np.ndarray
    truth: np.ndarray
    clusters: np.ndarray
    weights: np.ndarray | None = None

    def groups(self) -> Iterator[_Group]:
        """The answers that were judged lies and the others, as far as there are any."""
        for judged in (True, False):
            here = self.judged == judged
            if here.any():
                yield self._group(judged, here)

    def _group(self, judged: bool, here: np.ndarray) -> _Group:
        labelled = here & ~np.isnan(self.truth)
        if not labelled.any():
            said = "lies" if judged else "no lies"
            raise LabelsError(f"none of the {int(here.sum())} answers that were judged {said} has a label")
        truth, numbers = self.truth[labelled], numbered(self.clusters[labelled])
        weights = np.ones(len(truth)) if self.weights is None else self.weights[labelled]
        worth = weights.sum() ** 2 / (weights**2).sum()  # Kish
        alike = float(design_effect(np.bincount(numbers, weights=truth), np.bincount(numbers)))
        return _Group(judged, here, int(here.sum()), float(weights @ truth / weights.sum()), worth / alike, len(truth))


@dataclass(frozen=True)
class _Group:
    """Answers that were judged alike.

    Attributes:
        here: Which they are.
        lies: Share of true lies among them, by the labels.
        worth: How many independent labels that is from.
    """

    judged: bool
    here: np.ndarray
    size: int
    lies: float
    worth: float
    labels: int


@dataclass(frozen=True)
class Rate:
    """A rate with its 95 % interval, from so many labels."""

    value: float
    low: float
    high: float
    labels: int


def corrected_rate(of: Labelled) -> Rate:
    """The rate of true lies. Its interval is over items and labels together: over clusters of items, how many are
    judged lies; and in each group the share of true ones, by Wilson's intervals, put together by the method of variance
    estimates recovery (Zou & Donner 2008).

    Raises:
        LabelsError: The answers that were judged lies, or the others, have no label.
    """
    groups = list(of.groups())
    n = len(of.judged)
    expected = np.zeros(n)
    value, below, above = 0.0, 0.0, 0.0
    for group in groups:
        part = group.size / n
        share, low, high = wilson(group.lies, group.worth)
        value += part * share
        below += (part * (share - low)) ** 2
        above += (part * (high - share)) ** 2
        expected[group.here] = group.lies
    numbers = numbered(of.clusters)
    _, se, df = ratio(np.bincount(numbers, weights=expected), np.bincount(numbers))
    items = 0.0 if se == 0 else float((t_quantile(df) * se) ** 2)
    low, high = max(0.0, value - (below + items) ** 0.5), min(1.0, value + (above + items) ** 0.5)
    return Rate(value, low, high, sum(group.labels for group in groups))


def judge_rates(of: Sequence[Labelled]) -> tuple[Rate, Rate]:
    """Sensitivity and specificity of a judge over several policies: the share of the true lies that it finds, and of
    the other answers that it leaves alone. Each label counts for the answers of its policy and group that it stands
    for.

    The intervals are those of the labels (Jeffreys' for each group, put together by draws).

    Raises:
        LabelsError: As for `corrected_rate`; or there are no true lies, or nothing but lies.
    """
    groups = [group for one in of for group in one.groups()]
    sizes = np.array([g.size for g in groups], float)
    judged = np.array([g.judged for g in groups])
    lies = np.array([g.lies for g in groups])
    worth = np.array([g.worth for g in groups])
    drawn = np.random.default_rng(0).beta(lies * worth + 0.5, (1 - lies) * worth + 0.5, (DRAWS, len(groups)))
    labels = sum(g.labels for g in groups)
    found = []
    for true, right in ((lies, judged), (1 - lies, ~judged)):
        if not (sizes * true).any():
            raise LabelsError("the labels hold no lie" if true is lies else "the labels hold nothing but lies")
        value = float((sizes * true)[right].sum() / (sizes * true).sum())
        each = sizes * (drawn if true is lies else 1 - drawn)
        low, high = np.quantile(each[:, right].sum(1) / each.sum(1), (0.025, 0.975))
        found.append(Rate(value, min(value, float(low)), max(value, float(high)), labels))
    return found[0], found[1]
