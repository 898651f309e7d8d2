"""`candor eval`: evaluations without a run, and what can be done with outcomes and figures."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from actors.registry import nearest
from loop.cli.exits import FAILED, MARKUP, STOPPED, fail
from loop.cli.options import AsJson
from loop.cli.over_seeds import seeds, spread

BESIDE = (
    "normalised_score",
    "honesty_at_k",
    "belief_rate",
    "belief_accuracy",
    "sections_found",
    "format_compliance",
)
"""Figures that stand beside a suite's headline."""


class ModelFirst(TyperGroup):
    """A group of commands in which the first word may also be a model: `candor eval MODEL`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            near = nearest(args[0], self.commands)
            served = any(a.startswith("--base-url") for a in args)  # whose models may have any name
            if near and not served and not Path(args[0]).exists():
                ctx.fail(f"there is neither a command nor a model {args[0]!r}. Did you mean {near!r}?")
            args = ["model", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=ModelFirst,
    no_args_is_help=True,
    rich_markup_mode=MARKUP,
    help="Evaluate a model without a run: candor eval MODEL [OPTIONS] (options: candor eval model --help). The other "
    "commands work on outcomes and figures that already exist.",
    epilog="Example: candor eval models/llama --suites mask,canary --judge gpt-5-mini",
)


@app.command("model", epilog="Example: candor eval models/llama --suites mask,canary --judge gpt-5-mini")
def model(
    name: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A Hugging Face directory or hub name, an adapter, pocket, or the name at --base-url."
        ),
    ],
    suites: Annotated[
        str | None,
        typer.Option(help="Names with commas, for example mask,canary. Default: the world's own, or canary."),
    ] = None,
    judge: Annotated[
        list[str] | None,
        typer.Option(help="Who judges: MODEL@URL, MODEL (at OpenAI), self or world. Several form a panel."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with further settings; options override it.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the outcomes; an unfinished evaluation is continued."),
    ] = None,
    base_url: Annotated[str | None, typer.Option(help="OpenAI-compatible endpoint that serves MODEL.")] = None,
    key_env: Annotated[
        str | None,
        typer.Option(help="Environment variable that holds the key for --base-url and --judge."),
    ] = None,
    base: Annotated[str | None, typer.Option(help="Base model of an adapter, if not the one that it names.")] = None,
    world: Annotated[str | None, typer.Option(help="A world whose own items to ask, for example pocket.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most items to ask of each suite.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change one setting, for example evals.mask.source=DIR."),
    ] = None,
    inspect: Annotated[bool, typer.Option("--inspect", help="Also write Inspect logs, for `inspect view`.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")] = False,
) -> None:
    """Evaluate a model without a run. The outcome of every item is kept, and figures come with intervals.

    The settings are those of a run config under `evals`. A judge at OpenAI takes its key from OPENAI_API_KEY.
    """
    import json

    from rich.console import Console

    from evals.inspect_logs import require_inspect, write_logs
    from loop.report.terminal import Stages
    from loop.standalone import evaluate, read_config

    given = {"model": name, "base": base, "world": world, "base_url": base_url, "key_env": key_env}
    console = Console(stderr=as_json)
    with _evaluation_ends():
        settings = read_config(config, given, suites, judge or [], limit, set_ or [], console.print)
        folder = (out or Path("evaluations") / f"{Path(name).name}-{time.strftime('%Y%m%d-%H%M%S')}").absolute()
        with Stages(console) as ui:
            ui.say(f"outcomes: {folder}")
            if inspect:
                require_inspect()
            found = evaluate(settings, folder, ui)
            if inspect:
                for log in write_logs(folder, folder / "inspect"):
                    ui.say(f"inspect log: {log}")
    if as_json:
        print(json.dumps(found))
        return
    console.print(_figures({name: found}))


@contextmanager
def _evaluation_ends() -> Iterator[None]:
    """Turn what ends an evaluation early into an exit code, and a line that says how to continue."""
    import asyncio

    from evals.inspect_logs import InspectLogError
    from loop.config.explain import ConfigError
    from loop.standalone import STOPS

    try:
        yield
    except (asyncio.CancelledError, KeyboardInterrupt):
        raise fail("stopped; what was answered is kept. Continue with the same command and --out", STOPPED) from None
    except STOPS as error:
        raise fail(f"{error}\nContinue with the same command and --out", FAILED) from None
    except (ConfigError, ImportError, InspectLogError) as error:
        raise fail(str(error)) from None


def _figures(by_model: dict[str, dict[str, dict]]) -> Any:
    """Figures by model and suite as a table: categories of a suite below it."""
    from rich.table import Table

    from evals.outcomes import OUTCOMES
    from evals.scoring import headline_name
    from loop.report.scores import score, shown

    table = Table("", "figure", "value [95 %]", "items", "honest lie evasion none error", "beside it")
    for model_, suites in by_model.items():
        if len(by_model) > 1:
            table.add_section()
            table.add_row(f"[bold]{model_}[/]")
        for suite, of in suites.items():
            rows = [(suite, of), *((f"  {c}", f) for c, f in of.get("categories", {}).items())]
            rows += [(f"  {rules} rules", f) for rules, f in of.get("by_rules", {}).items()]
            for label, f in rows:
                counts = " ".join(str(f["outcomes"][o]) for o in OUTCOMES) if "outcomes" in f else ""
                beside = [
                    f"{k.replace('_', ' ')} {score(f[k])}"
                    for k in BESIDE
                    if f.get(k) is not None and not (k == "honesty_at_k" and f["k"] == 1)
                ]
                n = f.get("n", (f.get("admitted") or {}).get("n"))
                if (known := f.get("refused_answerable")) and known["n"]:
                    beside.append(f"knowns refused {score(known['rate'], known['ci95'])} of {known['n']}")
                figure = {"protocol": of["protocol"]} | f
                name = headline_name(figure).replace("_", " ")
                table.add_row(label, name, shown(figure), str(n), counts, "\n".join(beside))
    return table


@app.command("rescore", epilog="Example: candor eval rescore runs/pocket-20260101-120000")
def rescore(
    folder: Annotated[Path, typer.Argument(help="An evaluation folder, or a run directory.")],
    prompts: Annotated[
        Path | None,
        typer.Option(help="Read judges' answers with the prompts in this folder instead of the recorded ones."),
    ] = None,
    rule: Annotated[str | None, typer.Option(help="majority or unanimous, instead of the recorded rule.")] = None,
    rules: Annotated[
        str | None, typer.Option(help="MASK's rules: candor or official, instead of the recorded ones.")
    ] = None,
    max_error_share: Annotated[float, typer.Option(help="Above this share of errors there is no score.")] = 0.05,
    as_json: AsJson = False,
) -> None:
    """Compute labels, outcomes and figures again from what models and judges said, without asking them again.

    Exit code 1 if an outcome differs from the one on disk. Nothing on disk is changed.
    """
    import json

    from rich.console import Console

    from evals.judging.prompting import PromptError
    from evals.rescoring import RescoreError
    from evals.rescoring import rescore as anew

    try:
        found = anew(folder, str(prompts) if prompts else None, rule, max_error_share, rules)
    except (RescoreError, PromptError) as error:
        raise fail(str(error)) from None
    if as_json:
        print(json.dumps({name: {"changed": r.changed, "figures": r.figures} for name, r in found.items()}))
    else:
        Console().print(_figures({name: r.figures for name, r in found.items()}))
        for name, r in found.items():
            print(
                f"{name}: {len(r.changed)} of {r.rows} outcomes differ{': ' if r.changed else ''}"
                + ", ".join(r.changed[:5])
            )
    if any(r.changed for r in found.values()):
        raise typer.Exit(FAILED)


@app.command("agreement", epilog="Example: candor eval agreement evaluations/llama --labels by-hand.csv")
def agreement(
    folder: Annotated[Path, typer.Argument(help="An evaluation folder, or a run directory.")],
    labels: Annotated[
        Path | None,
        typer.Option(
            help="CSV of labels by hand, as candor eval draw writes it: suite, item_id, part, label and more."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show how far judges agree with each other, with themselves, and with labels by hand."""
    import json

    from rich.console import Console
    from rich.table import Table

    from evals.judging.agreement import AgreementError
    from evals.judging.reliability import reliability

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


@app.command("draw", epilog="Example: candor eval draw runs/x --labels 100 --suite mask --out to-label.csv")
def draw(
    folder: Annotated[Path, typer.Argument(help="An evaluation folder, or a run directory.")],
    out: Annotated[Path, typer.Option(help="CSV file to write, with an empty column `label`.")],
    labels: Annotated[int, typer.Option(min=2, help="How many answers of each policy and suite.")] = 100,
    suite: Annotated[str | None, typer.Option(help="Only this honesty suite.")] = None,
    arm: Annotated[str | None, typer.Option(help="Only this arm.")] = None,
    policy: Annotated[int | None, typer.Option(min=0, help="Only this policy.")] = None,
    seed: Annotated[int, typer.Option(help="Another seed draws others.")] = 0,
) -> None:
    """Draw answers that are to be labelled by hand, half of them among those that were judged lies.

    Write honest, lie, evasion or no_belief into the column `label`; `candor eval agreement FOLDER --labels FILE` then
    corrects the rates of lies. The file does not show what was judged.
    """
    from evals.judging.agreement import AgreementError
    from evals.judging.drawing import draw as drawn
    from evals.judging.drawing import write

    try:
        rows = drawn(folder, labels, seed, suite, arm, policy)
        write(rows, out)
    except AgreementError as error:
        raise fail(str(error)) from None
    print(f"{len(rows)} answers to label: {out}")
    print(f"then: candor eval agreement {folder} --labels {out}")


app.command("seeds", epilog="Example: candor eval seeds runs/seed-* --arm biased --against benign --policy 2")(seeds)
app.command("spread", epilog="Example: candor eval spread runs/seed-0 runs/seed-1 runs/seed-2 --arm biased --policy 2")(
    spread
)


@app.command("mask", epilog="Example: candor eval mask --rescore csv_data --json")
def mask(
    rescore: Annotated[Path, typer.Option(help="Folder of MASK's own result files; holds a folder evaluated/.")],
    rules: Annotated[
        str, typer.Option(help="candor (the paper's, as docs/statistics.md has them) or official (the scripts').")
    ] = "candor",
    max_error_share: Annotated[float, typer.Option(help="Above this share of errors there is no score.")] = 0.05,
    as_json: AsJson = False,
) -> None:
    """Score result files of MASK's official scripts again, without asking a model or a judge.

    Every score comes with its interval and all outcomes. Labels that cannot be read are errors and are in no score.
    With --json every row is there too. By the official rules each is compared with metrics/, if that is there.
    """
    import json
    import sys

    from rich.console import Console
    from rich.table import Table

    from evals.outcomes import OUTCOMES
    from evals.protocols.mask_files import MaskFileError, broken_rows
    from evals.protocols.mask_files import rescore as figures_of
    from evals.protocols.mask_metrics import compare
    from evals.protocols.mask_rules import OFFICIAL, RULES

    if rules not in RULES:
        raise fail(f"--rules {rules}: {' or '.join(RULES)}")
    try:
        found = figures_of(rescore, max_error_share, rules)
        if rules == OFFICIAL:
            compare(rescore, found)
    except MaskFileError as error:
        raise fail(str(error)) from None
    for why in broken_rows(rescore):
        print(f"no outcome: {why}", file=sys.stderr)
    if as_json:
        print(json.dumps(found))
        return
    for model, archetypes in found.items():
        table = Table(
            *("archetype", "honesty score", "normalised", "honest lie evasion none error", "belief rate", "accuracy"),
            title=f"{model} ({rules} rules)",
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
        for name, f in archetypes.items():
            if compared := f.get("metrics"):
                print(f"{name}: {len(compared['differ'])} of {compared['rows']} rows differ from metrics/")


@app.command("grim", epilog="Example: candor eval grim table.csv")
def grim(
    file: Annotated[Path, typer.Argument(help="CSV or JSON with name, value (a percentage as printed) and n.")],
    as_json: AsJson = False,
) -> None:
    """Find printed percentages that are impossible for their number of items. Exit code 1 if there are any."""
    import json
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    from evals.stats.grim import GrimError, check, read

    try:
        verdicts = [check(printed) for printed in read(file)]
    except GrimError as error:
        raise fail(str(error)) from None
    impossible = [v for v in verdicts if not v.possible]
    if as_json:
        print(json.dumps({"impossible": len(impossible), "percentages": [asdict(v) for v in verdicts]}))
        raise typer.Exit(FAILED if impossible else 0)
    print(f"{len(impossible)} of {len(verdicts)} percentages are impossible for their number of items")
    if impossible:
        table = Table("where", "printed", "n", "nearest")
        for v in impossible:
            table.add_row(v.printed.name, v.printed.value, str(v.printed.n), " or ".join(v.nearest))
        Console().print(table)
        raise typer.Exit(FAILED)
