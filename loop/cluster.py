"""Ray for a run, and what its actors ask of the cluster, checked before anything waits."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from actors.settings import ActorSettings
from loop.config import ConfigError, RunConfig


@dataclass(frozen=True)
class Need:
    """What one kind of actor asks of the cluster."""

    role: str
    count: int
    cpus: float
    gpus: float


def needs(config: RunConfig) -> list[Need]:
    """Every actor of a run with its resources."""
    settings: list[tuple[str, int, ActorSettings]] = [
        ("assistant", config.assistant.replicas, config.assistant),
        ("user pool", config.users.pools if config.converses else 0, config.users),
        ("judge", 1, config.judge),
        ("buffer", 1, config.buffer),
        ("trainer", config.trainer.ranks, config.trainer),
        ("evaluator", 1, config.evals),
    ]
    if config.own_base_engine:
        settings.append(("user engine", config.users.engine.replicas, config.users.engine))
    settings += [(f"{name} engine", s.replicas, s) for name, s in config.engines.items()]
    return [Need(role, count, s.cpus, s.gpus) for role, count, s in settings]


def check_resources(config: RunConfig, nodes: list[dict[str, float]]) -> None:
    """Compare what the run asks for with what the cluster's nodes have, by placing every actor on one of them.

    Args:
        nodes: Resources of each node, as Ray names them (`CPU`, `GPU`).

    Raises:
        ConfigError: Something would wait for ever; the message lists every actor and what it asks for.
    """
    asked = needs(config)
    cpus, gpus = sum(n.count * n.cpus for n in asked), sum(n.count * n.gpus for n in asked)
    has_cpus, has_gpus = (sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU"))
    homeless = _unplaced(asked, nodes)
    if not homeless:
        return
    table = "\n".join(f"  {n.count} x {n.role}: {n.cpus:g} CPU, {n.gpus:g} GPU each" for n in asked)
    alone = f"; no node has room left for: {', '.join(homeless)}"
    raise ConfigError(
        f"the run asks for {cpus:g} CPU and {gpus:g} GPU, but the cluster has {has_cpus:g} CPU and {has_gpus:g} GPU "
        f"on {len(nodes)} nodes{alone}:\n{table}\nAsk for less (assistant.replicas, users.pools, and cpus and gpus of "
        "each role) or add machines."
    )


def _unplaced(asked: list[Need], nodes: list[dict[str, float]]) -> list[str]:
    """Roles of actors that find no room when the largest are placed first, each on the first node that has it."""
    free = [[node.get("GPU", 0) + 1e-9, node.get("CPU", 0) + 1e-9] for node in nodes]
    out: dict[str, None] = {}
    for need in sorted(asked, key=lambda n: (-n.gpus, -n.cpus)):
        for _ in range(need.count):
            home = next((f for f in free if need.gpus <= f[0] and need.cpus <= f[1]), None)
            if home is None:
                out[need.role] = None
            else:
                home[0] -= need.gpus
                home[1] -= need.cpus
    return list(out)


def connect(config: RunConfig) -> None:
    """Start Ray on this machine, or join the cluster that the config names.

    Raises:
        ConfigError: No cluster answers at the address.
    """
    import ray

    if not config.cluster.address:
        start_local_ray(config.name)
        return
    try:
        with _own_sigterm():
            ray.init(address=config.cluster.address, namespace=config.name, **_QUIET)
    except ConnectionError as error:
        raise ConfigError(f"cluster.address {config.cluster.address}: no Ray cluster answers ({error})") from None


def quieten_ray() -> None:
    """Keep Ray, which reads this when it is imported, from printing a page about every process that dies: the crew says
    it in a line."""
    told = r"A worker died or was killed|Raylet is terminated|has been marked dead|state-dump|\(raylet\)"
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", told)


_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}


def start_local_ray(namespace: str) -> None:
    """A Ray of this process's own, on this machine and without a dashboard."""
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with _own_sigterm():
        ray.init(
            address="local", namespace=namespace, include_dashboard=False, object_store_memory=256 * 2**20, **_QUIET
        )


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep this process's handler of SIGTERM, which `ray.init` replaces by one that ends the process at once."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)
