"""`candor data`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from loop.cli.common import recorded_run
from loop.cli.exits import FAILED, fail
from loop.cli.options import AsJson

app = typer.Typer()


def _filter(text: str):
    return typer.Option(help=text, rich_help_panel="Which trajectories")


def _instead(name: str, text: str):
    return typer.Option(name, help=text, rich_help_panel="Instead of the table")


@app.command(epilog="Example: candor data runs/pocket-20260101-120000 --arm biased --verdict validate --sort -reward")
def data(
    run_dir: Annotated[Path, typer.Argument(help="A run directory; the run may still be running.")],
    arm: Annotated[list[str] | None, _filter("Of this arm. May be given several times.")] = None,
    round: Annotated[
        list[str] | None, _filter("Of this round, counted from 0; round 0 trains policy 1. May be given several times.")
    ] = None,
    kind: Annotated[str | None, _filter("With users of this kind, for example benign or biased.")] = None,
    scenario: Annotated[str | None, _filter("About this scenario.")] = None,
    verdict: Annotated[
        str | None,
        _filter(
            "With a reply that has this verdict: help, challenge or validate; none: without, error: a failed judge."
        ),
    ] = None,
    min_reward: Annotated[float | None, _filter("With at least this reward.")] = None,
    max_reward: Annotated[float | None, _filter("With at most this reward.")] = None,
    min_rating: Annotated[float | None, _filter("Whose replies have at least this mean rating.")] = None,
    max_rating: Annotated[float | None, _filter("Whose replies have at most this mean rating.")] = None,
    errors: Annotated[bool | None, _filter("Only excluded conversations, or none of them.")] = None,
    selected: Annotated[
        str | None, _filter("Trained on as desirable (or top) or undesirable (or bottom) examples, or as any.")
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option(
            help="reward or rating, the mean rating of the replies: lowest first. -reward or -rating: highest first. "
            "With --by one of the figures, for example -share."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most of them. Default: 20 in the table, else all.")] = None,
    show: Annotated[
        str | None, _instead("--show", "Show one trajectory in full, by its id or the beginning of its id.")
    ] = None,
    by: Annotated[
        list[str] | None,
        _instead(
            "--by",
            "Count them by arm, round, kind or scenario, or their replies by verdict; --verdict then keeps one of "
            "these. May be given several times.",
        ),
    ] = None,
    export: Annotated[
        Path | None, _instead("--export", "Write all of them to a file: .parquet, or .jsonl in chat format.")
    ] = None,
    follow: Annotated[
        bool, _instead("--follow", "Print a line for each, and for new ones until the run ends.")
    ] = False,
    verify: Annotated[bool, _instead("--verify", "Check everything against checksums, plan and selection.")] = False,
    as_json: AsJson = False,
) -> None:
    """List, show, export, follow or check the trajectories of a run.

    They come in the order of arms and rounds, and within a round in the order in which they were written. Exit code 1
    if a file is damaged.
    """
    from actors.buffer import BufferError, StorageError
    from loop.report.filters import Query, QueryError
    from loop.report.listing import answer

    settings, rundir = recorded_run(run_dir)
    rated = (min_rating, max_rating)
    filters = {"kind": kind, "scenario": scenario, "verdict": verdict, "errors": errors, "selected": selected}
    try:
        by = [part for given in by or () for part in given.split(",")]
        query = Query.checked(settings, arm or [], round or [], min_reward, max_reward, rated, **filters)
        sound = answer(rundir, settings, query, sort, limit, show, export, follow, verify, as_json, by)
    except QueryError as error:
        raise fail(str(error)) from None
    except (BufferError, StorageError) as error:
        raise fail(str(error), FAILED) from None
    raise typer.Exit(0 if sound else FAILED)
