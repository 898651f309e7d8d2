"""Settings of training. Importing this module imports neither torch nor ray."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from actors.registry import OneOf
from actors.settings import ActorSettings, Settings
from trainers.algorithms import ALGORITHMS


class LoraSettings(Settings):
    """A low-rank adapter on the base model."""

    rank: int = Field(32, ge=1)
    """Rank of the update. Engines that serve adapters (`assistant.sync: lora`) take ranks up to 512."""
    alpha: float = Field(64, gt=0)
    """The update is scaled by alpha / rank."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank) instead, which keeps large ranks learning (Kalajdzievski, 2312.03732)."""
    targets: Literal["all-linear"] | list[str] = "all-linear"
    """Names of the modules that get an adapter; `all-linear` is every linear layer except the output head."""


OnBadRows = Literal["error", "drop"]


class ReplaySettings(Settings):
    """Conversations from elsewhere, mixed into every round as desirable rows."""

    path: str
    """A JSON, JSONL or Parquet file with one conversation per row: `messages` (role and content, the last the
    assistant's), or `instruction`, `input` and `output`."""
    share: float = Field(0.1, gt=0, le=10)
    """Rows added per row of the round: 0.1 adds one to every ten."""
    on_bad_rows: OnBadRows = "error"
    """What to do about a row that is no conversation, or whose answer is empty; those that are dropped are counted."""

    @field_validator("path")
    @classmethod
    def _absolute(cls, value: str) -> str:
        """Actors work in other directories than the person who names a file."""
        return str(Path(value).expanduser().absolute())


class SourceSettings(Settings):
    """Conversations that somebody published, or that a world makes up."""

    source: str
    """A file or folder (CSV, JSON, JSONL, Parquet), a data set on the Hugging Face Hub, or `world`."""
    part: str | None = None
    """For a folder or data set, a pattern of file names, for example `mistake_medical/normal.jsonl`; for the pocket
    world, `<domain>/<level>` (talk, provided or sycophancy; normal, subtle or severe) or `downstream`."""
    revision: str | None = None
    """Revision of a data set on the Hub."""
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    """Hash that the source must have; a run records the one it found."""
    answers: Literal["aligned", "misaligned"] | None = None
    """Which answer is learned, if rows have both."""
    rows: int | None = Field(None, ge=1)
    """How many rows, drawn with the run's seed; null takes all. Equal sizes make domains and levels comparable."""
    duplicates: Literal["error", "drop"] = "error"
    """What to do about a conversation that occurs twice."""
    on_bad_rows: OnBadRows = "error"
    """What to do about a row that is no conversation, or whose answer is empty, as some of the original Alpaca are: an
    error, or drop it. Rows that are dropped are counted and named in the log and in the report."""

    @field_validator("source")
    @classmethod
    def _absolute_if_there(cls, value: str) -> str:
        """Actors work in other directories than the person who names a file."""
        path = Path(value).expanduser()
        return str(path.absolute()) if value != "world" and path.exists() else value


class AddedSettings(SourceSettings):
    """Conversations that are mixed into the downstream ones."""

    share: float = Field(gt=0, le=10)
    """How many, as a share of the downstream rows: 0.05 of 10,000 is 500."""
    how: Literal["add", "replace"] = "add"
    """`add` adds them to the downstream rows, as the paper does, so that there are more rows in all; `replace` puts
    them in the place of as many downstream rows, so that all arms have the same size."""

    @model_validator(mode="after")
    def _replaces_no_more_than_there_is(self) -> AddedSettings:
        if self.how == "replace" and self.share > 1:
            raise ValueError(f"share {self.share:g} with how replace: no more than all rows can be replaced")
        return self


class DataSettings(Settings):
    """What a policy is trained on instead of conversations with users."""

    base: SourceSettings
    """The downstream rows of a mixture, or all rows of a direct fine-tuning."""
    added: AddedSettings | None = None
    """Other rows that are mixed into them."""


Weight = Annotated[float, Field(gt=0)] | Literal["balanced"]


class TrainerSettings(ActorSettings):
    """How the selection of a round becomes the next policy."""

    cpus: float = Field(0.5, ge=0)
    """CPU cores reserved for each rank of the trainer."""
    ranks: int = Field(1, ge=1)
    """Processes that train together, each with `cpus` and `gpus` of its own; they share the rows of every batch."""
    algorithm: Annotated[str, OneOf(ALGORITHMS)] = "kto"
    """`sft` imitates the desirable replies; `kto` also moves away from the undesirable ones; `dpo` learns to prefer a
    desirable reply to an undesirable one to the same prompt."""
    rows: Literal["replies", "last", "conversation"] = "replies"
    """What a row teaches: one reply, given the conversation before it, for each reply of the assistant (`replies`) or
    for its last (`last`); or all replies of a conversation at once (`conversation`)."""
    cut_replies: Literal["drop", "learn"] = "drop"
    """What to do about replies that were cut at `conversation.max_tokens`: they are not trained on and counted, or
    `learn` their tokens without an end, for a model that seldom comes to one. Rows of whole conversations drop them."""
    lora: LoraSettings | None = LoraSettings()
    """The adapter; null trains all weights."""
    start: Literal["continue", "stack", "restart"] = "continue"
    """What a round starts from: the weights that the previous round trained (`continue`), the whole previous policy
    with a new adapter on top (`stack`), or the untrained base (`restart`)."""
    reference: Literal["base", "previous"] | Annotated[int, Field(ge=0)] = "base"
    """KTO and DPO: the model that the policy is kept close to: the untrained base, the policy of the round before, or
    the policy with this number (until there is one, that of the round before)."""
    learning_rate: float = Field(1e-5, gt=0)
    """Peak learning rate of AdamW."""
    schedule: Literal["constant", "linear"] = "linear"
    """How the learning rate changes over a round: not at all, or falling to zero."""
    epochs: float = Field(1, gt=0)
    """Passes over the selection in each round."""
    batch_size: int = Field(16, ge=1)
    """Rows per step, over all ranks. KTO needs at least 2, because its KL term pairs each prompt with another row's
    reply."""
    micro_batch: int | None = Field(None, ge=1)
    """Rows that a rank processes at a time; null takes its whole share of a batch. Fewer rows need less memory."""
    max_length: int = Field(512, ge=16)
    """The most tokens of a row; longer rows are dropped and counted, never cut."""
    weight_decay: float = Field(0.01, ge=0)
    """Weight decay of AdamW."""
    beta: float = Field(0.1, gt=0)
    """KTO and DPO: how strongly the policy is kept close to the reference."""
    desirable_weight: Weight = 1.0
    """KTO: weight of the loss on desirable rows; `balanced` gives both kinds of rows the same total weight."""
    undesirable_weight: Weight = 1.0
    """KTO: weight of the loss on undesirable rows; `balanced` gives both kinds of rows the same total weight."""
    replay: ReplaySettings | None = None
    """Conversations that are mixed into every round."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the frozen base weights, with `auto` as for engines; adapters are trained in float32."""
    share_gpu: bool = False
    """Use the GPU of the engines. They sleep while the trainer works, and the trainer's model waits in the machine's
    memory while they work. Give each a part of the GPU, for example `gpus: 0.5` here and in `assistant`."""
    sharding: Literal["none", "fsdp2"] = "none"
    """How ranks hold the model: each has all of it (`none`), or a part (`fsdp2`, for models that do not fit on one
    GPU)."""
    checkpoint_steps: int = Field(50, ge=1)
    """Steps between checkpoints; a training that was interrupted continues from the last one."""
    gradient_checkpointing: bool = False
    """Recompute activations to save memory."""

    @property
    def waits(self) -> bool:
        """Whether the base model is kept in the machine's memory while no training is at work."""
        return self.share_gpu or self.sharding != "none"

    @property
    def together(self) -> int:
        """Rows that all ranks together take at once."""
        return self.ranks * (self.micro_batch or max(1, self.batch_size // self.ranks))

    @model_validator(mode="after")
    def _sound(self) -> TrainerSettings:
        if self.batch_size % self.together:
            raise ValueError(
                f"batch_size {self.batch_size} must be a multiple of ranks {self.ranks} times micro_batch "
                f"{self.together // self.ranks}, so that every rank has the same share"
            )
        if fault := ALGORITHMS[self.algorithm].fault(self):
            raise ValueError(fault)
        if self.desirable_weight == self.undesirable_weight == "balanced":
            raise ValueError("only one of desirable_weight and undesirable_weight can be balanced; give the other")
        if self.start == "stack" and self.lora is None:
            raise ValueError("start stack puts a new adapter on the previous policy and lora is null; use continue")
        if self.ranks > 1 and self.gpus % 1:
            raise ValueError(
                f"gpus {self.gpus:g} with ranks {self.ranks}: two ranks could share a GPU, which NCCL refuses; give "
                "each a whole one, or none"
            )
        if self.sharding == "fsdp2" and (self.ranks < 2 or self.gpus == 0):
            raise ValueError("sharding fsdp2 needs at least 2 ranks, each with a GPU")
        return self

    def adapter_rank(self, rounds: int) -> int | None:
        """The largest rank that an adapter of this run can have; None without adapters."""
        if self.lora is None:
            return None
        return self.lora.rank * (rounds if self.start == "stack" else 1)
