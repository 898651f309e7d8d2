"""`candor report`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from loop.cli.common import recorded_run, short_path, show_results
from loop.cli.exits import FAILED, fail
from loop.cli.options import AsJson

app = typer.Typer()


@app.command(epilog="Example: candor report runs/pocket-20260101-120000")
def report(
    run_dirs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN_DIR ...", help="A run's or sweep's directory; several runs to compare them."),
    ],
    compare: Annotated[Literal["paper"] | None, typer.Option(help="Also show the paper's figures.")] = None,
    stands: Annotated[
        list[str] | None,
        typer.Option(
            "--as", metavar="ARM[/POLICY]=CONDITION", help="Which arm stands for which condition of the paper."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the page there and leave the run as it is. Default: into the run; of several, comparison.html.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write report.html and summary.json again from what is on disk, and print the table.

    Given the directory of a sweep, do the same for the report and the tables of all its runs together.

    With several runs, write one page that compares them, and print one table; their own reports stay as they are.

    With --compare paper, policy 0 stands for the paper's vanilla model, and an arm for the condition that it is named
    after. For an arm with another name, --as says what it stands for.
    """
    from rich.console import Console

    from actors.buffer import BufferError, StorageError
    from loop.report.page import write_report
    from loop.report.paper import PaperError, assigned, model_of, rows, side_by_side, table
    from loop.report.summary import write_summary
    from loop.rundir import read_json
    from loop.sweep.folder import SweepDir

    if len(run_dirs) > 1:
        _compare(run_dirs, compare, stands, out, as_json)
        return
    if stands and not compare:
        raise fail("--as needs --compare paper")
    if SweepDir(run_dirs[0]).settings.exists():
        if compare or out is not None:
            raise fail(f"{'--compare' if compare else '--out'} goes with a run, not with a sweep")
        _of_sweep(run_dirs[0], as_json)
        return
    settings, rundir = recorded_run(run_dirs[0])
    beside = None
    try:
        if out is not None and not rundir.summary.exists():
            raise fail(f"{run_dirs[0]}: has no summary.json yet; write it with candor report {run_dirs[0]}")
        if out is None and not rundir.at_work():  # else the run itself keeps its summary
            write_summary(rundir, settings, read_json(rundir.summary).get("status", "stopped"), again=True)
        if compare:
            beside = rows(side_by_side(read_json(rundir.summary), assigned(stands or []), model_of(settings.model)))
        write_report(rundir, settings, beside, out and out.absolute())
    except PaperError as error:
        raise fail(str(error)) from None
    except (BufferError, StorageError) as error:
        raise fail(str(error), FAILED) from None
    except OSError as error:
        raise _unwritable(out or rundir.report, error) from None
    show_results(settings, rundir, Console(), as_json, report=out, **({"paper": beside or []} if compare else {}))
    if as_json:
        return
    if beside:
        Console().print(table(beside))
    elif compare:
        print("Nothing to compare: no policy that was asked the paper's items stands for one of its conditions.")


def _unwritable(path: Path, error: OSError) -> typer.Exit:
    return fail(f"{path}: cannot be written ({error.strerror or error})")


def _of_sweep(root: Path, as_json: bool) -> None:
    """Write the report and the tables of a sweep again, and print its answer."""
    from loop.cli.sweep import show_sweep
    from loop.config.explain import ConfigError
    from loop.rundir import held, read_json
    from loop.sweep.answer import answer
    from loop.sweep.folder import SweepDir, recorded_sweep
    from loop.sweep.report import write_results

    folder = SweepDir(root.absolute())
    try:
        found = recorded_sweep(root)
        if held(folder.root):
            raise fail(f"{root}: candor sweep is at work on it, and writes its report at its end")
        lacking = write_results(found, folder)
    except ConfigError as error:
        raise fail(str(error)) from None
    except OSError as error:
        raise fail(f"{error.filename or root}: cannot be read or written ({error.strerror or error})", FAILED) from None
    if as_json:
        figures = read_json(folder.figures)
        print(json.dumps({"sweep_dir": str(folder.root), "answer": asdict(answer(figures)), **figures}))
        return
    show_sweep(folder)
    if lacking:
        print(f"not complete: {', '.join(dict.fromkeys(label for label, _ in lacking))}")


def _compare(
    run_dirs: list[Path], compare: str | None, stands: list[str] | None, out: Path | None, as_json: bool
) -> None:
    """Write and print the comparison of several runs."""
    from rich.console import Console

    from actors.buffer import BufferError
    from loop.report.comparison import compared, table, write_comparison

    if compare or stands:
        raise fail("--compare and --as go with one run")
    runs = [recorded_run(d) for d in run_dirs]
    roots = [rundir.root.resolve() for _, rundir in runs]
    if twice := next((d for d, root in zip(run_dirs, roots, strict=True) if roots.count(root) > 1), None):
        raise fail(f"{twice}: given twice")
    for given, (_, rundir) in zip(run_dirs, runs, strict=True):
        if not rundir.summary.exists():
            raise fail(f"{given}: has no summary.json yet; write it with candor report {given}")
    target = out or Path("comparison.html")
    try:
        found = compared(runs)
        write_comparison(found, target.absolute())
    except BufferError as error:
        raise fail(str(error), FAILED) from None
    except OSError as error:
        raise _unwritable(target, error) from None
    if as_json:
        print(json.dumps({"runs": [{"run": r.name, **asdict(r.answer)} for r in found], "comparison": str(target)}))
        return
    for run in found:
        print(f"{run.name}: {run.answer.sentence}")
    Console().print(table(found))
    print(f"comparison:  {short_path(target)}")
