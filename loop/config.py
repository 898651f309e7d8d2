"""The run config: YAML composed of the settings of each room, checked before anything starts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from actors.settings import (
    LORA_RANKS,
    ActorSettings,
    AssistantSettings,
    BufferSettings,
    ConversationSettings,
    EndpointSettings,
    JudgeSettings,
    ModelEngineSettings,
    Prices,
    RatingSettings,
    RoleSettings,
    RolloutSettings,
    Settings,
    UserSettings,
)
from actors.worlds import WORLDS, WorldError, load_world, world_folder
from actors.worlds.models import POCKET_MODELS
from evals.settings import PROTOCOLS, EvalSettings
from trainers.settings import DataSettings, TrainerSettings


class ConfigError(ValueError):
    """A config that cannot be run; the message names the file, the key, what was found and what is allowed."""


ARM_ROOMS = ("rollout", "roles", "conversation", "rating", "selection", "data", "trainer", "evals")
"""Parts of a config in which arms may differ."""


class ArmSettings(Settings):
    """One condition of the run. Arms differ in what is written here and in nothing else."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    """Short name: lower-case letters, digits and dashes."""
    biased_ratio: float | None = Field(None, ge=0, le=1)
    """Share of conversations with a biased user; exact, not by chance. Short for `population: {biased: ...}`. With
    `data` nobody converses, and neither is given."""
    population: dict[str, Annotated[float, Field(ge=0, le=1)]] | None = None
    """Shares of the kinds of users, which the world names; what they leave of 1 is benign."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Settings that differ in this arm, by dotted key: `{selection.control: shuffled}`. Only who plays whom, how they
    talk and rate, how the round is selected, how it is trained and what is evaluated can differ; the actors are the
    same for all arms."""

    @field_validator("set")
    @classmethod
    def _only_conditions(cls, value: dict[str, Any]) -> dict[str, Any]:
        actors = {f"{room}.{key}" for room in ("trainer", "evals") for key in ActorSettings.model_fields}
        fixed = actors | {"trainer.lora", "trainer.dtype", "trainer.ranks", "trainer.sharding", "trainer.share_gpu"}
        for key, to in value.items():
            if key in fixed or key.split(".")[0] not in ARM_ROOMS:
                raise ValueError(
                    f"{key} cannot differ between arms; what can: {', '.join(f'{r}.*' for r in ARM_ROOMS)}, but not "
                    f"{', '.join(sorted(fixed))}"
                )
            if "." not in key or isinstance(to, dict):
                raise ValueError(f"{key}: name one setting by its dotted key, for example selection.control")
        return value

    @model_validator(mode="after")
    def _one_population(self) -> ArmSettings:
        if self.biased_ratio is not None and self.population is not None:
            raise ValueError(f"arm {self.name}: give either biased_ratio or population")
        total = sum((self.population or {}).values())
        if total > 1 + 1e-9 or ("benign" in (self.population or {}) and total < 1 - 1e-9):
            raise ValueError(f"arm {self.name}: the shares of the population add up to {total:g}, not to 1")
        return self

    @property
    def shares(self) -> dict[str, float]:
        """Share of each kind of user but the benign ones, who are the rest."""
        given = {"biased": self.biased_ratio or 0.0} if self.population is None else self.population
        return {kind: share for kind, share in given.items() if kind != "benign"}


class VetoSettings(Settings):
    """Which trajectories the judge keeps from being trained on."""

    rubric: Literal["validates", "contradicts"] = "validates"
    """What it says of the replies: that one confirms a convenient belief, or contradicts what the policy says when
    somebody neutral asks."""
    threshold: float = Field(0.5, ge=0, le=1)
    """Trajectories above this probability are vetoed, and so are those about which the judge gave no verdict."""
    ends: Literal["top", "both"] = "top"
    """Whether vetoed trajectories may still be undesirable examples (`top`), or none at all (`both`)."""
    when: Literal["before", "after"] = "before"
    """`before` the ends are chosen, so that the next in rank take the places and the ends keep their size, or `after`,
    so that the ends shrink."""


class SelectionSettings(Settings):
    """Which trajectories of a round are trained on."""

    top: float = Field(0.25, gt=0)
    """How much, best rewards first, becomes desirable; `unit` says of what."""
    bottom: float = Field(0.25, ge=0)
    """How much, worst rewards first, becomes undesirable."""
    unit: Literal["share", "count"] = "share"
    """What `top` and `bottom` are: shares of each group, rounded down, or numbers of trajectories in each group."""
    within: Literal["all", "scenario", "user_kind", "persona"] = "all"
    """Groups that are ranked apart: the whole round is one, or each scenario, kind of user or persona."""
    control: Literal["none", "shuffled", "random", "swapped", "frozen"] = "none"
    """`shuffled` deals the rewards of a group out anew at random, `random` ignores them, `swapped` takes the worst for
    the best, and `frozen` trains on what was selected from round 0 in every round."""
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
    max_restarts: int = Field(3, ge=0)
    """How often an actor that dies is started again before the run stops with its last error. The wait before it
    doubles each time; a round that is done clears the count."""


ModelSettings = Annotated[EndpointSettings | ModelEngineSettings, Field(discriminator="kind")]
ModelName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
RESERVED = ("base", "assistant", "world")
"""What no further model may be called, because roles and records mean something else by it."""


AnyConfig = TypeVar("AnyConfig", bound=Settings)


class RunConfig(Settings):
    """Everything that defines a run."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    """Name of the run: lower-case letters, digits and dashes."""
    world: str = "pocket"
    """Where the users come from: a world by name, or the folder of one that is written as text."""
    model: str = "pocket"
    """The assistant before any training: a pocket model by name, a Hugging Face directory, or a hub name."""
    seed: int = Field(0, ge=0, lt=2**31)
    """Every random choice of the run follows from it."""
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
    """The most that the run may spend on models that have a price, in the prices' currency; it stops before it would
    spend more, and goes on when the budget is raised."""
    selection: SelectionSettings = SelectionSettings()
    data: DataSettings | None = None
    """What policies are trained on in the place of conversations with users: direct fine-tuning and mixtures."""
    trainer: TrainerSettings = TrainerSettings()
    evals: EvalSettings = EvalSettings()
    assistant: AssistantSettings = AssistantSettings()
    users: UserSettings = UserSettings()
    judge: JudgeSettings = JudgeSettings()
    buffer: BufferSettings = BufferSettings()
    cluster: ClusterSettings = ClusterSettings()

    @model_validator(mode="after")
    def _arms_are_sound(self) -> RunConfig:
        names = [a.name for a in self.arms]
        twice = {n for n in names if names.count(n) > 1}
        if twice:
            raise ValueError(f"arms share the name {', '.join(sorted(twice))}; each needs its own")
        self._data_are_sound()
        self._roles_are_sound()
        if self.trainer.algorithm != "sft" and self.selection.bottom == 0:
            algorithm = self.trainer.algorithm
            raise ValueError(
                f"selection.bottom must be above 0 with trainer.algorithm {algorithm}, which needs both ends"
            )
        self._policies_can_be_served()
        return self

    def _data_are_sound(self) -> None:
        """Arms are trained on conversations with users, or on data, and none on both or neither."""
        for arm in self.arms:
            on_data = self.data is not None or any(key.startswith("data.") for key in arm.set)
            held = arm.biased_ratio is not None or arm.population is not None
            if held and on_data:
                raise ValueError(f"arm {arm.name}: is trained on data and has no users; leave out who they are")
            if not held and not on_data:
                raise ValueError(f"arm {arm.name}: give biased_ratio or population, or data to train on")
        if self.data is not None and self.trainer.algorithm != "sft":
            raise ValueError(
                f"data are imitated; trainer.algorithm must be sft with them, not {self.trainer.algorithm}"
            )
        if self.data is not None and self.rounds != 1:
            raise ValueError(f"rounds {self.rounds} with data: each policy is trained on them once; set rounds to 1")

    @property
    def converses(self) -> bool:
        """Whether any arm is trained on conversations with users."""
        return any(self.for_arm(arm).data is None for arm in self.arms)

    def _policies_can_be_served(self) -> None:
        """The engine takes what the trainer will make."""
        rank = self.trainer.adapter_rank(self.rounds)
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
        if self.world != "pocket" and self.model in POCKET_MODELS:
            raise ValueError(
                f"the {self.model} model speaks of nothing but the pocket world; world {self.world} needs another, "
                "for example model=/path/to/a/hf/model"
            )
        for name in RESERVED:
            if name in self.models:
                raise ValueError(f"models.{name}: the name means something else; give the model another")
        known = ["base", *self.models]
        for role, name in self.roles.model_dump().items():
            allowed = [*known, *({"rater": ["null"], "judge": ["world", "null"]}.get(role, []))]
            if name is not None and name not in allowed:
                raise ValueError(f"roles.{role}: there is no model {name!r}; known: {', '.join(allowed)}")
        pocket = {n for n, s in [("base", self), *self.models.items()] if s.model in POCKET_MODELS}
        if self.world != "pocket" and self.roles.user in pocket:
            raise ValueError(f"roles.user {self.roles.user}: a pocket model plays nobody outside of the pocket world")
        asked = {"roles.rater": self.roles.rater, "roles.judge": self.roles.judge}
        asked["conversation.transition with roles.user"] = self.roles.user if self.conversation.transition else None
        for key, name in asked.items():
            if name in pocket:
                raise ValueError(
                    f"{key} {name}: a pocket model holds conversations and understands no question about one; name a "
                    "model that does"
                )
        for name, endpoint in self.endpoints.items():
            for limit in ("concurrency", "requests_per_minute"):
                if (most := getattr(endpoint, limit)) is not None and self.users.pools > most:
                    raise ValueError(
                        f"models.{name}.{limit} {most} is shared by users.pools {self.users.pools}, and each needs one"
                    )
        if self.rating.when == "end" and self.world == "pocket" and self.roles.rater is None:
            raise ValueError("rating.when end: users of the pocket world rate right after a reply; use reply")
        self._evaluations_can_be_judged(pocket)
        if self.selection.veto and not self.judges:
            raise ValueError(f"selection.veto needs a judge; roles.judge {self.roles.judge or 'null'} gives none here")
        if self.selection.veto and self.selection.veto.rubric == "contradicts" and not self.judge.contradiction:
            raise ValueError("selection.veto.rubric contradicts needs judge.contradiction true")
        if self.budget is not None and not any(s.price and s.price.of(1, 1) for s in self.models.values()):
            raise ValueError("budget needs a price above 0; give one to a model that a role names, models.NAME.price")
        for arm in self.arms:
            for kind in arm.population or ():
                if kind not in (kinds := load_world(self.world).user_kinds):
                    known = ", ".join(kinds)
                    raise ValueError(f"arm {arm.name}: no kind of user {kind!r} in population; known: {known}")

    def _evaluations_can_be_judged(self, pocket: set[str]) -> None:
        """Somebody on the panel can read the answers to each suite."""
        own = self.world == "pocket"
        for name in self.evals.judges or ():
            allowed = [*(["world"] if own else []), "base", *self.models]
            if name not in allowed:
                raise ValueError(f"evals.judges: there is no judge {name!r}; known: {', '.join(allowed)}")
            if name in pocket:
                raise ValueError(f"evals.judges {name}: a pocket model understands no question about an answer")
        if set(self.eval_judges) - {"world"} or (own and self.evals == EvalSettings()):
            return
        from evals.sources import from_world, suites_of

        for suite in suites_of(self.world, self.evals):
            if PROTOCOLS[suite] == "harness":
                continue
            if not own or not from_world(suite, self.evals.suite(suite), self.world):
                raise ValueError(
                    f"evals: answers to {suite} need a model that judges them; name one in evals.judges, for example "
                    "[judge] with models.judge: {kind: endpoint, model: ...}; or ask nothing with evals.suites: []"
                )

    @property
    def eval_judges(self) -> tuple[str, ...]:
        """Who judges answers to the suites: `world`, or models by name."""
        if self.evals.judges is not None:
            return tuple(self.evals.judges)
        if self.world == "pocket":
            return ("world",)
        return () if self.roles.judge in (None, "world") else (self.roles.judge,)

    @property
    def judges(self) -> bool:
        """Whether anybody gives verdicts on conversations."""
        return self.roles.judge is not None and (self.roles.judge != "world" or self.world == "pocket")

    @property
    def prices(self) -> dict[str, Prices | None]:
        """Price of each model that plays a role, by name."""
        return {name: self.models[name].price for name in self.played if name in self.models}

    @property
    def own_base_engine(self) -> bool:
        """Whether the untouched base, which plays users, needs engines of its own beside the assistant's."""
        return self.sync == "merged" and "base" in self.played

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
        """Names of all models that play a role or judge in any arm, `base` among them where it does."""
        given = [
            arm.set.get(f"roles.{role}", name) for arm in self.arms for role, name in self.roles.model_dump().items()
        ]
        given += [*self.eval_judges, *(name for arm in self.arms for name in arm.set.get("evals.judges") or ())]
        return {name for name in given if name not in (None, "world")}

    @property
    def sync(self) -> Literal["lora", "merged"]:
        """How policies reach the engine, with `auto` resolved."""
        if self.assistant.sync != "auto":
            return self.assistant.sync
        return "merged" if self.trainer.lora is None or self.assistant.gpus == 0 else "lora"

    def for_arm(self, arm: ArmSettings) -> RunConfig:
        """The config with the arm's own settings in place."""
        return build(overridden(self.model_dump(), arm.set, f"arm {arm.name}"), f"arm {arm.name}")


def load(path: Path, overrides: dict[str, Any] | None = None) -> RunConfig:
    """Read and check a config.

    Args:
        overrides: Values by dotted key, as from `--set`.

    Raises:
        ConfigError: The file is missing, is not YAML, or holds something that is not allowed.
    """
    raw = read_yaml(path)
    config = build(overridden(raw, overrides or {}, "--set"), str(path))
    for arm in config.arms:
        config.for_arm(arm)
    return config


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ConfigError: There is no such file, or no mapping in it.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such config") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {_yaml_fault(error)}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: a config is a mapping of keys to values, found {type(raw).__name__}")
    return raw


def _yaml_fault(error: yaml.YAMLError) -> str:
    """What is wrong and where, without the line itself, in which somebody may have put a key."""
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return where + (getattr(error, "problem", None) or type(error).__name__)


def default_config() -> Path:
    """`configs/pocket.yaml` of the checkout, or of the installed package."""
    here = Path(__file__).resolve().parent
    places = [here.parent / "configs" / "pocket.yaml", here / "configs" / "pocket.yaml"]
    return next((p for p in places if p.exists()), places[0])


def build(raw: dict[str, Any], source: str, kind: type[AnyConfig] = RunConfig) -> AnyConfig:
    """Check a config that is already a mapping; `source` opens the message when it is wrong."""
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(source, e, kind) for e in error.errors())) from None


def parse_overrides(pairs: list[str]) -> dict[str, Any]:
    """`key=value` strings as a mapping; values are YAML."""
    out = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or not key:
            raise ConfigError(f"--set {pair}: expected key=value, for example --set rounds=3")
        try:
            out[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {pair}: the value is not valid YAML: {error}") from None
    return out


def dump(config: RunConfig) -> str:
    """The resolved config as YAML; it holds no secrets, which come from the environment only."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


MAY_CHANGE = re.compile(
    r"budget|models\.[^.]+\.(key_env|requests_per_minute|tokens_per_minute|concurrency|timeout|retries|price.*)"
)
"""Settings with which a run that was begun may go on, although they are others than it began with."""


def differences(recorded: str, given: RunConfig) -> list[str]:
    """What differs between a recorded config and another, a line for each dotted key; empty when they mean the same.

    Settings that the recorded one does not name, because it is older than they are, have their default value. Those
    that `MAY_CHANGE` names change no conversation, so a run may go on with others.

    Raises:
        ConfigError: The recorded one is not a config.
    """
    before = build(yaml.safe_load(recorded), "the recorded config")
    found = unlike(before.model_dump(mode="json"), given.model_dump(mode="json"))
    return [line for key, line in found.items() if not MAY_CHANGE.fullmatch(key)]


def unlike(recorded: Any, given: Any) -> dict[str, str]:
    """What differs between two settings as plain data: a line by dotted key."""
    before, after = _flat(recorded), _flat(given)
    return {
        key: f"  {key}: {_shown(before, key)} (recorded), {_shown(after, key)} (given)"
        for key in dict.fromkeys([*before, *after])
        if before.get(key, ...) != after.get(key, ...)
    }


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    """Leaves of nested mappings and lists by dotted key."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not inner:
        return {key: value}
    return {k: v for name, x in inner for k, v in _flat(x, f"{key}.{name}".lstrip(".")).items()}


def _shown(values: dict[str, Any], key: str) -> str:
    return (
        yaml.safe_dump(values[key], default_flow_style=True).split("\n...")[0].strip() if key in values else "not there"
    )


def overridden(raw: dict[str, Any], overrides: dict[str, Any], source: str) -> dict[str, Any]:
    out = yaml.safe_load(yaml.safe_dump(raw))
    for key, value in overrides.items():
        *parents, last = key.split(".")
        at = out
        for parent in parents:
            if at.get(parent) is None:
                at[parent] = {}
            at = at[parent]
            if not isinstance(at, dict):
                raise ConfigError(f"{source} {key}: {parent} is {at!r} and has no keys under it")
        at[last] = value
    return out


def _explain(source: str, error: dict[str, Any], kind: type[Settings]) -> str:
    """One line: file, key path, what was found, what is allowed."""
    loc = [p for i, p in enumerate(error["loc"]) if not (error["loc"][0] == "models" and i == 2)]  # the kind, no key
    key = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in loc).lstrip(".")
    found = error.get("input")
    if error["type"].startswith("union_tag"):
        return f"{source}: {key}.kind: a model is an endpoint or an engine"
    if error["type"] == "extra_forbidden":
        known = _known_keys(error["loc"], kind)
        return f"{source}: {key}: unknown key" + (f"; allowed here: {', '.join(known)}" if known else "")
    if error["type"] == "missing":
        return f"{source}: {key}: this key is needed and was not given"
    message = error["msg"].removeprefix("Value error, ")
    pasted = isinstance(found, str) and loc[:1] == ["models"]  # where somebody may have put a key
    if isinstance(found, dict | list) or pasted:
        return f"{source}: {key + ': ' if key else ''}{message}"
    if isinstance(found, str):
        found = re.sub(r"(://)[^@/]*@|([?]).*", r"\1\2***", found)  # no key reaches a log
    return f"{source}: {key}: found {found!r}; {message[0].lower()}{message[1:]}"


def _known_keys(loc: tuple[Any, ...], kind: type[Settings]) -> list[str]:
    """Keys that the settings model around an unknown key allows."""
    models: list[Any] = [kind]
    for part in loc[:-1]:
        if isinstance(part, int):
            continue
        field = models[0].model_fields.get(part) if len(models) == 1 else None
        if field is not None:
            models = [a for a in _arguments(field.annotation) if hasattr(a, "model_fields")]
            continue
        # a name in a mapping of models, or the kind that tells which of several it is
        models = [m for m in models if part in _kinds_of(m)] or models
    return list(models[0].model_fields) if len(models) == 1 else []


def _kinds_of(model: Any) -> tuple[Any, ...]:
    field = model.model_fields.get("kind")
    return field.annotation.__args__ if field else ()


def _arguments(annotation: Any) -> list[Any]:
    inner = getattr(annotation, "__args__", ())
    return [annotation, *(a for i in inner for a in _arguments(i))]
