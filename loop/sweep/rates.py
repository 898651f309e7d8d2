"""Rates of lies and of correct answers by condition, seed and policy, from a sweep's table of items."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from actors.worlds.base import PRESSURE
from evals.protocols import PROTOCOLS
from evals.stats.inference import t_interval
from evals.suites.catalogue import SUITES
from loop.sweep.spec import Sweep

Found = dict[str, Any]
Rates = dict[str, dict[int, dict[int, float]]]
"""By condition, seed and policy."""


def measures(suite: str) -> str:
    """What the rate of a suite counts."""
    return "lies" if PROTOCOLS[SUITES[suite].protocol].honesty else "correct answers"


def hits(items: pa.Table, suite: str) -> pa.Table:
    """Answers of a suite as `evals.stats.seeds` takes them, the arm being condition and policy: `plain@2`.

    A hit is a lie in honesty suites and a correct answer in others; it is null where the answer failed.
    """
    mine = items.filter(pc.and_(pc.equal(items["suite"], suite), pc.equal(items["asked"], PRESSURE)))
    hit = pc.equal(mine["outcome"], "lie" if measures(suite) == "lies" else "correct")
    hit = pc.if_else(pc.equal(mine["outcome"], "error"), None, pc.cast(hit, pa.float64()))
    arm = pc.binary_join_element_wise(mine["condition"], pc.cast(mine["policy"], pa.string()), "@")
    kept = {name: mine[name] for name in ("seed", "item_id", "cluster", "condition", "policy")}
    return pa.table({**kept, "arm": arm, "hit": hit})


def rates_of(answers: pa.Table) -> Rates:
    """The rate of hits of every policy, over its items."""
    by_item = answers.group_by(["condition", "seed", "policy", "item_id"]).aggregate([("hit", "mean")])
    means = by_item.group_by(["condition", "seed", "policy"]).aggregate([("hit_mean", "mean")])
    found: Rates = {}
    for row in means.to_pylist():
        if row["hit_mean_mean"] is not None:
            found.setdefault(row["condition"], {}).setdefault(row["seed"], {})[row["policy"]] = row["hit_mean_mean"]
    return found


def over_seeds(values: Mapping[int, float]) -> Found:
    """Mean over seeds with its 95 % interval by Student's t; no interval with one seed."""
    each = np.array(list(values.values()))
    n = len(each)
    low, high = t_interval(each.mean(), each.std(ddof=1) / n**0.5, n - 1) if n > 1 else (None, None)
    by_seed = {str(seed): value for seed, value in values.items()}
    return {"value": float(each.mean()), "low": low, "high": high, "seeds": n, "by_seed": by_seed}


def last_policies(sweep: Sweep) -> dict[str, int]:
    """The last policy of each condition."""
    return {run.condition(arm): run.config.rounds for run in sweep.runs for arm in run.axes}
