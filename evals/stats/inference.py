"""Means with standard errors, and what follows from them: intervals, p values, equivalence, and detectable effects.

Everything here is Student's t with the degrees of freedom of whatever was sampled, so that no p value has a floor and a
few clusters or seeds do not pass for many. Functions take arrays as well as numbers.

The distributions are those of `scipy.special`, because importing `scipy.stats` takes most of a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import gammaincinv, gammaln, ndtr, stdtr, stdtrit

ALPHA = 0.05
POWER = 0.8


class ComparisonError(ValueError):
    """Two sets of outcomes that cannot be compared."""


def t_quantile(df: np.ndarray | float, confidence: float = 0.95) -> np.ndarray | float:
    """How many standard errors a two-sided interval reaches; infinitely many without a degree of freedom."""
    df = np.asarray(df, float)
    found = np.where(df > 0, stdtrit(np.maximum(df, 1e-9), 0.5 + confidence / 2), np.inf)
    return found if found.ndim else float(found)


def t_interval(value: float, se: float, df: float, confidence: float = 0.95) -> tuple[float, float]:
    """The interval of a mean."""
    reach = 0.0 if se == 0 else float(t_quantile(df, confidence)) * se
    return value - reach, value + reach


def t_p(value: np.ndarray | float, se: np.ndarray | float, df: np.ndarray | float) -> np.ndarray | float:
    """Two-sided p value of a mean against zero; 1 where value and standard error are both 0."""
    value, se, df = np.broadcast_arrays(np.asarray(value, float), np.asarray(se, float), np.asarray(df, float))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(value == 0, 0.0, np.abs(value) / se)
    found = np.where(df > 0, 2 * stdtr(np.maximum(df, 1e-9), -ratio), 1.0)
    return found if found.ndim else float(found)


@lru_cache(maxsize=4096)
def needed(df: float, power: float = POWER, alpha: float = ALPHA) -> float:
    """How many standard errors an effect must have to be found with this power by a two-sided t test."""
    from scipy.optimize import brentq

    chi2 = 2 * gammaincinv(df / 2, (np.arange(4000) + 0.5) / 4000)
    spread = np.sqrt(chi2 / df)  # of a standard error that is estimated
    limits = float(stdtrit(df, 1 - alpha / 2)) * spread

    def missing(shift: float) -> float:
        return float((ndtr(shift - limits) + ndtr(-limits - shift)).mean()) - power

    return float(brentq(missing, 0, 10 + 10 * limits.max()))


def detectable(se: float, df: float, power: float = POWER, alpha: float = ALPHA) -> float:
    """The smallest true effect that a t test of this spread finds with this power, in the units of `se`.

    A standard error of few degrees of freedom is too small on average, which is made up for (Holtzman 1950).
    """
    return needed(round(float(df), 1), power, alpha) * se / float(unbiased(df))


def unbiased(df: np.ndarray | float) -> np.ndarray | float:
    """What part of the true standard deviation an estimate with so many degrees of freedom has on average."""
    df = np.asarray(df, float)
    return np.sqrt(2 / df) * np.exp(gammaln((df + 1) / 2) - gammaln(df / 2))


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided tests of whether an effect lies within a margin (Schuirmann 1987).

    Attributes:
        margin: The largest effect, in either direction, that counts as none; declared before the data were seen.
        low, high: The 90 % interval, which lies within the margin just when `p` is below 0.05.
        p: The larger of the two p values: of an effect at or beyond the margin on either side.
    """

    margin: float
    low: float
    high: float
    p: float


def equivalence(value: float, se: float, df: float, margin: float) -> Equivalence:
    """Whether a mean is zero but for a margin.

    Raises:
        ComparisonError: The margin is not above 0.
    """
    if not margin > 0:
        raise ComparisonError(f"margin: found {margin:g}; a number above 0 is needed")
    low, high = t_interval(value, se, df, 0.9)
    nearest = margin - abs(value)
    if se == 0:
        return Equivalence(margin, low, high, 0.0 if nearest > 0 else 1.0)
    p = float(stdtr(df, -nearest / se)) if df > 0 else 1.0
    return Equivalence(margin, low, high, p)
