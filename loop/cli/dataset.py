"""`candor dataset`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from loop.cli.exits import fail
from loop.cli.options import AsJson
from loop.config.explain import ConfigError

app = typer.Typer()


@app.command(epilog="Example: candor dataset data/medical.jsonl --answers misaligned")
def dataset(
    source: Annotated[str, typer.Argument(help="A file or folder, a data set on the Hugging Face Hub, or world.")],
    part: Annotated[
        str | None, typer.Option(help="Which files of it; for source world a part such as talk/severe.")
    ] = None,
    answers: Annotated[str | None, typer.Option(help="aligned or misaligned, if rows have both.")] = None,
    rows: Annotated[int, typer.Option(min=0, help="How many conversations to show.")] = 3,
    on_bad_rows: Annotated[
        Literal["error", "drop"], typer.Option(help="drop counts and names rows that are no conversation.")
    ] = "error",
    world: Annotated[str, typer.Option(help="Which world, if the source is world.")] = "pocket",
    as_json: AsJson = False,
) -> None:
    """Show what a data set for candor finetune holds: form, rows, hash, licence, and its first conversations."""
    import json

    from rich.console import Console
    from rich.markup import escape

    from loop.config.files import build
    from trainers.datasets import DatasetError, read
    from trainers.settings import SourceSettings

    try:
        given = {"source": source, "part": part, "answers": answers, "duplicates": "drop", "on_bad_rows": on_bad_rows}
        found = read(build(given, "candor dataset", SourceSettings), world, seed=0, wanted=max(1, rows))
    except (ConfigError, DatasetError) as error:
        raise fail(str(error)) from None
    if as_json:
        print(json.dumps({"form": found.form, **found.record, "conversations": found.conversations[:rows]}))
        return
    console = Console()
    bad = found.record.pop("dropped_rows")
    for name, value in {"form": found.form, **found.record}.items():
        if value is not None:
            console.print(f"{name:10} {escape(str(value))}", highlight=False)
    for fault in bad:
        console.print(f"left out   {escape(fault)}", highlight=False)
    for messages in found.conversations[:rows]:
        console.rule()
        for m in messages:
            console.print(f"[bold]{m['role']}[/] {escape(m['content'])}", highlight=False)
