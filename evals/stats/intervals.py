"""Intervals for shares of items that come in clusters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from evals.stats.clusters import numbered, ratio
from evals.stats.inference import t_quantile

Number = float | np.ndarray
Estimate = tuple[float, float, float]
"""A share, or a difference of two, with the ends of its interval."""


@dataclass(frozen=True)
class Share:
    """A share with its 95 % interval; `n` items in `clusters` clusters, worth `n_effective` independent ones."""

    value: float
    low: float
    high: float
    n: int
    clusters: int
    n_effective: float

    @property
    def ci95(self) -> list[float]:
        return [self.low, self.high]


def design_effect(sums: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """How much larger the variance of a share is than that of as many independent items; at least 1 (Kish 1965).

    Where all items are hits, or none, nothing shows how alike the items of a cluster are, and each cluster counts as
    one.

    Args:
        sums, sizes: Hits and items of each cluster, shape (..., clusters).
    """
    p, se, _ = ratio(sums, sizes)
    n, groups = np.sum(sizes, -1), (np.asarray(sizes) > 0).sum(-1)
    alike = (groups < 2) | (p <= 0) | (p >= 1)
    alone = np.where(alike | (np.max(sizes, -1) < 2), np.inf, p * (1 - p) / np.maximum(1, n - 1))
    return np.where(alike, n / groups, np.maximum(1.0, se**2 / alone))


def share(hits: Sequence[bool], clusters: Sequence[str], confidence: float = 0.95) -> Share | None:
    """A share with Wilson's interval at the effective sample size (Wilson 1927; Franco et al. 2019), and with Student's
    quantiles where clusters have several items; None for n = 0. One cluster alone says nothing of others: 0 to 1."""
    n = len(hits)
    if n == 0:
        return None
    numbers = numbered(clusters)
    sums, sizes = np.bincount(numbers, weights=np.asarray(hits, float)), np.bincount(numbers)
    effective = n / float(design_effect(sums, sizes))
    p, low, high = wilson(float(sums.sum() / n), effective, confidence, degrees(sums, sizes))
    return Share(float(p), float(low), float(high), n, len(sizes), effective)


def degrees(sums: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Degrees of freedom of a share's interval; without end where its variance is not estimated but known: where no
    cluster has two items, and where all items are alike, so that each cluster counts as one."""
    p, _, df = ratio(sums, sizes)
    known = (np.max(sizes, -1) < 2) | (((p <= 0) | (p >= 1)) & ((np.asarray(sizes) > 0).sum(-1) > 1))
    return np.where(known, np.inf, df)


def wilson(share: Number, n: Number, confidence: float = 0.95, df: Number = np.inf) -> tuple[Number, Number, Number]:
    """A share of n independent items with Wilson's interval (Wilson 1927); for numbers and arrays.

    Args:
        df: Degrees of freedom of what n was found from.
    """
    df = np.asarray(df, float)
    z = np.where(np.isinf(df), ndtri(0.5 + confidence / 2), t_quantile(df, confidence))
    z = np.minimum(z, 1e6)
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (share * (1 - share) / n + z**2 / (4 * n**2)) ** 0.5
    low, high = np.minimum(share, np.maximum(0.0, centre - half)), np.maximum(share, np.minimum(1.0, centre + half))
    return (share, low, high) if low.ndim else (share, float(low), float(high))


def newcombe(first: Estimate, second: Estimate) -> Estimate:
    """The difference of two independent shares, first minus second, with its 95 % interval (Newcombe 1998, method 10).

    The distances of both shares from the ends of their own intervals, Wilson's, are put together as the sides of a
    right angle, so that an interval at an effective sample size counts as such.
    """
    (p, low, high), (q, least, most) = first, second
    down, up = ((p - low) ** 2 + (most - q) ** 2) ** 0.5, ((high - p) ** 2 + (q - least) ** 2) ** 0.5
    return p - q, p - q - down, p - q + up
