"""`candor sweep`."""

from __future__ import annotations

import shlex
import signal
import time
from pathlib import Path
from typing import Annotated

import typer

from loop.cli.common import short_path, tool_path
from loop.cli.exits import FAILED, STOPPED, fail
from loop.cli.options import AsJson, Changes
from loop.config.explain import ConfigError

app = typer.Typer()


@app.command(epilog="Example: candor sweep configs/sweeps/dose.yaml --dry-run")
def sweep(
    file: Annotated[Path, typer.Argument(metavar="SWEEP", help="A sweep as YAML, or the directory of one.")],
    set_: Changes = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The sweep's directory; an unfinished sweep is continued. Default: a new one in runs/."),
    ] = None,
    parallel: Annotated[
        int | None,
        typer.Option(min=1, help="How many runs at once. Default: as many as cores, memory and GPUs have room for."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the runs, what they consist of and how long they take; start none.")
    ] = False,
    json_: AsJson = False,
) -> None:
    """Run every run of a sweep, several at once where there is room, and report on all of them together.

    Each run is an ordinary run in its own directory, and one that fails does not stop the others. The same command
    continues a sweep that was interrupted. Given the directory of a sweep, it continues that one.
    """
    from loop.config.files import parse_overrides
    from loop.sweep.folder import SweepDir, recorded_sweep
    from loop.sweep.spec import read_sweep

    try:
        if file.is_dir():
            if set_ or out:
                raise ConfigError(f"{file}: is a sweep's directory; --set and --out are for a new sweep")
            found, root = recorded_sweep(file), file
        else:
            found = read_sweep(file, parse_overrides(set_ or []))
            root = out or Path("runs") / f"{found.settings.name}-{time.strftime('%Y%m%d-%H%M%S')}"
        if json_ and not dry_run:
            raise ConfigError("--json is for --dry-run")
        if dry_run:
            _preview(found, parallel, json_)
            return
        folder = SweepDir(root.absolute())
        folder.open(found)
    except ConfigError as error:
        raise fail(str(error)) from None
    given = [] if parallel is None else ["--parallel", str(parallel)]
    _go(found, folder, parallel, shlex.join([tool_path("candor"), "sweep", short_path(root), *given]))


def show_sweep(folder) -> None:
    """What a sweep came to in one sentence, and where everything is."""
    from loop.rundir import read_json
    from loop.sweep.answer import answer

    print(answer(read_json(folder.figures)).sentence)
    for name, path in (("report", folder.report), ("figures", folder.table), ("items", folder.items)):
        if path.exists():
            print(f"{name + ':':<13}{short_path(path)}")
    print(f"tensorboard: {tool_path('tensorboard')} --logdir {short_path(folder.runs)}")


def _preview(found, parallel: int | None, as_json: bool) -> None:
    """Print what a sweep consists of."""
    import json

    from rich.console import Console

    from loop.sweep.preview import preview, show

    about = preview(found, parallel)
    if as_json:
        print(json.dumps(about, indent=1))
    else:
        show(about, Console())


def _go(found, folder, parallel: int | None, again: str) -> None:
    """Hold all runs, then write the tables and the report of what there is."""
    from rich.console import Console

    from loop.report.terminal import Stopped
    from loop.sweep.live import LiveTable
    from loop.sweep.report import write_results
    from loop.sweep.schedule import Machine, Schedule, hungriest, slots

    def stop(*_: object) -> None:
        for asked in (signal.SIGINT, signal.SIGTERM):
            signal.signal(asked, signal.SIG_IGN)  # a second one does not disturb the clean-up
        raise Stopped

    for asked in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(asked) is not signal.SIG_IGN:
            signal.signal(asked, stop)
    console = Console()
    console.print(f"sweep directory: {short_path(folder.root)}", highlight=False, soft_wrap=True)
    largest = hungriest(found.runs)
    try:
        schedule = Schedule(folder, found.runs, slots(largest, Machine.here(largest), parallel))
        with LiveTable(found, schedule, console) as live:
            schedule.work(live.update)
        lacking = write_results(found, folder)
    except ConfigError as error:
        raise fail(str(error)) from None
    except KeyboardInterrupt:
        raise fail(f"stopped; nothing that was finished is lost. Continue with: {again}", STOPPED) from None
    except OSError as error:
        why = f"{error.filename or folder.root} cannot be read or written: {error.strerror or error}"
        raise fail(f"{why}\nOnce that is fixed, continue with: {again}", FAILED) from None
    show_sweep(folder)
    if lacking:
        runs = [run for run in found.runs if run.label in {label for label, _ in lacking}]
        logs = "\n".join(f"  {run.label}: see {short_path(folder.log(run))}" for run in runs)
        raise fail(
            f"{len(runs)} of {len(found.runs)} runs did not finish; the report leaves out what they lack:\n{logs}\n"
            f"Once that is fixed, continue with: {again}",
            FAILED,
        )
