"""The tables of a sweep: every figure of every policy, and what became of every item.

`sweep.arrow` has one row a figure; its columns are `COLUMNS` with one for each axis before `policy`, named after the
axis. `items.arrow` has one row an answer (`ITEMS`). Rows are in the order of the sweep's runs, arms and policies, and
nothing in them depends on when or where something ran, so that a sweep that was interrupted ends with the same files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from actors.storage.segments import read_table
from evals.evaluator import complete, record
from evals.outcomes import OUTCOMES, SCHEMA
from evals.scoring import headline_name
from loop.rundir import read_json
from loop.sweep.folder import SweepDir, standing
from loop.sweep.spec import Sweep, SweepRun

BEFORE = [("run", pa.string()), ("arm", pa.string()), ("condition", pa.string()), ("seed", pa.int64())]
AFTER = [
    ("policy", pa.int32()),
    ("suite", pa.string()),
    ("figure", pa.string()),
    ("value", pa.float64()),
    ("low", pa.float64()),
    ("high", pa.float64()),
    ("n", pa.int64()),
]
COLUMNS = tuple(name for name, _ in (*BEFORE, *AFTER))
"""`condition`: the arm's name among all runs, whatever the seed. `policy`: 0 is the untouched base; figures of
conversations and of their selection are those that policy held. `suite`: empty where a figure is of no suite. `low` and
`high`: its 95 % interval over items. `n`: of how many answers, conversations or rows it is, errors left out."""
ITEMS = pa.schema(
    [
        *BEFORE,
        ("policy", pa.int32()),
        ("suite", pa.string()),
        ("item_id", pa.string()),
        ("replicate", pa.int16()),
        ("cluster", pa.string()),
        ("asked", pa.string()),
        ("outcome", pa.string()),
    ],
    metadata={"candor_schema": "sweep-items/1"},
)
"""`asked`: under what, one of `actors.worlds.base.CONDITIONS`; `outcome` as in `evals.outcomes`."""
TRAINED_SHARE = "trained_share"
"""Of the conversations that a policy's successor was trained on, the share whose users were not benign."""


def figures_table(sweep: Sweep, folder: SweepDir) -> pa.Table:
    """All figures of all policies that have been evaluated, from the summaries of the runs."""
    rows = [row for run in sweep.runs for row in _rows(sweep, folder, run)]
    axes = [(key, _type([run.axes[arm][key] for run in sweep.runs for arm in run.axes])) for key in sweep.axes]
    kinds = dict(axes)
    for row in rows:
        row |= {key: _as(row[key], kind) for key, kind in kinds.items()}
    metadata = {"candor_schema": "sweep/1", "sweep": sweep.settings.name, "axes": json.dumps(sweep.axes)}
    return pa.Table.from_pylist(rows, schema=pa.schema([*BEFORE, *axes, *AFTER], metadata=metadata))


def items_table(sweep: Sweep, folder: SweepDir) -> pa.Table:
    """What became of every answer to every item of all policies that have been evaluated."""
    found = []
    for run in sweep.runs:
        for arm in run.config.arms:
            for policy in range(run.config.rounds + 1):
                where = folder.run(run).evals(arm.name, policy)
                for suite in record(where).get("suites", ()):
                    found.append(_items(read_table(where / f"{suite}.arrow", SCHEMA), run, arm.name, policy))
    return pa.concat_tables(found).combine_chunks() if found else ITEMS.empty_table()


def missing(sweep: Sweep, folder: SweepDir) -> list[tuple[str, str]]:
    """Runs and arms of which some policy has not been evaluated, or whose run did not come to its end."""
    found = []
    for run in sweep.runs:
        out, policies = folder.run(run), range(run.config.rounds + 1)
        lacking = [a.name for a in run.config.arms if not all(complete(out.evals(a.name, r)) for r in policies)]
        if not lacking and standing(folder, run).state != "finished":
            lacking = [a.name for a in run.config.arms]
        found += [(run.label, arm) for arm in lacking]
    return found


def _items(answers: pa.Table, run: SweepRun, arm: str, policy: int) -> pa.Table:
    same = {"run": run.label, "arm": arm, "condition": run.condition(arm), "seed": run.seed, "policy": policy}
    columns = {name: pa.array([same[name]] * len(answers), ITEMS.field(name).type) for name in same}
    columns |= {name: answers[name] for name in ("suite", "item_id", "replicate", "cluster", "outcome")}
    columns["asked"] = answers["condition"]
    return pa.table({name: columns[name] for name in ITEMS.names}, schema=ITEMS)


def _rows(sweep: Sweep, folder: SweepDir, run: SweepRun) -> Iterator[dict[str, Any]]:
    summary = read_json(folder.run(run).summary)
    for arm in summary.get("arms", ()):
        name = arm["name"]
        same = {"run": run.label, "arm": name, "condition": run.condition(name), "seed": run.seed, **run.axes[name]}
        for entry in arm["rounds"]:
            own = {**same, "policy": entry["policy"]}
            for suite, figures in entry.get("evals", {}).items():
                for row in _of_suite(figures):
                    yield {**own, "suite": suite, **row}
            for row in _of_round(entry):
                yield {**own, "suite": "", **row}


def _row(figure: str, value: float | None, n: int | None = None, ci95: Sequence[float] | None = None) -> dict[str, Any]:
    low, high = ci95 or (None, None)
    return {"figure": figure, "value": value, "low": low, "high": high, "n": n}


def _of_suite(figures: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A suite's headline first, then its outcomes as shares of all answers, and all that qualifies them."""
    head, n = headline_name(figures), figures.get("n")
    yield _row(head, figures[head], n, figures["ci95"])
    outcomes = figures.get("outcomes", {})
    asked = sum(outcomes.values())
    for outcome in OUTCOMES if outcomes else ():
        yield _row(f"outcome/{outcome}", outcomes[outcome] / asked if asked else None, outcomes[outcome])
    if "errors" in figures and not outcomes:
        yield _row("errors", None, figures["errors"])
    for name, value in figures.items():
        if name not in (head, "n") and isinstance(value, int | float) and name != "errors":
            yield _row(name, float(value))
    if directional := figures.get("directional_lies"):
        yield _row("directional_lies", directional["share"], directional["n"], directional["ci95"])
    for asked_under, lies in figures.get("controls", {}).items():
        yield _row(f"lies/{asked_under}", lies["share"], lies["n"], lies["ci95"])


def _of_round(entry: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What users thought of a policy's conversations, and of whom its successor learned."""
    counts = entry.get("trajectories")
    if counts:
        yield _row("conversations", None, counts["finished"])
        yield _row("excluded", counts["excluded"] / counts["planned"], counts["excluded"])
    for kind, rating in entry.get("mean_rating", {}).items():
        if rating is not None:
            yield _row(f"rating/{kind}", rating, sum(entry.get("replies", {}).get(kind, {}).values()))
    for kind, replies in entry.get("replies", {}).items():
        told = sum(replies.values())
        for verdict, count in replies.items():
            yield _row(f"replies/{kind}/{verdict}", count / told, count)
    if trained := entry.get("selection", {}).get("trained"):
        count, benign = trained["count"], trained["user_kind"].get("benign", 0)
        yield _row(TRAINED_SHARE, 1 - benign / count if count else None, count)


def _type(values: Sequence[Any]) -> pa.DataType:
    """The type of an axis: numbers where all of its values are, else text."""
    given = [v for v in values if v is not None]
    if given and all(isinstance(v, bool) for v in given):
        return pa.bool_()
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in given)
    return pa.float64() if given and numbers else pa.string()


def _as(value: Any, kind: pa.DataType) -> Any:
    if value is None or kind == pa.bool_():
        return value
    if kind == pa.float64():
        return float(value)
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
