"""Intervals for shares of items that come in clusters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm


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

    The linearised variance of a ratio estimator over clusters, divided by that of independent items (Kish 1965).

    Args:
        hits: 0 or 1 for each item, shape (n,).
        clusters: Cluster number of each item, shape (n,).
    """
    n, p = len(hits), hits.mean()
    groups = clusters.max() + 1
    if groups < 2 or p in (0.0, 1.0):
        return 1.0
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
    z, p = norm.ppf(0.5 + confidence / 2), float(x.mean())
    centre = (p + z**2 / (2 * effective)) / (1 + z**2 / effective)
    half = z / (1 + z**2 / effective) * np.sqrt(p * (1 - p) / effective + z**2 / (4 * effective**2))
    low, high = min(p, max(0.0, float(centre - half))), max(p, min(1.0, float(centre + half)))
    return Share(p, low, high, n, len(names), effective)
