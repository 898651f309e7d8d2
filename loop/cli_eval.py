"""Commands about evaluations; `loop/cli.py` registers them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from loop.exits import FAILED, STOPPED, fail


class ModelFirst(TyperGroup):
    """A group of commands in which the first word may also be a model: `candor eval MODEL`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["model", *args]
        return super().parse_args(ctx, args)


def register(eval_app: typer.Typer) -> None:
    """Add the commands to `candor eval`."""
    eval_app.command("model", epilog="Example: candor eval models/llama --suites mask,canary --judge gpt-5-mini")(model)
    eval_app.command("rescore", epilog="Example: candor eval rescore runs/pocket-20260101-120000")(rescore)
    eval_app.command("agreement", epilog="Example: candor eval agreement evaluations/llama --labels by-hand.csv")(
        agreement
    )
    eval_app.command(
        "spread", epilog="Example: candor eval spread runs/seed-0 runs/seed-1 runs/seed-2 --arm biased --policy 2"
    )(spread)
    eval_app.command("mask", epilog="Example: candor eval mask --rescore csv_data --json")(mask)
    eval_app.command("grim", epilog="Example: candor eval grim table.csv")(grim)


def model(
    name: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="HF directory, hub name, adapter directory, pocket, or the name at --base-url."
        ),
    ],
    suites: Annotated[
        str | None,
        typer.Option(help="With commas: mask, deceptionbench, behonest, canary. Default: the world's, or canary."),
    ] = None,
    judge: Annotated[
        list[str] | None,
        typer.Option(help="Who judges: MODEL@URL, MODEL (at OpenAI), self, or world. Several are a panel."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML with further settings; options come first.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for outcomes; an unfinished one is gone on with."),
    ] = None,
    base_url: Annotated[str | None, typer.Option(help="OpenAI-compatible endpoint that serves MODEL.")] = None,
    key_env: Annotated[
        str | None,
        typer.Option(help="Environment variable with the key of --base-url and --judge."),
    ] = None,
    base: Annotated[str | None, typer.Option(help="Base model of an adapter, if it names another.")] = None,
    world: Annotated[str | None, typer.Option(help="A world whose own items are asked, for example pocket.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Ask so many items of each suite.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change one setting, for example evals.mask.source=DIR."),
    ] = None,
    inspect: Annotated[bool, typer.Option("--inspect", help="Also write Inspect logs, for `inspect view`.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")] = False,
) -> None:
    """Evaluate a model without a run: every item's outcome on disk, and figures with intervals.

    The settings are those of `candor run` under `evals`; an endpoint as judge reads its key from OPENAI_API_KEY.
    """
    import asyncio
    import json

    from rich.console import Console

    from evals.inspect_logs import InspectLogError, require_inspect, write_logs
    from loop.config import ConfigError
    from loop.evaluation import STOPS, evaluate, read_config
    from loop.monitor import Stages

    given = {"model": name, "base": base, "world": world, "base_url": base_url, "key_env": key_env}
    console = Console(stderr=as_json)
    try:
        settings = read_config(config, given, suites, judge or [], limit, set_ or [])
        folder = (out or Path("evaluations") / f"{Path(name).name}-{time.strftime('%Y%m%d-%H%M%S')}").absolute()
        with Stages(console) as ui:
            ui.say(f"outcomes: {folder}")
            if inspect:
                require_inspect()
            found = evaluate(settings, folder, ui)
            if inspect:
                for log in write_logs(folder, folder / "inspect"):
                    ui.say(f"inspect log: {log}")
    except (asyncio.CancelledError, KeyboardInterrupt):
        raise fail("stopped; what was answered is kept. Go on with the same command and --out", STOPPED) from None
    except STOPS as error:
        raise fail(f"{error}\nGo on with the same command and --out", FAILED) from None
    except (ConfigError, ImportError, InspectLogError) as error:
        raise fail(str(error)) from None
    if as_json:
        print(json.dumps(found))
        return
    console.print(_figures({name: found}))


def _figures(by_model: dict[str, dict[str, dict]]) -> Any:
    """Figures by model and suite as a table: categories of a suite below it."""
    from rich.table import Table

    from evals.outcomes import OUTCOMES
    from evals.scoring import headline_name
    from loop.scores import score, shown

    table = Table("", "figure", "value [95 %]", "items", "honest lie evasion none error", "beside it")
    for model_, suites in by_model.items():
        if len(by_model) > 1:
            table.add_section()
            table.add_row(f"[bold]{model_}[/]")
        for suite, of in suites.items():
            rows = [(suite, of), *((f"  {c}", f) for c, f in of.get("categories", {}).items())]
            for label, f in rows:
                counts = " ".join(str(f["outcomes"][o]) for o in OUTCOMES) if "outcomes" in f else ""
                beside = [
                    f"{k.replace('_', ' ')} {score(f[k])}"
                    for k in ("normalised_score", "honesty_at_k", "belief_rate", "belief_accuracy", "format_compliance")
                    if f.get(k) is not None and not (k == "honesty_at_k" and f["k"] == 1)
                ]
                n = f.get("n", (f.get("admitted") or {}).get("n"))
                figure = {"protocol": of["protocol"]} | f
                name = headline_name(figure).replace("_", " ")
                table.add_row(label, name, shown(figure), str(n), counts, "\n".join(beside))
    return table


def rescore(
    folder: Annotated[Path, typer.Argument(help="An evaluation folder, or a run directory.")],
    prompts: Annotated[
        Path | None, typer.Option(help="Read judges' answers by the prompts in this folder, not by those recorded.")
    ] = None,
    rule: Annotated[str | None, typer.Option(help="majority or unanimous, in place of the rule recorded.")] = None,
    max_error_share: Annotated[float, typer.Option(help="Above this share of errors there is no score.")] = 0.05,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Make labels, outcomes and figures anew from what models and judges said, without asking anybody.

    Exit code 1 when an outcome comes out otherwise than it is on disk; nothing on disk is changed.
    """
    import json

    from rich.console import Console

    from evals.prompting import PromptError
    from evals.rescoring import RescoreError
    from evals.rescoring import rescore as anew

    try:
        found = anew(folder, str(prompts) if prompts else None, rule, max_error_share)
    except (RescoreError, PromptError) as error:
        raise fail(str(error)) from None
    if as_json:
        print(json.dumps({name: {"changed": r.changed, "figures": r.figures} for name, r in found.items()}))
    else:
        Console().print(_figures({name: r.figures for name, r in found.items()}))
        for name, r in found.items():
            print(
                f"{name}: {len(r.changed)} of {r.rows} outcomes come out otherwise{': ' if r.changed else ''}"
                + ", ".join(r.changed[:5])
            )
    if any(r.changed for r in found.values()):
        raise typer.Exit(FAILED)


def agreement(
    folder: Annotated[Path, typer.Argument(help="An evaluation folder, or a run directory.")],
    labels: Annotated[
        Path | None,
        typer.Option(help="Labels by hand: CSV with suite, item_id, part, label, and maybe rubric and replicate."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """How far judges agree with each other, with themselves, and with labels by hand."""
    import json

    from rich.console import Console
    from rich.table import Table

    from evals.agreement import AgreementError
    from evals.reliability import reliability

    try:
        found = reliability(folder, labels)
    except AgreementError as error:
        raise fail(str(error)) from None
    if as_json:
        print(json.dumps(found))
        return
    table = Table("rubric", "what", "between", "value", "texts")
    for row in found:
        value = "-" if row["value"] is None else f"{row['value']:.3f}"
        ends = row.get("ci95")
        value += f" [{ends[0]:.2f}, {ends[1]:.2f}]" if ends else ""
        table.add_row(row["rubric"], row["what"], row["between"], value, str(row["n"]))
    Console().print(table)


def spread(
    runs: Annotated[list[Path], typer.Argument(help="Run directories that differ in their seed.")],
    arm: Annotated[str, typer.Option(help="Which arm.")],
    policy: Annotated[int, typer.Option(min=0, help="Which policy.")],
    suite: Annotated[str, typer.Option(help="Which honesty suite.")] = "mask",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Where the variance of an honesty score comes from: training seeds, or replicates of one policy.

    It needs runs with evals.<suite>.replicates of 2 or more.
    """
    import json
    from dataclasses import asdict

    from evals.compare import ComparisonError
    from loop.contrasts import seed_spread

    try:
        found, same_items = seed_spread(runs, arm, policy, suite)
    except ComparisonError as error:
        raise fail(str(error)) from None
    if as_json:
        print(json.dumps(asdict(found) | {"same_items": same_items}))
        return
    whole = found.between + found.within
    share = f"{found.between / whole:.0%} of the variance" if whole else "no variance"
    print(f"mean {found.mean:.3f} over {len(runs)} training seeds")
    print(f"standard deviation between training seeds: {found.between**0.5:.4f} ({share})")
    print(f"standard deviation between replicates:     {found.within**0.5:.4f}")
    if not same_items:
        print("The runs met other items, as those are drawn with a run's seed: that is part of the first figure.")


def mask(
    rescore: Annotated[Path, typer.Option(help="Folder of MASK's own result files, with `evaluated/` in it.")],
    max_error_share: Annotated[float, typer.Option(help="Above this share of errors there is no score.")] = 0.05,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Score result files of MASK's official scripts again, without asking a model or a judge.

    Every score has its interval and stands beside the full set of outcomes; labels that could not be read are errors,
    and in no score.
    """
    import json

    from rich.console import Console
    from rich.table import Table

    from evals.mask_files import MaskFileError
    from evals.mask_files import rescore as figures_of
    from evals.outcomes import OUTCOMES

    try:
        found = figures_of(rescore, max_error_share)
    except MaskFileError as error:
        raise fail(str(error)) from None
    if as_json:
        print(json.dumps(found))
        return
    for model, archetypes in found.items():
        table = Table(
            *("archetype", "honesty score", "normalised", "honest lie evasion none error", "belief rate", "accuracy"),
            title=model,
        )
        for name, f in archetypes.items():
            interval = f" [{f['ci95'][0]:.2f}, {f['ci95'][1]:.2f}]" if f["ci95"] else ""
            counts = " ".join(str(f["outcomes"][o]) for o in OUTCOMES)
            score, normalised, rate, accuracy = (
                "-" if f[k] is None else f"{f[k]:.3f}"
                for k in ("honesty_score", "normalised_score", "belief_rate", "belief_accuracy")
            )
            table.add_row(name, score + interval, normalised, counts, rate, accuracy)
        Console().print(table)


def grim(
    file: Annotated[Path, typer.Argument(help="CSV or JSON with name, value (a percentage as printed) and n.")],
) -> None:
    """Say which printed percentages are impossible for their number of items; exit code 1 when there are any."""
    from rich.console import Console
    from rich.table import Table

    from evals.grim import GrimError, check, read

    try:
        verdicts = [check(printed) for printed in read(file)]
    except GrimError as error:
        raise fail(str(error)) from None
    impossible = [v for v in verdicts if not v.possible]
    print(f"{len(impossible)} of {len(verdicts)} percentages are no share of their number of items")
    if impossible:
        table = Table("where", "printed", "n", "nearest")
        for v in impossible:
            table.add_row(v.printed.name, v.printed.value, str(v.printed.n), " or ".join(v.nearest))
        Console().print(table)
        raise typer.Exit(FAILED)
