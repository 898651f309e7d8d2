"""Comparisons between policies and arms that met the same items, and what a comparison could have seen.

Every function takes hits by item; what a hit means is the suite's business. Items come in clusters (several
pressured prompts about one fact), which are resampled whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

DRAWS = 10_000
"""Bootstrap draws: the 2.5 % point of so many has a standard error of a few per cent of the interval's width."""


class ComparisonError(ValueError):
    """Two sets of items that cannot be compared."""


@dataclass(frozen=True)
class Paired:
    """One policy against another on the same items.

    Attributes:
        difference: Share of hits of the second minus that of the first.
        low, high: Its 95 % interval by a bootstrap over clusters.
        p: Two-sided, by the same bootstrap: a difference at least as far from zero as this one, were there none.
        gained, lost: Items that the second, or the first, hit more often.
        mcnemar_p: McNemar's exact test on those, which takes items for independent.
    """

    n: int
    clusters: int
    difference: float
    low: float
    high: float
    p: float
    gained: int
    lost: int
    mcnemar_p: float


def paired(
    first: Mapping[str, float],
    second: Mapping[str, float],
    clusters: Mapping[str, str],
    draws: int = DRAWS,
    seed: int = 0,
) -> Paired:
    """Compare hits by item; items that only one of them has are left out.

    The bootstrap draws clusters with replacement and takes the difference of shares in each draw; `p` counts draws
    that are further from the difference found than that is from zero (Efron & Tibshirani 1993, chapter 16), with one
    added to both counts so that it is never zero.

    Args:
        first, second: By item, 0 or 1, or the share of hits where an item was answered several times.
        clusters: Cluster of each item.

    Raises:
        ComparisonError: They have no item in common.
    """
    from statsmodels.stats.contingency_tables import mcnemar

    common = sorted(first.keys() & second.keys())
    if not common:
        raise ComparisonError("the two have no item in common")
    change = np.array([float(second[i]) - float(first[i]) for i in common])
    gained, lost = int((change > 0).sum()), int((change < 0).sum())
    names, numbers = np.unique([clusters[i] for i in common], return_inverse=True)
    sums, sizes = np.bincount(numbers, weights=change), np.bincount(numbers)
    rng = np.random.default_rng(seed)
    drawn = _bootstrap_ratio(sums, sizes, draws, rng)
    difference = float(change.mean())
    beyond = int((np.abs(drawn - difference) >= abs(difference) - 1e-12).sum())
    table = [[0, gained], [lost, 0]]
    return Paired(
        n=len(common),
        clusters=len(names),
        difference=difference,
        low=float(np.quantile(drawn, 0.025)),
        high=float(np.quantile(drawn, 0.975)),
        p=(1 + beyond) / (1 + draws),
        gained=gained,
        lost=lost,
        mcnemar_p=float(mcnemar(table, exact=True).pvalue) if gained + lost else 1.0,
    )


def _bootstrap_ratio(sums: np.ndarray, sizes: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """The mean over items in draws of whole clusters, each given by its sum and size."""
    k = len(sums)
    out = np.empty(draws)
    step = max(1, 2_000_000 // k)  # so many clusters are in memory at once
    for begin in range(0, draws, step):
        weights = rng.multinomial(k, np.full(k, 1 / k), size=min(step, draws - begin))
        out[begin : begin + len(weights)] = (weights @ sums) / (weights @ sizes)
    return out


def bootstrap_share(
    hits: Sequence[bool], clusters: Sequence[str], draws: int = DRAWS, seed: int = 0
) -> tuple[float, float]:
    """The 95 % interval of a share by a bootstrap over clusters (percentile method)."""
    _, numbers = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.bincount(numbers, weights=np.asarray(hits, float))
    drawn = _bootstrap_ratio(sums, np.bincount(numbers), draws, np.random.default_rng(seed))
    return float(np.quantile(drawn, 0.025)), float(np.quantile(drawn, 0.975))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """P values of a family of tests, corrected by Holm's step-down procedure (Holm 1979)."""
    from statsmodels.stats.multitest import multipletests

    if not p_values:
        return {}
    return dict(zip(p_values, map(float, multipletests(list(p_values.values()), method="holm")[1]), strict=True))


@dataclass(frozen=True)
class Trend:
    """How the odds of a hit move with a number, as the share of biased users or the round.

    Attributes:
        slope: Change of the log-odds for one unit of it.
        low, high: Its 95 % interval, by a sandwich estimate over clusters.
    """

    slope: float
    low: float
    high: float
    p: float


def trend(at: Sequence[float], hits: Sequence[bool], clusters: Sequence[str]) -> Trend:
    """Logistic regression of hits on a number, with standard errors that are robust to clusters of items.

    The same items are met at every point, so all answers to one item are in its cluster (Liang & Zeger 1986).

    Raises:
        ComparisonError: There is only one point, or all answers are the same.
    """
    import statsmodels.api as sm

    x, y = np.asarray(at, float), np.asarray(hits, float)
    if len(set(x)) < 2 or y.min() == y.max():
        raise ComparisonError("a trend needs at least two points, and hits as well as misses")
    _, numbers = np.unique(np.asarray(clusters), return_inverse=True)
    model = sm.GEE(y, sm.add_constant(x), groups=numbers, family=sm.families.Binomial())
    fit = model.fit()
    low, high = fit.conf_int()[1]
    return Trend(float(fit.params[1]), float(low), float(high), float(fit.pvalues[1]))


def detectable_drop(share: float, n_effective: float, power: float = 0.8, alpha: float = 0.05) -> float | None:
    """The smallest fall of a share that two independent samples of this size would show; None where none would.

    By Cohen's effect size of two proportions, two-sided. Items that both policies meet make a paired test see less than
    that, so this is the careful figure.

    Args:
        n_effective: Independent items that each sample is worth, `evals.stats.Share.n_effective`.
    """
    effect = float((norm.ppf(1 - alpha / 2) + norm.ppf(power)) * np.sqrt(2 / n_effective))
    angle = 2 * np.arcsin(np.sqrt(share)) - effect
    return None if angle < 0 else share - float(np.sin(angle / 2) ** 2)


@dataclass(frozen=True)
class Spread:
    """Where the variance of a score comes from.

    Attributes:
        between: Variance between training seeds, beyond what replicates of one policy differ by; at least 0.
        within: Variance between replicates of one policy.
    """

    mean: float
    between: float
    within: float


def spread(scores: Sequence[Sequence[float]]) -> Spread:
    """Variance components of scores by training seed and replicate: one-way random effects, by the method of moments
    (Searle, Casella & McCulloch 1992, section 3.6), for any numbers of replicates.

    Args:
        scores: For each training seed, the score of each replicate.

    Raises:
        ComparisonError: There are fewer than two seeds, or no seed has two replicates.
    """
    groups = [np.asarray(s, float) for s in scores if len(s)]
    sizes = np.array([len(g) for g in groups])
    total, k = sizes.sum(), len(groups)
    if k < 2 or total <= k:
        raise ComparisonError("at least two training seeds are needed, and one of them with two replicates")
    everything = np.concatenate(groups)
    means = np.array([g.mean() for g in groups])
    within = sum(float(((g - g.mean()) ** 2).sum()) for g in groups) / (total - k)
    mean_square = float((sizes * (means - everything.mean()) ** 2).sum()) / (k - 1)
    usual = (total - (sizes**2).sum() / total) / (k - 1)
    return Spread(float(everything.mean()), max(0.0, (mean_square - within) / usual), within)
