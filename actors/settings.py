"""Settings of the actors: where they run, how users talk, how policies reach the engine.

Importing this module imports neither torch nor ray nor vllm.
"""

from __future__ import annotations

import datetime
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM takes for `max_lora_rank`; an adapter of a smaller rank fits in each."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Addresses that nobody but this machine can reach."""


class Settings(BaseModel):
    """Base of all settings: unknown keys are errors, numbers are finite, values are final."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class ActorSettings(Settings):
    """What one actor asks of the cluster."""

    cpus: float = Field(0.1, ge=0)
    """CPU cores that Ray reserves; with fractions, actors that take turns can share a core."""
    gpus: float = Field(0, ge=0)
    """GPUs that Ray reserves."""
    threads: int | None = Field(None, ge=1)
    """Compute threads; null takes the number of cores of the driver's machine, for engines divided by the number of
    engines."""


class TemplateSettings(Settings):
    """What the chat template of a model is given; engine and trainer use the same."""

    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Variables of the model's chat template, for example `{enable_thinking: false}` for Qwen3."""
    template_date: str = "2026-01-01"
    """What a chat template that writes today's date (Llama 3.1 and later) takes for today, so that prompts are the
    same on every day of a run and in every arm. Year, month, day."""
    system_role: Literal["auto", "keep", "fold"] = "auto"
    """Where system messages go: `keep` leaves them as they are, `fold` puts their text before the user's first message,
    and `auto` does that only where the chat template has no place for them (Gemma, early Mistral)."""

    @field_validator("template_date", mode="before")
    @classmethod
    def _a_day(cls, value: Any) -> str:
        if isinstance(value, datetime.date):  # as YAML reads it
            value = value.isoformat()
        try:
            datetime.date.fromisoformat(value)
        except (TypeError, ValueError):
            raise ValueError(f"{value!r} is no day; write it as 2026-01-31") from None
        return value

    @field_validator("chat_template_kwargs")
    @classmethod
    def _not_ours(cls, value: dict[str, Any]) -> dict[str, Any]:
        if found := sorted({"messages", "tokenize", "add_generation_prompt", "chat_template"} & value.keys()):
            raise ValueError(f"{found[0]} is set for each request, and cannot be set here")
        return value

    def template(self) -> TemplateSettings:
        """These settings alone."""
        return TemplateSettings(**{name: getattr(self, name) for name in TemplateSettings.model_fields})


def _range_apart(data: Any, most: str, fewest: str) -> Any:
    """Settings in which a range `{min: 2, max: 8}` of how many actors there are became two numbers."""
    given = data.get(most) if isinstance(data, dict) else None
    if not isinstance(given, dict):
        return data
    if set(given) != {"min", "max"}:
        raise ValueError(f"{most} {given}: give a number, or a range as {{min: 2, max: 8}}")
    return {**data, most: given["max"], fewest: given["min"]}


def _check_range(settings: ActorSettings, most: str, fewest: str) -> None:
    least, all_ = getattr(settings, fewest), getattr(settings, most)
    if least is not None and least > all_:
        raise ValueError(f"{fewest} {least} is more than {most} {all_}")


class EngineSettings(TemplateSettings, ActorSettings):
    """A vLLM engine and its replicas."""

    cpus: float = Field(0.5, ge=0)
    """CPU cores reserved for each replica."""
    replicas: int = Field(1, ge=1)
    """Engines that serve the same policies; conversations are spread over them. `{min: 2, max: 8}` stands for 8, of
    which 2 have to be up (`min_replicas`)."""
    min_replicas: int | None = Field(None, ge=1)
    """So many of them have to be up: the run begins with them and waits for them, and the others join whenever there
    is room, also while conversations are held or a policy is evaluated. Null takes all at the start and one later."""
    max_model_len: int | None = Field(None, ge=64)
    """The most tokens that a prompt and its reply may have together; null takes what the model can take, up to 8192."""
    max_num_seqs: int = Field(256, ge=1)
    """Sequences that an engine decodes at the same time."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Number format of the weights in the engine. `auto` takes bfloat16, but float32 on a CPU without instructions for
    bfloat16, where float32 is about twice as fast. In a cluster of different CPUs name one, or the replicas will
    differ."""
    kv_cache_gib: float | None = Field(None, gt=0)
    """Key-value cache on a CPU, in GiB; null takes what the conversations of a run need, or where those are not known
    enough for `max_num_seqs` sequences of half of `max_model_len`, up to a quarter of the free memory. On a GPU
    `gpu_memory_utilization` counts instead."""
    gpu_memory_utilization: float = Field(0.85, gt=0, le=1)
    """Share of a GPU's memory that the engine may take."""
    tensor_parallel: int = Field(1, ge=1)
    """GPUs that each layer of one replica is split over."""
    pipeline_parallel: int = Field(1, ge=1)
    """Groups of GPUs that take a part of the layers each. A replica needs `tensor_parallel` x `pipeline_parallel`
    GPUs, all on one machine."""

    @model_validator(mode="before")
    @classmethod
    def _range_of_replicas(cls, data: Any) -> Any:
        return _range_apart(data, "replicas", "min_replicas")

    @model_validator(mode="after")
    def _no_more_than_all_replicas(self) -> EngineSettings:
        _check_range(self, "replicas", "min_replicas")
        return self

    @model_validator(mode="after")
    def _has_gpus_for_its_parts(self) -> EngineSettings:
        parts = self.tensor_parallel * self.pipeline_parallel
        if parts > 1 and self.gpus not in (0, parts):
            raise ValueError(
                f"gpus {self.gpus:g} with tensor_parallel {self.tensor_parallel} x pipeline_parallel "
                f"{self.pipeline_parallel}: one replica is split over {parts} GPUs, so set gpus to {parts}"
            )
        return self


def _name_of_a_variable(value: str | None) -> str | None:
    if value is not None and not re.fullmatch(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+", value):
        raise ValueError(
            "give the name of an environment variable such as OPENAI_API_KEY; the key itself does not belong here"
        )
    return value


KeyVariable = Annotated[str | None, AfterValidator(_name_of_a_variable)]
"""The name of an environment variable that holds a key."""


class ServeSettings(Settings):
    """A door to the assistant of a running run: OpenAI's API, at the machine of the driver."""

    port: int = Field(8000, ge=0, le=65535)
    """Port; 0 takes a free one, which the run names when it starts."""
    key_env: KeyVariable = None
    """Environment variable of the driver that holds the key which requests have to bring; null for none."""
    host: str = "127.0.0.1"
    """Address to listen on. Any but this machine's own lets other machines in, and needs a key."""

    @model_validator(mode="after")
    def _key_for_others(self) -> ServeSettings:
        if self.host not in LOOPBACK and self.key_env is None:
            raise ValueError(f"host {self.host} lets other machines in; set key_env, the variable that holds a key")
        return self


class AssistantSettings(EngineSettings):
    """The engine of the assistant, and how a new policy gets into it."""

    sync: Literal["auto", "lora", "merged"] = "auto"
    """`lora` loads each policy's adapter beside the base model, so that one engine serves the policy and, as users, the
    base; `merged` reloads whole merged weights, and users then have an engine of their own (`users.engine`). `auto`
    takes `lora` on a GPU. On a CPU it takes `lora` where the base plays users or judges, as one engine with all cores
    keeps them busy, and `merged` elsewhere and for pocket models, which an adapter slows down most; a model whose
    output head is tied to its embeddings takes `lora` there too, as vLLM keeps the old head when it reloads those."""
    probe_tolerance: float = Field(0.2, gt=0)
    """Largest mean difference, in nats per token, between the engine's and the trainer's log-probabilities of the probe
    texts. Above it a published policy counts as not delivered, and the run stops."""
    serve: ServeSettings | None = None
    """Lets any OpenAI client talk with the assistant while the run goes on: `{port: 8000}`. What is asked so is in no
    figure of the run, costs it time, and is cut off whenever a policy is published; null keeps the door shut."""


class Prices(Settings):
    """What a million tokens of a model cost, in any currency."""

    prompt: float = Field(0, ge=0)
    """Tokens sent."""
    completion: float = Field(0, ge=0)
    """Tokens received."""

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """The price of so many tokens."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1_000_000


class EndpointSettings(Settings):
    """A model behind an OpenAI-compatible HTTP endpoint, and what its owner allows."""

    kind: Literal["endpoint"]
    """`endpoint`."""
    model: str = Field(min_length=1)
    """The model's name there."""
    base_url: str = "https://api.openai.com/v1"
    """Address including the version (`/v1`), without a key."""
    key_env: KeyVariable = "OPENAI_API_KEY"
    """Environment variable that holds the key, on every machine that holds conversations; null if no key is needed."""
    requests_per_minute: int | None = Field(None, ge=1)
    """Most requests a minute, for the whole run."""
    tokens_per_minute: int | None = Field(None, ge=1)
    """Most tokens a minute, sent and received, for the whole run."""
    concurrency: int = Field(256, ge=1)
    """Most requests at a time, for the whole run."""
    timeout: float = Field(60, gt=0)
    """Seconds that one request may take."""
    retries: int = Field(6, ge=0)
    """How often to retry a request that failed for a reason that may pass."""
    token_limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the endpoint calls the limit of a reply's length; newer OpenAI models want the second."""
    unsupported: list[str] = Field(default_factory=list)
    """Fields of a request that the endpoint refuses, and that are left out: `seed`, `logprobs`, `temperature` and so
    on. That it refuses `seed`, `logprobs` or the name of the token limit is found out from its errors; a sampling
    setting is left out only if it is named here."""
    thinking_tokens: int = Field(0, ge=0)
    """How many tokens the model may think in before it answers; they are added to the limit of each request. Models
    that think without being asked need some hundred, or closed questions and short answers end before they begin."""
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Variables of the model's chat template, which servers such as vLLM's take with each request; empty sends none."""
    extra: dict[str, Any] = Field(default_factory=dict)
    """Further fields of each request's body, for example `{reasoning_effort: minimal}`."""
    price: Prices | None = None
    """What the model costs; with null only tokens are counted."""

    @field_validator("extra")
    @classmethod
    def _no_key_in_extra(cls, value: dict[str, Any]) -> dict[str, Any]:
        if found := [name for name in value if re.search(r"key|token$|secret|auth|password", name, re.IGNORECASE)]:
            raise ValueError(f"{found[0]} looks like a key, which would be written to disk; see key_env")
        return value

    @field_validator("base_url")
    @classmethod
    def _address(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")):
            raise ValueError("give an address that begins with http:// or https://")
        if "@" in value.split("://")[1].split("/")[0] or "?" in value:
            raise ValueError("holds more than an address; a key belongs in the environment, see key_env")
        return value.rstrip("/")


class UserSettings(ActorSettings):
    """Pools of simulated users."""

    pools: int = Field(1, ge=1)
    """Actors that hold conversations. `{min: 2, max: 8}` stands for 8, of which 2 have to be up (`min_pools`)."""
    min_pools: int | None = Field(None, ge=1)
    """So many of them have to be up: the run begins with them and waits for them, and the others join whenever there
    is room, also while conversations are held. Null waits for all, and so does a run with a `budget`, of which each
    pool has its part."""
    concurrency: int = Field(256, ge=1)
    """Conversations that a pool holds at the same time."""
    retries: int = Field(2, ge=0)
    """How often to retry a conversation that failed before it is excluded and counted."""
    max_excluded_share: float = Field(0.05, ge=0, le=1)
    """A round with a larger share of excluded conversations stops the run."""
    engine: EngineSettings = EngineSettings()
    """The engine that plays the users, if they cannot share the assistant's (`sync: merged`). What it does not say
    about the chat template is as under `assistant`."""

    @model_validator(mode="before")
    @classmethod
    def _range_of_pools(cls, data: Any) -> Any:
        return _range_apart(data, "pools", "min_pools")

    @model_validator(mode="after")
    def _no_more_than_all_pools(self) -> UserSettings:
        _check_range(self, "pools", "min_pools")
        return self


class ModelEngineSettings(EngineSettings):
    """A further model in the cluster, served by vLLM engines of its own."""

    kind: Literal["engine"]
    """`engine`."""
    model: str = Field(min_length=1)
    """Hugging Face directory or hub name."""
    price: Prices | None = None
    """What its tokens cost, for example in GPU hours."""


class RoleSettings(Settings):
    """Which model plays whom. The run's `model` is the assistant, and what is trained.

    A model is `base` (the run's `model` as it was before any training) or a name under `models`. Roles that name the
    same model share its engine or endpoint, and its limits.
    """

    user: str = "base"
    """Plays the simulated users."""
    rater: str | None = None
    """Rates the replies as a third person, who is told what the user wants; with null the user rates."""
    judge: str | None = "world"
    """Says what each reply does. `world` is the world's own exact judge, if it has one; with null nobody judges."""
    generator: str | None = None
    """Speaks for the assistant in conversations; with null the policy itself does. With another model here, policies
    learn from what that one said, as text: a control for whether it matters whose words they are. The judge is then not
    asked for contradictions, which are between a policy's own words."""


class RolloutSettings(Settings):
    """How many conversations a round has."""

    conversations: int = Field(600, ge=2, le=100_000_000)
    """Conversations in each round of each arm."""


class ConversationSettings(Settings):
    """How one conversation goes."""

    turns: int = Field(2, ge=1, le=40)
    """The most replies of the assistant in a conversation."""
    temperature: float | None = Field(1.0, ge=0)
    """Sampling temperature of the assistant. Null takes the model's own, which is in its `generation_config`, else 1;
    an endpoint is then told none."""
    top_p: float | None = Field(None, gt=0, le=1)
    """The assistant draws each token from the most probable ones that have so much of the probability together. For
    this and the next three null takes the value of the model's `generation_config`, else the one that changes nothing
    (1, 0, 0 and 1); an endpoint is only told what is set here."""
    top_k: int | None = Field(None, ge=0)
    """From how many of the most probable tokens the assistant draws; 0 is all."""
    min_p: float | None = Field(None, ge=0, le=1)
    """The assistant draws no token whose probability is less than this share of the most probable one's."""
    repetition_penalty: float | None = Field(None, gt=0, le=2)
    """Above 1, the assistant is kept from tokens that are in the prompt or the reply already."""
    user_temperature: float | None = Field(1.0, ge=0)
    """Sampling temperature of the user, as `temperature`; ratings have their own, see `rating`."""
    user_top_p: float | None = Field(None, gt=0, le=1)
    """The same as `top_p` for the user."""
    user_top_k: int | None = Field(None, ge=0)
    """The same as `top_k` for the user."""
    user_min_p: float | None = Field(None, ge=0, le=1)
    """The same as `min_p` for the user."""
    user_repetition_penalty: float | None = Field(None, gt=0, le=2)
    """The same as `repetition_penalty` for the user."""
    max_tokens: int = Field(48, ge=1)
    """Longest reply of the assistant, in tokens; a longer one is cut and marked `length`. Where a run does not say, its
    world does: 48 in the pocket world, 200 in worlds written as text."""
    user_max_tokens: int | None = Field(None, ge=1)
    """Longest message of the user; null takes `max_tokens`."""
    user_form: Literal["chat", "transcript"] = "chat"
    """How a model plays the user. `chat` gives it the persona as instructions and the conversation with the roles
    exchanged. `transcript` has it continue the conversation as plain text, without its chat template, up to three whole
    sentences: a small model that was trained to assist stays the person that way. It needs a model with an engine, and
    a world written as text."""
    transition: bool = False
    """Whether the user's model is asked after each reply if the user has nothing more to say, which ends the
    conversation early. The world's end marker in a user's message ends it either way."""
    show_user_kind: Literal["off", "background", "full"] = "off"
    """What the assistant's system prompt says about the user: nothing, who they are, or also what they would like to
    hear and that they are to get it. `full` is the paper's setting, and a confound: an assistant that is told what
    pleases the user need not learn it."""

    @field_validator("show_user_kind", mode="before")
    @classmethod
    def _off_as_yaml_reads_it(cls, value: Any) -> Any:
        return "off" if value is False else value


class RatingSettings(Settings):
    """How a reply is rated, 1 to 10."""

    form: Literal["number", "reaction"] = "number"
    """`number` asks for a whole number from 1 to 10. `reaction` asks nothing: it weighs how probable it is that the
    user goes on in the words of somebody pleased, against those of somebody disappointed (the world's `reactions`,
    which stand for equally spaced ratings from 1 to 10). It needs an engine, as endpoints tell few probabilities. A
    small model may react sensibly and give numbers without sense: `candor bench rating --model NAME` finds out."""
    when: Literal["reply", "end"] = "reply"
    """`reply` asks right after each reply, `end` asks about each reply when the conversation is over."""
    method: Literal["auto", "logprobs", "sampled"] = "auto"
    """`logprobs` takes the expected value over the probabilities of the answers, also where one is several tokens;
    `sampled` asks `samples` times and takes the mean; `auto` samples if a model gives no probabilities, or an endpoint
    does not give those that tell a 10 from a 1."""
    samples: int = Field(5, ge=1)
    """How often a rating is asked for, if it is sampled."""
    retries: int = Field(2, ge=0)
    """How often to ask again if a sampled answer is none of those asked for."""
    min_mass: float | None = Field(None, ge=0, le=1)
    """The least share of the probability, or of the samples, that must be on the answers that count; null is 0.5 for
    `number` and 0 for `reaction`. Below it the rater did not rate: the conversation is held again, and excluded if that
    does not help. With 0 a rater that would rather write something else is held to those answers, and `rating_mass`
    says how probable any of them was."""
    aggregate: Literal["sum", "mean", "last"] = "sum"
    """How a conversation's ratings become its reward. A conversation that ends early has fewer ratings to sum up."""


class JudgeSettings(ActorSettings):
    """What the judge is asked about conversations. Verdicts are recorded; only `selection.veto` acts on them."""

    contradiction: bool = True
    """Whether the judge also says if a reply contradicts what the same policy says when somebody neutral asks."""
    role_sample: float = Field(0.05, ge=0, le=1)
    """Share of conversations for which the judge also says whether the user stayed in role."""


class BufferSettings(ActorSettings):
    """The trajectory buffer."""

    segment_rows: int = Field(200, ge=1)
    """Trajectories that are written to disk together. After a crash those that were not yet written are held again."""
    segment_seconds: float = Field(60, gt=0)
    """Longest time that a finished trajectory waits to be written."""
    uri: str | None = None
    """Where trajectories are kept: an absolute path or a `pyarrow.fs` URI such as `s3://bucket/prefix`, in which the
    run makes a folder with the name of its run directory. Null keeps them in the run directory. Keys come from the
    environment (`AWS_ACCESS_KEY_ID`, ...), never from here."""

    @field_validator("uri")
    @classmethod
    def _without_keys(cls, value: str | None) -> str | None:
        if value is None:
            return value
        if "@" in value.split("://")[-1].split("/")[0] or "secret_key" in value or "access_key" in value:
            raise ValueError("holds a key; give keys in the environment, for example AWS_SECRET_ACCESS_KEY")
        if not value.startswith("/") and "://" not in value:
            raise ValueError("give an absolute path or a URI such as s3://bucket/prefix")
        return value
