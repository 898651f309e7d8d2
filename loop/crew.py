"""The crew of a run: its actors, started, and started again when they die."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.assistant import BASE_POLICY, Engine, engine_environment
from actors.buffer import TrajectoryBuffer
from actors.chat import ModelRefusedError, NoLogprobsError
from actors.conversation import RATINGS
from actors.files import model_fingerprint
from actors.judge import PocketJudge
from actors.lifeline import ActorGone, Whereabouts, first_line, gone_if_dead, last_error
from actors.roles import Door, Peers, endpoint_identity
from actors.scripted import SCRIPTED, ScriptedEngine
from actors.settings import ActorSettings
from actors.users import UserPool
from actors.worlds import load_world
from actors.worlds.models import resolve
from evals.evaluator import Access, Evaluator
from evals.settings import EvalSettings
from loop.cluster import check_resources
from loop.config import ConfigError, RunConfig
from trainers.base import Trainer
from trainers.policy import Proof, prove
from trainers.scripted import ScriptedTrainer

FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 60
PING_SECONDS = 30
"""An actor that does not answer for so long is busy, not dead: Ray says of a dead one that it is dead."""


class ActorLostError(RuntimeError):
    """An actor died more often than `cluster.max_restarts` allows; the message carries its own last error."""


class ClusterGoneError(RuntimeError):
    """No machine of the cluster is left."""


def fetch(work: Any) -> Any:
    """`ray.get`, with `ActorGone` for whatever means that an actor died."""
    import ray

    with gone_if_dead():
        return ray.get(work)


def machines() -> list[dict[str, float]]:
    """Resources of each live machine of the cluster; `ClusterGoneError` where none is left."""
    import ray

    alive = [n["Resources"] for n in ray.nodes() if n["Alive"]]
    if not alive:
        raise ClusterGoneError("no machine of the Ray cluster is left")
    return alive


@dataclass
class Member:
    """One actor.

    Attributes:
        make: Creates the actor.
        begin: Asks a new actor to get ready; it is up when the answer is there.
        handle: The actor as it is now; None until it is created.
        serves: For engines, the arm and policy that it was proved to serve.
        proof: That proof.
        deaths: How often it died since the last round that was done.
    """

    role: str
    make: Callable[[], Any]
    begin: Callable[[Any], Any]
    handle: Any = None
    where: Whereabouts | None = None
    serves: str | None = None
    proof: Proof | None = None
    deaths: int = 0

    def last_words(self, error: BaseException) -> str:
        """Why it died: its own last error, or else what Ray knows."""
        here = self.where is not None and self.where.host == socket.gethostname()
        return (last_error(self.where.log) if here else None) or first_line(error)


class Crew:
    """All actors of a run.

    Args:
        say: Shows a line to whoever watches the run.
    """

    def __init__(self, config: RunConfig, model: str, say: Callable[[str], None]) -> None:
        self.config = config
        self.engine = ""
        self._model = model
        self._say = say
        self._alarms = 0
        merged = config.sync == "merged"
        scripted = model == SCRIPTED
        engines = config.assistant.replicas + sum(s.replicas for s in config.engines.values() if not s.gpus)
        engines += config.users.engine.replicas if config.own_base_engine else 0
        cores = os.cpu_count() or 1
        threads = max(1, cores // engines)
        arms = [config.for_arm(arm) for arm in config.arms]
        rank = None if merged else max(filter(None, (a.trainer.adapter_rank(a.rounds) for a in arms)))
        trainer_threads = config.trainer.threads or max(1, cores // config.trainer.ranks)
        self._ranks: Any = None  # the placement group of a trainer of several ranks

        def engine(settings: Any, rank: int | None, model: str = model) -> Any:
            environment = engine_environment(settings, settings.threads or threads)
            cls = ScriptedEngine if model == SCRIPTED else Engine
            return _actor(cls, settings, environment).remote(model, settings, rank, config.trainer.share_gpu)

        def trainer() -> Any:
            s = config.trainer
            make = _actor(
                ScriptedTrainer if scripted else Trainer,
                s,
                {"OMP_NUM_THREADS": str(trainer_threads)},
                max_concurrency=2,
                **self._first_bundle(),
            )
            return make.remote(
                model, s.dtype, trainer_threads, load_world(config.world).probe_chats(), s.ranks, s.waits
            )

        def member(role: str, make: Callable[[], Any]) -> Member:
            return Member(role, make, lambda handle: handle.ping.remote())

        def starter(role: str, make: Callable[[], Any]) -> Member:
            return Member(role, make, lambda handle: handle.start.remote())

        c = config
        self.assistants = [starter("assistant", lambda: engine(c.assistant, rank)) for _ in range(c.assistant.replicas)]
        self.base_engines = self.assistants
        if config.own_base_engine:
            self.base_engines = [
                starter("user engine", lambda: engine(c.users.engine, None)) for _ in range(c.users.engine.replicas)
            ]
        self.model_engines = {
            name: [
                starter(f"{name} engine", lambda s=settings: engine(s, None, resolve(s.model)))
                for _ in range(settings.replicas)
            ]
            for name, settings in config.engines.items()
        }
        self.trainer = starter("trainer", trainer)
        self.judge = member("judge", lambda: _actor(PocketJudge, c.judge, max_concurrency=1000).remote())
        self.buffer = member(
            "buffer",
            lambda: _actor(TrajectoryBuffer, c.buffer).remote(c.buffer.segment_rows, c.buffer.segment_seconds),
        )
        self.pools = [
            member("user pool", lambda: _actor(UserPool, c.users).remote(c.world, c.users))
            for _ in range(c.users.pools if c.converses else 0)
        ]
        self.evaluator = member("evaluator", lambda: _actor(Evaluator, c.evals).remote(c.world, c.seed))

    @property
    def members(self) -> list[Member]:
        return [*self.engines, self.trainer, self.judge, self.buffer, *self.pools, self.evaluator]

    @property
    def engines(self) -> list[Member]:
        """Every engine, whatever it serves."""
        base = [] if self.base_engines is self.assistants else self.base_engines
        return [*self.assistants, *base, *(m for engines in self.model_engines.values() for m in engines)]

    def peers(self, config: RunConfig, policy: str) -> Peers:
        """Whom pools work with, as they are now.

        Args:
            config: The arm's config, whose roles are meant.
            policy: The name of the policy that the assistant serves.
        """

        roles = {r: n for r, n in config.roles.model_dump().items() if n not in (None, "world")}
        doors = {"assistant": self._assistant(policy)} | {role: self._door(name) for role, name in roles.items()}
        judge = self.judge.handle if config.judges and config.roles.judge == "world" else None
        return Peers(doors, judge, self.buffer.handle, self.engine)

    def access(self, config: RunConfig, policy: str, allowance: float | None) -> Access:
        """Whom the evaluator works with, as they are now; arguments as of `peers`, and the money for judges."""
        judges = tuple(self._door(name) for name in config.eval_judges if name != "world")
        exact = self.judge.handle if "world" in config.eval_judges else None
        capacity = self.config.assistant.max_num_seqs * self.config.assistant.replicas
        return Access(self._assistant(policy), judges, exact, capacity, allowance)

    def _assistant(self, policy: str) -> Door:
        return Door("assistant", [m.handle for m in self.assistants], policy)

    def _door(self, name: str) -> Door:
        """How to reach a model by its name in the config."""
        if name == "base":
            engines, path, price = self.base_engines, self._model, None
        else:
            settings = self.config.models[name]
            price = settings.price
            if name not in self.model_engines:
                processes = len(self.pools) + any(name in self.config.for_arm(a).eval_judges for a in self.config.arms)
                identity = endpoint_identity(settings)
                return Door(name, endpoint=settings, share=1 / max(1, processes), price=price, identity=identity)
            engines, path = self.model_engines[name], resolve(settings.model)
        return Door(name, [m.handle for m in engines], BASE_POLICY, price=price, identity=model_fingerprint(Path(path)))

    def start(self, started: Callable[[int], None] = lambda _: None) -> None:
        """Bring up every actor that is not up.

        Args:
            started: Called with the number of actors that are up, each time one more is.

        Raises:
            ConfigError: The cluster lacks what they ask for, or the model cannot play users.
            ActorLostError: One of them died too often while it started.
        """
        import ray

        down = [m for m in self.members if m.handle is None]
        if not down:
            return
        self._find_room(first=len(down) == len(self.members))
        for m in down:
            m.handle = m.make()
        waiting = {m.begin(m.handle): m for m in down}
        while waiting:
            done, _ = ray.wait(list(waiting), num_returns=1, timeout=0.3)
            started(len(self.members) - len(waiting))
            if not done:
                machines()
            for ref in done:
                m = waiting.pop(ref)
                try:
                    ready = fetch(ref)
                    m.where = fetch(m.handle.ping.remote())
                except ActorGone as error:
                    self._bury(m, error)
                    self._find_room(first=False)
                    m.handle = m.make()
                    waiting[m.begin(m.handle)] = m
                    continue
                if m in self.assistants:
                    self.engine = ready
        started(len(self.members))
        if self.trainer in down:
            self._check_trainer()
        if self.evaluator in down:
            self._check_evaluator()
        if self.config.converses:
            self._check_raters([m for m in down if m in self.engines])

    def _check_trainer(self) -> None:
        """Find out whether the model allows what its training asks for, before anything is held for it."""
        from trainers.datasets import DatasetError, compose
        from trainers.mixture import read_conversations
        from trainers.rows import RowsError

        try:
            for arm in map(self.config.for_arm, self.config.arms):
                if fault := fetch(self.trainer.handle.check.remote(arm.trainer)):
                    raise ConfigError(fault)
                if arm.trainer.replay:
                    read_conversations(Path(arm.trainer.replay.path))
                if arm.data:
                    compose(arm.data, arm.world, arm.seed)
        except (RowsError, DatasetError) as error:
            raise ConfigError(str(error)) from None
        except ActorGone:
            return  # whoever asks it next finds out, and has it started again

    def _check_evaluator(self) -> None:
        """Read what policies are to be asked, before anything is held for it."""
        try:
            for settings in dict.fromkeys(self.config.for_arm(arm).evals.model_dump_json() for arm in self.config.arms):
                if fault := fetch(self.evaluator.handle.prepare.remote(EvalSettings.model_validate_json(settings))):
                    raise ConfigError(fault)
        except ActorGone:
            return  # whoever asks it next finds out, and has it started again

    def _first_bundle(self) -> dict[str, Any]:
        """Options that put the trainer's first rank where the others have their places beside it."""
        s = self.config.trainer
        if s.ranks == 1:
            return {}
        from ray.util import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        if self._ranks is None:
            each = {kind: n for kind, n in (("CPU", s.cpus), ("GPU", s.gpus)) if n}
            self._ranks = placement_group([each or {"CPU": 0.01}] * s.ranks, strategy="PACK")
        return {
            "scheduling_strategy": PlacementGroupSchedulingStrategy(
                self._ranks, placement_group_bundle_index=0, placement_group_capture_child_tasks=True
            )
        }

    def _check_raters(self, engines: list[Member]) -> None:
        """Find out whether engines whose models rate can do it with one token; else ratings are sampled."""
        arms = map(self.config.for_arm, self.config.arms)
        for name, method in dict.fromkeys((a.roles.rater or a.roles.user, a.rating.method) for a in arms):
            members = self.base_engines if name == "base" else self.model_engines.get(name, [])
            try:
                fetch([m.handle.check_choices.remote(RATINGS) for m in members if m in engines])
            except NoLogprobsError as error:
                if method == "logprobs":
                    raise ConfigError(
                        f"the model of roles.user or roles.rater, {name}, cannot rate with one token: "
                        f"{first_line(error)}. Set rating.method to sampled or auto"
                    ) from None
                if method == "auto":
                    self._say(f"  ratings by {name} are sampled: {first_line(error)}")
            except ActorGone:
                return  # whoever asks it next finds out, and has it started again

    def _find_room(self, first: bool) -> None:
        """Check that the cluster has room for everybody; later in a run, wait for machines that may come back."""
        for attempt in range(self.config.cluster.max_restarts + 1):
            try:
                return check_resources(self.config, machines())
            except ConfigError as error:
                if first:
                    raise
                if attempt == self.config.cluster.max_restarts:
                    raise ActorLostError(f"the cluster has become too small: {error}") from None
                self._say(f"  the cluster has become too small; waiting for machines ({str(error).splitlines()[0]})")
                time.sleep(wait_seconds(attempt + 4))
        return None

    def heal(self, gone: ActorGone) -> None:
        """Start every actor again that died; what it was at is then missing, and done again by whoever asked for it.

        Raises:
            ActorLostError: One died more often than `cluster.max_restarts` allows.
            ClusterGoneError: No machine is left.
        """
        machines()
        dead = self.dead()
        if not dead:  # a connection broke, or somebody was faster
            self._alarms += 1
            if self._alarms > self.config.cluster.max_restarts:
                raise ActorLostError(f"{gone}; no actor is down, and trying again did not help")
            time.sleep(wait_seconds(self._alarms))
            # A call that is still under way, and that nobody awaits any more, ends with its actor.
            for member in (self.trainer, self.evaluator, *self.pools):
                self._dismiss(member)
        for member, error in dead:
            self._bury(member, error)
        self.start()

    def replace(self, member: Member, error: ActorGone) -> None:
        """Start one actor again that died."""
        self._bury(member, error)
        self.start()

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Let the engines sleep during the block, where the trainer uses their GPU. What they serve afterwards has to
        be proved again: the base here, a policy when it is published.

        Raises:
            DeliveryError: An engine's base weights are not what they were.
        """
        if not self.config.trainer.share_gpu:
            yield
            return
        engines = [m.handle for m in self.engines]
        fetch([e.sleep.remote() for e in engines])
        for m in self.assistants:
            m.serves = None
        try:
            yield
        except Exception:  # but not a stop: the trainer is still at work then, and all are about to end
            fetch([e.wake.remote() for e in engines])
            raise
        fetch([e.wake.remote() for e in engines])
        if self.config.sync == "lora" or self.config.own_base_engine:
            expected = fetch(self.trainer.handle.base_logprobs.remote())
            texts = self.trainer.handle.probe.remote()
            for served in fetch([m.handle.prompt_logprobs.remote(BASE_POLICY, texts) for m in self.base_engines]):
                prove(served, expected, expected, self.config.assistant.probe_tolerance, "the base, after a sleep,")

    def dead(self) -> list[tuple[Member, ActorGone]]:
        """Actors that are down, each with what Ray or it itself says about it."""
        import ray

        pings = {m.handle.ping.remote(): m for m in self.members if m.handle is not None}
        answered, _ = ray.wait(list(pings), num_returns=len(pings), timeout=PING_SECONDS)
        found = []
        for ref in answered:
            try:
                fetch(ref)
            except ActorGone as error:
                found.append((pings[ref], error))
        return found

    def all_is_well(self) -> None:
        """A round is done: deaths before it do not count any more."""
        self._alarms = 0
        for m in self.members:
            m.deaths = 0

    def _bury(self, member: Member, error: ActorGone) -> None:
        member.deaths += 1
        limit = self.config.cluster.max_restarts
        why = member.last_words(error)
        if member.deaths > limit:
            raise ActorLostError(
                f"the {member.role} died {member.deaths} times within a round (cluster.max_restarts: {limit}); "
                f"its last error: {why}"
            )
        self._say(f"  the {member.role} died ({why}); starting it again, {member.deaths} of {limit}")
        self._dismiss(member)
        time.sleep(wait_seconds(member.deaths))

    def _dismiss(self, member: Member) -> None:
        import ray

        with contextlib.suppress(Exception):
            ray.kill(member.handle)
        member.handle = member.serves = None

    def stop(self) -> None:
        """Write what the buffer holds, stop the engines so that no process of theirs is left, then everything else."""
        import ray

        up = [m for m in self.members if m.handle is not None]
        engines = [m for m in up if m in self.engines]
        with contextlib.suppress(ray.exceptions.RayError):
            last = [m.handle.flush.remote() for m in up if m is self.buffer] + [m.handle.stop.remote() for m in engines]
            ray.wait(last, num_returns=len(last), timeout=10)
        for m in up:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.kill(m.handle)
        if self._ranks is not None:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.util.remove_placement_group(self._ranks)


def check_endpoints(config: RunConfig) -> None:
    """Ask every endpoint that plays a role whether it is there, knows the key and has the model; it costs nothing.

    Raises:
        ConfigError: One does not.
    """
    from actors.endpoint import Endpoint

    async def check() -> None:
        for name, settings in config.endpoints.items():
            endpoint = Endpoint(settings)
            try:
                await endpoint.check()
            except ModelRefusedError as error:
                raise ConfigError(f"models.{name}: {error}") from None
            finally:
                await endpoint.close()

    asyncio.run(check())


def wait_seconds(times: int) -> float:
    """Seconds to wait before something is tried again: twice as long each time."""
    return min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** (times - 1))


def _actor(cls: type, settings: ActorSettings, environment: dict[str, str] | None = None, **options: Any) -> Any:
    import ray

    return ray.remote(cls).options(
        num_cpus=settings.cpus,
        num_gpus=settings.gpus,
        runtime_env={"env_vars": environment} if environment else None,
        **options,
    )
