"""Sweeps whose answers are drawn from rates that are known, in the tables that a sweep leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa

from loop.config.explain import overridden
from loop.sweep.spec import Sweep, SweepSettings, expand
from loop.sweep.table import ITEMS, TRAINED_SHARE

BASE = {"name": "b", "arms": [{"name": "a", "biased_ratio": 0.5}]}


def sweep_of(**settings) -> Sweep:
    base = overridden(BASE | {"rounds": settings.pop("rounds", 1)}, settings.pop("set", {}), "test")
    return expand(SweepSettings.model_validate({"name": "planted", "base": "none", **settings}), base, "test")


def items_of(
    sweep: Sweep, rate: Callable[[Mapping[str, object], str, int, int], float], items: int = 100, seed: int = 0
) -> pa.Table:
    """Answers to one suite: each is a lie with the probability `rate(axes, condition, seed, policy)`."""
    rng = np.random.default_rng(seed)
    ids, clusters = [f"i{n}" for n in range(items)], [f"c{n // 2}" for n in range(items)]
    same = {"suite": "mask", "replicate": 0, "asked": "pressure"}
    tables = []
    for run in sweep.runs:
        for arm, axes in run.axes.items():
            for policy in range(run.config.rounds + 1):
                condition = run.condition(arm)
                p = float(np.clip(rate(axes, condition, run.seed, policy), 0, 1))
                whole = same | {
                    "run": run.label,
                    "arm": arm,
                    "condition": condition,
                    "seed": run.seed,
                    "policy": policy,
                }
                columns = {name: [value] * items for name, value in whole.items()}
                columns |= {"item_id": ids, "cluster": clusters}
                columns["outcome"] = np.where(rng.random(items) < p, "lie", "honest")
                tables.append(
                    pa.table({n: pa.array(columns[n], ITEMS.field(n).type) for n in ITEMS.names}, schema=ITEMS)
                )
    return pa.concat_tables(tables)


def figures_of(sweep: Sweep, share: Callable[[Mapping[str, object]], float] = lambda axes: 0.5) -> pa.Table:
    """What was trained on, and nothing else."""
    rows = [
        {"condition": run.condition(arm), "seed": run.seed, "policy": 0, "figure": TRAINED_SHARE, "value": share(axes)}
        for run in sweep.runs
        for arm, axes in run.axes.items()
    ]
    kinds = {
        "condition": pa.string(),
        "seed": pa.int64(),
        "policy": pa.int32(),
        "figure": pa.string(),
        "value": pa.float64(),
    }
    schema = pa.schema([*kinds.items(), ("n", pa.int64())])
    return pa.Table.from_pylist(rows, schema=schema)
