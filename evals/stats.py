"""Intervals for shares of items that come in clusters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

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


def design_effect(hits: np.ndarray, clusters: np.ndarray) -> float:
    """How much larger the variance of a mean is than that of as many independent items; at least 1.

    The linearised variance of a ratio estimator over clusters, divided by that of independent items (Kish 1965). Where
    all items are hits, or none, nothing shows how alike the items of a cluster are, and each cluster counts as one.

    Args:
        hits: 0 or 1 for each item, shape (n,).
        clusters: Cluster number of each item, shape (n,).
    """
    n, p = len(hits), hits.mean()
    groups = clusters.max() + 1
    if groups < 2 or p in (0.0, 1.0):
        return n / groups
    residual = np.bincount(clusters, weights=hits - p, minlength=groups)
    variance = groups / (groups - 1) * float((residual**2).sum()) / n**2
    return max(1.0, variance / (p * (1 - p) / (n - 1)))


def share(hits: Sequence[bool], clusters: Sequence[str], confidence: float = 0.95) -> Share | None:
    """A share with Wilson's interval at the effective sample size (Wilson 1927; Franco et al. 2019); None for n = 0."""
    n = len(hits)
    if n == 0:
        return None
    x = np.asarray(hits, float)
    names, numbers = np.unique(np.asarray(clusters), return_inverse=True)
    effective = n / design_effect(x, numbers)
    p, low, high = wilson(float(x.mean()), effective, confidence)
    return Share(p, low, high, n, len(names), effective)


def wilson(share: float, n: float, confidence: float = 0.95) -> Estimate:
    """A share of n independent items with Wilson's interval (Wilson 1927)."""
    z = float(norm.ppf(0.5 + confidence / 2))
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (share * (1 - share) / n + z**2 / (4 * n**2)) ** 0.5
    return share, min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half))


def newcombe(first: Estimate, second: Estimate) -> Estimate:
    """The difference of two independent shares, first minus second, with its 95 % interval (Newcombe 1998, method 10).

    The distances of both shares from the ends of their own intervals, Wilson's, are put together as the sides of a
    right angle, so that an interval at an effective sample size counts as such.
    """
    (p, low, high), (q, least, most) = first, second
    down, up = ((p - low) ** 2 + (most - q) ** 2) ** 0.5, ((high - p) ** 2 + (q - least) ** 2) ** 0.5
    return p - q, p - q - down, p - q + up
