"""`candor view`."""

from __future__ import annotations

from typing import Annotated

import typer

from loop.cli.common import recorded_run, short_path, tool_path
from loop.cli.exits import DONE, FAILED, STOPPED, fail
from loop.cli.options import RunDirectory

app = typer.Typer()

PORT = 8137
"""Taken where it is free, so that addresses of pages stay the same from one time to the next."""
INSPECT_PORT = 7575
"""Inspect's own choice."""


@app.command(epilog="Example: candor view runs/pocket-20260101-120000")
def view(
    run_dir: RunDirectory,
    port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help=f"Port on 127.0.0.1; 0 takes a free one. Default: {PORT} if it is free; for Inspect 7575.",
        ),
    ] = None,
    open_: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the page in the browser of this machine.")
    ] = True,
    inspect: Annotated[
        bool,
        typer.Option("--inspect", help="Write Inspect logs of all policies to RUN_DIR/inspect, and open inspect view."),
    ] = False,
) -> None:
    """Read a run in the browser: conversations, evaluation items and policies, also while it is running.

    Nobody but this machine can reach the pages. They show which replies were rated how, what judges said, what each
    policy was trained on, and the same persona or item across policies. Every view has an address of its own. Ctrl-C
    ends it.
    """
    settings, rundir = recorded_run(run_dir)
    if inspect:
        _inspect(settings, rundir, port, open_)
        return
    import signal
    import sys
    import webbrowser

    from loop.listening import PortTakenError
    from loop.view.server import serve

    def started(address: str) -> None:
        print(f"{short_path(rundir.root)}: {address}\nCtrl-C ends it.", flush=True)
        if open_:
            webbrowser.open(address)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    wanted = [port] if port is not None else [PORT, 0]
    for number in wanted:
        try:
            serve(rundir, settings, number, started, lambda text: print(f"candor: {text}", file=sys.stderr))
            return
        except PortTakenError as error:
            if number == wanted[-1]:
                raise fail(str(error)) from None
        except KeyboardInterrupt:
            raise typer.Exit(DONE) from None


def _inspect(settings, rundir, port: int | None, open_: bool) -> None:
    """Write the logs of all policies, and hand over to Inspect's own viewer."""
    import subprocess
    import threading

    from actors.buffer import BufferError
    from evals.inspect_logs import InspectLogError, require_inspect, write_run_logs
    from loop.rundir import read_json

    places = [(a.name, r) for a in settings.arms for r in range(settings.rounds + 1)]
    policies = {
        f"{arm}/{r}": (rundir.evals(arm, r), read_json(rundir.stages(arm, r)).get("evaluate")) for arm, r in places
    }
    target = rundir.root / "inspect"
    try:
        require_inspect()
        logs = write_run_logs(policies, target, lambda name: print(f"writing the logs of policy {name}", flush=True))
    except InspectLogError as error:
        raise fail(str(error)) from None
    except (BufferError, OSError) as error:
        raise fail(str(error), FAILED) from None
    except KeyboardInterrupt:
        raise fail("stopped; the logs that were written are whole", STOPPED) from None
    if not logs:
        raise fail(f"{short_path(rundir.root)}: no policy has been evaluated yet")
    number = port or INSPECT_PORT
    address = f"http://127.0.0.1:{number}"
    print(f"wrote {len(logs)} logs to {short_path(target)}; Inspect shows them at {address}", flush=True)
    inspect = [tool_path("inspect"), "view", "start", "--log-dir", str(target), "--host", "127.0.0.1"]
    inspect += ["--port", str(number), "--no-trust-content"]  # what models wrote is shown as text
    try:
        if open_:
            threading.Thread(target=_open_once_up, args=(number,), daemon=True).start()
        code = subprocess.run(inspect, check=False).returncode
    except KeyboardInterrupt:
        code = DONE
    raise typer.Exit(FAILED if code else DONE)


def _open_once_up(port: int) -> None:
    """Open the page when something answers at the port, which Inspect needs some seconds for."""
    import socket
    import time
    import webbrowser

    for _ in range(240):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.25)
        else:
            webbrowser.open(f"http://127.0.0.1:{port}")
            return
