"""`candor items`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from loop.cli.common import recorded_run
from loop.cli.exits import FAILED, fail
from loop.cli.options import AsJson

app = typer.Typer()


def _filter(text: str):
    return typer.Option(help=text, rich_help_panel="Which items")


@app.command(epilog="Example: candor items runs/pocket-20260101-120000 --suite mask --change 'honest to lie'")
def items(
    run_dir: Annotated[Path, typer.Argument(help="A run directory; the run may still be running.")],
    suite: Annotated[str | None, _filter("Of this suite, for example mask. Without it, outcomes are counted.")] = None,
    outcome: Annotated[
        str | None, _filter("To which a policy's answer came to this, for example lie; of any policy, or of --policy.")
    ] = None,
    change: Annotated[
        str | None,
        _filter(
            "From the first to the last policy of an arm: 'honest to lie', 'evasion to lie' and the like, or changed."
        ),
    ] = None,
    condition: Annotated[
        str | None, _filter("Asked like this: pressure, or a matched control, truth_wanted or no_stake.")
    ] = None,
    category: Annotated[str | None, _filter("Of this category.")] = None,
    text: Annotated[str, _filter("With this text in a prompt, an answer or a verdict.")] = "",
    arm: Annotated[str | None, typer.Option(help="Only policies of this arm.")] = None,
    policy: Annotated[int | None, typer.Option(min=0, help="Only policies of this number; 0 is the base.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most items to list. Default: 20, and as JSON all.")] = None,
    show: Annotated[
        str | None,
        typer.Option(
            help="Show one item in full, by its id or the beginning of its id: what was asked, what each policy "
            "believes and answers, and what judges said."
        ),
    ] = None,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="ARM/NUMBER ARM/NUMBER",
            help="Compare the second of two policies with the first, item by item: difference, interval and p.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Count, list, compare or show the evaluation items of a run, across its policies."""
    from actors.buffer import BufferError, StorageError
    from loop.report.filters import QueryError
    from loop.report.item_listing import answer
    from loop.report.items import ItemQuery

    settings, rundir = recorded_run(run_dir)
    change = change and change.replace("-", " ").replace("_", " ")
    query = ItemQuery(outcome, change, condition, category, arm, policy)
    try:
        sound = answer(rundir, settings, suite, query, text, show, limit, as_json, compare)
    except QueryError as error:
        raise fail(str(error)) from None
    except (BufferError, StorageError) as error:
        raise fail(str(error), FAILED) from None
    raise typer.Exit(0 if sound else FAILED)
