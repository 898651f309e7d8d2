"""`summary.json`: every figure of a run, computed from what is on disk."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from actors.buffer import read_round
from evals.evaluator import SUITES, summarise
from loop.config import ArmSettings, RunConfig
from loop.plan import plan_round
from loop.rundir import RunDir, read_json, write_json


def write_summary(out: RunDir, config: RunConfig, status: str, engine: str | None = None) -> dict[str, Any]:
    """Compute and write the summary; `status` is running, finished, stopped or failed.

    Args:
        engine: Name and version of the engine; where it is not given, the one recorded before stays.
    """
    summary = {
        "run": config.name,
        "status": status,
        "engine": engine or read_json(out.summary).get("engine"),
        "arms": [arm_summary(out, config.for_arm(arm), arm) for arm in config.arms],
    }
    write_json(out.summary, summary)
    return summary


def arm_summary(out: RunDir, config: RunConfig, arm: ArmSettings) -> dict[str, Any]:
    """One arm; round r holds policy r's evaluations, and the last policy has an entry without trajectories."""
    rounds = []
    for r in range(config.rounds + 1):
        entry: dict[str, Any] = {"round": r, "policy": r}
        if r < config.rounds and out.trajectories(arm.name, r).exists():
            entry |= trajectory_summary(read_round(out.trajectories(arm.name, r)), len(plan_round(config, arm, r)))
        if all((out.evals(arm.name, r) / f"{s}.arrow").exists() for s in SUITES):
            entry["evals"] = summarise(out.evals(arm.name, r), config.evals.max_error_share)
        entry["seconds"] = read_json(out.stages(arm.name, r))
        if len(entry) > 3 or entry["seconds"]:
            rounds.append(entry)
    return {
        "name": arm.name,
        "biased_ratio": arm.biased_ratio,
        "trainer": config.trainer.algorithm,
        "control": config.selection.control,
        "seed": config.seed,
        "rounds": rounds,
    }


def trajectory_summary(table: pa.Table, planned: int) -> dict[str, Any]:
    """Counts, mean rating of a reply by user kind, what replies did by user kind, and tokens."""
    rows = table.select(["user_kind", "messages", "error"]).to_pylist()
    held = [r for r in rows if r["error"] is None]
    ratings: dict[str, float | None] = {}
    verdicts: dict[str, dict[str, int]] = {}
    for kind in ("benign", "biased"):
        replies = [m for r in held if r["user_kind"] == kind for m in r["messages"] if m["role"] == "assistant"]
        ratings[kind] = sum(m["rating"] for m in replies) / len(replies) if replies else None
        labels = [str(m["verdict"]) for m in replies]
        verdicts[kind] = {v: labels.count(v) for v in sorted(set(labels))}
    return {
        "trajectories": {"planned": planned, "finished": len(held), "excluded": len(rows) - len(held)},
        "mean_rating": ratings,
        "replies": verdicts,
        "tokens": {k: sum(table[f"{k}_tokens"].to_pylist()) for k in ("prompt", "completion")},
    }
