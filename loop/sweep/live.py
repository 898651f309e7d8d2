"""What a person sees of a sweep while it is under way: a table with a line for each run."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from loop.sweep.folder import Standing, standing
from loop.sweep.preview import hours
from loop.sweep.schedule import Schedule
from loop.sweep.spec import Sweep

REFRESH_SECONDS = 2.0
"""How often the runs' directories are looked at."""
QUIET_SECONDS = 60
"""Longest silence where the output is not a terminal."""
COLOURS = {"finished": "green", "running": "cyan", "failed": "red", "stopped": "yellow", "waiting": "dim"}


class LiveTable:
    """The table; where the output is not a terminal, a line whenever a run begins or ends, and one now and then."""

    def __init__(self, sweep: Sweep, schedule: Schedule, console: Console) -> None:
        self._sweep = sweep
        self._schedule = schedule
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=False) if console.is_terminal else None
        self._began = self._said = time.monotonic()
        self._looked = 0.0
        self._states: dict[str, str] = {}
        self._done_before = 0

    def __enter__(self) -> LiveTable:
        self._done_before = sum(s.policies[0] for s in self._look().values())
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.update(now=True)
        if self._live:
            self._live.stop()

    def update(self, now: bool = False) -> None:
        """Look at the runs, unless that was done a moment ago."""
        if not now and time.monotonic() - self._looked < REFRESH_SECONDS:
            return
        found = self._look()
        self._looked = time.monotonic()
        if self._live:
            self._live.update(self.table(found), refresh=True)
            return
        for run in self._sweep.runs:
            state = found[run.label].state
            if state != self._states.get(run.label, "waiting"):
                why = f" (see {self._schedule.folder.log(run)})" if state == "failed" else ""
                self._say(f"{run.label}: {state}{why}")
            self._states[run.label] = state
        if time.monotonic() - self._said > QUIET_SECONDS:
            self._say(self.summary(found))

    def _say(self, text: str) -> None:
        self._said = time.monotonic()
        self._console.print(text, highlight=False, soft_wrap=True)

    def _look(self) -> dict[str, Standing]:
        found = {run.label: standing(self._schedule.folder, run) for run in self._sweep.runs}
        for label, one in found.items():
            state = "failed" if label in self._schedule.failed else one.state
            state = "running" if label in self._schedule.active else state
            found[label] = Standing(state, one.policies, one.at)
        return found

    def table(self, found: dict[str, Standing]) -> Any:
        """A line for each run: its state, the policies that it has evaluated, what it is at, and for how long."""
        table = Table(box=None, pad_edge=False)
        for heading in ("run", "state", "policies", "at", "minutes"):
            table.add_column(heading, justify="right" if heading in ("policies", "minutes") else "left", no_wrap=True)
        for label, one in self._shown(found):
            child, at = self._schedule.active.get(label), one.at
            minutes = f"{child.seconds / 60:.1f}" if child else ""
            where = f"{at[0]}, policy {at[1]}" if at and one.state == "running" else ""
            done, of = one.policies
            table.add_row(label, f"[{COLOURS.get(one.state, 'none')}]{one.state}[/]", f"{done}/{of}", where, minutes)
        return Group(table, Text(self.summary(found)))

    def _shown(self, found: dict[str, Standing]) -> list[tuple[str, Standing]]:
        """All runs where the terminal has room for them; else those at work and those that failed."""
        room = self._console.height - 4
        if len(found) <= room:
            return list(found.items())
        order = ("running", "failed", "stopped", "waiting", "finished")
        kept = sorted(found.items(), key=lambda item: order.index(item[1].state) if item[1].state in order else 0)
        return kept[: max(1, room)]

    def summary(self, found: dict[str, Standing]) -> str:
        """How many runs and policies are done, and about how long the rest will take at this pace."""
        states = [one.state for one in found.values()]
        done, of = (sum(one.policies[i] for one in found.values()) for i in (0, 1))
        counts = [f"{states.count(s)} {s}" for s in ("finished", "running", "failed") if states.count(s)]
        pace = done - self._done_before
        left = (time.monotonic() - self._began) / pace * (of - done) / 3600 if pace else None
        ahead = f"; about {hours(left)} h left" if left and any(s == "running" for s in states) else ""
        return f"{done} of {of} policies evaluated; runs: {', '.join(counts) or 'none begun'}{ahead}"
