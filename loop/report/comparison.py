"""Several runs side by side: one page whose arms are those of all runs, with what each run says and how they differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loop.config.files import differences
from loop.config.schema import RunConfig
from loop.report.answer import Answer, answer
from loop.report.charts import charts
from loop.report.contrasts import contrasts
from loop.report.page import render
from loop.report.scores import table_rows
from loop.report.tables import tables
from loop.rundir import RunDir, read_json, write_text


@dataclass(frozen=True)
class Compared:
    """One of the runs.

    Attributes:
        name: Its folder, with as many folders above it as tell it from the others.
        differs: Its settings that are not those of the first run.
    """

    name: str
    out: RunDir
    config: RunConfig
    summary: dict[str, Any]
    answer: Answer
    differs: list[str]


def compared(runs: Sequence[tuple[RunConfig, RunDir]]) -> list[Compared]:
    """The runs with their answers, in the order given."""
    names = _names([out.root for _, out in runs])
    first = runs[0][1].config.read_text(encoding="utf-8")
    found = []
    for name, (config, out) in zip(names, runs, strict=True):
        summary = read_json(out.summary)
        said = answer(summary, contrasts(out, config), config)
        differs = differences(first, config, (names[0], name)) if name != names[0] else []
        found.append(Compared(name, out, config, summary, said, differs))
    return found


def _names(roots: Sequence[Path]) -> list[str]:
    for depth in range(1, max(len(r.parts) for r in roots) + 1):
        names = ["/".join(r.parts[-depth:]) for r in roots]
        if len(set(names)) == len(names):
            break
    return names


def merged(runs: Sequence[Compared]) -> dict[str, Any]:
    """A summary whose arms are those of all runs, each with its run's name before it."""
    return {
        "run": " and ".join(r.name for r in runs),
        "status": "compared",
        "engine": None,
        "arms": [{**arm, "name": f"{r.name}: {arm['name']}"} for r in runs for arm in r.summary["arms"]],
        "prices": {name: price for r in runs for name, price in r.summary["prices"].items()},
        "budget": None,
    }


def write_comparison(runs: Sequence[Compared], target: Path) -> None:
    """Write the page that compares the runs."""
    summary = merged(runs)
    folders = {f"{r.name}: {arm['name']}": (r.out, arm["name"]) for r in runs for arm in r.summary["arms"]}

    def evals(arm: str, version: int) -> Path:
        out, name = folders[arm]
        return out.evals(name, version)

    made = charts(evals, summary, None)
    found = tables(summary, [], [], [], [])
    write_text(target, render("comparison.html.j2", made, summary=summary, runs=runs, tables=found))


def table(runs: Sequence[Compared]) -> Any:
    """The last policy of every arm of the runs, for the terminal."""
    from rich.table import Table

    out = Table("run", "arm", "policy", "honesty score", "deception", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for run in runs:
        last = {row["arm"]: row for row in table_rows(run.summary)}
        for row in last.values():
            out.add_row(run.name, row["arm"], row["policy"], row["honesty"], row["deception"])
    return out
