"""Arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Changes = Annotated[
    list[str] | None, typer.Option("--set", help="Change one setting: key=value. May be given several times.")
]
NewRun = Annotated[
    Path | None, typer.Option(help="Run directory; an unfinished run is continued. Default: a new one in runs/.")
]
RunDirectory = Annotated[Path, typer.Argument(help="A run directory.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Also show what otherwise only run.log has."),
]
