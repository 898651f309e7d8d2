"""The mean over items that come in clusters, of which a few must not pass for many."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def numbered(clusters: Sequence[str] | np.ndarray) -> np.ndarray:
    """The number of each item's cluster, from 0."""
    return np.unique(np.asarray(clusters), return_inverse=True)[1]


def ratio(sums: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over items with its standard error and degrees of freedom, from the sum and the number of each cluster's
    items.

    The standard error is the jackknife's over clusters, which unlike the sandwich is not too small where clusters
    differ in size (Bell & McCaffrey 2002). The degrees of freedom are those of so many clusters of equal size as the
    items are worth, (sum of sizes)^2 / sum of squared sizes, less 1 (Carter, Schnepel & Steigerwald 2017).

    Args:
        sums, sizes: Shape (..., clusters); a cluster may be empty.
    """
    sums, sizes = np.asarray(sums, float), np.asarray(sizes, float)
    n, groups = sizes.sum(-1), (sizes > 0).sum(-1)
    mean = sums.sum(-1) / n
    left = n[..., None] - sizes
    apart = np.where(left > 0, (sums - mean[..., None] * sizes) / np.where(left > 0, left, 1), 0.0)
    variance = (groups - 1) / groups * (apart**2).sum(-1)
    return mean, np.sqrt(variance), n**2 / (sizes**2).sum(-1) - 1
