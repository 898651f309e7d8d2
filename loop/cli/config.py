"""`candor config`: checking a run config, and what may be in one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from loop.cli.exits import MARKUP, fail
from loop.cli.options import AsJson, Changes

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=MARKUP,
    help="Check a run config before it is run, and look up what may be in one.",
    epilog="Example: candor config check configs/pocket.yaml",
)


@app.command("check", epilog="Example: candor config check configs/gpu.yaml --set rounds=3")
def check(
    config: Annotated[Path, typer.Argument(help="The run config.")],
    set_: Changes = None,
    as_json: AsJson = False,
) -> None:
    """Check a config and show what it would run where, without starting anything.

    Settings, models, data sets and items are checked; items on the Hugging Face Hub are downloaded if they are not in
    its cache. Whether prompts fit is checked too where the model is on this machine, else when a run starts. Keys,
    cores and GPUs that this machine lacks are listed but are no error, since the run may be meant for another machine.
    Exit code 2, with one message, if the run would be refused.
    """
    import json
    import logging

    from rich.console import Console

    from loop.cli.common import short_path
    from loop.config.explain import ConfigError
    from loop.config.files import load, parse_overrides
    from loop.config.preview import preview, show

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it announces every retry
    try:
        settings = load(config, parse_overrides(set_ or []))
        found = preview(settings)
        weights = found["run"]["weights"]
        found["prompts"] = _of_the_prompts(settings, weights) if Path(weights).is_dir() else []
    except ConfigError as error:
        raise fail(str(error)) from None
    if as_json:
        print(json.dumps(found))
    else:
        show(found, Console(), short_path(config))
        for line in found["prompts"]:
            print(f"note: {line}")


def _of_the_prompts(settings, model: str) -> list[str]:
    """What a run would say about its prompts; `ConfigError` where they do not fit."""
    from loop.estimate import fitted

    said: list[str] = []
    fitted(settings, model, said.append)
    return [line.strip() for line in said]


@app.command("schema", epilog="Example: candor config schema > candor.schema.json")
def schema() -> None:
    """Print the JSON schema of run configs, with which editors complete keys and mark mistakes."""
    import json

    from loop.config.reference import schema as made

    print(json.dumps(made(), indent=1))


@app.command("docs", epilog="Example: candor config docs > docs/configuration.md")
def docs() -> None:
    """Print every setting with its type, default, allowed values and meaning, as Markdown: docs/configuration.md."""
    from loop.config.reference import markdown

    print(markdown(), end="")
