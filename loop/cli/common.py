"""What several commands need: paths as a person would write them, the run directory they are about, and how a run is
shown at its end."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

from loop.cli.exits import fail
from loop.config.explain import ConfigError


def short_path(path: Path) -> str:
    """A path as short as it can be written from here."""
    resolved = path.resolve()
    return str(resolved.relative_to(Path.cwd())) if resolved.is_relative_to(Path.cwd()) else str(resolved)


def tool_path(name: str) -> str:
    """How a command of this environment is called from here: by name where the shell finds it, else by path."""
    own = Path(sys.executable).parent / name
    return name if shutil.which(name) == str(own) else short_path(own)


def show_results(settings, rundir, console, as_json: bool = False, report: Path | None = None, **beside) -> None:
    """The closing table and where everything is, or the summary as one JSON object with what is to stand beside it.

    Args:
        report: Where the report was written, if not into the run directory.
    """
    import json

    from actors.scripted import SCRIPTED
    from loop.report.page import table
    from loop.rundir import read_json
    from loop.timing import parts, told

    if as_json:
        print(json.dumps({"run_dir": str(rundir.root), **read_json(rundir.summary), **beside}))
        return
    console.print(table(read_json(rundir.summary)))
    if settings.model == SCRIPTED:
        print(
            "The models answered from a script. It means something that the run finished, but its figures mean nothing."
        )
    print(f"took:        {told(parts(rundir, settings), settings.side_by_side)}")
    print(f"report:      {short_path(report or rundir.report)}")
    print(f"tensorboard: {tool_path('tensorboard')} --logdir {short_path(rundir.tensorboard)}")
    print(f"everything:  {short_path(rundir.root)}")


def recorded_run(run_dir: Path):
    """The config and the paths of a run that was begun."""
    from loop.config.files import load
    from loop.rundir import RunDir

    rundir = RunDir(run_dir.absolute())
    if not rundir.config.exists():
        raise fail(f"{run_dir} is not a run directory: it has no config.yaml")
    try:
        settings = load(rundir.config)
    except ConfigError as error:
        raise fail(str(error)) from None
    return settings, replace(rundir, uri=settings.buffer.uri)
