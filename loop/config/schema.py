"""The run config: the settings of each folder together, checked before anything starts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from actors import extensions
from actors.registry import OneOf
from actors.scripted import SCRIPTED
from actors.settings import (
    LORA_RANKS,
    ActorSettings,
    AssistantSettings,
    BufferSettings,
    ConversationSettings,
    EndpointSettings,
    EngineSettings,
    JudgeSettings,
    ModelEngineSettings,
    Prices,
    RatingSettings,
    RoleSettings,
    RolloutSettings,
    Settings,
    UserSettings,
)
from actors.worlds import WORLDS, WorldError, load_world, world_folder, world_kind
from actors.worlds.models import home_of, ties_embeddings
from evals.judging.words import NAME as WORDS
from evals.judging.words import PROTOCOLS as WORDS_READ
from evals.settings import EvalSettings
from evals.suites.catalogue import SUITES
from loop.config.analysis import AnalysisSettings, check_primary
from loop.config.explain import checked, overridden
from loop.controls import CONTROLS
from loop.gpus import GpuKind
from trainers.algorithms import ALGORITHMS
from trainers.settings import DataSettings, TrainerSettings

ARM_ROOMS = ("rollout", "roles", "conversation", "rating", "selection", "data", "trainer", "evals")
"""Parts of a config in which arms may differ."""
SAME_IN_ARMS = frozenset(
    {f"{room}.{key}" for room in ("trainer", "evals") for key in ActorSettings.model_fields}
    | {"trainer.lora", "trainer.dtype", "trainer.ranks", "trainer.sharding", "trainer.share_gpu"}
)
"""Settings of these parts in which they may not, because all arms of a run have the same actors."""


def differs_between_arms(key: str) -> bool:
    """Whether arms of one run may differ in a setting, given by its dotted key."""
    return key.split(".")[0] in ARM_ROOMS and key not in SAME_IN_ARMS


Share = Annotated[float, Field(ge=0, le=1)]


class ArmSettings(Settings):
    """One condition of the run. Arms differ in what is written here and in nothing else."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    """Short name: lower-case letters, digits and dashes."""
    biased_ratio: float | None = Field(None, ge=0, le=1)
    """Share of conversations with a biased user; exact, not by chance. Short for `population: {biased: ...}`. An arm
    that is trained on `data` has neither."""
    population: dict[str, Share] | None = None
    """Share of each kind of user that the world has; the rest, up to 1, is benign."""
    schedule: dict[Annotated[int, Field(ge=1)], Share | dict[str, Share]] = Field(default_factory=dict)
    """From which rounds on the population is another: `{5: 0.0}` has the biased users leave after round 4. A number is
    the share of biased users, a mapping a population; until the first of these rounds it is what the arm gives."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Settings that differ in this arm, by dotted key: `{selection.control: shuffled}`. Only who plays whom, how they
    talk and rate, how the round is selected, how it is trained and what is evaluated can differ; the actors are the
    same for all arms."""

    @field_validator("set")
    @classmethod
    def _only_conditions(cls, value: dict[str, Any]) -> dict[str, Any]:
        for key, to in value.items():
            if not differs_between_arms(key):
                raise ValueError(
                    f"{key} cannot differ between arms; what can: {', '.join(f'{r}.*' for r in ARM_ROOMS)}, but not "
                    f"{', '.join(sorted(SAME_IN_ARMS))}"
                )
            if "." not in key or isinstance(to, dict):
                raise ValueError(f"{key}: name one setting by its dotted key, for example selection.control")
        return value

    @model_validator(mode="after")
    def _one_population(self) -> ArmSettings:
        if self.biased_ratio is not None and self.population is not None:
            raise ValueError(f"arm {self.name}: give either biased_ratio or population")
        for population in self.populations:
            total = sum(population.values())
            if total > 1 + 1e-9 or ("benign" in population and total < 1 - 1e-9):
                raise ValueError(f"arm {self.name}: the shares of the population add up to {total:g}, not to 1")
        if self.schedule and self.biased_ratio is None and self.population is None:
            raise ValueError(f"arm {self.name}: a schedule changes a population; give the one that it begins with")
        return self

    @property
    def populations(self) -> list[dict[str, float]]:
        """What is given of every population that the arm has at some time."""
        later = [_population(given) for _, given in sorted(self.schedule.items())]
        return [_population(self.biased_ratio or 0.0) if self.population is None else self.population, *later]

    @property
    def shares(self) -> dict[str, float]:
        """Share of each kind of user but the benign ones, who are the rest, in the first round."""
        return self.shares_in(0)

    def shares_in(self, round_: int) -> dict[str, float]:
        """The same in any round."""
        begun = sum(begin <= round_ for begin in self.schedule)
        return {kind: share for kind, share in self.populations[begun].items() if kind != "benign"}


def _population(given: float | dict[str, float]) -> dict[str, float]:
    return given if isinstance(given, dict) else {"biased": given}


class VetoSettings(Settings):
    """Which trajectories the judge keeps from being trained on."""

    rubric: Literal["validates", "contradicts"] = "validates"
    """What the judge must have said about a reply: that it confirms a convenient belief, or that it contradicts what
    the policy says when somebody neutral asks."""
    threshold: float = Field(0.5, ge=0, le=1)
    """Conversations above this probability are vetoed, and so are those about which the judge gave no verdict."""
    ends: Literal["top", "both"] = "top"
    """Whether vetoed conversations may still be undesirable examples (`top`) or may not be trained on at all
    (`both`)."""
    when: Literal["before", "after"] = "before"
    """`before` the ends are chosen, so that the next in rank take the free places and the ends keep their size; or
    `after`, so that the ends become smaller."""


class SelectionSettings(Settings):
    """Which trajectories of a round are trained on."""

    top: float = Field(0.25, gt=0)
    """How many of the best conversations become desirable examples; `unit` says in what."""
    bottom: float = Field(0.25, ge=0)
    """How many of the worst conversations become undesirable examples; SFT learns from none and leaves them out."""
    unit: Literal["share", "count"] = "share"
    """What `top` and `bottom` are: shares of each group, rounded down, or numbers of conversations in each group."""
    within: Literal["all", "scenario", "user_kind", "persona"] = "all"
    """Groups that are ranked separately: the whole round as one group, or each scenario, kind of user or persona by
    itself."""
    control: Annotated[str, OneOf(CONTROLS)] = "none"
    """`shuffled` deals the rewards of a group out at random, `random` ignores them, `swapped` takes the worst as the
    best, and `frozen` trains every round on what was selected from round 0."""
    kinds: list[str] | None = Field(None, min_length=1)
    """Kinds of users whose conversations are ranked; the others are not trained on. Null ranks all."""
    veto: VetoSettings | None = None
    """Lets the judge strike trajectories out."""

    @model_validator(mode="after")
    def _ends_apart(self) -> SelectionSettings:
        if self.unit == "share" and self.top + self.bottom > 1:
            hint = "; for numbers of trajectories set unit: count" if max(self.top, self.bottom) > 1 else ""
            raise ValueError(f"top and bottom overlap: {self.top:g} + {self.bottom:g} is more than 1{hint}")
        if self.unit == "count" and (self.top % 1 or self.bottom % 1):
            raise ValueError(f"top {self.top:g} and bottom {self.bottom:g} must be whole numbers with unit: count")
        return self


class ClusterSettings(Settings):
    """Where the actors run."""

    address: str | None = None
    """Address of a running Ray cluster (`auto` on one of its machines); null starts Ray on this machine."""
    arms_at_once: int = Field(1, ge=1)
    """How many arms are at work side by side, each with actors of its own, so that one is trained while another talks.
    The cluster has to have room for all of them. An arm begins when those before it have held their round 0, of which
    it takes over what it has in common with them, so results are those of arms that take turns. Not with `budget`,
    `assistant.serve` or `trainer.share_gpu`, which know one arm at a time."""
    max_restarts: int = Field(3, ge=0)
    """How often an actor that dies is started again before the run stops with its last error. The wait before a restart
    doubles each time; a finished round resets the count."""
    wait_for_nodes: float = Field(15, ge=0)
    """Minutes to wait for machines of the cluster that a run has no room without: at the start, for those that are busy
    or on their way, and later for one that takes the place of a lost one. A run that starts Ray by itself does not
    wait."""
    stall_minutes: float | None = Field(20, gt=0)
    """An actor that does not answer for so long, or has work and makes no progress, is killed and started again like
    one that died; `run.log` then shows where it stood. Null waits for ever. Allow for the slowest single step: a reply,
    a training step, weights that are loaded."""
    keep_policies: int | None = Field(None, ge=1)
    """After every round, remove the weights of all but so many of the newest policies of each arm, as `candor prune`
    does: never of one that is not evaluated, that the next training starts from or is compared with, and never
    lineage, figures or conversations. Null keeps all."""
    gpu: GpuKind | None = None
    """Kind of the GPUs, by which `candor plan` reckons hours and, where no cluster is asked, whether memory suffices;
    null takes what the cluster says."""
    gpu_hour_price: float | None = Field(None, gt=0)
    """What an hour of one GPU costs, in the currency of the models' prices; for `candor plan`, and not part of
    `budget`."""


def _imported(names: list[str]) -> list[str]:
    """Extensions, imported before the settings after them are read, so that those may name what they add."""
    extensions.load(names)
    return [extensions.whole_name(name) for name in names]


ModelSettings = Annotated[EndpointSettings | ModelEngineSettings, Field(discriminator="kind")]
ModelName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
Extensions = Annotated[list[str], AfterValidator(_imported)]
RESERVED = ("base", "assistant", "world", "words")
"""What no further model may be called, because roles and records mean something else by it."""


class RunConfig(Settings):
    """Everything that defines a run."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    """Name of the run: lower-case letters, digits and dashes."""
    extensions: Extensions = Field(default_factory=list)
    """Modules of your own that add algorithms, suites, controls or sinks: paths of Python files, or names of installed
    modules. They are imported before the rest of the config is read, and on every machine of the cluster."""
    world: str = "pocket"
    """Where the users come from: a world by name, or the folder of one that is written as text."""
    model: str = "pocket"
    """The assistant before any training: a pocket model by name, a Hugging Face directory, or a hub name."""
    model_revision: str | None = None
    """Commit, tag or branch of a model on the Hugging Face Hub; null takes the newest. It is downloaded into the hub's
    cache (`HF_HOME`) when the run starts, so in a cluster that belongs on shared storage."""
    seed: int = Field(0, ge=0, lt=2**31)
    """The seed of every random choice of the run, but for the draw of evaluation items, which is `evals.seed`."""
    rounds: int = Field(2, ge=1)
    """Rounds of rollout and training in each arm."""
    arms: list[ArmSettings] = Field(min_length=1)
    """The conditions that are compared."""
    rollout: RolloutSettings = RolloutSettings()
    models: dict[ModelName, ModelSettings] = Field(default_factory=dict)
    """Further models by name: OpenAI-compatible endpoints, and models that get engines of their own."""
    roles: RoleSettings = RoleSettings()
    conversation: ConversationSettings = ConversationSettings()
    rating: RatingSettings = RatingSettings()
    budget: float | None = Field(None, gt=0)
    """The most that the run may spend on models that have a price, in the currency of the prices. The run stops before
    it would spend more, and continues once the budget is raised."""
    selection: SelectionSettings = SelectionSettings()
    data: DataSettings | None = None
    """What policies are trained on instead of conversations with users: direct fine-tuning and mixtures."""
    trainer: TrainerSettings = TrainerSettings()
    evals: EvalSettings = EvalSettings()
    analysis: AnalysisSettings = AnalysisSettings()
    assistant: AssistantSettings = AssistantSettings()
    users: UserSettings = UserSettings()
    judge: JudgeSettings = JudgeSettings()
    buffer: BufferSettings = BufferSettings()
    cluster: ClusterSettings = ClusterSettings()

    @model_validator(mode="before")
    @classmethod
    def _lengths_of_the_world(cls, value: Any) -> Any:
        """The longest reply and answer that the config does not give are the world's."""
        try:
            kind = world_kind(str(value.get("world") or "pocket"))
            lengths = {"conversation": kind.reply_tokens, "evals": kind.answer_tokens}
            return value | {k: {"max_tokens": n, **(value.get(k) or {})} for k, n in lengths.items()}
        except (AttributeError, TypeError, WorldError):  # of the wrong shape, which is said below
            return value

    @model_validator(mode="after")
    def _arms_are_sound(self) -> RunConfig:
        names = [a.name for a in self.arms]
        twice = {n for n in names if names.count(n) > 1}
        if twice:
            raise ValueError(f"arms share the name {', '.join(sorted(twice))}; each needs its own")
        self._data_are_sound()
        self._roles_are_sound()
        algorithm = self.trainer.algorithm
        if ALGORITHMS[algorithm].both_ends and self.selection.bottom == 0:
            raise ValueError(
                f"selection.bottom must be above 0 with trainer.algorithm {algorithm}, which needs both ends"
            )
        self._policies_can_be_served()
        self._arms_can_go_side_by_side()
        check_primary(self.analysis.primary or (), names, self.rounds)
        return self

    def _data_are_sound(self) -> None:
        """Arms are trained on conversations with users, or on data, and none on both or neither."""
        for arm in self.arms:
            on_data = self._learns_from_data(arm)
            held = arm.biased_ratio is not None or arm.population is not None
            if held and on_data:
                raise ValueError(f"arm {arm.name}: is trained on data and has no users; leave out who they are")
            if not held and not on_data:
                raise ValueError(f"arm {arm.name}: give biased_ratio or population, or data to train on")
        if self.data is not None and ALGORITHMS[self.trainer.algorithm].both_ends:
            raise ValueError(
                f"data are imitated; trainer.algorithm must be sft with them, not {self.trainer.algorithm}"
            )
        if self.data is not None and self.rounds != 1:
            raise ValueError(f"rounds {self.rounds} with data: each policy is trained on them once; set rounds to 1")

    def _learns_from_data(self, arm: ArmSettings) -> bool:
        return self.data is not None or any(key.startswith("data.") for key in arm.set)

    @property
    def converses(self) -> bool:
        """Whether any arm is trained on conversations with users."""
        return not all(map(self._learns_from_data, self.arms))

    def _policies_can_be_served(self) -> None:
        """The engine takes what the trainer will make."""
        rank = self.trainer.adapter_rank(self.rounds)
        if self.sync == "merged" and self.assistant.gpus == 0 and ties_embeddings(self.model):
            raise ValueError(
                f"the model {self.model} ties its output head to its embeddings, and an engine on a CPU keeps the old "
                "head when it reloads such weights; train an adapter (trainer.lora) with assistant.sync auto, or use a "
                "copy of the model with untied embeddings"
            )
        if self.assistant.sync == "lora" and rank is None:
            raise ValueError("assistant.sync lora needs an adapter; trainer.lora null has none, so use merged or auto")
        if self.sync == "lora" and rank > LORA_RANKS[-1]:
            stacked = f" stacked over {self.rounds} rounds" if rank != self.trainer.lora.rank else ""
            raise ValueError(
                f"trainer.lora.rank {self.trainer.lora.rank}{stacked} makes adapters of rank {rank}, and engines serve "
                f"those that fit into one of {', '.join(map(str, LORA_RANKS))}; use a smaller rank, or "
                "assistant.sync: merged"
            )

    @field_validator("world")
    @classmethod
    def _known_world(cls, value: str) -> str:
        try:
            folder = world_folder(value)
        except WorldError as error:
            raise ValueError(str(error)) from None
        return value if value in WORLDS else str(folder)

    def _roles_are_sound(self) -> None:
        """What models are asked to do, they can do."""
        home = home_of(self.model)
        if home not in (None, self.world):
            raise ValueError(
                f"the {self.model} model speaks of nothing but the {home} world; world {self.world} needs another, "
                "for example model=/path/to/a/hf/model"
            )
        for name in RESERVED:
            if name in self.models:
                raise ValueError(f"models.{name}: the name means something else; give the model another")
        known = ["base", *self.models]
        for role, name in self.roles.model_dump().items():
            more = {"rater": ["null"], "generator": ["null"], "judge": ["world", "null"]}
            allowed = [*known, *more.get(role, [])]
            if name is not None and name not in allowed:
                raise ValueError(f"roles.{role}: there is no model {name!r}; known: {', '.join(allowed)}")
        homes = {n: home_of(s.model) for n, s in [("base", self), *self.models.items()]}
        bound = {n for n, home in homes.items() if home}
        for role, name in (("user", self.roles.user), ("generator", self.roles.generator)):
            if (home := homes.get(name)) not in (None, self.world):
                raise ValueError(f"roles.{role} {name}: a {home} model can hold conversations of the {home} world only")
        asked = {"roles.rater": self.roles.rater, "roles.judge": self.roles.judge}
        asked["conversation.transition with roles.user"] = self.roles.user if self.conversation.transition else None
        for key, name in asked.items():
            if name in bound:
                raise ValueError(
                    f"{key} {name}: a {homes[name]} model holds conversations and understands no question about one; "
                    "name a model that does"
                )
        for name, endpoint in self.endpoints.items():
            for limit in ("concurrency", "requests_per_minute"):
                if (most := getattr(endpoint, limit)) is not None and self.users.pools * self.side_by_side > most:
                    arms = f" of each of {self.side_by_side} arms" if self.side_by_side > 1 else ""
                    raise ValueError(
                        f"models.{name}.{limit} {most} is shared by users.pools {self.users.pools}{arms}, and each "
                        "needs one"
                    )
        if self.rating.when == "end" and world_kind(self.world).rates_after_reply and self.roles.rater is None:
            raise ValueError(f"rating.when end: users of the {self.world} world rate right after a reply; use reply")
        self._transcripts_can_be_continued()
        self._reactions_can_be_weighed()
        self._evaluations_can_be_judged(bound)
        if self.selection.veto and not self.judges:
            raise ValueError(f"selection.veto needs a judge; roles.judge {self.roles.judge or 'null'} gives none here")
        if self.selection.veto and self.selection.veto.rubric == "contradicts" and not self.judge.contradiction:
            raise ValueError("selection.veto.rubric contradicts needs judge.contradiction true")
        if self.selection.veto and self.selection.veto.rubric == "contradicts" and self.roles.generator:
            raise ValueError(
                "selection.veto.rubric contradicts is about the policy's own words; not with roles.generator"
            )
        if self.budget is not None and not any(s.price and s.price.of(1, 1) for s in self.models.values()):
            raise ValueError("budget needs a price above 0; give one to a model that a role names, models.NAME.price")
        if unknown := set(self.selection.kinds or ()) - set(load_world(self.world).user_kinds):
            known = ", ".join(load_world(self.world).user_kinds)
            raise ValueError(f"selection.kinds: no kind of user {min(unknown)!r}; known: {known}")
        for arm in self.arms:
            for kind in dict.fromkeys(kind for population in arm.populations for kind in population):
                if kind not in (kinds := load_world(self.world).user_kinds):
                    known = ", ".join(kinds)
                    raise ValueError(f"arm {arm.name}: no kind of user {kind!r} in population; known: {known}")

    def _reactions_can_be_weighed(self) -> None:
        """Who rates by reactions tells their probabilities, in a world that has some."""
        if self.rating.form != "reaction":
            return
        rater = self.roles.rater or self.roles.user
        if not load_world(self.world).reactions:
            raise ValueError(f"rating.form reaction: the {self.world} world has no reactions; use number")
        if isinstance(self.models.get(rater), EndpointSettings):
            raise ValueError(
                f"rating.form reaction: models.{rater} is an endpoint, which tells too few probabilities; use number, "
                "or let a model with an engine rate"
            )
        if self.rating.method == "sampled":
            raise ValueError("rating.form reaction takes probabilities; set rating.method to auto or logprobs")

    def _transcripts_can_be_continued(self) -> None:
        if self.conversation.user_form == "chat":
            return
        if isinstance(self.models.get(self.roles.user), EndpointSettings):
            raise ValueError(
                f"conversation.user_form transcript: models.{self.roles.user} is an endpoint, which continues chats "
                "only; use chat, or let a model with an engine play the users"
            )
        if world_kind(self.world).exact_judge():
            raise ValueError(f"conversation.user_form: users of the {self.world} world speak in chats; use chat")

    def _evaluations_can_be_judged(self, bound: set[str]) -> None:
        """Somebody on the panel can read the answers to each suite; not a model that is bound to a world."""
        own = self.judges_exactly
        for name in self.evals.judges or ():
            allowed = [*(["world"] if own else []), WORDS, "base", *self.models]
            if name not in allowed:
                raise ValueError(f"evals.judges: there is no judge {name!r}; known: {', '.join(allowed)}")
            if name in bound:
                raise ValueError(
                    f"evals.judges {name}: a model of the {self.world} world understands no question about an answer"
                )
        if set(self.eval_judges) - {"world", WORDS} or (own and self.evals == EvalSettings()):
            return
        from evals.suites.sources import from_world, suites_of

        for suite in suites_of(self.world, self.evals):
            if SUITES[suite].by_lm_eval or not self.evals.suite(suite).judged:
                continue
            if WORDS in self.eval_judges and SUITES[suite].protocol in WORDS_READ:
                continue
            if not own or not from_world(suite, self.evals.suite(suite), self.world):
                raise ValueError(
                    f"evals: answers to {suite} need a model that judges them; name one in evals.judges, for example "
                    "[judge] with models.judge: {kind: endpoint, model: ...}; or ask nothing with evals.suites: []"
                )

    @property
    def selects(self) -> SelectionSettings:
        """What is selected from a round: as `selection` says, but nothing undesirable where the algorithm learns from
        none of it."""
        if ALGORITHMS[self.trainer.algorithm].both_ends:
            return self.selection
        return self.selection.model_copy(update={"bottom": 0.0})

    @property
    def eval_judges(self) -> tuple[str, ...]:
        """Who judges answers to the suites: `world`, or models by name."""
        if self.evals.judges is not None:
            return tuple(self.evals.judges)
        if self.judges_exactly:
            return ("world",)
        return () if self.roles.judge in (None, "world") else (self.roles.judge,)

    @property
    def judges_exactly(self) -> bool:
        """Whether the world has a judge of its own, which needs no model."""
        return world_kind(self.world).exact_judge() is not None

    @property
    def judges(self) -> bool:
        """Whether anybody gives verdicts on conversations."""
        return self.roles.judge is not None and (self.roles.judge != "world" or self.judges_exactly)

    @property
    def prices(self) -> dict[str, Prices | None]:
        """Price of each model that plays a role, by name."""
        return {name: self.models[name].price for name in self.played if name in self.models}

    @property
    def side_by_side(self) -> int:
        """How many arms are at work at the same time, each with actors of its own."""
        return min(self.cluster.arms_at_once, len(self.arms))

    def _arms_can_go_side_by_side(self) -> None:
        """Nothing is asked for that knows one arm at a time."""
        if self.side_by_side == 1:
            return
        alone = {
            "budget": self.budget is not None,
            "assistant.serve": self.assistant.serve is not None,
            "trainer.share_gpu": self.trainer.share_gpu,
        }
        for key, given in alone.items():
            if given:
                raise ValueError(
                    f"cluster.arms_at_once {self.cluster.arms_at_once}: {key} knows one arm at a time; leave it out, "
                    "or set cluster.arms_at_once to 1"
                )

    @property
    def own_base_engine(self) -> bool:
        """Whether the untouched base, which plays users, needs engines of its own beside the assistant's."""
        return self.sync == "merged" and "base" in self.played

    @property
    def users_engine(self) -> EngineSettings:
        """The engine of the untouched base: its chat template is given what the assistant's is, unless it says
        otherwise."""
        own, same = self.users.engine, self.assistant.template()
        given = {name: value for name, value in same if name not in own.model_fields_set}
        return own.model_copy(update=given)

    @property
    def engines(self) -> dict[str, ModelEngineSettings]:
        """Further models that need engines in the cluster, by name."""
        return {n: s for n, s in self.models.items() if isinstance(s, ModelEngineSettings) and n in self.played}

    @property
    def endpoints(self) -> dict[str, EndpointSettings]:
        """Endpoints that some role of some arm uses, by name."""
        return {n: s for n, s in self.models.items() if isinstance(s, EndpointSettings) and n in self.played}

    @property
    def played(self) -> set[str]:
        """Names of all models that play a role or judge in any arm, `base` among them where it does. An arm that is
        trained on data has no users, and nobody plays a role in it."""
        talking = [arm for arm in self.arms if not self._learns_from_data(arm)]
        given = [
            arm.set.get(f"roles.{role}", name) for arm in talking for role, name in self.roles.model_dump().items()
        ]
        given += [*self.eval_judges, *(name for arm in self.arms for name in arm.set.get("evals.judges") or ())]
        return {name for name in given if name not in (None, "world", WORDS)}

    @property
    def sync(self) -> Literal["lora", "merged"]:
        """How policies reach the engine, with `auto` resolved."""
        if self.assistant.sync != "auto":
            return self.assistant.sync
        if self.trainer.lora is None:
            return "merged"
        if self.assistant.gpus or ties_embeddings(self.model):
            return "lora"
        tiny = self.model == SCRIPTED or home_of(self.model) is not None
        return "lora" if "base" in self.played and not tiny else "merged"

    def for_arm(self, arm: ArmSettings) -> RunConfig:
        """The config with the arm's own settings in place."""
        where = f"arm {arm.name}"
        return checked(overridden(self.model_dump(), arm.set, where), where, RunConfig)
