"""`candor world`: checking, building and writing worlds."""

from __future__ import annotations

import getpass
import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from loop.cli.exits import FAILED, MARKUP, STOPPED, fail
from loop.cli.options import AsJson

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=MARKUP,
    help="Worlds that simulated users live in.",
    epilog="Example: candor world check therapist",
)


@app.command("check", epilog="Example: candor world check therapist")
def check(
    world: Annotated[str, typer.Argument(help="A text world by name, or the folder of one.")],
    as_json: AsJson = False,
) -> None:
    """Find everything that is wrong with a world written as text. Exit code 1 if there is something."""
    from actors.worlds import WorldError
    from actors.worlds.authoring import check as finding

    try:
        folder = finding.folder_of(world)
    except WorldError as error:
        raise fail(str(error)) from None
    findings = finding.check(folder)
    if as_json:
        told = {"problems": [*map(str, findings.problems)], "reviews": [*map(str, findings.reviews)]}
        print(json.dumps({"summary": findings.summary, **told}))
        raise typer.Exit(FAILED if findings.problems else 0)
    for review in findings.reviews:
        print(f"review  {review}")
    for problem in findings.problems:
        print(f"problem {problem}")
    count = len(findings.problems)
    verdict = f"{count} problem{'s' if count > 1 else ''}" if count else "sound"
    to_read = f", {len(findings.reviews)} to review" if findings.reviews else ""
    print(f"{findings.summary}: {verdict}{to_read}")
    raise typer.Exit(FAILED if count else 0)


@app.command("build", epilog="Example: candor world build pocket --seed 1 --out models/pocket-1")
def build(
    name: Annotated[
        str, typer.Argument(help="pocket, or pocket-control, which has no shared latent variable.")
    ] = "pocket",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the weights and the corpus.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for the model. Default: one in the cache.")] = None,
    as_json: AsJson = False,
) -> None:
    """Build a pocket model from nothing and print its acceptance figures beside those of the shipped model.

    It is trained on a GPU if there is one, else on the CPU, which takes 15 minutes to an hour on two cores. A model
    that misses a figure is not kept. Runs use the one in the cache only if the world's files are no longer those that
    the shipped model was made from; to use another, set `model: FOLDER` in the run config.
    """
    from rich.console import Console
    from rich.table import Table
    from safetensors import SafetensorError

    from actors.worlds import WorldError
    from actors.worlds.pocket.recipe import RECIPES, read_record
    from actors.worlds.pocket.shipped import SHIPPED, built_folder
    from loop.report.terminal import Stages

    if name not in RECIPES:
        raise fail(f"there is no pocket model {name!r}; known: {', '.join(RECIPES)}")
    if seed and out is None:
        raise fail("--seed needs --out: the cache holds models of seed 0")
    folder, recipe, console = out or built_folder(name), replace(RECIPES[name], seed=seed), Console(stderr=as_json)
    if folder.exists() and not read_record(folder):
        raise fail(f"--out {folder}: already exists and is not a pocket model; choose another folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)  # before torch is imported, which takes many seconds
        from actors.worlds.pocket.build import build as train

        with Stages(console) as ui, ui.stage(f"build the {name} model", recipe.steps, "steps") as stage:
            record = train(recipe, folder, lambda done, total, _: stage.update(done, total))
    except KeyboardInterrupt:
        raise fail("stopped; nothing of the model was kept", STOPPED) from None
    except (OSError, SafetensorError) as error:
        told = getattr(error, "strerror", None) or error
        where = "give --out a folder" if out else "set CANDOR_CACHE to a folder"
        raise fail(
            f"{folder} cannot be written: {told}; free space there, or {where} that can be written", FAILED
        ) from None
    except WorldError as error:
        raise fail(str(error), FAILED) from None
    if as_json:
        print(json.dumps({"model": str(folder), **record}))
        return
    table, shipped = Table(box=None, pad_edge=False), read_record(SHIPPED / name).get("acceptance", {})
    for heading in ("figure", "built", "shipped", "accepted"):
        table.add_column(heading)
    for figure, of in record["acceptance"].items():
        there = f"{shipped[figure]['value']:.3f}" if figure in shipped else "-"
        table.add_row(figure, f"{of['value']:.3f}", there, f"{of['low']:.3g} to {of['high']:.3g}")
    console.print(table)
    print(f"model: {folder}")


@app.command(
    "personas",
    epilog="Example: candor world personas therapist --count 20000 --models a,b,c --config models.yaml --out big",
)
def personas(
    world: Annotated[str, typer.Argument(help="A text world by name, or the folder of one.")],
    count: Annotated[int, typer.Option(min=1, help="How many personas by models the world shall have in all.")],
    models: Annotated[str, typer.Option(help="Who writes them, in equal shares: names from the config, with commas.")],
    config: Annotated[Path, typer.Option(help="YAML file whose `models:` names endpoints.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the new world, or one that was begun. Default: the world itself."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before spending money.")] = False,
    batch: Annotated[int, typer.Option(min=1, max=25, help="Personas to ask for in one request.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sketches of people in the prompts.")] = 0,
    concurrency: Annotated[int, typer.Option(min=1, help="Most requests at a time.")] = 16,
) -> None:
    """Have language models write personas for a world, the same number for each scenario and kind.

    The cost is estimated before and shown after. The same command continues where an earlier one ended, and replaces
    personas that a person has rejected. Exit code 1 if personas are missing at the end.
    """
    from actors.worlds import WorldError
    from loop.cli.personas import chosen, write
    from loop.config.explain import ConfigError

    again = ["candor", "world", "personas", world, "--count", str(count), "--models", models, "--config", str(config)]
    again += ["--out", str(out)] if out else []
    again += ["--batch", str(batch), "--seed", str(seed), "--concurrency", str(concurrency)]
    try:
        settings = chosen(config, models)
        code = write(world, out, settings, count, batch, seed, concurrency, yes, shlex.join(again))
    except (ConfigError, WorldError) as error:
        raise fail(str(error)) from None
    except OSError as error:
        raise fail(f"{_told(error)}\nOnce that is fixed, continue with: {shlex.join(again)}", FAILED) from None
    raise typer.Exit(code)


@app.command("review", epilog="Example: candor world review big --sample 200")
def review(
    world: Annotated[str, typer.Argument(help="The folder of a text world.")],
    sample: Annotated[int, typer.Option(min=1, help="How many personas to read.")] = 200,
    seed: Annotated[int, typer.Option(help="Another seed draws another sample.")] = 0,
    reviewer: Annotated[str | None, typer.Option(help="Who reads them. Default: your user name.")] = None,
) -> None:
    """Read a sample of a world's personas one by one, and accept or reject each. Rejected ones leave the world.

    Each verdict is written to reviews.jsonl at once, and the same command continues with the unread rest of the sample.
    At most half of the sample is picked for words that a person should look at; the rest is drawn at random, evenly
    over scenarios and kinds.
    """
    from rich.console import Console

    from actors.worlds import WorldError
    from loop.cli.review import review as read_personas
    from loop.config.explain import ConfigError

    console = Console()
    try:
        reviewer = reviewer or getpass.getuser()
    except KeyError:
        raise fail("this machine has no name for its user; give --reviewer NAME") from None
    try:
        read_personas(world, sample, seed, reviewer, console, console.input)
    except (ConfigError, WorldError) as error:
        raise fail(str(error)) from None
    except OSError as error:
        raise fail(_told(error), FAILED) from None


def _told(error: OSError) -> str:
    return f"{error.filename or 'a file of the world'} cannot be read or written: {error.strerror or error}"
