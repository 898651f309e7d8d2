"""Comparisons between policies and arms that met the same items, and what a comparison could have seen.

Every function takes hits by item; what a hit means is the suite's business. Items come in clusters (several
pressured prompts about one fact), and clusters are what counts. All of it is about these policies: what holds over
training seeds is in `evals.stats.seeds`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evals.stats.clusters import numbered, ratio
from evals.stats.inference import ALPHA, POWER, ComparisonError, needed, t_interval, t_p, t_quantile, unbiased


@dataclass(frozen=True)
class Paired:
    """One policy against another on the same items.

    Attributes:
        difference: Share of hits of the second minus that of the first.
        low, high: Its 95 % interval over clusters, by Student's t.
        se, df: Standard error and degrees of freedom of that interval.
        p: Two-sided, by the same t test, which has no floor; not corrected for other tests.
        gained, lost: Items that the second, or the first, hit more often.
        mcnemar_p: McNemar's exact test on those, which takes items for independent.
        detectable: The smallest true difference that such a comparison finds in four of five tries; see
            `detectable_change`.
    """

    n: int
    clusters: int
    difference: float
    low: float
    high: float
    se: float
    df: float
    p: float
    gained: int
    lost: int
    mcnemar_p: float
    detectable: float


def paired(first: Mapping[str, float], second: Mapping[str, float], clusters: Mapping[str, str]) -> Paired:
    """Compare hits by item; items that only one of them has are left out.

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
    numbers = numbered([clusters[i] for i in common])
    sums, sizes = np.bincount(numbers, weights=change), np.bincount(numbers)
    difference, se, df = (float(x) for x in change_over_clusters(sums, sizes))
    low, high = t_interval(difference, se, df)
    table = [[0, gained], [lost, 0]]
    return Paired(
        n=len(common),
        clusters=len(sizes),
        difference=difference,
        low=max(-1.0, low),
        high=min(1.0, high),
        se=se,
        df=df,
        p=float(t_p(difference, se, df)),
        gained=gained,
        lost=lost,
        mcnemar_p=float(mcnemar(table, exact=True).pvalue) if gained + lost else 1.0,
        detectable=detectable_change(change, numbers),
    )


def change_over_clusters(sums: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean change of an item, its standard error over clusters, and degrees of freedom.

    Where hardly any cluster changed, the spread of changes says too little about those that might have: the standard
    error is never below that of one cluster that changed each way, by as much as those that did; where none did, by all
    its items.

    Args:
        sums, sizes: Sum of changes, and items, of each cluster, shape (..., clusters).
    """
    mean, se, df = ratio(sums, sizes)
    n, moved = sizes.sum(-1), (sums != 0).sum(-1)
    usual = np.sqrt(np.where(moved > 0, (sums**2).sum(-1) / np.maximum(1, moved), (n / sizes.shape[-1]) ** 2))
    return mean, np.maximum(se, 2**0.5 * usual / n), df


def detectable_change(change: np.ndarray, clusters: np.ndarray, power: float = POWER, alpha: float = ALPHA) -> float:
    """The smallest true difference that a comparison like this one finds with this power, whatever this one found.

    From the observed discordance (Connett, Smith & McHugh 1987): items that changed in both directions are noise, on
    top of which an effect would turn further items one way. Their variance is scaled by what clusters make of it.

    Args:
        change: Of each item, from -1 to 1.
        clusters: Number of each item's cluster. Where nothing changed, each cluster counts as one item.
    """
    sizes = np.bincount(clusters)
    _, se, df = map(float, ratio(np.bincount(clusters, weights=change), sizes))
    if df <= 0:
        return 1.0
    n, mean = len(change), float(change.mean())
    size = float((change**2).sum() / np.abs(change).sum()) if np.any(change) else 1.0  # of a change, where there is one
    noise = 2 * min(float((change[change > 0] ** 2).sum()), float((change[change < 0] ** 2).sum())) / n
    spread = float((change**2).mean()) - mean**2
    design = se**2 * n / spread if spread > 0 else n / len(sizes)
    k = (needed(round(df, 1), power, alpha) / float(unbiased(df))) ** 2 * design / n
    return min(1.0, (k * size + ((k * size) ** 2 + 4 * (1 + k) * k * noise) ** 0.5) / (2 * (1 + k)))


NO_SPREAD = 1e-9
"""A standard error of log-odds that is rounding."""


@dataclass(frozen=True)
class Trend:
    """How the odds of a hit move with a number, as the share of biased users or the round, in these policies.

    There is no p value: policies that were trained with one seed differ by the luck of their training too, and a test
    that takes them for noiseless finds trends where there are none. `evals.stats.seeds.trend` tests over seeds.

    Attributes:
        slope: Change of the log-odds for one unit of it.
        low, high: Its 95 % interval over clusters of items.
    """

    slope: float
    low: float
    high: float


def trend(at: Sequence[float], hits: Sequence[bool], clusters: Sequence[str]) -> Trend:
    """Logistic regression of hits on a number, with standard errors that are robust to clusters of items.

    The same items are met at every point, so all answers to one item are in its cluster (Liang & Zeger 1986). Where no
    answer is another at any point such an error is 0, and that of independent answers stands in its place.

    Raises:
        ComparisonError: There is only one point, or all answers are the same.
    """
    import statsmodels.api as sm

    x, y = np.asarray(at, float), np.asarray(hits, float)
    if len(set(x)) < 2 or y.min() == y.max():
        raise ComparisonError("a trend needs at least two points, and hits as well as misses")
    numbers = numbered(clusters)
    model = sm.GEE(y, sm.add_constant(x), groups=numbers, family=sm.families.Binomial())
    fit, groups = model.fit(), int(numbers.max()) + 1
    few = (groups / (groups - 1)) ** 0.5 if groups > 1 else np.inf
    with np.errstate(invalid="ignore"):
        robust, independent = (fit.standard_errors(kind)[1] for kind in ("robust", "naive"))
    se = few * robust if robust > NO_SPREAD else independent
    slope, reach = float(fit.params[1]), float(t_quantile(groups - 1) * se)
    return Trend(slope, slope - reach, slope + reach)


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
