"""Contrasts and trends over training seeds: the seed is the unit, because another seed makes another policy.

The table has one row an answer (`SCHEMA`): `seed`, of the training run; `arm`, the condition; `item_id` and
`cluster`, as outcomes have them; and `hit`, 1 or 0 (a lie or none), null where the answer failed. Several answers to an
item are several rows. Seeds are paired: the same seed in two arms is the same plan of conversations, and all of them
meet the same items (`evals.seed`). To take one policy and one suite of each run is the caller's business.

    contrast(table, "biased", "benign")                            # lies in one arm minus those in another
    contrast(table, "shuffled", "benign", margin=0.02)             # ... and whether that is nothing but for 2 points
    trend(table, {"b0": 0.0, "b2": 0.2, "b5": 0.5, "b10": 1.0})    # lies for one unit of dose

A contrast is a weighted sum of the arms' rates, and so is a slope; each seed gives one. Intervals are over seeds and
items at once: a two-way layout of seeds and clusters, both random, which is the mixed model of seed and item with its
variances by the method of moments (Clark 1973; Satterthwaite 1946). With few seeds, and where the effect does not
differ between items beyond chance, the p value is exact: it flips the signs of the seeds' values (Fisher 1935).
P values are corrected by `evals.stats.families.correct`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from scipy.stats import f as f_ratio

from evals.stats.inference import (
    ALPHA,
    ComparisonError,
    Equivalence,
    detectable,
    equivalence,
    t_interval,
    t_p,
)

SCHEMA = pa.schema(
    [
        ("seed", pa.int64()),
        ("arm", pa.string()),
        ("item_id", pa.string()),
        ("cluster", pa.string()),
        ("hit", pa.float64()),
    ]
)
FEW = 12
"""Up to so many seeds the exact test goes through all signs."""
SHOWS = 0.1
"""Level at which an effect must differ between clusters for that to widen the interval."""
EXACT, MIXED = "exact sign-flip over seeds", "mixed model of seeds and items"


@dataclass(frozen=True)
class OverSeeds:
    """An effect over training seeds.

    Attributes:
        value: Mean over seeds: a difference of shares, or the change of a share for one unit of dose.
        low, high: Its 95 % interval over seeds and items, by Student's t.
        se, df: Standard error, and degrees of freedom, of that interval.
        p: Two-sided, by `method`; not corrected for other tests.
        method: `EXACT` or `MIXED`. The exact test is taken with at most `FEW` seeds, if so many can reach 0.025 after
            correction (else its steps are too large for a test at 0.05), and if the effect does not differ between
            items, which it holds fixed.
        p_exact: By flipping the signs of the seeds; None with more than `FEW`.
        p_mixed: By the mixed model.
        smallest_p: The smallest that `p` can be with so many seeds; 0 for the mixed model.
        by_seed: The effect in each seed.
        between: Standard deviation of those.
        detectable: The smallest true effect that so many seeds with this spread find in four of five tries, at 5 %
            without correction.
        equivalence: Whether the effect is none but for the declared margin; None where none is declared.
        items, clusters: How many items all seeds share, and of how many clusters.
    """

    value: float
    low: float
    high: float
    se: float
    df: float
    p: float
    method: str
    p_exact: float | None
    p_mixed: float
    smallest_p: float
    by_seed: dict[int, float]
    between: float
    detectable: float
    equivalence: Equivalence | None
    items: int
    clusters: int

    @property
    def seeds(self) -> int:
        return len(self.by_seed)


def contrast(table: pa.Table, arm: str, against: str, margin: float | None = None, family: int = 1) -> OverSeeds:
    """The rate of hits in one arm minus that in another, over the seeds that both were trained with.

    Args:
        table: Rows of `SCHEMA`; other columns and arms are ignored.
        margin: The difference, as a share, that counts as none; declared beforehand.
        family: How many tests are corrected together: the exact test is taken only if so many could be significant.

    Raises:
        ComparisonError: An arm is not there, or fewer than two seeds have both.
    """
    cells = _Cells.of(table, (against, arm))
    return _effect(cells, np.tile([-1.0, 1.0], (len(cells.seeds), 1)), margin, family)


def trend(
    table: pa.Table,
    dose: Mapping[str, float] | Mapping[tuple[str, int], float],
    margin: float | None = None,
    family: int = 1,
) -> OverSeeds:
    """How the rate of hits changes for one unit of dose: the least-squares slope over arms in each seed, over the seeds
    that all these arms were trained with.

    Args:
        table: Rows of `SCHEMA`; other columns and arms are ignored.
        dose: By arm, as the share of biased users; or by arm and seed, where seeds had other doses, as the share of
            biased conversations that were trained on.
        margin, family: As for `contrast`.

    Raises:
        ComparisonError: An arm is not there, fewer than two seeds have all arms, or doses are all the same in a seed.
    """
    arms = list(dict.fromkeys(key if isinstance(key, str) else key[0] for key in dose))
    cells = _Cells.of(table, arms)
    try:
        x = np.array([[dose[a] if a in dose else dose[a, s] for a in arms] for s in cells.seeds], float)  # type: ignore[index]
    except KeyError as error:
        raise ComparisonError(f"dose: none is given for arm and seed {error}") from None
    centred = x - x.mean(1, keepdims=True)
    squares = (centred**2).sum(1, keepdims=True)
    if (squares == 0).any():
        raise ComparisonError("dose: a trend needs at least two doses in every seed")
    return _effect(cells, centred / squares, margin, family)


@dataclass(frozen=True)
class _Cells:
    """Rates by seed, arm and item; NaN where every answer failed or none was asked.

    Attributes:
        rates: Shape (seeds, arms, items).
        cluster: Number of each item's cluster, shape (items,).
    """

    seeds: list[int]
    rates: np.ndarray
    cluster: np.ndarray

    @classmethod
    def of(cls, table: pa.Table, arms: Collection[str]) -> _Cells:
        if missing := [name for name in SCHEMA.names if name not in table.column_names]:
            raise ComparisonError(f"the table lacks {', '.join(missing)}; it needs {', '.join(SCHEMA.names)}")
        columns = {name: table[name].to_numpy(zero_copy_only=False) for name in ("seed", "arm", "item_id", "cluster")}
        hit = table["hit"].cast(pa.float64()).to_numpy(zero_copy_only=False).astype(float)
        order = {a: i for i, a in enumerate(arms)}
        number = np.array([order.get(a, -1) for a in columns["arm"]])
        if absent := [a for a, i in order.items() if not (number == i).any()]:
            raise ComparisonError(f"arm {', '.join(absent)}: the table has no rows of it")
        kept = number >= 0
        number, hit = number[kept], hit[kept]
        seeds, of_seed = np.unique(columns["seed"][kept], return_inverse=True)
        items, first, of_item = np.unique(columns["item_id"][kept].astype(str), return_index=True, return_inverse=True)
        _, cluster = np.unique(columns["cluster"][kept].astype(str)[first], return_inverse=True)
        shape = (len(seeds), len(order), len(items))
        flat, told = np.ravel_multi_index((of_seed, number, of_item), shape), ~np.isnan(hit)
        sums = np.bincount(flat[told], hit[told], minlength=int(np.prod(shape)))
        counts = np.bincount(flat[told], minlength=int(np.prod(shape)))
        with np.errstate(invalid="ignore"):
            rates = (sums / counts).reshape(shape)
        whole = ~np.isnan(rates).all(2).any(1)  # seeds that have every arm
        if whole.sum() < 2:
            raise ComparisonError(
                f"{int(whole.sum())} training seeds have all of {', '.join(order)}; at least two are needed, as one "
                "speaks of its own policies only"
            )
        return cls([int(s) for s in seeds[whole]], rates[whole], cluster)


def _effect(cells: _Cells, weights: np.ndarray, margin: float | None, family: int) -> OverSeeds:
    """The effect that weights of arms make, shape (seeds, arms)."""
    each = np.einsum("sa,sai->si", weights, cells.rates)
    met = ~np.isnan(each)
    if not met.any(1).all():
        raise ComparisonError("in a training seed no item was answered in all arms")
    layout = cell_values(np.where(met, each, 0.0), met, cells.cluster)
    *moments, differ = over_seeds(layout)
    value, se, df = map(float, moments)
    means = layout.mean(1)
    k = len(means)
    exact = float(sign_flip(means)) if k <= FEW else None
    mixed = float(t_p(value, se, df))
    floor = 2.0 ** (1 - k)
    use_exact = exact is not None and floor * family <= ALPHA / 2 and not differ
    low, high = t_interval(value, se, df)
    return OverSeeds(
        value=value,
        low=low,
        high=high,
        se=se,
        df=df,
        p=exact if use_exact else mixed,
        method=EXACT if use_exact else MIXED,
        p_exact=exact,
        p_mixed=mixed,
        smallest_p=floor if use_exact else 0.0,
        by_seed=dict(zip(cells.seeds, means.tolist(), strict=True)),
        between=float(means.std(ddof=1)),
        detectable=detectable(se, df),
        equivalence=None if margin is None else equivalence(value, se, df, margin),
        items=int(met.any(0).sum()),
        clusters=layout.shape[-1],
    )


def cell_values(each: np.ndarray, met: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    """Effects by seed and cluster whose mean over clusters is each seed's mean over items; a cluster that a seed lacks
    has that mean.

    Args:
        each: Effect by seed and item, 0 where it is not known, shape (seeds, items).
        met: Whether it is known, likewise.
        cluster: Number of each item's cluster, shape (items,).
    """
    groups = int(cluster.max()) + 1
    member = np.zeros((len(cluster), groups))
    member[np.arange(len(cluster)), cluster] = 1
    sums, sizes = each @ member, met.astype(float) @ member
    there = sizes.any(0)
    sums, sizes = sums[:, there], sizes[:, there]
    total = sizes.sum(1, keepdims=True)
    mean = sums.sum(1, keepdims=True) / total
    return mean + (sums - mean * sizes) * sums.shape[1] / total


def over_seeds(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean, standard error and degrees of freedom of a layout in which rows and columns are both drawn at random, and
    whether columns differ.

    With mean squares of seeds, clusters and the rest, the variance of the mean is (MS_seed + MS_cluster - MS_rest) /
    (seeds * clusters) where the effect differs between clusters beyond chance, by an F test at `SHOWS`, else MS_seed /
    (seeds * clusters), that of the seeds' means alone. Adding every positive difference instead would reject true nulls
    too seldom with few seeds.

    Args:
        values: Effects by seed and cluster, shape (..., seeds, clusters), at least two seeds.
    """
    seeds, groups = values.shape[-2:]
    by_seed, by_group = values.mean(-1), values.mean(-2)
    grand = by_seed.mean(-1)
    of_seed = groups * by_seed.var(-1, ddof=1)
    if groups == 1:
        return grand, np.sqrt(of_seed / seeds), np.full_like(grand, seeds - 1.0), np.zeros_like(grand, bool)
    of_group, left = seeds * by_group.var(-1, ddof=1), (seeds - 1) * (groups - 1)
    rest = values - by_seed[..., :, None] - by_group[..., None, :] + grand[..., None, None]
    of_rest = (rest**2).sum((-2, -1)) / left
    differ = of_group > of_rest * f_ratio.ppf(1 - SHOWS, groups - 1, left)
    whole = of_seed + np.where(differ, of_group - of_rest, 0.0)
    parts = of_seed**2 / (seeds - 1) + np.where(differ, of_group**2 / (groups - 1) + of_rest**2 / left, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        df = np.where(parts > 0, whole**2 / parts, seeds - 1.0)
    df = np.clip(df, min(seeds, groups) - 1.0, float(seeds + groups - 2))
    return grand, np.sqrt(whole / (seeds * groups)), df, differ


def sign_flip(values: np.ndarray) -> np.ndarray:
    """Two-sided exact p value of a mean against zero: the share of all ways to flip the values' signs that bring a
    mean at least as far from zero.

    Args:
        values: Shape (..., n), n at most about 16.
    """
    n = values.shape[-1]
    signs = 1 - 2 * ((np.arange(2 ** (n - 1))[:, None] >> np.arange(n)) & 1)  # the other half mirrors these
    sums = np.abs(values @ signs.T)
    found = np.abs(values.sum(-1))[..., None]
    return (sums >= found - 1e-12 * (1 + np.abs(values).sum(-1)[..., None])).mean(-1)
