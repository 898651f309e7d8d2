"""`candor prune`."""

from __future__ import annotations

from typing import Annotated

import typer

from loop.cli.common import recorded_run, short_path
from loop.cli.exits import fail
from loop.cli.options import RunDirectory

app = typer.Typer()


@app.command(epilog="Example: candor prune runs/weeks --keep 3 --dry-run")
def prune(
    run_dir: RunDirectory,
    keep: Annotated[int, typer.Option(min=1, help="How many of the newest policies of each arm keep their weights.")],
    conversations: Annotated[
        bool, typer.Option("--conversations", help="Remove conversations of rounds that are done, too.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Remove the weights of old policies from a run directory.

    What something still needs stays: policies that are not evaluated yet, that the next training starts from or is
    compared with. Every figure, selection and outcome stays, and so does each policy's lineage. With --conversations
    the transcripts of rounds that are trained and evaluated go, and their figures cannot be computed again.
    """
    from loop.retention import prunable
    from loop.retention import prune as remove

    settings, rundir = recorded_run(run_dir)
    if rundir.at_work():
        raise fail(f"{run_dir}: a run is at work there; stop it first, or wait until it is done")
    found = prunable(settings, rundir, keep, conversations)
    places: dict[str, int] = {}
    for removal in found:
        place = short_path(removal.path.parent)
        places[place] = places.get(place, 0) + removal.size
    for place, size in places.items():
        print(f"  {place}: {size / 2**20:,.1f} MiB")
    total = sum(places.values()) / 2**20
    if not dry_run:
        remove(found, rundir)
    print(f"{'would remove' if dry_run else 'removed'} {total:,.1f} MiB in {len(found)} files")
