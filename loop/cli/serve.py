"""`candor serve` and `candor chat`."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from loop.cli.common import recorded_run, short_path
from loop.cli.exits import DONE, FAILED, STOPPED, fail
from loop.cli.options import RunDirectory
from loop.config.explain import ConfigError

app = typer.Typer()

LOG = "serve.log"
"""In the run directory: what vLLM's server says."""
PORT = 8000


@app.command(epilog="Example: candor serve runs/pocket-20260101-120000 --arm biased")
def serve(
    run_dir: RunDirectory,
    arm: Annotated[str | None, typer.Option(help="Policies of this arm only. Default: of all.")] = None,
    round: Annotated[
        int | None, typer.Option(min=0, help="This policy only, with its weights merged, which is faster on a CPU.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = PORT,
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but this machine's own needs a key.")
    ] = "127.0.0.1",
    key_env: Annotated[
        str | None, typer.Option(help="Environment variable that holds the key which requests have to bring.")
    ] = None,
) -> None:
    """Serve the policies of a run to any OpenAI client, with vLLM's own server, until Ctrl-C.

    /v1/models lists candor/policy-0 (the base), candor/policy-1 and so on; with several arms, candor/ARM/policy-1.
    Chat, completions, streaming and log-probabilities are vLLM's. What the server says goes to serve.log in the run
    directory. Nothing but this machine can reach it unless --host says so.
    """
    from actors.settings import LOOPBACK
    from loop.serve import ServeError, door, ended, serving

    settings, rundir = recorded_run(run_dir)
    if key_env is not None and not os.environ.get(key_env):
        raise fail(f"--key-env {key_env}: this environment variable is not set")
    if host not in LOOPBACK and key_env is None:
        raise fail(f"--host {host} lets other machines in; give --key-env, the variable that holds a key")
    log = rundir.root / LOG

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    try:
        with _stopped_by_sigterm(), door(settings, rundir, _asked(settings, rundir, arm, round), say) as found:
            say(f"starting vLLM's server for {len(found.names)} policies; it logs to {short_path(log)}")
            key = os.environ[key_env] if key_env else None
            with serving(settings, found, log, port, host, key) as (address, process):
                print(f"{address}\n" + "\n".join(f"  {name}" for name in found.names) + "\nCtrl-C ends it.", flush=True)
                process.wait()
                raise ended(process, log)
    except KeyboardInterrupt:
        raise typer.Exit(DONE) from None
    except ConfigError as error:
        raise fail(str(error)) from None
    except (ServeError, OSError) as error:
        raise fail(str(error), FAILED) from None


@app.command(epilog="Example: candor chat runs/pocket-20260101-120000 --arm biased --round 2 --against 0")
def chat(
    run_dir: RunDirectory,
    round: Annotated[int | None, typer.Option(min=0, help="Which policy to talk with. Default: the last one.")] = None,
    arm: Annotated[str | None, typer.Option(help="Of which arm. Default: the last one of the config.")] = None,
    against: Annotated[
        str | None, typer.Option(help="A second policy beside it: its number, or ARM/NUMBER for one of another arm.")
    ] = None,
    system: Annotated[
        str | None, typer.Option(help="System prompt. Default: the one of the run's conversations; '' for none.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(min=0, help="Default: that of the run's conversations.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest reply. Default: as in the run.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the replies.")] = 0,
) -> None:
    """Talk with one policy of a run, or with two side by side, which are asked the same.

    Each policy answers to its own side of the conversation. /again begins a new conversation, /quit or Ctrl-D ends.
    Messages may also come from a pipe, one a line.
    """
    from loop.chat import Chat, opening, talk
    from loop.serve import ServeError, door, name_of, serving

    settings, rundir = recorded_run(run_dir)
    arm = arm or settings.arms[-1].name
    try:
        last = max(v for _, v in _asked(settings, rundir, arm, None)) if round is None else round
        chosen = [(arm, last), *([_other(against, arm)] if against is not None else [])]
        if len(set(chosen)) < len(chosen):
            raise ConfigError(f"--against {against}: that is the policy itself; name another one")
        several = len({a for a, version in chosen if version}) > 1
        names = [name_of(p, several) for p in chosen]
        prompt = opening(settings) if system is None else [{"role": "system", "content": system}] if system else []
        spoken = settings.conversation
        told = Chat(
            names,
            prompt,
            spoken.temperature if temperature is None else temperature,
            max_tokens or spoken.max_tokens,
            seed,
        )
        with _stopped_by_sigterm(), door(settings, rundir, chosen, _note) as found:
            _note("starting vLLM's server; this takes some seconds")
            with serving(settings, found, rundir.root / LOG) as (address, _):
                talk(told, address)
    except KeyboardInterrupt:
        raise typer.Exit(STOPPED if not sys.stdin.isatty() else DONE) from None
    except ConfigError as error:
        raise fail(str(error)) from None
    except (ServeError, OSError) as error:
        raise fail(str(error), FAILED) from None


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _asked(settings, rundir, arm: str | None, round_: int | None) -> list[tuple[str, int]]:
    """The policies that options ask for."""
    from actors.registry import nearest
    from loop.serve import policies_of

    arms = [a.name for a in settings.arms]
    if arm is not None and arm not in arms:
        near = nearest(arm, arms)
        raise ConfigError(
            f"--arm {arm}: the run has no such arm; {f'did you mean {near}? ' if near else ''}known: {', '.join(arms)}"
        )
    if round_ is None:
        return policies_of(settings, rundir, [arm] if arm else arms)
    if arm is None and len(arms) > 1 and round_ > 0:
        raise ConfigError(f"--round {round_}: of which arm? Give --arm; known: {', '.join(arms)}")
    return [(arm or arms[0], round_)]


def _other(text: str, arm: str) -> tuple[str, int]:
    """The policy that `--against` names."""
    of, _, version = text.rpartition("/")
    if not version.isdecimal():
        raise ConfigError(f"--against {text}: give the number of a policy, or ARM/NUMBER")
    return of or arm, int(version)


def _stopped_by_sigterm():
    """While the block runs, SIGTERM ends the command as Ctrl-C does, with its server."""
    import signal
    from contextlib import contextmanager

    @contextmanager
    def block():
        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGTERM, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    return block()
