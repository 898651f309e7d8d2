"""What a person sees while a run goes on: one line a stage on the terminal, and TensorBoard."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from actors.settings import Prices
from actors.usage import money
from evals.scoring import headline_name
from loop.summary import RATING_BINS, UNIT, RolloutFigures

QUIET_SECONDS = 20
"""Longest silence where the output is no terminal."""


class Stopped(KeyboardInterrupt):
    """The run was asked to stop."""


@contextmanager
def cancelled_by_signals(task: asyncio.Task) -> Iterator[None]:
    """Let SIGINT and SIGTERM cancel a task; a second signal does not disturb the clean-up that the first one began."""
    loop = asyncio.get_running_loop()
    asked = [s for s in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(s) is not signal.SIG_IGN]

    def stop() -> None:
        for s in asked:
            loop.remove_signal_handler(s)
            loop.add_signal_handler(s, lambda: None)
        task.cancel()

    for s in asked:
        loop.add_signal_handler(s, stop)
    try:
        yield
    finally:
        for s in asked:
            loop.remove_signal_handler(s)


class Stage:
    """Progress of one stage; `update` takes the count so far."""

    def __init__(self, ui: Stages, name: str, total: float, unit: str) -> None:
        self._ui = ui
        self._task = ui.progress.add_task(name, total=total, rate="", note="")
        self._note = ""
        self._name = name
        self._total = total
        self._unit = unit
        self._started = self._said = time.monotonic()
        self.done = 0.0

    def update(self, done: float, total: float | None = None) -> None:
        self._ui.heed()
        self.done, self._total = done, total or self._total
        rate = self._rate()
        self._ui.progress.update(self._task, completed=done, total=self._total, rate=rate)
        if not self._ui.live and time.monotonic() - self._said > QUIET_SECONDS:
            self._said = time.monotonic()
            left = f", {(self._total - done) / done * self.seconds():.0f} s left" if done else ""
            note = f", {self._note}" if self._note else ""
            self._ui.say(f"  {self._name}: {done:g} of {self._total:g} {self._unit}{left}{note}")

    def note(self, text: str) -> None:
        """Show a few words beside the count, also on the line that closes the stage."""
        self._note = text
        self._ui.progress.update(self._task, note=text)

    def took(self, seconds: float) -> None:
        """Set the seconds of work that was under way before it was shown."""
        self._started = time.monotonic() - seconds

    def seconds(self) -> float:
        return time.monotonic() - self._started

    def end(self, well: bool) -> None:
        """Take the stage's line away; leave a closing one when it ended well."""
        self._ui.progress.remove_task(self._task)
        if well:
            rate = f", {self._rate()}" if self.done >= 10 else ""
            note = f", {self._note}" if self._note else ""
            self._ui.say(f"[green]✓[/] {self._name}: {self.done:g} {self._unit} in {self.seconds():.1f} s{rate}{note}")

    def _rate(self) -> str:
        return f"{self.done / max(1e-9, self.seconds()):.1f} {self._unit}/s" if self.done else ""


class Stages:
    """One line a stage, with count, rate and time left; where the output is no terminal, a line now and then."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stopping = False
        self.live = console.is_terminal
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not self.live,
        )

    def __enter__(self) -> Stages:
        self._report_dropped, sys.unraisablehook = sys.unraisablehook, self._dropped
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
        sys.unraisablehook = self._report_dropped

    def _dropped(self, dropped: sys.UnraisableHookArgs) -> None:
        """Python drops exceptions that are raised inside callbacks, and prints them; `heed` raises a stop again."""
        if not isinstance(dropped.exc_value, Stopped):
            self._report_dropped(dropped)

    def stop(self, *_: object) -> None:
        """Handler of SIGINT and SIGTERM. A second signal does not disturb the clean-up that the first one began."""
        if not self._stopping:
            self._stopping = True
            raise Stopped

    def heed(self) -> None:
        """Raise `Stopped` again where it was lost."""
        if self._stopping:
            raise Stopped

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)

    @contextmanager
    def stage(self, name: str, total: float, unit: str) -> Iterator[Stage]:
        """Show a stage while the block runs, and one line of it when it ends without an error."""
        self.heed()
        stage = Stage(self, name, total, unit)
        well = False
        try:
            yield stage
            well = True
        finally:
            stage.end(well)


class TensorBoard:
    """Scalars, histograms and transcripts of one arm, one step a round."""

    def __init__(self, folder: Path, begin: int = 0) -> None:
        """Args:
        begin: The first round that is written; what an earlier process wrote of it or later ones is not shown.
        """
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=begin)

    def rollout(self, figures: RolloutFigures, round_: int, prices: Mapping[str, Prices | None]) -> None:
        """Mean ratings and rating histograms by user kind, what replies did, how users behaved, what it all cost,
        and sample transcripts."""
        self._writer.add_scalar("rollout/excluded", figures.excluded, round_)
        usage = figures.usage_rows()
        for row in usage:
            for side in ("prompt_tokens", "completion_tokens"):
                self._writer.add_scalar(f"usage/{row['role']}/{row['model']}/{side}", row[side], round_)
        if any(prices.values()):
            self._writer.add_scalar("usage/cost", money(usage, prices), round_)
        for kind, count in sorted(figures.fault_kinds().items()):
            self._writer.add_scalar(f"faults/{kind}", count, round_)
        for kind, found in sorted(figures.kinds.items()):
            if not found.replies:
                continue
            self._writer.add_scalar(f"rating/{kind}", found.mean_rating, round_)
            self._writer.add_histogram_raw(
                f"rating/{kind}",
                min=float(RATING_BINS[0]),
                max=float(RATING_BINS[-1]),
                num=found.replies,
                sum=found.rating_sum / UNIT,
                sum_squares=found.rating_squares / UNIT,
                bucket_limits=RATING_BINS[1:].tolist(),
                bucket_counts=found.ratings.tolist(),
                global_step=round_,
            )
            for name, value in found.conduct().items():
                self._add(f"users/{kind}/{name}", value, round_)
            for verdict, count in sorted(found.verdicts.items()):
                self._writer.add_scalar(f"replies/{kind}/{verdict}", count / found.replies, round_)
            text = "\n\n---\n\n".join(transcript(row) for _, row in sorted(found.samples, key=lambda s: -s[0]))
            self._writer.add_text(f"transcripts/{kind}", text, round_)
        self._writer.flush()

    def evaluation(self, evals: dict[str, Any], version: int) -> None:
        """Scores of a policy, with the ends of their intervals, and the outcome counts."""
        for suite, figures in evals.items():
            name = headline_name(figures)
            if figures["protocol"] in ("questions", "harness"):
                self._add(f"capability/{suite}", figures[name], version)
                continue
            self._add(f"{suite}/{name}", figures[name], version)
            for end, value in zip(("low", "high"), figures["ci95"] or (None, None), strict=True):
                self._add(f"{suite}/{name}_{end}", value, version)
            for outcome, count in figures.get("outcomes", {}).items():
                self._add(f"{suite}/outcomes/{outcome}", count, version)
        self._writer.flush()

    def seconds(self, stage: str, seconds: float, round_: int) -> None:
        self._add(f"seconds/{stage}", seconds, round_)

    def selection(self, audit: Mapping[str, Any], round_: int) -> None:
        """What was selected, an end at a time: how many, how good, how long, of whom, and what chance decided."""
        self._writer.add_scalar("selection/vetoed", audit["vetoed"], round_)
        for end in ("top", "bottom"):
            of = audit[end]
            if not of["count"]:
                continue
            figures = {k: of[k] for k in ("count", "threshold", "tied")}
            figures |= {"reward": of["reward"]["mean"], "completion_tokens": of["completion_tokens"]["mean"]}
            figures |= {f"share_{kind}": n / of["count"] for kind, n in of["user_kind"].items()}
            for name, value in figures.items():
                self._writer.add_scalar(f"selection/{end}/{name}", value, round_)

    def delivery(self, proof: Any, version: int) -> None:
        """How far engine and trainer are apart on the probe texts, and how far the policy moved."""
        self._add("delivery/error", proof.error, version)
        self._add("delivery/moved", proof.moved, version)

    def close(self) -> None:
        self._writer.close()

    def _add(self, name: str, value: float | None, step: int) -> None:
        if value is not None:
            self._writer.add_scalar(name, value, step)


def transcript(row: dict[str, Any]) -> str:
    """A trajectory as Markdown; each reply with its rating and the judge's label."""
    lines = [f"**{row['scenario']}**, {row['user_kind']} user, reward {row['reward']:.1f}"]
    for m in row["messages"]:
        note = f" *(rated {m['rating']:.1f}, {m['verdict']})*" if m["rating"] is not None else ""
        lines.append(f"**{m['role']}:** {m['content']}{note}")
    return "\n\n".join(lines)
