"""`candor status`."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import Annotated

import typer

from loop.cli.common import recorded_run
from loop.cli.options import AsJson, RunDirectory

app = typer.Typer()
WATCH_SECONDS = 2.0


@app.command(epilog="Example: candor status runs/pocket-20261126-101500 --watch")
def status(
    run_dir: RunDirectory,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again and again, until the run ends.")] = False,
) -> None:
    """Show how a run is doing: each actor, where it is, what it does and for how long, its memory, restarts and last
    error, and which stages are done and left. It reads the run directory only, so it works from any machine that sees
    it."""
    from rich.console import Console
    from rich.live import Live

    from loop.status import shown
    from loop.status import status as found

    settings, rundir = recorded_run(run_dir)
    now = found(settings, rundir)
    if as_json:
        print(json.dumps(now), flush=True)
        with suppress(KeyboardInterrupt):
            while watch and now["state"] in ("at work", "silent"):
                time.sleep(WATCH_SECONDS)
                now = found(settings, rundir)
                print(json.dumps(now), flush=True)
        return
    console = Console()
    if not watch:
        console.print(shown(now), highlight=False, markup=False)
        return
    with suppress(KeyboardInterrupt), Live(shown(now), console=console, auto_refresh=False) as live:
        while now["state"] in ("at work", "silent"):
            time.sleep(WATCH_SECONDS)
            now = found(settings, rundir)
            live.update(shown(now), refresh=True)
