"""The actors of a run: which there are, how each is made, and whom each works with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from actors.actor import ActorLocation, first_line
from actors.buffer import TrajectoryBuffer
from actors.engine import BASE_POLICY, Engine, engine_environment
from actors.models.hardware import cores
from actors.models.ref import ModelRef, endpoint_identity, engine_identity
from actors.roles import ActorHandles
from actors.scripted import SCRIPTED, ScriptedEngine
from actors.settings import ActorSettings, EngineSettings
from actors.users import UserPool
from actors.worlds import load_world, world_kind
from actors.worlds.models import resolve
from evals.evaluator import Access, Evaluator
from evals.judging.words import NAME as WORDS
from loop.config.schema import RunConfig
from loop.remote import what_it_left
from trainers.policy import Proof
from trainers.scripted import ScriptedTrainer
from trainers.trainer import Trainer


@dataclass
class SupervisedActor:
    """One actor.

    Attributes:
        make: Creates the actor.
        begin: Asks a new actor to get ready; it is up when the answer is there.
        handle: The actor as it is now; None until it is created.
        serves: For engines, the arm and policy that it was proved to serve.
        proof: That proof.
        said: What an engine was proved to serve last, as `serves`, with its log-probabilities of the probe texts.
        deaths: How often it died since the last round that was done.
        name: Its role and number, such as `assistant-0`.
        up: Whether it is ready.
        pending: Its answer to `begin`, where nobody waits for that.
        restarts: How often it was started again in all.
        last_error: What it last died of.
        last_lines: What it last left in its log.
        stalled: Why the stall rule killed it, until that is said.
        rests: Until when it is not started again, if the run can go on without it; by `time.monotonic`.
    """

    role: str
    make: Callable[[], Any]
    begin: Callable[[Any], Any]
    handle: Any = None
    name: str = ""
    up: bool = False
    pending: Any = None
    restarts: int = 0
    last_error: str | None = None
    last_lines: list[str] = field(default_factory=list)
    stalled: str | None = None
    rests: float = 0.0
    location: ActorLocation | None = None
    serves: str | None = None
    proof: Proof | None = None
    said: tuple[str, list[list[float]]] | None = None
    deaths: int = 0

    def cause_of_death(self, error: BaseException) -> str:
        """Why it died: because it was stalled, or its own last error, from whatever machine it was on, or else what Ray
        knows."""
        told, self.last_lines = what_it_left(self.location)
        self.last_error, self.stalled = self.stalled or told or first_line(error), None
        return self.last_error


class Roster:
    """All actors that an arm works with, made or not.

    Attributes:
        complete: Whether everybody that the run needs was up once.

    Args:
        engine: The class of engines that compute; a scripted run has others.
        number: Which set of actors it is, where arms are at work side by side.
    """

    def __init__(self, config: RunConfig, model: str, engine: type = Engine, number: int = 0) -> None:
        c = self.config = config
        self.complete = False
        self._model = model
        self._engine_class = engine
        self._ranks: Any = None  # the placement group of a trainer of several ranks

        def actor(role: str, make: Callable[[], Any]) -> SupervisedActor:
            return SupervisedActor(role, make, lambda handle: handle.ping.remote())

        def starter(role: str, make: Callable[[], Any], count: int = 1) -> list[SupervisedActor]:
            return [SupervisedActor(role, make, lambda handle: handle.start.remote()) for _ in range(count)]

        self.assistants = starter(
            "assistant", lambda: self._engine(model, c.assistant, self._adapter_rank()), c.assistant.replicas
        )
        self.base_engines = self.assistants
        if c.own_base_engine:
            users = c.users_engine
            self.base_engines = starter("user engine", lambda: self._engine(model, users), users.replicas)
        self.model_engines = {
            name: starter(f"{name} engine", lambda s=settings: self._engine(resolve(s.model), s), settings.replicas)
            for name, settings in c.engines.items()
        }
        (self.trainer,) = starter("trainer", self._trainer)
        judge = world_kind(c.world).exact_judge()
        self.judge = judge and actor("judge", lambda: _actor(judge, c.judge, max_concurrency=1000).remote())
        self.buffer = actor(
            "buffer",
            lambda: _actor(TrajectoryBuffer, c.buffer).remote(c.buffer.segment_rows, c.buffer.segment_seconds),
        )
        self.pools = [
            actor("user pool", lambda: _actor(UserPool, c.users).remote(c.world, c.users))
            for _ in range(c.users.pools if c.converses else 0)
        ]
        self.evaluator = actor("evaluator", lambda: _actor(Evaluator, c.evals).remote(c.world))
        numbers = Counter({role: number * n for role, n in Counter(m.role for m in self.actors).items()})
        for m in self.actors:
            m.name = f"{m.role.replace(' ', '-')}-{numbers[m.role]}"
            numbers[m.role] += 1

    def _engine(self, model: str, settings: EngineSettings, rank: int | None = None) -> Any:
        """A new engine; those without a thread count share the machine's cores."""
        c = self.config
        engines = c.assistant.replicas + sum(s.replicas for s in c.engines.values() if not s.gpus)
        engines += c.users.engine.replicas if c.own_base_engine else 0
        threads = settings.threads or max(1, cores() // (engines * c.side_by_side))
        kind = self._engine_class
        if model == SCRIPTED and not issubclass(kind, ScriptedEngine):
            kind = ScriptedEngine
        made = _actor(kind, settings, engine_environment(threads))
        return made.remote(model, settings, rank, c.trainer.share_gpu)

    def _adapter_rank(self) -> int | None:
        """The largest rank of the adapters that assistants serve; None where they serve merged weights."""
        if self.config.sync == "merged":
            return None
        arms = [self.config.for_arm(arm) for arm in self.config.arms]
        return max(filter(None, (a.trainer.adapter_rank(a.rounds) for a in arms)))

    def _trainer(self) -> Any:
        """A new trainer, the first of its ranks."""
        s = self.config.trainer
        threads = s.threads or max(1, cores() // (s.ranks * self.config.side_by_side))
        made = _actor(
            ScriptedTrainer if self._model == SCRIPTED else Trainer,
            s,
            {"OMP_NUM_THREADS": str(threads)},
            max_concurrency=2,
            **self._first_bundle(),
        )
        probe = load_world(self.config.world).probe_chats()
        template = self.config.assistant.template()
        return made.remote(self._model, s.dtype, threads, probe, s.ranks, s.waits, template=template)

    @property
    def actors(self) -> list[SupervisedActor]:
        judge = [self.judge] if self.judge else []
        return [*self.engines, self.trainer, *judge, self.buffer, *self.pools, self.evaluator]

    @property
    def engines(self) -> list[SupervisedActor]:
        """Every engine, whatever it serves."""
        base = [] if self.base_engines is self.assistants else self.base_engines
        return [*self.assistants, *base, *(m for engines in self.model_engines.values() for m in engines)]

    @property
    def live_engines(self) -> list[SupervisedActor]:
        """The engines that are up; others of their kind do their work while one is down."""
        return [m for m in self.engines if m.up]

    @property
    def live_assistants(self) -> list[SupervisedActor]:
        """The assistant's engines that are up."""
        return [m for m in self.assistants if m.up]

    @property
    def live_pools(self) -> list[SupervisedActor]:
        """The pools that are up."""
        return [m for m in self.pools if m.up]

    @property
    def groups(self) -> list[tuple[list[SupervisedActor], int | None]]:
        """Actors that stand in for each other, the engines of each kind and the pools; and how many of them have to be
        up, where the config says so."""
        c = self.config
        own = [] if self.base_engines is self.assistants else [(self.base_engines, c.users_engine.min_replicas)]
        further = [(self.model_engines[n], s.min_replicas) for n, s in c.engines.items()]
        return [(self.assistants, c.assistant.min_replicas), *own, *further, (self.pools, c.users.min_pools)]

    def spare(self, actor: SupervisedActor) -> bool:
        """Whether the run can go on without an actor: an engine or a pool, if enough of its kind are up. No engine
        where the trainer uses their GPUs, as one that starts while it works would take its memory; and no pool where
        there is a budget, of which each has its part."""
        for group, given in self.groups:
            if actor in group:
                return sum(m.up for m in group if m is not actor) >= self._fewest(group, given)
        return False

    def lacking(self, down: list[SupervisedActor]) -> list[SupervisedActor]:
        """Of actors that are down, those that the run cannot go on without: of engines and pools only as many as are
        missing from the fewest that have to be up."""
        needed = [m for m in down if m not in self.engines and m not in self.pools]
        for group, given in self.groups:
            wanted = max(0, self._fewest(group, given) - sum(m.up for m in group))
            needed += [m for m in group if m in down][:wanted]
        return needed

    def _fewest(self, group: list[SupervisedActor], given: int | None) -> int:
        """How many of a group have to be up."""
        if group is self.pools:
            return len(group) if given is None or self.config.budget is not None else min(given, len(group))
        if self.config.trainer.share_gpu:
            return len(group)
        return given or (1 if self.complete else len(group))

    def handles(self, config: RunConfig, policy: str) -> ActorHandles:
        """Whom pools work with, as they are now.

        Args:
            config: The arm's config, whose roles are meant.
            policy: The name of the policy that the assistant serves.
        """

        roles = {r: n for r, n in config.roles.model_dump().items() if n not in (None, "world")}
        generator = roles.pop("generator", None)
        assistant = self._ref(generator) if generator else self._assistant(policy)
        models = {"assistant": assistant} | {role: self._ref(name) for role, name in roles.items()}
        judge = self.judge.handle if config.judges and config.roles.judge == "world" else None
        return ActorHandles(models, judge, self.buffer.handle, self.engine)

    def access(self, config: RunConfig, policy: str, allowance: float | None) -> Access:
        """Whom the evaluator works with, as they are now; arguments as of `handles`, and the money for judges."""
        judges = tuple(self._ref(name) for name in config.eval_judges if name not in ("world", WORDS))
        exact = self.judge.handle if "world" in config.eval_judges else None
        capacity = self.config.assistant.max_num_seqs * self.config.assistant.replicas
        return Access(self._assistant(policy), judges, exact, capacity, allowance)

    def _assistant(self, policy: str) -> ModelRef:
        return self._served("assistant", self.assistants, self.config.assistant, policy)

    def _served(
        self, name: str, engines: list[SupervisedActor], settings: EngineSettings, policy: str, **facts: Any
    ) -> ModelRef:
        """A model that engines serve, each pool with its part of what they can work on at a time."""
        share, capacity = 1 / max(1, len(self.live_pools or self.pools)), settings.max_num_seqs
        # One that was taken in and has not got the policy yet is as good as down.
        served = policy == BASE_POLICY or engines is not self.assistants
        handles = [m.handle if m.up and (served or m.serves is not None) else None for m in engines]
        return ModelRef(name, handles, policy, share=share, capacity=capacity, **facts)

    def _ref(self, name: str) -> ModelRef:
        """How to reach a model by its name in the config."""
        if name == "base":
            engines, path, price = self.base_engines, self._model, None
            served_by = self.config.users_engine if self.config.own_base_engine else self.config.assistant
        else:
            settings = self.config.models[name]
            price = settings.price
            if name not in self.model_engines:
                processes = len(self.pools) + any(name in self.config.for_arm(a).eval_judges for a in self.config.arms)
                processes *= self.config.side_by_side
                identity = endpoint_identity(settings)
                return ModelRef(name, endpoint=settings, share=1 / max(1, processes), price=price, identity=identity)
            engines, path, served_by = self.model_engines[name], resolve(settings.model), settings
        identity = engine_identity(path, served_by)
        return self._served(name, engines, served_by, BASE_POLICY, price=price, identity=identity)

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


def _actor(cls: type, settings: ActorSettings, environment: dict[str, str] | None = None, **options: Any) -> Any:
    import ray

    return ray.remote(cls).options(
        num_cpus=settings.cpus,
        num_gpus=settings.gpus,
        runtime_env={"env_vars": environment} if environment else None,
        **options,
    )
