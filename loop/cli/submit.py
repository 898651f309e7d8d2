"""`candor submit`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from loop.cli.exits import DONE, FAILED, STOPPED, fail
from loop.cli.options import AsJson, Changes
from loop.config.explain import ConfigError

app = typer.Typer()

ENDS = {"SUCCEEDED": DONE, "FAILED": FAILED, "STOPPED": STOPPED}
"""Exit code of a run that was followed, by how it ended."""


@app.command(epilog="Example: candor submit configs/gpu.yaml --address http://10.0.0.4:8265 --out /shared/runs/gpu")
def submit(
    config: Annotated[Path | None, typer.Argument(help="The run config.")] = None,
    address: Annotated[
        str | None,
        typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="Address of Ray's dashboard: http://HEAD:8265."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory on the storage that all machines share.")] = None,
    set_: Changes = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Show what the run says until it ends; Ctrl-C leaves the run alone.")
    ] = False,
    list_: Annotated[bool, typer.Option("--list", help="Show the runs that were submitted.")] = False,
    stop: Annotated[str | None, typer.Option(metavar="ID", help="Stop a run cleanly, to be continued.")] = None,
    logs: Annotated[str | None, typer.Option(metavar="ID", help="Show what a run says until it ends.")] = None,
    as_json: AsJson = False,
) -> None:
    """Start a run on a Ray cluster, as a job whose driver is on the head and needs no terminal.

    The checked config is sent, and nothing else: no key, no code, no model. Candor has to be installed on every
    machine, and the variables that hold keys have to be set where Ray was started. A run that stopped is continued by
    submitting it again with the same --out.
    """
    from loop import jobs
    from loop.config.files import load, parse_overrides

    asked = [
        name for name, given in (("CONFIG", config), ("--list", list_), ("--stop", stop), ("--logs", logs)) if given
    ]
    if len(asked) != 1:
        raise fail(f"give one of CONFIG, --list, --stop ID and --logs ID, not {' and '.join(asked) or 'none'}")
    if address is None:
        raise fail("give the address of Ray's dashboard: --address http://HEAD:8265, or RAY_API_SERVER_ADDRESS")
    if config and out is None:
        raise fail("give --out, the run directory, on storage that every machine of the cluster shares")
    try:
        settings = load(config, parse_overrides(set_ or [])) if config else None
        client = jobs.job_server(address)
        if settings is not None and out is not None:
            _submitted(client, settings, out, address, follow, as_json)
        elif stop:
            found = jobs.stop(client, stop)
            print(json.dumps(jobs.facts(found)) if as_json else f"{found.id}: {found.status.lower()}")
        elif logs:
            _followed(client, logs, address)
        else:
            _listed(jobs.jobs(client), as_json)
    except ConfigError as error:
        raise fail(str(error)) from None


def _submitted(client, settings, out: Path, address: str, follow: bool, as_json: bool) -> None:
    from loop import jobs

    job_id = jobs.submit(client, settings, out)
    keys = jobs.keys_of(settings)
    if as_json:
        print(json.dumps({"schema": "submission/1", "id": job_id, "run_dir": str(out), "keys": keys}))
    else:
        print(f"submitted: {job_id}")
        print(f"run directory: {out}")
        if keys:
            print(f"keys: {', '.join(keys)} must be set where Ray was started; they are not sent")
        print(f"stop it: candor submit --stop {job_id} --address {address}")
    if follow:
        _followed(client, job_id, address)


def _followed(client, job_id: str, address: str) -> None:
    from loop import jobs

    jobs.job(client, job_id)
    try:
        found = jobs.follow(client, job_id)
    except KeyboardInterrupt:
        raise fail(
            f"the run goes on; see it again with candor submit --logs {job_id} --address {address}", STOPPED
        ) from None
    if found.status != "SUCCEEDED":
        raise fail(f"{found.id}: {found.status.lower()}. {found.message}".rstrip(), ENDS.get(found.status, FAILED))


def _listed(found, as_json: bool) -> None:
    from loop import jobs

    if as_json:
        print(json.dumps([jobs.facts(j) for j in found]))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("id", "run", "status", "began", "run directory", box=None, pad_edge=False)
    for j in found:
        began = time.strftime("%Y-%m-%d %H:%M", time.localtime(j.began)) if j.began else ""
        table.add_row(j.id, j.run, j.status.lower(), began, j.out)
    Console().print(table if found else "no run was submitted to this cluster")
