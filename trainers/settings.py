"""Settings of training. Importing this module imports neither torch nor ray."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from actors.settings import ActorSettings, Settings


class LoraSettings(Settings):
    """A low-rank adapter on the base model."""

    rank: int = Field(32, ge=1, le=512)
    """Rank of the update."""
    alpha: float = Field(64, gt=0)
    """The update is scaled by alpha / rank."""
    targets: Literal["all-linear"] | list[str] = "all-linear"
    """Module names that get an adapter; `all-linear` is every linear layer but the output head."""


class TrainerSettings(ActorSettings):
    """How the selection of a round becomes the next policy."""

    cpus: float = Field(0.5, ge=0)
    """CPU cores reserved for the trainer."""
    algorithm: Literal["kto", "sft"] = "kto"
    """`sft` imitates the top of the selection; `kto` also moves away from the bottom."""
    lora: LoraSettings | None = LoraSettings()
    """The adapter; null trains all weights."""
    learning_rate: float = Field(1e-5, gt=0)
    """Peak learning rate of AdamW."""
    schedule: Literal["constant", "linear"] = "linear"
    """Learning rate over a round."""
    epochs: float = Field(1, gt=0)
    """Passes over the selection in each round."""
    batch_size: int = Field(16, ge=1)
    """Rows a step. KTO needs at least 2: its KL term pairs each prompt with another row's reply."""
    max_length: int = Field(512, ge=16)
    """Tokens of a row; a row whose prompt alone is longer is dropped and counted."""
    weight_decay: float = Field(0.01, ge=0)
    """Decay of AdamW."""
    beta: float = Field(0.1, gt=0)
    """KTO: how strongly the reference holds the policy."""
    desirable_weight: float = Field(1.0, gt=0)
    """KTO: weight of the loss on replies from the top."""
    undesirable_weight: float = Field(1.0, gt=0)
    """KTO: weight of the loss on replies from the bottom."""
    reference: Literal["base", "previous"] = "base"
    """KTO: what the policy is held to, the untouched base or the policy that the round started from."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Number format of frozen base weights; adapters train in float32."""
    checkpoint_steps: int = Field(50, ge=1)
    """Steps between checkpoints; a training that was cut short goes on from the last one."""
    gradient_checkpointing: bool = False
    """Recompute activations to save memory."""

    @model_validator(mode="after")
    def _kto_needs_pairs(self) -> TrainerSettings:
        if self.algorithm == "kto" and self.batch_size < 2:
            raise ValueError("batch_size must be at least 2 with algorithm kto: its KL term pairs rows of a batch")
        return self
