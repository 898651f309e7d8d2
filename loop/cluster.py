"""The crew of a run: Ray, the actors, and what each of them asks for, checked before anything waits."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from actors.assistant import Engine, engine_environment
from actors.buffer import TrajectoryBuffer
from actors.chat import ChatError
from actors.judge import PocketJudge
from actors.settings import ActorSettings
from actors.users import RATINGS, UserPool
from actors.worlds import load_world
from evals.evaluator import Evaluator
from loop.config import ConfigError, RunConfig
from trainers.base import Trainer


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
        ("user pool", config.users.pools, config.users),
        ("judge", 1, config.judge),
        ("buffer", 1, config.buffer),
        ("trainer", 1, config.trainer),
        ("evaluator", 1, config.evals),
    ]
    if config.sync == "merged":
        settings.append(("user engine", config.users.engine.replicas, config.users.engine))
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


class Crew:
    """Handles of all actors of a run."""

    def __init__(self, config: RunConfig, model: str) -> None:
        """Create the actors; `start` waits for them.

        Raises:
            ConfigError: The cluster lacks what they ask for.
        """
        import ray

        check_resources(config, [n["Resources"] for n in ray.nodes() if n["Alive"]])
        merged = config.sync == "merged"
        engines = config.assistant.replicas + (config.users.engine.replicas if merged else 0)
        cores = os.cpu_count() or 1
        threads = max(1, cores // engines)
        rank = None if merged else max(a.trainer.lora.rank for a in map(config.for_arm, config.arms) if a.trainer.lora)

        def engine(settings: Any, rank: int | None) -> Any:
            environment = engine_environment(settings, settings.threads or threads)
            return _actor(Engine, settings, environment).remote(model, settings, rank)

        self.config = config
        self.assistants = [engine(config.assistant, rank) for _ in range(config.assistant.replicas)]
        self.user_engines = self.assistants
        if merged:
            self.user_engines = [engine(config.users.engine, None) for _ in range(config.users.engine.replicas)]
        self.judge = _actor(PocketJudge, config.judge, max_concurrency=1000).remote()
        self.buffer = _actor(TrajectoryBuffer, config.buffer).remote(config.buffer.segment_rows)
        trainer_threads = config.trainer.threads or cores
        self.trainer = _actor(
            Trainer, config.trainer, {"OMP_NUM_THREADS": str(trainer_threads)}, max_concurrency=2
        ).remote(model, config.trainer.dtype, trainer_threads, load_world(config.world).probe_chats())
        self.pools: list[Any] = []
        self.evaluator: Any = None

    def start(self, started: Callable[[int], None] = lambda _: None) -> str:
        """Wait until every engine and the trainer are up; returns the engine's name and version.

        Args:
            started: Called with the number of actors that are up, each time one more is.
        """
        import ray

        engines = self.assistants + (self.user_engines if self.user_engines is not self.assistants else [])
        waiting = [e.start.remote() for e in engines] + [self.trainer.start.remote()]
        first, everything = waiting[0], list(waiting)
        while waiting:
            done, waiting = ray.wait(waiting, num_returns=1)
            ray.get(done)
            started(len(everything) - len(waiting))
        self.engine = ray.get(first)
        try:
            ray.get([e.check_choices.remote(RATINGS) for e in self.user_engines])
        except ChatError as error:
            raise ConfigError(
                f"model {self.config.model} cannot play users, who rate with one token: {error}"
            ) from None
        c = self.config
        self.pools = [
            _actor(UserPool, c.users).remote(c.world, c.users, self.engine, self.judge, self.buffer)
            for _ in range(c.users.pools)
        ]
        self.evaluator = _actor(Evaluator, c.evals).remote(c.world, self.judge, c.seed)
        return self.engine

    def size(self) -> int:
        """How many actors `start` waits for."""
        return len({*self.assistants, *self.user_engines}) + 1

    def stop(self) -> None:
        """Write what the buffer holds, stop the engines so that no process of theirs is left, then everything else."""
        import ray

        engines = {*self.assistants, *self.user_engines}
        with contextlib.suppress(ray.exceptions.RayError):
            last = [self.buffer.flush.remote(), *(e.stop.remote() for e in engines)]
            ray.wait(last, num_returns=len(last), timeout=10)
        for actor in [*engines, self.judge, self.buffer, self.trainer, *self.pools, self.evaluator]:
            if actor is not None:
                ray.kill(actor)


def _actor(cls: type, settings: ActorSettings, environment: dict[str, str] | None = None, **options: Any) -> Any:
    import ray

    return ray.remote(cls).options(
        num_cpus=settings.cpus,
        num_gpus=settings.gpus,
        runtime_env={"env_vars": environment} if environment else None,
        **options,
    )
