"""Ray for a run, and what its actors ask of the cluster, checked before anything waits."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from actors import extensions
from actors.models.hardware import cores
from actors.settings import ActorSettings, EngineSettings, UserSettings
from loop.config.explain import ConfigError
from loop.config.schema import RunConfig

REACH_SECONDS = 30
"""Longest time in which a cluster must answer."""
STARTS = 3
"""How often Ray is started where it is too slow for itself."""
SLOW = "timed out during startup"
"""What Ray says then."""


@dataclass(frozen=True)
class Need:
    """What one kind of actor asks of the cluster.

    Attributes:
        later: How many of them a run can begin without.
    """

    role: str
    count: int
    cpus: float
    gpus: float
    later: int = 0


def needs(config: RunConfig) -> list[Need]:
    """Every actor of a run with its resources; arms that are at work side by side have actors of their own."""
    settings: list[tuple[str, int, ActorSettings]] = [
        ("assistant", config.assistant.replicas, config.assistant),
        ("user pool", config.users.pools if config.converses else 0, config.users),
        ("judge", int(config.judges_exactly), config.judge),
        ("buffer", 1, config.buffer),
        ("trainer", config.trainer.ranks, config.trainer),
        ("evaluator", 1, config.evals),
    ]
    if config.own_base_engine:
        settings.append(("user engine", config.users.engine.replicas, config.users.engine))
    settings += [(f"{name} engine", s.replicas, s) for name, s in config.engines.items()]
    sets = config.side_by_side
    return [Need(role, sets * count, s.cpus, s.gpus, sets * _later(s, config)) for role, count, s in settings]


def _later(settings: ActorSettings, config: RunConfig) -> int:
    if isinstance(settings, UserSettings):
        needs_all = settings.min_pools is None or config.budget is not None or not config.converses
        return 0 if needs_all else settings.pools - settings.min_pools
    fewest = settings.min_replicas if isinstance(settings, EngineSettings) else None
    return 0 if fewest is None or config.trainer.share_gpu else settings.replicas - fewest


def check_resources(
    config: RunConfig,
    nodes: list[dict[str, float]],
    spare: Mapping[str, int] | None = None,
    available: bool = False,
) -> None:
    """Compare what the run asks for with what the cluster's nodes have, by placing every actor on one of them.

    Args:
        nodes: Resources of each node, as Ray names them (`CPU`, `GPU`).
        spare: By role, how many of its actors the run can do without.
        available: Whether these are the resources that nobody uses just now.

    Raises:
        ConfigError: Something would wait for ever; the message lists every actor and what it asks for.
    """
    asked = [replace(n, count=n.count - max(n.later, (spare or {}).get(n.role, 0))) for n in needs(config)]
    cpus, gpus = sum(n.count * n.cpus for n in asked), sum(n.count * n.gpus for n in asked)
    has_cpus, has_gpus = (sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU"))
    _, homeless = place(asked, nodes)
    if not homeless:
        return
    table = "\n".join(f"  {n.count} x {n.role}: {n.cpus:g} CPU, {n.gpus:g} GPU each" for n in asked)
    nodes_ = f"{len(nodes)} node{'s' * (len(nodes) != 1)}"
    alone = f"; no node has room left for: {', '.join(homeless)}"
    raise ConfigError(
        f"the run asks for {cpus:g} CPU and {gpus:g} GPU, but the cluster has {has_cpus:g} CPU and {has_gpus:g} GPU "
        f"{'free ' * available}on {nodes_}{alone}:\n{table}\nAsk for less (assistant.replicas, users.pools, cpus and "
        "gpus of each role) or add machines."
    )


def place(asked: list[Need], nodes: list[dict[str, float]]) -> tuple[list[Counter[str]], list[str]]:
    """Place actors, the largest first, each on the first node that has room.

    Returns:
        For each node how many of each role it has, and the roles of which an actor found no place.
    """
    free = [[node.get("GPU", 0) + 1e-9, node.get("CPU", 0) + 1e-9] for node in nodes]
    placed: list[Counter[str]] = [Counter() for _ in nodes]
    homeless: dict[str, None] = {}
    for need in sorted(asked, key=lambda n: (-n.gpus, -n.cpus)):
        for _ in range(need.count):
            home = next((i for i, f in enumerate(free) if need.gpus <= f[0] and need.cpus <= f[1]), None)
            if home is None:
                homeless[need.role] = None
                continue
            free[home][0] -= need.gpus
            free[home][1] -= need.cpus
            placed[home][need.role] += 1
    return placed, list(homeless)


def connect(config: RunConfig, print_actors: bool = False) -> None:
    """Start Ray on this machine, or join the cluster that the config names.

    Args:
        print_actors: Whether Ray prints here what actors write.

    Raises:
        ConfigError: No cluster answers at the address.
    """
    import ray

    if not config.cluster.address:
        start_local_ray(config.name, print_actors)
        return
    reach(config.cluster.address)
    try:
        with _own_sigterm():
            ray.init(
                address=config.cluster.address,
                namespace=config.name,
                **_printing(print_actors),
                **extensions.for_workers(),
            )
    except ConnectionError as error:
        raise ConfigError(f"cluster.address {config.cluster.address}: no Ray cluster answers ({error})") from None


def reach(address: str) -> None:
    """Find out whether a Ray cluster answers, within `REACH_SECONDS`; Ray itself would try for ten minutes.

    Args:
        address: `host:port`, `auto`, or `ray://host:port`.

    Raises:
        ConfigError: None does.
    """
    said = f"cluster.address {address}: no Ray cluster answers within {REACH_SECONDS} s"
    advice = "Compare it with what `ray status` or `ray start --head` says on the head, and look for a firewall"
    if address.startswith("ray://"):
        host, _, port = address.removeprefix("ray://").partition(":")
        try:
            socket.create_connection((host, int(port or 10001)), timeout=REACH_SECONDS).close()
        except (OSError, ValueError) as error:
            raise ConfigError(f"{said} ({error}). {advice}") from None
        return
    at = [] if address == "auto" else ["--address", address]
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", *at]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=REACH_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise ConfigError(f"{said}. {advice}") from None
    if asked.returncode:
        told = [line for line in (asked.stderr + asked.stdout).splitlines() if line.strip()]
        raise ConfigError(f"{said} ({told[-1].strip() if told else 'no reason given'}). {advice}")


def free_resources() -> list[dict[str, float]]:
    """What nobody uses just now of each live machine of the cluster."""
    import ray
    from ray._private.state import available_resources_per_node

    alive = {n["NodeID"] for n in ray.nodes() if n["Alive"]}
    return [free for node, free in available_resources_per_node().items() if node in alive]


def wait_for_room(config: RunConfig, say: Callable[[str], None]) -> None:
    """On a cluster that others share, wait until what the run asks for is free, `cluster.wait_for_nodes` minutes.

    Raises:
        ConfigError: It is not.
    """
    deadline = time.monotonic() + 60 * config.cluster.wait_for_nodes
    said = -math.inf
    while True:
        try:
            return check_resources(config, free_resources(), available=True)
        except ConfigError as error:
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"{error}\nWaited {config.cluster.wait_for_nodes:g} min (cluster.wait_for_nodes)."
                ) from None
            if time.monotonic() - said > 60:
                said = time.monotonic()
                left = (deadline - time.monotonic()) / 60
                say(f"  waiting for room on the cluster, {left:.0f} min more: {str(error).splitlines()[0]}")
        time.sleep(2)


def quieten_ray() -> None:
    """Set what Ray reads when it is imported. It is kept from printing a page about every process that dies, as the
    supervisor says it in a line; and from giving workers a new environment where the command was started with `uv
    run`, in which they would wait for ever for packages that are not there."""
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    told = r"A worker died or was killed|Raylet is terminated|has been marked dead|state-dump|\(raylet\)"
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", told)


def _printing(actors: bool) -> dict[str, Any]:
    """What Ray prints here: what its actors write, or nothing but errors of its own."""
    return {"log_to_driver": actors, "logging_level": "ERROR"}


LONGEST_SOCKET = 107
"""Bytes that the path of a Unix socket may have."""
_SOCKET = "/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""Where Ray puts its sockets, below the folder for temporary files."""
SHORT_FOLDER = "/tmp"


def socket_folder(environment: Mapping[str, str]) -> str | None:
    """Where Ray's sockets go if the folder for temporary files has too long a name for them; None where it has not.

    Raises:
        ConfigError: `RAY_TMPDIR` is too long itself, or there is no other folder.
    """
    name = "RAY_TMPDIR" if "RAY_TMPDIR" in environment else "TMPDIR"
    given = environment.get(name, "")
    over = len(os.fsencode(given + _SOCKET)) - LONGEST_SOCKET
    if over <= 0:
        return None
    if name == "TMPDIR" and os.access(SHORT_FOLDER, os.W_OK):
        return f"{SHORT_FOLDER}/ray"
    raise ConfigError(
        f"{name} {given} is {over} characters too long: Ray puts Unix sockets there, whose paths may have "
        f"{LONGEST_SOCKET}; set RAY_TMPDIR to a folder with a shorter name"
    )


def start_local_ray(namespace: str, print_actors: bool = False) -> None:
    """A Ray of this process's own, on this machine and without a dashboard.

    Raises:
        ConfigError: There is no folder for its sockets.
    """
    quieten_ray()
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    folder = socket_folder(os.environ)
    for attempt in range(STARTS):
        try:
            with _own_sigterm():
                ray.init(
                    address="local",
                    namespace=namespace,
                    include_dashboard=False,
                    num_cpus=None if cores() == os.cpu_count() else cores(),
                    object_store_memory=256 * 2**20,
                    **({"_temp_dir": folder} if folder else {}),
                    **_printing(print_actors),
                    **extensions.for_workers(),
                )
            return
        except Exception as error:  # Ray has no class of its own for it
            if SLOW not in str(error) or attempt == STARTS - 1:
                raise
            ray.shutdown()  # what was started of it goes, and it gets another try on a machine that is busy


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep this process's handler of SIGTERM, which `ray.init` would replace, while it is at work and after it, by one
    that ends the process at once; and by one in C, before that, which has an alarm abort it three seconds later."""
    from ray._private import utils

    own, theirs = signal.getsignal(signal.SIGTERM), utils.set_sigterm_handler
    utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = theirs
        signal.signal(signal.SIGTERM, own)
