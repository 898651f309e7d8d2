"""`candor run` and `candor finetune`."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
import threading
import time
import traceback
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from loop.cli.common import short_path, show_results, tool_path
from loop.cli.exits import FAILED, STOPPED, fail
from loop.cli.options import AsJson, Changes, NewRun, Verbose
from loop.config.explain import ConfigError
from loop.report.terminal import STOPPING

app = typer.Typer()


@app.command(epilog="Example: candor run configs/pocket.yaml --set trainer.algorithm=sft --out runs/sft")
def run(
    config: Annotated[Path | None, typer.Argument(help="The run config. Default: configs/pocket.yaml.")] = None,
    set_: Changes = None,
    out: NewRun = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Run a config: simulated users talk with the assistant and rate it, and every round its honesty is measured."""
    from loop.config.files import default_config

    start(config or default_config(), set_ or [], out, "run", as_json, verbose)


@app.command(epilog="Example: candor finetune configs/pocket-direct.yaml --out runs/direct")
def finetune(
    config: Annotated[Path, typer.Argument(help="A run config whose arms are trained on data.")],
    set_: Changes = None,
    out: NewRun = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Train one policy for each arm on data instead of conversations, and measure it as a run does."""
    start(config, set_ or [], out, "finetune", as_json, verbose)


def start(
    path: Path,
    changes: list[str],
    out: Path | None,
    command: str,
    as_json: bool = False,
    verbose: bool = False,
    keep_going: bool = False,
) -> None:
    """Open the run directory of a config, and go.

    Args:
        verbose: Show what otherwise only the log has.
        keep_going: As of `loop.rounds.run_arms`.
    """
    from loop.config.files import load, parse_overrides
    from loop.damage import mend
    from loop.rundir import RunDir

    try:
        settings = load(path, parse_overrides(changes))
        if command == "finetune" and settings.converses:
            arm = next(a.name for a in settings.arms if settings.for_arm(a).data is None)
            raise ConfigError(f"{path}: arm {arm} has no data to train on; set data, or use candor run")
        folder = out or Path("runs") / f"{settings.name}-{time.strftime('%Y%m%d-%H%M%S')}"
        rundir = RunDir(folder.absolute(), settings.buffer.uri)
        rundir.open(settings)
        mend(settings, rundir, partial(_tell, rundir))
    except ConfigError as error:
        raise fail(str(error)) from None
    given = [word for s in changes for word in ("--set", s)]
    again = shlex.join([tool_path("candor"), command, short_path(path), *given, "--out", short_path(folder)])
    _go(settings, rundir, again, as_json, verbose, keep_going)


def _tell(rundir, line: str) -> None:
    """Say what was found damaged, before there are stages to say it."""
    from loop.runlog import RunLog

    print(line, file=sys.stderr)
    RunLog(rundir.log).write("said", line)


def _go(settings, rundir, again: str, as_json: bool, verbose: bool, keep_going: bool) -> None:
    """Run to the end, to a stop or to a failure; each ends with what to do next. With JSON what a person reads goes to
    stderr."""
    from rich.console import Console

    from actors.worlds import WorldError
    from actors.worlds.models import resolve
    from loop import timing
    from loop.quiet import library_output
    from loop.report.terminal import Stages
    from loop.rundir import DamagedError
    from loop.runlog import RunLog
    from loop.served import at_revision

    beside = os.dup(2) if as_json else None  # both streams themselves will be the log's
    console = Console(file=sys.stdout if beside is None else os.fdopen(beside, "w"))
    ui = Stages(console, RunLog(rundir.log), verbose)
    threading.excepthook = partial(_of_a_thread, ui)
    terminals = [n for n in (1, 2, beside) if n is not None and os.isatty(n)]
    for asked in STOPPING:
        if signal.getsignal(asked) is not signal.SIG_IGN:  # as a shell's background jobs ignore SIGINT, nohup SIGHUP
            signal.signal(asked, partial(_stop, ui, terminals))
    try:
        with library_output(partial(ui.log, "library")) as stderr, _ray_at_its_end(), ui:
            terminals += [stderr.fileno()] if stderr.isatty() else []
            ui.say(f"run directory: {short_path(rundir.root)}")
            if expected := timing.expected(settings):
                ui.say(f"expected:      {expected}")
            model = at_revision(resolve(settings.model), settings.model_revision)
            rundir.pin_model(model)
            rundir.pin_world(settings.world)
            rundir.pin_extensions(settings.extensions)
            for name, engine in settings.engines.items():
                rundir.pin_model(_engine_model(name, engine.model), name)
            from loop.cluster import quieten_ray

            quieten_ray()
            from loop import rounds

            rounds.run(settings, model, rundir, ui, keep_going)
        timing.remember(settings, rundir)
        _end(settings, rundir, "finished")
    except KeyboardInterrupt:
        ui.log("said", "stopped")
        _end(settings, rundir, "stopped")
        raise fail(f"stopped; nothing that was finished is lost. Continue with: {again}", STOPPED) from None
    except DamagedError as error:  # nothing is written over what somebody may want to save
        raise fail(str(error)) from None
    except (ConfigError, WorldError) as error:
        ui.log("error", str(error))
        _end(settings, rundir, "failed")
        raise fail(str(error)) from None
    except _stops() as error:
        _end(settings, rundir, "stopped")
        ui.log("error", _cause(error))
        raise fail(f"{_cause(error)}\nContinue with: {again}", FAILED) from None
    except Exception as error:
        if not rundir.config.exists():
            raise fail(_gone(rundir), FAILED) from None
        ui.log("error", _cause(error), traceback="".join(traceback.format_exception(error)))
        _end(settings, rundir, "failed")
        raise fail(f"the run failed: {_cause(error)}\nOnce that is fixed, continue with: {again}", FAILED) from error
    show_results(settings, rundir, console, as_json)


def _of_a_thread(ui, fault: threading.ExceptHookArgs) -> None:
    """Note what ended a thread, such as the one that writes TensorBoard's files; whoever uses it next is told."""
    with contextlib.suppress(Exception):
        ui.log("error", f"{fault.exc_type.__name__}: {fault.exc_value}", thread=fault.thread and fault.thread.name)


def _stop(ui, terminals: list[int], number: int, frame: object) -> None:
    """Handler of `STOPPING`. With SIGHUP the terminal is gone, and whatever were written to it would fail."""
    if number == signal.SIGHUP:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for terminal in terminals:
            os.dup2(nowhere, terminal)
    ui.stop()


def _stops() -> tuple[type[BaseException], ...]:
    """What stops a run although nothing is broken: somebody has to act first."""
    if "loop.budget" not in sys.modules:
        return ()
    from actors.models.chat import ModelRefusedError
    from loop.budget import BudgetSpentError

    return BudgetSpentError, ModelRefusedError


def _end(settings, rundir, status: str) -> None:
    """Remove what actors left half written, and write a summary and a report of what there is; if that fails after a
    run that did not finish, how the run ended is what counts."""
    if not rundir.config.exists():  # what is written now would make half a directory
        return
    with contextlib.suppress(OSError):  # a disk that is full or gone; the next start sweeps too
        rundir.sweep()
    from loop.report.page import write_report
    from loop.report.summary import write_summary

    try:
        write_summary(rundir, settings, status)
        write_report(rundir, settings)
    except Exception as error:
        if status == "finished":
            raise
        print(f"candor: no summary or report could be written: {error}", file=sys.stderr)


def _shut_down() -> None:
    if "ray" in sys.modules:
        import ray

        ray.shutdown()


@contextlib.contextmanager
def _ray_at_its_end():
    """After the block Ray prints nothing any more."""
    try:
        yield
    finally:
        _shut_down()


def _gone(rundir) -> str:
    return (
        f"the run directory {short_path(rundir.root)} is gone: it was removed, renamed or unmounted while the run was "
        "at work. Put it back before you continue, or begin again with another --out"
    )


def _cause(error: BaseException) -> str:
    """The actor's own error, where the one at hand only wraps it; storage speaks for itself."""
    from actors.actor import ActorGone, unwrapped
    from actors.storage.store import StorageError
    from loop.supervisor import ActorLostError

    error = unwrapped(error)
    if isinstance(error, OSError):
        place = f"{os.fsdecode(error.filename)} " if error.filename else ""
        return f"{place}cannot be read or written: {error.strerror or error}"
    told = isinstance(error, (StorageError, ActorLostError, ActorGone, *_stops()))
    return str(error) if told else f"{type(error).__name__}: {error}"


def _engine_model(name: str, model: str) -> str:
    """The path of a further model that gets engines of its own."""
    from actors.worlds import WorldError
    from actors.worlds.models import resolve

    try:
        return resolve(model)
    except WorldError as error:
        raise ConfigError(f"models.{name}.{error}") from None
