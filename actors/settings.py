"""Settings of the actors: where they run, how users talk, how policies reach the engine.

Importing this module imports neither torch nor ray nor vllm.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM takes for `max_lora_rank`; an adapter of a smaller rank fits in each."""


class Settings(BaseModel):
    """Base of all settings: unknown keys are errors, values are final."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ActorSettings(Settings):
    """What one actor asks of the cluster."""

    cpus: float = Field(0.1, ge=0)
    """CPU cores reserved in Ray's books; a fraction lets actors that work in turns share a core."""
    gpus: float = Field(0, ge=0)
    """GPUs reserved."""
    threads: int | None = Field(None, ge=1)
    """Compute threads; default: the driver machine's cores, for engines divided by the number of engines."""


class EngineSettings(ActorSettings):
    """A vLLM engine and its replicas."""

    cpus: float = Field(0.5, ge=0)
    """CPU cores reserved for each replica."""
    replicas: int = Field(1, ge=1)
    """Engines that serve the same policies; conversations are spread over them."""
    max_model_len: int = Field(512, ge=64)
    """Longest prompt and reply together, in tokens."""
    max_num_seqs: int = Field(256, ge=1)
    """Sequences that an engine decodes at once."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Number format of the weights in the engine. `auto` takes bfloat16, but float32 on a CPU without instructions for
    it, where it is about twice as fast; in a cluster of different CPUs, name one, or replicas differ."""
    kv_cache_gib: float = Field(1.0, gt=0)
    """Key-value cache on a CPU, in GiB; on a GPU `gpu_memory_utilization` counts instead."""
    gpu_memory_utilization: float = Field(0.85, gt=0, le=1)
    """Share of a GPU's memory that the engine may take."""
    tensor_parallel: int = Field(1, ge=1)
    """GPUs that one replica is split over."""


class AssistantSettings(EngineSettings):
    """The engine of the assistant, and how a new policy gets into it."""

    sync: Literal["auto", "lora", "merged"] = "auto"
    """`lora` loads each policy's adapter beside the base model; `merged` reloads whole merged weights; `auto` takes
    `merged` on a CPU, where an active adapter costs most of the throughput, and `lora` on a GPU."""
    probe_tolerance: float = Field(0.2, gt=0)
    """Largest mean difference, in nats a token, between the engine's and the trainer's log-probabilities of the probe
    texts; above it a published policy counts as not delivered and the run stops."""


class Prices(Settings):
    """What a model costs, in any currency, for a million tokens."""

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
    """Address up to and with the version, without a key."""
    key_env: str | None = "OPENAI_API_KEY"
    """Environment variable that holds the key, on every machine that holds conversations; null where none is needed."""
    requests_per_minute: int | None = Field(None, ge=1)
    """Most requests a minute, of the whole run together."""
    tokens_per_minute: int | None = Field(None, ge=1)
    """Most tokens a minute, sent and received, of the whole run together."""
    concurrency: int = Field(256, ge=1)
    """Most requests at once, of the whole run together."""
    timeout: float = Field(60, gt=0)
    """Seconds that one request may take."""
    retries: int = Field(6, ge=0)
    """How often a request that failed for a passing reason is tried again."""
    token_limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """How the endpoint calls the longest reply; newer models of OpenAI want the second."""
    extra: dict[str, Any] = Field(default_factory=dict)
    """Further fields of each request's body, for example `{reasoning_effort: minimal}`."""
    price: Prices | None = None
    """What the model costs; null counts tokens only."""

    @field_validator("key_env")
    @classmethod
    def _name_of_a_variable(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+", value):
            raise ValueError(
                "give the name of an environment variable such as OPENAI_API_KEY; the key itself does not belong here"
            )
        return value

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
    """Actors that hold conversations."""
    concurrency: int = Field(256, ge=1)
    """Conversations a pool holds at once."""
    retries: int = Field(2, ge=0)
    """How often a conversation that failed is tried again before it is excluded and counted."""
    max_excluded_share: float = Field(0.05, ge=0, le=1)
    """A round with a larger share of excluded conversations stops the run."""
    engine: EngineSettings = EngineSettings()
    """The engine that plays the users, where they cannot share the assistant's (`sync: merged`)."""


class ModelEngineSettings(EngineSettings):
    """A further model in the cluster, served by vLLM engines of its own."""

    kind: Literal["engine"]
    """`engine`."""
    model: str = Field(min_length=1)
    """Hugging Face directory or hub name."""
    price: Prices | None = None
    """What its tokens are to count for, for example the GPU hours behind them."""


class RoleSettings(Settings):
    """Which model plays whom. The assistant is always the run's `model`, since it is what is trained.

    A model is `base` (the run's `model` as it was before any training) or a name under `models`. Roles that name the
    same model share its engine or endpoint, and its limits.
    """

    user: str = "base"
    """Plays the simulated users."""
    rater: str | None = None
    """Rates the replies as a third person who is told what the user wants; null lets the user rate."""
    judge: str | None = "world"
    """Says what each reply did. `world` is the world's own exact judge, where it has one; null asks nobody."""


class RolloutSettings(Settings):
    """How much is talked in one round."""

    conversations: int = Field(600, ge=2)
    """Conversations a round."""


class ConversationSettings(Settings):
    """How one conversation goes."""

    turns: int = Field(2, ge=1, le=40)
    """Most assistant replies in a conversation."""
    temperature: float = Field(1.0, ge=0)
    """Sampling temperature of the assistant."""
    user_temperature: float = Field(1.0, ge=0)
    """Sampling temperature of the user."""
    max_tokens: int = Field(48, ge=1)
    """Longest reply of the assistant, in tokens; a longer one is cut and marked `length`."""
    user_max_tokens: int | None = Field(None, ge=1)
    """Longest message of the user; null takes `max_tokens`."""
    transition: bool = False
    """Whether the user's model is asked after each reply if the user has nothing more to say, which ends the
    conversation early. The world's end marker in a user's message ends it either way."""
    show_user_kind: Literal["off", "background", "full"] = "off"
    """What the assistant's system prompt says of the user: nothing, who they are, or also what they would like to hear
    and that they are to get it. `full` is the paper's setting, and a confound: an assistant that is told what to please
    need not learn it."""


class RatingSettings(Settings):
    """How a reply is rated, 1 to 10."""

    when: Literal["reply", "end"] = "reply"
    """`reply` asks right after each reply, `end` asks about each reply when the conversation is over."""
    method: Literal["auto", "logprobs", "sampled"] = "auto"
    """`logprobs` takes the expectation over the probabilities of the ten numbers; `sampled` asks `samples` times and
    takes the mean; `auto` samples where the model does not tell probabilities, or splits a number into tokens."""
    samples: int = Field(5, ge=1)
    """Answers to one rating where it is sampled."""
    retries: int = Field(2, ge=0)
    """How often an answer that is no number from 1 to 10 is asked for again, where it is sampled."""
    min_mass: float = Field(0.5, gt=0, le=1)
    """Least share of the probability, or of the samples, that must be on the ten numbers; below it the rater did not
    rate, and the conversation is held again and at last excluded."""
    aggregate: Literal["sum", "mean", "last"] = "sum"
    """What a conversation's reward is of its ratings. A conversation that ends early has fewer to sum up."""


class JudgeSettings(ActorSettings):
    """What the judge is asked about conversations. Verdicts are recorded; only `selection.veto` acts on them."""

    contradiction: bool = True
    """Whether it also says if a reply contradicts what the same policy says when somebody neutral asks."""
    role_sample: float = Field(0.05, ge=0, le=1)
    """Share of conversations in which it also says whether the user stayed in role."""


class BufferSettings(ActorSettings):
    """The trajectory buffer."""

    segment_rows: int = Field(200, ge=1)
    """Trajectories that are written to disk together. After a crash the ones not yet written are done again."""
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
