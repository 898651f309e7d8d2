"""Dose-response over training seeds: an Emax curve with intervals that hold with few seeds.

Each seed has one value at each dose. The curve is a_s + effect * h(x), h(x) = [x / (ed50 + x)] / [top / (ed50 + top)]:
a level of its own for each seed, and for all of them how far values move from dose 0 to the highest dose `top`, and at
which dose half of the most that they could ever move is reached (Emax model; Macdougall 2006). Large values of ed50
make it a straight line, so the family holds everything from a step to a line. Intervals are those of the profile
likelihood with an F limit (Bates & Watts 1988, chapter 6), which do not lean on the curve being nearly linear. Where
the data rule out no ed50, as without an effect, the curve that fits best is one of many, and the limit is that of two
parameters (Scheffe 1959).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import f as f_ratio

from evals.stats.inference import ALPHA, ComparisonError

GRID = 400
"""Values of ed50 that are tried, from a hundredth of the smallest dose to a hundred times the largest."""
CURVE = 41
"""Doses at which the curve is given."""


@dataclass(frozen=True)
class Response:
    """How values move with dose.

    Attributes:
        effect: Value at the highest dose minus that at dose 0, by the curve.
        low, high: Its 95 % interval over seeds.
        ed50: Dose at which half of the most that is ever reached is reached.
        ed50_low, ed50_high: Its 95 % interval; the ends of what was tried where it reaches so far.
        sigma: Standard deviation of what a seed adds at one dose beyond its level.
        misfit: p value of the hypothesis that means of the doses lie on such a curve (F test of lack of fit); None with
            three doses, through which one nearly always goes.
        curve: Rows (dose, change from dose 0, its 95 % interval), `CURVE` of them, shape (CURVE, 4).
        seeds, doses: How many there were.
    """

    effect: float
    low: float
    high: float
    ed50: float
    ed50_low: float
    ed50_high: float
    sigma: float
    misfit: float | None
    curve: list[list[float]]
    seeds: int
    doses: int


def emax(values: Mapping[int, Mapping[float, float]]) -> Response:
    """Fit the curve.

    Args:
        values: By training seed and dose; seeds that lack a dose of the others are left out.

    Raises:
        ComparisonError: There are fewer than three doses, or fewer than two seeds that have all.
    """
    doses = sorted({x for of in values.values() for x in of})
    whole = [s for s, of in values.items() if len(of) == len(doses)]
    if len(doses) < 3 or len(whole) < 2 or doses[0] < 0:
        raise ComparisonError(
            f"a dose-response needs three doses or more, none below 0, and two training seeds that have all of them; "
            f"found {len(doses)} doses and {len(whole)} seeds"
        )
    x, y = np.array(doses), np.array([[values[s][d] for d in doses] for s in whole])
    top, least = x[-1], x[x > 0][0]
    tried = np.geomspace(least / 100, top * 100, GRID)
    basis = _shape(x, tried, top)  # (tried, doses)
    centred, y = basis - basis.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    squares = len(whole) * (centred**2).sum(1)
    best = (centred @ y.sum(0)) / squares  # of each shape the effect that fits best
    left = np.maximum((y**2).sum() - squares * best**2, 0.0)  # and its sum of squares
    df = len(whole) * (len(x) - 1) - 2
    k = int(left.argmin())
    limit = left[k] * (1 + f_ratio.ppf(1 - ALPHA, 1, df) / df)
    if (left[[0, -1]] <= limit).any():  # any ed50 does, so that it is chosen to suit the effect
        limit = left[k] * (1 + 2 * f_ratio.ppf(1 - ALPHA, 2, df) / df)
    reach = np.sqrt(np.maximum(limit - left, 0.0) / squares)
    kept = left <= limit
    at = np.linspace(0, top, CURVE)
    ends = _shape(at, tried, top)[kept]  # (kept, CURVE)
    lowest, highest = (best - reach)[kept, None], (best + reach)[kept, None]
    return Response(
        effect=float(best[k]),
        low=float(lowest.min()),
        high=float(highest.max()),
        ed50=float(tried[k]),
        ed50_low=float(tried[kept].min()),
        ed50_high=float(tried[kept].max()),
        sigma=float(np.sqrt(left[k] / df)),
        misfit=_misfit(float(left[k]), y),
        curve=np.column_stack(
            [at, best[k] * _shape(at, tried[k : k + 1], top)[0], (lowest * ends).min(0), (highest * ends).max(0)]
        ).tolist(),
        seeds=len(whole),
        doses=len(x),
    )


def _misfit(left: float, centred: np.ndarray) -> float | None:
    """Whether the curve leaves more than means of the doses would.

    Args:
        left: The sum of squares that it leaves.
        centred: Values less the levels of their seeds, shape (seeds, doses).
    """
    seeds, doses = centred.shape
    more, df = doses - 3, (seeds - 1) * (doses - 1)
    if more < 1:
        return None
    pure = float(((centred - centred.mean(0)) ** 2).sum())
    if pure <= 1e-12 * float((centred**2).sum()) + 1e-24:  # no noise: it goes through the means, or it does not
        return 1.0 if left <= 1e-3 * float((centred**2).sum()) else 0.0
    return float(f_ratio.sf(max(left - pure, 0.0) / more / (pure / df), more, df))


def _shape(x: np.ndarray, ed50: np.ndarray, top: float) -> np.ndarray:
    """h at doses for each ed50, shape (len(ed50), len(x)); 1 at the highest dose."""
    return (x[None, :] / (ed50[:, None] + x[None, :])) * ((ed50[:, None] + top) / top)
