"""What a sweep consists of and how long it will take, before anything starts."""

from __future__ import annotations

from typing import Any

from evals.suites.catalogue import SUITES
from evals.suites.sources import suites_of
from loop import timing
from loop.cluster import check_resources
from loop.config.explain import ConfigError
from loop.config.schema import RunConfig
from loop.plan import to_hold
from loop.sweep.schedule import Machine, hungriest, slots
from loop.sweep.spec import Sweep

HOUR = 3600


def preview(sweep: Sweep, parallel: int | None) -> dict[str, Any]:
    """The runs of a sweep with their counts and the hours that they are expected to take here, for JSON.

    `hours` are those of one run with the machine to itself, None where nothing is known about its model here; `at_once`
    is how many runs would be held side by side, and `expected_hours` what all of them take so; `here` is what this
    machine lacks for them.

    Args:
        parallel: As `candor sweep --parallel`.
    """
    largest = hungriest(sweep.runs)
    places = slots(largest, Machine.here(largest), parallel)
    of_point: dict[str, dict[str, Any]] = {}
    rows = []
    for run in sweep.runs:
        if run.point not in of_point:  # seeds do not change how much there is to do, nor how long it takes
            expected = timing.expected(run.config)
            of_point[run.point] = {
                "conversations": sum(to_hold(run.config).values()),
                "answers": _answers(run.config),
                "hours": expected and (expected.start + expected.loop) / HOUR,
            }
        rows.append(
            {
                "run": run.label,
                "seed": run.seed,
                "arms": {arm.name: run.axes[arm.name] for arm in run.config.arms},
                "rounds": run.config.rounds,
                "policies": len(run.config.arms) * (run.config.rounds + 1),
                **of_point[run.point],
            }
        )
    counts = {key: sum(row[key] for row in rows) for key in ("policies", "conversations", "answers")}
    known = [row["hours"] for row in rows if row["hours"] is not None]
    return {
        "sweep": sweep.settings.name,
        "axes": sweep.axes,
        "runs": rows,
        "conditions": sweep.conditions,
        "against": sweep.against,
        "seeds": len(sweep.settings.seeds),
        **counts,
        "hours": sum(known) if len(known) == len(rows) else None,
        "at_once": len(places),
        "expected_hours": _side_by_side(known, len(places)) if len(known) == len(rows) else None,
        "shared": SHARED,
        "here": _lacking(sweep),
    }


SHARED = (
    "Arms of a run share its engines and trainer, its seed, the plans of its rounds and their personas, the "
    "conversations of round 0 that they plan and hold alike, and the evaluation of policy 0. Runs that ask it the same "
    "share that evaluation too, once one of them has made it."
)


def _lacking(sweep: Sweep) -> list[str]:
    """What this machine lacks for the runs, a line for each kind of run; a cluster is asked when runs join it."""
    found = []
    for config in {run.point: run.config for run in sweep.runs}.values():
        if config.cluster.address is None:
            machine = Machine.here(config)
            try:
                check_resources(config, [{"CPU": len(machine.cores), "GPU": len(machine.gpus)}])
            except ConfigError as error:
                found.append(str(error).splitlines()[0].rstrip(":"))
    return list(dict.fromkeys(found))


def _side_by_side(hours: list[float], places: int) -> float:
    """Hours until the last run ends when each begins at the first place that falls free, in order."""
    free = [0.0] * places
    for one in hours:
        at = free.index(min(free))
        free[at] += one
    return max(free)


def _answers(config: RunConfig) -> int:
    """Answers to items, matched controls among them, about so many; policy 0 answers once for all arms."""
    total = 0.0
    for n, arm in enumerate(map(config.for_arm, config.arms)):
        asked = sum(timing.answers(s, arm) for s in suites_of(arm.world, arm.evals) if not SUITES[s].by_lm_eval)
        total += (arm.rounds + (n == 0)) * asked
    return round(total)


def show(about: dict[str, Any], console: Any) -> None:
    """Print a preview as a table."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("run", "arms", "rounds", "policies", "conversations", "answers", "hours"):
        table.add_column(heading, justify="left" if heading in ("run", "arms") else "right", no_wrap=heading == "run")
    for row in about["runs"]:
        counts = [f"{row[key]:,}" for key in ("rounds", "policies", "conversations", "answers")]
        table.add_row(row["run"], ", ".join(row["arms"]), *counts, hours(row["hours"]))
    sums = [f"{about[key]:,}" for key in ("policies", "conversations", "answers")]
    table.add_row("all", "", "", *sums, hours(about["hours"]))
    console.print(table)
    at_once, took = about["at_once"], about["expected_hours"]
    side = "one after the other" if at_once == 1 else f"{at_once} at once"
    lines = [
        f"{about['sweep']}: {len(about['runs'])} runs, {len(about['conditions'])} conditions, {about['seeds']} seeds. "
        f"Every condition is compared with {about['against']}, seed by seed.",
        about["shared"],
        f"Expected on this machine, {side}: {hours(took)} h"
        if took is not None
        else f"Runs are held {side}; how long they take is known after a first run of this model here.",
    ]
    for line in lines:
        console.print(line, highlight=False, markup=False)
    for line in about["here"]:
        console.print(f"not on this machine: {line}", style="yellow", highlight=False, markup=False)


def hours(value: float | None) -> str:
    """Hours with as many digits as one wants to know."""
    return "?" if value is None else f"{value:.2f}" if value < 10 else f"{value:.0f}"
