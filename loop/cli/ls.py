"""`candor ls`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from loop.cli.exits import fail
from loop.cli.options import AsJson

app = typer.Typer()


@app.command("ls", epilog="Example: candor ls runs")
def ls(
    folder: Annotated[Path, typer.Argument(help="Where to look: a folder of runs or of sweeps, or one run.")] = Path(
        "runs"
    ),
    as_json: AsJson = False,
) -> None:
    """List runs, the newest first: when each was begun, its status, how many policies were evaluated, and honesty.

    The status is running, finished, stopped (by you, or by its budget), failed, interrupted (killed; `candor run`
    continues it), or not begun.
    """
    import json
    import sys

    from rich.console import Console

    from loop.report.listing import PIPE_WIDTH
    from loop.report.runs import runs, table

    if not folder.is_dir():
        raise fail(f"{folder} is not a folder; candor run makes a new one for each run in runs/")
    found = runs(folder)
    if as_json:
        print(json.dumps({"runs": found}))
    elif found:
        Console(width=None if sys.stdout.isatty() else PIPE_WIDTH).print(table(found))
    else:
        print(f"there are no runs in {folder}")
