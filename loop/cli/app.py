"""The `candor` command: its groups of commands, a file each.

Imports neither torch nor ray nor vllm before a command needs them.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from actors import extensions
from loop.cli import (
    bench,
    config,
    data,
    dataset,
    doctor,
    evaluate,
    export,
    items,
    ls,
    model,
    plan,
    prune,
    report,
    run,
    serve,
    status,
    submit,
    sweep,
    view,
    world,
)
from loop.cli.exits import MARKUP, fail
from loop.config.explain import ConfigError

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=MARKUP,
    pretty_exceptions_enable=False,
    help="Candor studies whether a language model becomes dishonest by learning from what its users like.",
    epilog="Example: candor run configs/pocket.yaml --set rounds=3",
)
for commands in (
    run,
    sweep,
    plan,
    submit,
    status,
    ls,
    view,
    serve,
    report,
    data,
    items,
    export,
    prune,
    dataset,
    doctor,
    bench,
):
    app.add_typer(commands.app)
app.add_typer(config.app, name="config")
app.add_typer(model.app, name="model")
app.add_typer(world.app, name="world")
app.add_typer(evaluate.app, name="eval")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"candor {version('candor-loop')}")
        raise typer.Exit


@app.callback()
def candor(
    version_: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    extensions.load_from_environment()


def main() -> None:
    """Entry point of the `candor` command."""
    try:
        app()
    except (extensions.ExtensionError, ConfigError) as error:
        sys.exit(fail(str(error)).exit_code)
