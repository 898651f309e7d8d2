"""`candor plan`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from loop.cli.exits import FAILED, fail
from loop.cli.options import AsJson, Changes
from loop.config.explain import ConfigError

app = typer.Typer()


@app.command(epilog="Example: candor plan configs/gpu.yaml --set model=/shared/models/llama --address 10.0.0.4:6379")
def plan(
    config: Annotated[Path, typer.Argument(help="The run config.")],
    set_: Changes = None,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster to ask. Default: cluster.address of the config.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for runs, to find out whether all machines share it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a run would ask of a cluster, and whether that is free there, without starting anything.

    Roles with their CPUs and GPUs, the machine on which each would be placed, the memory that each takes of a GPU with
    what to change where it does not fit, versions and clocks of all machines, and how long it would take. Without a
    cluster, only what would be asked, on GPUs of the kind that cluster.gpu names. Exit code 1 if something has no room,
    2 if the cluster or the config cannot be used.
    """
    from loop.config.files import load, parse_overrides
    from loop.machines import plan as made
    from loop.reckoning import reckoned
    from loop.timing import expected

    said: list[str] = []
    try:
        settings = load(config, parse_overrides(set_ or []))
        if address:
            cluster = settings.cluster.model_copy(update={"address": address})
            settings = settings.model_copy(update={"cluster": cluster})
        machines, looked = _ask(settings, out, said) if settings.cluster.address else (None, {})
        found = made(settings, machines, looked)
    except ConfigError as error:
        raise fail(str(error)) from None
    found["notes"] = [line.strip() for line in said]
    took = None if settings.cluster.address else expected(settings)
    found["expected"] = str(took) if took else None
    on_gpus = reckoned(settings, settings.cluster.gpu or next((at.gpu for at in looked.values() if at.gpu), None))
    found["reckoned"] = on_gpus.facts() if on_gpus else None
    found["budget"] = settings.budget
    if as_json:
        print(json.dumps(found))
    else:
        _show(found)
        _say_reckoned(on_gpus)
    misfit = found["homeless"] or any(row["change"] for row in found["memory"])
    raise typer.Exit(FAILED if misfit else 0)


def _ask(settings, out: Path | None, said: list[str]) -> tuple[list, dict]:
    """What the cluster has, and what its machines say of themselves."""
    from loop.cluster import connect, quieten_ray
    from loop.machines import check_machines, look_everywhere, machines_now

    quieten_ray()
    connect(settings)
    import ray

    try:
        machines = machines_now()
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
        looked = look_everywhere(machines, out and out.absolute())
        check_machines(machines, looked, said.append)
        return machines, looked
    finally:
        ray.shutdown()


def _show(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    roles = Table("role", "actors", "CPUs each", "GPUs each", box=None, pad_edge=False)
    for n in found["roles"]:
        roles.add_row(n["role"], str(n["count"]), f"{n['cpus']:g}", f"{n['gpus']:g}")
    roles.add_row("together", "", f"{found['asked']['cpus']:g}", f"{found['asked']['gpus']:g}")
    console.print(roles)
    if found["machines"] is not None:
        table = Table("machine", "CPUs free", "GPUs free", "would get", box=None, pad_edge=False)
        for m in found["machines"]:
            free = ["{:g} of {:g}".format(*m[kind]) for kind in ("cpus", "gpus")]
            table.add_row(m["host"], *free, ", ".join(f"{n} {role}" for role, n in m["actors"].items()))
        console.print(table)
    for row in found["memory"]:
        parts = ", ".join(f"{name} {size / 2**30:.1f}" for name, size in row["parts"].items())
        room = "" if row["room"] is None else f" of {row['room'] / 2**30:.1f}"
        print(f"{row['role']}: about {sum(row['parts'].values()) / 2**30:.1f}{room} GiB of each GPU ({parts})")
        if row["change"]:
            print(f"  that does not fit: {row['change']}")
    for line in found["notes"]:
        print(f"note: {line}")
    if found["expected"]:
        print(f"expected: {found['expected']}")
    if found["budget"] is not None:
        print(f"budget: {found['budget']:g}")
    if found["homeless"]:
        print(f"no room just now for: {', '.join(found['homeless'])}")


def _say_reckoned(on_gpus) -> None:
    """How long a run takes on GPUs, and by which assumptions."""
    if on_gpus is None:
        return
    print(f"reckoned: {on_gpus}")
    for line in on_gpus.assumed:
        print(f"  assumed: {line}")
