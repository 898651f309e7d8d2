"""Dose-response: how policies move with one axis of a sweep, and with the share of what they were trained on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evals.stats.families import correct
from evals.stats.inference import ALPHA, ComparisonError
from evals.stats.response import emax
from evals.stats.seeds import contrast, trend
from loop.sweep.rates import Found, Rates, last_policies, measures, over_seeds
from loop.sweep.spec import Sweep
from loop.sweep.table import TRAINED_SHARE

Shares = Mapping[tuple[str, int], float]
"""By condition and seed, of the conversations that were trained on the share whose users were not benign."""


def trained_shares(figures: pa.Table) -> Shares:
    """The shares of what was trained on, the mean over rounds."""
    mine = figures.filter(pc.equal(figures["figure"], TRAINED_SHARE))
    means = mine.group_by(["condition", "seed"]).aggregate([("value", "mean")]).to_pylist()
    return {(row["condition"], row["seed"]): row["value_mean"] for row in means if row["value_mean"] is not None}


def doses(sweep: Sweep, suite: str, answers: pa.Table, rates: Rates, trained: Shares) -> Iterator[Found]:
    """A dose-response for each set of conditions that differ in nothing but the axis that is the dose."""
    axis = sweep.settings.analysis.dose
    if axis is None:
        return
    groups: dict[str, dict[str, float]] = {}
    for run in sweep.runs:
        for arm, values in run.axes.items():
            if isinstance(values[axis], int | float):
                rest = ", ".join(str(values[key]) for key in sweep.axes if key != axis)
                groups.setdefault(rest, {})[run.condition(arm)] = float(values[axis])
    for rest, dose in groups.items():
        if len(set(dose.values())) == len(dose) > 1:
            ordered = dict(sorted(dose.items(), key=lambda item: item[1]))
            about = {"suite": suite, "of": measures(suite), "axis": axis, "group": rest}
            yield about | _dose(sweep, answers, rates, ordered, trained)


def group_words(dose: Found) -> str:
    """What stays the same from dose to dose, as it follows a figure in a sentence; empty where nothing does."""
    return f" with {dose['group']}" if dose["group"] else ""


def _dose(sweep: Sweep, answers: pa.Table, rates: Rates, dose: Mapping[str, float], trained: Shares) -> Found:
    """One dose-response: points, each dose against the lowest, trends, and the curve."""
    last = last_policies(sweep)
    names = {c: f"{c}@{last[c]}" for c in dose}
    at = {c: {s: of[last[c]] for s, of in sorted(rates.get(c, {}).items()) if last[c] in of} for c in dose}
    points = [
        {"condition": c, "dose": x, "trained": _mean_share(trained, c), **over_seeds(at[c])}
        for c, x in dose.items()
        if at[c]
    ]
    steps = _steps(answers, names, dose, sweep.settings.analysis.margin)
    found: Found = {"points": points, "steps": steps}
    ways = steps[-1]["value"] if steps else 0.0  # lies rise, and ability falls
    found["smallest"] = next((s["dose"] for s in steps if s["p"] < ALPHA and s["value"] * ways > 0), None)
    by_share = {(names[c], seed): share for (c, seed), share in trained.items() if c in names}
    for name, over in (("trend", {names[c]: x for c, x in dose.items()}), ("trained_trend", by_share)):
        try:
            found[name] = asdict(trend(answers, over)) if over else None
        except ComparisonError:
            found[name] = None
    seeds = sorted({seed for of in at.values() for seed in of})
    try:
        curve = emax({s: {x: at[c][s] for c, x in dose.items() if s in at[c]} for s in seeds})
        return found | {"emax": asdict(curve), "no_emax": None}
    except ComparisonError as error:
        return found | {"emax": None, "no_emax": str(error)}


def _steps(answers: pa.Table, names: Mapping[str, str], dose: Mapping[str, float], margin: float) -> list[Found]:
    """Every dose against the lowest, with p values corrected among these."""
    least, *others = dose
    steps = []
    for c in others:
        try:
            made = contrast(answers, names[c], names[least], margin, len(others))
        except ComparisonError:
            continue
        steps.append({"condition": c, "dose": dose[c], **asdict(made), "seeds": made.seeds, "p_alone": made.p})
    for n, one in correct({n: s["p_alone"] for n, s in enumerate(steps)}, range(len(steps))).items():
        steps[n]["p"] = one.p
    return steps


def _mean_share(trained: Shares, condition: str) -> float | None:
    values = [share for (c, _), share in trained.items() if c == condition]
    return float(np.mean(values)) if values else None
