"""The command line. Imports neither torch nor ray nor vllm before a command needs them."""

from __future__ import annotations

import shlex
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from loop import cli_eval, cli_world
from loop.config import ConfigError
from loop.exits import FAILED, STOPPED, fail

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Candor studies whether a language model becomes dishonest by learning from what its users like.",
    epilog="Example: candor run configs/pocket.yaml --set rounds=3",
)
world_app = typer.Typer(no_args_is_help=True, help="Worlds that simulated users live in.")
app.add_typer(world_app, name="world")
eval_app = typer.Typer(
    cls=cli_eval.ModelFirst,
    no_args_is_help=True,
    help="Evaluate a model without a run: candor eval MODEL [OPTIONS], see candor eval model --help. And what can be "
    "done with outcomes and figures, by the commands below.",
    epilog="Example: candor eval models/llama --suites mask,canary --judge gpt-5-mini",
)
app.add_typer(eval_app, name="eval")


def main() -> None:
    """Entry point of the `candor` command."""
    app()


def _shown(path: Path) -> str:
    """A path as short as it can be written from here."""
    resolved = path.resolve()
    return str(resolved.relative_to(Path.cwd())) if resolved.is_relative_to(Path.cwd()) else str(resolved)


def _tool(name: str) -> str:
    """How a command of this environment is called from here: by name where the shell finds it, else by path."""
    own = Path(sys.executable).parent / name
    return name if shutil.which(name) == str(own) else _shown(own)


@app.command(epilog="Example: candor run configs/pocket.yaml --set trainer.algorithm=sft --out runs/sft")
def run(
    config: Annotated[Path | None, typer.Argument(help="Run config; default: configs/pocket.yaml.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change one setting, key=value; may be given several times.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run directory; an unfinished one is gone on with. Default: a new one in runs/.")
    ] = None,
) -> None:
    """Run a config: simulated users talk with the assistant and rate it, and its honesty is measured every round."""
    from loop.config import default_config

    _start(config or default_config(), set_ or [], out, "run")


@app.command(epilog="Example: candor finetune configs/pocket-direct.yaml --out runs/direct")
def finetune(
    config: Annotated[Path, typer.Argument(help="Run config whose arms are trained on data.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change one setting, key=value; may be given several times.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run directory; an unfinished one is gone on with. Default: a new one in runs/.")
    ] = None,
) -> None:
    """Train a policy on each arm's data, direct or mixed, and measure it as a run does."""
    _start(config, set_ or [], out, "finetune")


def _start(path: Path, changes: list[str], out: Path | None, command: str) -> None:
    """Open the run directory of a config, and go."""
    from loop.config import load, parse_overrides
    from loop.rundir import RunDir

    try:
        settings = load(path, parse_overrides(changes))
        if command == "finetune" and settings.converses:
            arm = next(a.name for a in settings.arms if settings.for_arm(a).data is None)
            raise ConfigError(f"{path}: arm {arm} has no data to be trained on; set data, or use candor run")
        folder = out or Path("runs") / f"{settings.name}-{time.strftime('%Y%m%d-%H%M%S')}"
        rundir = RunDir(folder.absolute(), settings.buffer.uri)
        rundir.open(settings)
    except ConfigError as error:
        raise fail(str(error)) from None
    given = [word for s in changes for word in ("--set", s)]
    again = shlex.join([_tool("candor"), command, _shown(path), *given, "--out", _shown(folder)])
    _go(settings, rundir, again)


def _go(settings, rundir, again: str) -> None:
    """Run to the end, to a stop or to a failure; each ends with what to do next."""
    from rich.console import Console

    from actors.worlds import WorldError
    from loop.monitor import Stages

    console = Console()
    ui = Stages(console)
    for asked in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(asked) is not signal.SIG_IGN:  # as a shell's background jobs ignore SIGINT
            signal.signal(asked, ui.stop)
    try:
        with ui:
            ui.say(f"run directory: {_shown(rundir.root)}")
            model = _model(settings.model, ui)
            rundir.pin_model(model)
            rundir.pin_world(settings.world)
            for name, engine in settings.engines.items():
                rundir.pin_model(_engine_model(name, engine.model), name)
            from loop.cluster import quieten_ray

            quieten_ray()
            from loop import rounds

            rounds.run(settings, model, rundir, ui)
        _end(settings, rundir, "finished")
    except KeyboardInterrupt:
        _end(settings, rundir, "stopped")
        raise fail(f"stopped; nothing that was finished is lost. Go on with: {again}", STOPPED) from None
    except (ConfigError, WorldError) as error:
        _end(settings, rundir, "failed")
        raise fail(str(error)) from None
    except _stops() as error:
        _end(settings, rundir, "stopped")
        raise fail(f"{_cause(error)}\nGo on with: {again}", FAILED) from None
    except Exception as error:
        _end(settings, rundir, "failed")
        raise fail(f"the run failed: {_cause(error)}\nAfter mending it, go on with: {again}", FAILED) from error
    _show(settings, rundir, console)


def _stops() -> tuple[type[BaseException], ...]:
    """What stops a run although nothing is broken: somebody has to act first."""
    if "loop.rounds" not in sys.modules:
        return ()
    from actors.chat import ModelRefusedError
    from loop.rounds import BudgetSpentError

    return BudgetSpentError, ModelRefusedError


def _end(settings, rundir, status: str) -> None:
    """Shut Ray down and leave a summary and a report of what there is; where those fail, the run's own end counts."""
    if "ray" in sys.modules:
        import ray

        ray.shutdown()
    from loop.report import write_report
    from loop.summary import write_summary

    try:
        write_summary(rundir, settings, status)
        write_report(rundir, settings)
    except Exception as error:
        if status == "finished":
            raise
        print(f"candor: no summary or report could be written: {error}", file=sys.stderr)


def _cause(error: BaseException) -> str:
    """The actor's own error, where the one at hand only wraps it; storage speaks for itself."""
    from actors.lifeline import ActorGone
    from actors.store import StorageError
    from loop.crew import ActorLostError

    while isinstance(inner := getattr(error, "cause", None), BaseException):
        error = inner
    if isinstance(error, OSError):
        place = f"{error.filename} " if error.filename else ""
        return f"{place}cannot be read or written: {error.strerror or error}"
    told = isinstance(error, (StorageError, ActorLostError, ActorGone, *_stops()))
    return str(error) if told else f"{type(error).__name__}: {error}"


def _model(name: str, ui) -> str:
    """The base model's path, with a progress bar while a pocket model is built."""
    from actors.worlds.models import POCKET_MODELS, pocket_folder, resolve
    from actors.worlds.pocket.build import BUILD_FILE

    if name not in POCKET_MODELS or (pocket_folder(name) / BUILD_FILE).exists():
        return resolve(name)
    with ui.stage(f"build the {name} model (once)", 1, "steps") as stage:
        path = resolve(name, lambda done, total, _: stage.update(done, total))
    _say_figures(Path(path), ui)
    return path


def _engine_model(name: str, model: str) -> str:
    """The path of a further model that gets engines of its own."""
    from actors.worlds import WorldError
    from actors.worlds.models import resolve

    try:
        return resolve(model)
    except WorldError as error:
        raise ConfigError(f"models.{name}.{error}") from None


def _say_figures(folder: Path, ui) -> None:
    import json

    from actors.worlds.pocket.build import BUILD_FILE

    record = json.loads((folder / BUILD_FILE).read_text(encoding="utf-8"))
    for name, figure in record["acceptance"].items():
        ui.say(f"  {name}: {figure['value']:.3f} (accepted from {figure['low']:g} to {figure['high']:g})")


def _show(settings, rundir, console) -> None:
    """The closing table and where everything is."""
    from actors.scripted import SCRIPTED
    from loop.report import table
    from loop.rundir import read_json

    console.print(table(read_json(rundir.summary)))
    if settings.model == SCRIPTED:
        print("The models answered from a script: that the run ended means something, its figures do not.")
    print(f"report:      {_shown(rundir.report)}")
    print(f"tensorboard: {_tool('tensorboard')} --logdir {_shown(rundir.tensorboard)}")
    print(f"everything:  {_shown(rundir.root)}")


def _recorded(run_dir: Path):
    """The config and the paths of a run that was begun."""
    from loop.config import load
    from loop.rundir import RunDir

    rundir = RunDir(run_dir.absolute())
    if not rundir.config.exists():
        raise fail(f"{run_dir} is no run directory: it has no config.yaml")
    try:
        settings = load(rundir.config)
    except ConfigError as error:
        raise fail(str(error)) from None
    return settings, replace(rundir, uri=settings.buffer.uri)


@app.command(epilog="Example: candor report runs/pocket-20260101-120000")
def report(
    run_dir: Annotated[Path, typer.Argument(help="A run directory.")],
    compare: Annotated[Literal["paper"] | None, typer.Option(help="Put our figures beside the paper's.")] = None,
    stands: Annotated[
        list[str] | None,
        typer.Option("--as", metavar="ARM[/POLICY]=CONDITION", help="Which arm stands for which condition of it."),
    ] = None,
) -> None:
    """Write report.html and summary.json anew from what is on disk, and print the table.

    With --compare paper, policy 0 stands for the paper's vanilla model and an arm for the condition that it is named
    after; --as says so of others.
    """
    from rich.console import Console

    from actors.buffer import BufferError, StorageError
    from loop.paper import PaperError, assigned, model_of, rows, side_by_side, table
    from loop.report import write_report
    from loop.rundir import read_json
    from loop.summary import write_summary

    if stands and not compare:
        raise fail("--as needs --compare paper")
    settings, rundir = _recorded(run_dir)
    beside = None
    try:
        if not rundir.at_work():  # else the run itself keeps its summary
            write_summary(rundir, settings, read_json(rundir.summary).get("status", "stopped"), anew=True)
        if compare:
            beside = rows(side_by_side(read_json(rundir.summary), assigned(stands or []), model_of(settings.model)))
        write_report(rundir, settings, beside)
    except PaperError as error:
        raise fail(str(error)) from None
    except (BufferError, StorageError) as error:
        raise fail(str(error), FAILED) from None
    _show(settings, rundir, Console())
    if beside:
        Console().print(table(beside))
    elif compare:
        print("Nothing to compare: no evaluated policy stands for a condition of the paper on the same items.")


def _filter(text: str):
    return typer.Option(help=text, rich_help_panel="Which trajectories")


def _instead(name: str, text: str):
    return typer.Option(name, help=text, rich_help_panel="Instead of the table")


@app.command(epilog="Example: candor data runs/pocket-20260101-120000 --arm biased --verdict validate --sort -reward")
def data(
    run_dir: Annotated[Path, typer.Argument(help="A run directory, also of a run that goes on.")],
    arm: Annotated[list[str] | None, _filter("Of this arm; may be given several times.")] = None,
    round: Annotated[list[str] | None, _filter("Of this round, from 0; may be given several times.")] = None,
    kind: Annotated[str | None, _filter("With users of this kind, as the world names it: benign, biased.")] = None,
    scenario: Annotated[str | None, _filter("About this scenario.")] = None,
    verdict: Annotated[str | None, _filter("Any reply has this verdict; none: has no label.")] = None,
    min_reward: Annotated[float | None, _filter("With this reward or a higher one.")] = None,
    max_reward: Annotated[float | None, _filter("With this reward or a lower one.")] = None,
    errors: Annotated[bool | None, _filter("Only, or no, excluded conversations.")] = None,
    selected: Annotated[str | None, _filter("Trained on as top (desirable) or bottom (undesirable).")] = None,
    sort: Annotated[str | None, typer.Option(help="By reward, lowest first, or by -reward, highest first.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Rows of the table.")] = 20,
    show: Annotated[str | None, _instead("--show", "One trajectory in full, by its id or the beginning of it.")] = None,
    export: Annotated[
        Path | None, _instead("--export", "Write all to a file: .parquet, or .jsonl in chat format.")
    ] = None,
    follow: Annotated[bool, _instead("--follow", "A line for each, also for new ones, until the run ends.")] = False,
    verify: Annotated[bool, _instead("--verify", "Compare everything with checksums, plan and selection.")] = False,
) -> None:
    """List, show, export, follow or check the trajectories of a run.

    Rows come by arm, by round, and in a round as they were written. Exit code 1 when a file is damaged.
    """
    from actors.buffer import BufferError, StorageError
    from loop.data import answer
    from loop.query import Query, QueryError

    settings, rundir = _recorded(run_dir)
    filters = {"kind": kind, "scenario": scenario, "verdict": verdict, "errors": errors, "selected": selected}
    try:
        query = Query.checked(settings, arm or [], round or [], min_reward, max_reward, **filters)
        sound = answer(rundir, settings, query, sort, limit, show, export, follow, verify)
    except QueryError as error:
        raise fail(str(error)) from None
    except (BufferError, StorageError) as error:
        raise fail(str(error), FAILED) from None
    raise typer.Exit(0 if sound else FAILED)


@app.command(
    epilog="Example: candor export runs/pocket-20260101-120000 --arm biased --round 2 --merged models/biased-2"
)
def export(
    run_dir: Annotated[Path, typer.Argument(help="A run directory.")],
    arm: Annotated[str, typer.Option(help="Which arm.")],
    round: Annotated[int, typer.Option(min=0, help="Which policy: the one that this round talks with; 0 is the base.")],
    merged: Annotated[
        Path | None, typer.Option(help="Write a whole Hugging Face model to this folder, weights merged.")
    ] = None,
    adapter: Annotated[Path | None, typer.Option(help="Write the PEFT adapter to this folder.")] = None,
) -> None:
    """Write a policy as a model that transformers or vLLM loads, with its lineage."""
    from loop.export import export as write

    settings, rundir = _recorded(run_dir)
    try:
        written = write(settings, rundir, arm, round, merged, adapter)
    except ConfigError as error:
        raise fail(str(error)) from None
    print(f"{_shown(written)}: policy {round} of arm {arm}")


@app.command(epilog="Example: candor dataset data/medical.jsonl --answers misaligned")
def dataset(
    source: Annotated[str, typer.Argument(help="A file or folder, a data set on the Hub, or world.")],
    part: Annotated[str | None, typer.Option(help="Which files of it, or of the pocket world talk/severe etc.")] = None,
    answers: Annotated[str | None, typer.Option(help="aligned or misaligned, where rows have both.")] = None,
    rows: Annotated[int, typer.Option(min=0, help="Show so many.")] = 3,
    world: Annotated[str, typer.Option(help="Which world, for source world.")] = "pocket",
) -> None:
    """Show what a data set for candor finetune holds: form, rows, hash, licence, and its first conversations."""
    from rich.console import Console
    from rich.markup import escape

    from loop.config import build
    from trainers.datasets import DatasetError, read
    from trainers.settings import SourceSettings

    try:
        given = {"source": source, "part": part, "answers": answers, "duplicates": "drop"}
        found = read(build(given, "candor dataset", SourceSettings), world, seed=0, wanted=max(1, rows))
    except (ConfigError, DatasetError) as error:
        raise fail(str(error)) from None
    console = Console()
    for name, value in {"form": found.form, **found.record}.items():
        if value is not None:
            console.print(f"{name:10} {escape(str(value))}", highlight=False)
    for messages in found.conversations[:rows]:
        console.rule()
        for m in messages:
            console.print(f"[bold]{m['role']}[/] {escape(m['content'])}", highlight=False)


@app.command(epilog="Example: candor doctor")
def doctor() -> None:
    """Show versions, cores, memory, GPU, number format, AMX and disk, and what a run would use."""
    from loop.doctor import examine

    if not examine():
        raise typer.Exit(FAILED)


@world_app.command("build", epilog="Example: candor world build pocket")
def world_build(
    name: Annotated[str, typer.Argument(help="pocket, or pocket-control without a shared latent.")] = "pocket",
) -> None:
    """Build a pocket model anew from its seed, check it against its acceptance figures, and put it into the cache."""
    from rich.console import Console

    from actors.worlds import WorldError
    from actors.worlds.models import POCKET_MODELS, pocket_folder
    from loop.monitor import Stages

    if name not in POCKET_MODELS:
        raise fail(f"there is no pocket model {name!r}; known: {', '.join(POCKET_MODELS)}")
    from actors.worlds.pocket.build import RECIPES, build

    folder = pocket_folder(name)
    try:
        with Stages(Console()) as ui:
            with ui.stage(f"build the {name} model", RECIPES[name].steps, "steps") as stage:
                build(RECIPES[name], folder, lambda done, total, _: stage.update(done, total))
            _say_figures(folder, ui)
            ui.say(f"model: {folder}")
    except (WorldError, OSError) as error:
        raise fail(str(error), FAILED) from None


@world_app.command("check", epilog="Example: candor world check therapist")
def world_check(
    world: Annotated[str, typer.Argument(help="A text world by name, or the folder of one.")],
) -> None:
    """Find everything that is wrong with a world written as text; exit code 1 where something is."""
    from actors.worlds import WorldError
    from actors.worlds.check import check, folder_of

    try:
        folder = folder_of(world)
    except WorldError as error:
        raise fail(str(error)) from None
    findings = check(folder)
    for review in findings.reviews:
        print(f"review  {review}")
    for problem in findings.problems:
        print(f"problem {problem}")
    count = len(findings.problems)
    verdict = f"{count} problem{'s' if count > 1 else ''}" if count else "sound"
    to_read = f", {len(findings.reviews)} to review" if findings.reviews else ""
    print(f"{findings.summary}: {verdict}{to_read}")
    raise typer.Exit(FAILED if count else 0)


cli_world.register(world_app)  # candor world personas, candor world review
cli_eval.register(eval_app)  # candor eval MODEL, candor eval rescore, ...


@app.command(epilog="Example: candor bench buffer --json")
def bench(
    name: Annotated[
        str, typer.Argument(help="Which: adapter, buffer, eval, lockstep, mfu, rollouts, sync, train, users.")
    ],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    widen: Annotated[
        int,
        typer.Option(min=1, help="For lockstep, rollouts: times the model's feed-forward width; the same words."),
    ] = 1,
) -> None:
    """Run a benchmark and print its figures, or one JSON object: ratio, goal, runs, parts, versions, machine."""
    from loop.bench import BENCHMARKS, WIDENED, report_benchmark

    if name not in BENCHMARKS:
        raise fail(f"there is no benchmark {name!r}; known: {', '.join(BENCHMARKS)}")
    if widen > 1 and name not in WIDENED:
        raise fail(f"--widen is for {' and '.join(WIDENED)}, not for {name}")
    report_benchmark(name, json, **({"widen": widen} if name in WIDENED else {}))


if __name__ == "__main__":
    main()
