"""`candor bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from actors.registry import nearest
from loop.cli.exits import fail
from loop.cli.options import AsJson

app = typer.Typer()


@app.command(epilog="Example: candor bench buffer --json")
def bench(
    name: Annotated[
        str,
        typer.Argument(
            help="One of adapter, buffer, eval, judge, lockstep, mfu, rating, rollouts, scale, sync, train, users, "
            "view."
        ),
    ],
    json: AsJson = False,
    widen: Annotated[
        int,
        typer.Option(min=1, help="For lockstep and rollouts: a model this many times as wide, with the same outputs."),
    ] = 1,
    model: Annotated[
        str | None,
        typer.Option(
            help="For eval, lockstep, rollouts and train, as in a config; for judge and rating whom to try, or "
            "NAME@URL for an endpoint that needs no key."
        ),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="For scale: the SVG to write. Default: a new one in runs/.")] = None,
    world: Annotated[
        str | None, typer.Option(help="For lockstep and rollouts: where the conversations are held.")
    ] = None,
) -> None:
    """Run a benchmark and print its figures: ratio, goal, runs, parts, versions and machine."""
    from actors.models.chat import NoLogprobsError
    from actors.worlds import WorldError
    from loop.bench import ASKED_OF, BENCHMARKS, TRIED, WIDENED, report_benchmark
    from loop.config.explain import ConfigError

    if name not in BENCHMARKS:
        near = nearest(name, BENCHMARKS)
        hint = f"did you mean {near}?" if near else f"known: {', '.join(BENCHMARKS)}"
        raise fail(f"there is no benchmark {name!r}; {hint}")
    if widen > 1 and name not in WIDENED:
        raise fail(f"--widen is for {' and '.join(WIDENED)}, not for {name}")
    if model is None and name in ASKED_OF:
        raise fail(f"candor bench {name} needs --model")
    for option, value, takers in (("model", model, (*WIDENED, *ASKED_OF, *TRIED)), ("world", world, WIDENED)):
        if value is not None and name not in takers:
            raise fail(f"--{option} is for {', '.join(takers)}, not for {name}")
    if plot is not None and name != "scale":
        raise fail(f"--plot is for scale, not for {name}")
    given = {"widen": widen, "model": model, "world": world}
    options = given if name in WIDENED else {"model": model} if name in (*ASKED_OF, *TRIED) else {}
    if name == "scale":
        options = {"plot": plot}
    try:
        report_benchmark(name, json, **options)
    except (ConfigError, WorldError, NoLogprobsError) as error:
        raise fail(str(error)) from None
