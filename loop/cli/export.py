"""`candor export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from loop.cli.common import recorded_run, short_path
from loop.cli.exits import fail
from loop.cli.options import AsJson, RunDirectory
from loop.config.explain import ConfigError

app = typer.Typer()


@app.command(
    epilog="Example: candor export runs/pocket-20260101-120000 --arm biased --round 2 --merged models/biased-2"
)
def export(
    run_dir: RunDirectory,
    arm: Annotated[str, typer.Option(help="Which arm.")],
    round: Annotated[
        int, typer.Option(min=0, help="Number of the policy, the one that this round talks with; 0 is the base.")
    ],
    merged: Annotated[
        Path | None, typer.Option(help="Write a whole Hugging Face model to this folder, weights merged.")
    ] = None,
    adapter: Annotated[Path | None, typer.Option(help="Write the PEFT adapter to this folder.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a policy, with its lineage, as a model that transformers or vLLM can load."""
    import json

    from actors.storage.files import shown_size
    from loop.export import about
    from loop.export import export as write

    settings, rundir = recorded_run(run_dir)
    try:
        written = write(settings, rundir, arm, round, merged, adapter)
    except ConfigError as error:
        raise fail(str(error)) from None
    found = about(written)
    if as_json:
        print(json.dumps({"folder": str(written), "arm": arm, "policy": round, **found}))
        return
    weights = f"{found['what']}, {found['weights']:,} weights in {' and '.join(found['dtypes'])}"
    print(f"{short_path(written)}: policy {round} of arm {arm}")
    print(f"  {weights}, {found['files']} files, {shown_size(found['bytes'])}")
    if found["trained"]:
        print(
            "  trained by {algorithm} on {rows} rows from {base}; all of it is in candor_policy.json".format(
                **found["trained"]
            )
        )
