"""What a person sees on the terminal while a run is under way: one line a stage."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

if TYPE_CHECKING:
    from loop.runlog import RunLog

QUIET_SECONDS = 20
"""Longest silence where the output is not a terminal."""


STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that ask to stop: Ctrl-C, a scheduler that ends a job, a terminal that is closed."""


class Stopped(KeyboardInterrupt):
    """The run was asked to stop."""


@contextmanager
def cancelled_by_signals(task: asyncio.Task) -> Iterator[None]:
    """Let the signals of `STOPPING` cancel a task; a second one does not disturb the clean-up that the first began."""
    loop = asyncio.get_running_loop()
    asked = [s for s in STOPPING if signal.getsignal(s) is not signal.SIG_IGN]

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
    """Progress of one stage; `update` takes the count so far.

    Attributes:
        figures: What is measured of it, for programs: `tokens_per_second` and the like.
    """

    def __init__(self, ui: Stages, name: str, total: float, unit: str, about: dict[str, Any]) -> None:
        self._ui = ui
        self._about = about
        self.figures: dict[str, float] = {}
        self._task = ui.progress.add_task(name, total=total, rate="", note="")
        self._note = self._beside = ""
        self._replies = 0
        self._name = name
        self._total = total
        self._unit = unit
        self._started = self._said = time.monotonic()
        self._shown = (0.0, 0)
        self.done = 0.0

    def update(self, done: float, total: float | None = None) -> None:
        self._ui.heed()
        self.done, self._total = done, total or self._total
        rate = self._rate()
        self._ui.progress.update(self._task, completed=done, total=self._total, rate=rate)
        moved = (done, self._replies)
        if not self._ui.live and moved != self._shown and time.monotonic() - self._said > QUIET_SECONDS:
            self._said, self._shown = time.monotonic(), moved
            left = f"{(self._total - done) / done * self.seconds():.0f} s left" if done else ""
            beside = "".join(f", {text}" for text in (self._beside, left, self._note) if text)
            self._ui.say(f"  {self._name}: {done:g} of {self._total:g} {self._unit}{beside}")

    def beside(self, replies: int, tokens: int) -> None:
        """Show what was said so far in conversations of which many are still under way."""
        self._replies = replies
        self._beside = f"{replies:,} replies, {tokens / max(1e-9, self.seconds()):,.0f} tokens/s"
        self._show()

    def note(self, text: str) -> None:
        """Show a few words beside the count, also on the line that closes the stage."""
        self._note = text
        self._show()

    def _show(self) -> None:
        self._ui.progress.update(self._task, note=", ".join(filter(None, (self._beside, self._note))))

    def facts(self) -> dict[str, Any]:
        """What is shown of it, for programs."""
        beside = ", ".join(filter(None, (self._beside, self._note)))
        counts = {"done": self.done, "of": self._total, "unit": self._unit, "seconds": round(self.seconds(), 1)}
        return {"name": self._name, **self._about, **counts, "beside": beside, "figures": dict(self.figures)}

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
    """One line a stage, with count, rate and time left; where the output is not a terminal, a line now and then."""

    def __init__(self, console: Console, log: RunLog | None = None, verbose: bool = False) -> None:
        """Args:
        verbose: Whether the terminal shows all that goes into the log.
        """
        self._console = console
        self._log = log
        self._verbose = verbose
        self._stages: list[Stage] = []
        self._stopping = False
        self._own = threading.local()
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
            redirect_stdout=log is None,  # what else is written goes into the log
            redirect_stderr=log is None,
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
        """Handler of the signals of `STOPPING`. A second one does not disturb the clean-up that the first began."""
        signal.alarm(0)  # while Ray starts, a handler of its own has one abort the process three seconds later
        if not self._stopping:
            self._stopping = True
            raise Stopped

    def end_with(self, end: threading.Event) -> None:
        """Have this thread end as if it were stopped, once an event is set."""
        self._own.end = end

    def heed(self) -> None:
        """Raise `Stopped` where it was lost, or where this thread is to end."""
        end = getattr(self._own, "end", None)
        if self._stopping or (end is not None and end.is_set()):
            raise Stopped

    def say(self, text: str) -> None:
        """Show a line, and keep it in the run's log."""
        self._console.print(text, highlight=False, soft_wrap=True)
        self._write("said", Text.from_markup(text).plain.strip())

    def log(self, kind: str, text: str, **facts: Any) -> None:
        """Add a line to the run's log, where it has one; arguments as of `loop.runlog.RunLog.write`."""
        if self._verbose:
            beside = [facts.get("traceback"), facts.get("stacks"), *(facts.get("log") or ())]
            for line in (text, *filter(None, beside)):
                self._console.print(Text(f"  {kind}: {line.rstrip()}", "dim"), highlight=False, soft_wrap=True)
        self._write(kind, text, **facts)

    def _write(self, kind: str, text: str, **facts: Any) -> None:
        if self._log is not None:
            self._log.write(kind, text, **facts)

    def under_way(self) -> list[dict[str, Any]]:
        """The stages that are shown now, for programs."""
        return [stage.facts() for stage in list(self._stages)]

    @contextmanager
    def stage(self, name: str, total: float, unit: str, **about: Any) -> Iterator[Stage]:
        """Show a stage while the block runs, and one line of it when it ends without an error.

        Args:
            about: What programs tell it by: `stage`, `arm` and `round`.
        """
        self.heed()
        stage = Stage(self, name, total, unit, about)
        self._stages.append(stage)
        self.log("stage", f"{name} began", stage=name, of=total, unit=unit)
        well = False
        try:
            yield stage
            well = True
        finally:
            self._stages.remove(stage)
            stage.end(well)
            if not well:
                self.log("stage", f"{name} was cut short", stage=name)
