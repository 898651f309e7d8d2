"""How a run is doing, from its directory alone: what each actor is at, and which stages are done and left."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from evals.evaluator import complete
from loop.config.schema import RunConfig
from loop.rundir import DamagedError, RunDir, read_json
from loop.runlog import read_log
from loop.timing import parts, told

SILENT_BEATS = 6
"""After so many heartbeats that did not come, a driver that is there is said to be silent."""
ERRORS_SHOWN = 3


def status(config: RunConfig, out: RunDir) -> dict[str, Any]:
    """How a run is doing, for JSON.

    `state` is `at work`; `silent`, where a process has the run open but writes no heartbeat; `finished`, `stopped` or
    `failed`, as the run ended; or `died`, where no process has it open and none said how it ended. `seconds` is what
    each kind of stage took so far.
    """
    beat = _read(out.heartbeat)
    age = time.time() - beat["at"] if "at" in beat else None
    fresh = age is not None and age < SILENT_BEATS * beat.get("every", 5)
    ended = _read(out.summary).get("status")
    if fresh and ended not in ("finished", "stopped", "failed"):
        state = "at work"
    elif out.at_work():
        state = "at work" if fresh or age is None else "silent"
    else:
        state = ended if ended in ("finished", "stopped", "failed") else "died"
    alive = state in ("at work", "silent")
    return {
        "schema": "status/1",
        "run": config.name,
        "directory": str(out.root),
        "state": state,
        "heartbeat_age": None if age is None else round(age, 1),
        "driver": {"host": beat.get("host"), "pid": beat.get("pid")},
        "stages": beat.get("stages", []) if alive else [],
        "actors": beat.get("actors", []) if alive else [],
        "arms": [{"arm": arm.name, "rounds": _rounds(config, out, arm.name)} for arm in config.arms],
        "arms_at_once": config.side_by_side,
        "seconds": _seconds(config, out),
        "errors": read_log(out.log, ("died", "stalled", "error"))[-ERRORS_SHOWN:],
    }


def _read(path: Any) -> dict[str, Any]:
    try:
        found = read_json(path)
    except DamagedError:
        return {}
    return found if isinstance(found, dict) else {}


def _seconds(config: RunConfig, out: RunDir) -> dict[str, float]:
    """What stages took that are done, all arms and rounds together."""
    try:
        return parts(out, config)
    except DamagedError:
        return {}


def _rounds(config: RunConfig, out: RunDir, arm: str) -> list[dict[str, Any]]:
    """The stages of each round that are done and left, in their order."""
    rounds = []
    mine = config.for_arm(next(a for a in config.arms if a.name == arm))
    for r in range(config.rounds + 1):
        stages = {"publish": out.delivery(arm, r).exists()}
        if r < config.rounds and mine.data is None:
            stages["rollout"] = out.rollout(arm, r).exists()
            stages["select"] = out.selection(arm, r).exists()
        stages["evaluate"] = complete(out.evals(arm, r))
        if r < config.rounds:
            stages["train"] = out.policy(arm, r + 1).exists()
        rounds.append(
            {
                "round": r,
                **{
                    part: [s for s, done in stages.items() if done == is_done]
                    for part, is_done in (("done", True), ("left", False))
                },
            }
        )
    return rounds


def shown(found: dict[str, Any]) -> RenderableType:
    """The same for people."""
    beat = "" if found["heartbeat_age"] is None else f", heartbeat {_ago(found['heartbeat_age'])} ago"
    lines: list[RenderableType] = [f"{found['run']}: {found['state']}{beat if found['state'] != 'finished' else ''}"]
    for stage in found["stages"]:
        beside = f", {stage['beside']}" if stage["beside"] else ""
        lines.append(
            f"  {stage['name']}: {stage['done']:g} of {stage['of']:g} {stage['unit']}"
            f" in {_ago(stage['seconds'])}{beside}"
        )
    for arm in found["arms"]:
        whole = sum(not r["left"] for r in arm["rounds"])
        begun = next((r for r in arm["rounds"] if r["left"]), None)
        left = f"; policy {begun['round']} lacks {', '.join(begun['left'])}" if begun else ""
        lines.append(f"  {arm['arm']}: {whole} of {len(arm['rounds'])} policies done{left}")
    if found["actors"]:
        lines.append(_actors(found["actors"]))
    for row in found["errors"]:
        lines.append(f"  {row['at'][:19]} {row['text']}")
    if any(found["seconds"].values()):
        lines.append(
            f"  {'so far it' if found['actors'] else 'it'} took {told(found['seconds'], found['arms_at_once'])}"
        )
    return Group(*lines)


def _actors(actors: list[dict[str, Any]]) -> Table:
    """A row for each actor; columns in which nobody has anything are left out."""
    rows = [
        {
            "actor": a["name"],
            "where": f"{a['host']}:{a['pid']}" if "host" in a else "",
            "state": a["state"] + (f" {_ago(a['since'])}" if "since" in a else ""),
            "does": a.get("doing", ""),
            "waits for": a.get("waits_for", ""),
            "memory": f"{a['memory'] / 2**20:,.0f} MiB" if a.get("memory") else "",
            "restarts": str(a["restarts"] or ""),
            "last error": (a["last_error"] or "")[:120],
        }
        for a in actors
    ]
    table = Table(box=None, pad_edge=False)
    columns = [c for c in rows[0] if any(row[c] for row in rows)]
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column == "actor")
    for row in rows:
        table.add_row(*(row[c] for c in columns))
    return table


def _ago(seconds: float) -> str:
    """A time span as a person would say it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
