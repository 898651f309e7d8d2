"""`candor doctor`."""

from __future__ import annotations

import typer

from loop.cli.exits import FAILED
from loop.cli.options import AsJson

app = typer.Typer()


@app.command(epilog="Example: candor doctor")
def doctor(as_json: AsJson = False) -> None:
    """Show versions, cores, memory, GPU, number format, AMX and disk of this machine, and what a run would use."""
    from loop.doctor import examine

    if not examine(as_json):
        raise typer.Exit(FAILED)
