"""Supervised fine-tuning on what users liked, by TRL's `SFTTrainer`; the loss is on the assistant's replies only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainers.algorithms.base import Algorithm

if TYPE_CHECKING:
    from trainers.rows import Encoded
    from trainers.settings import TrainerSettings

IGNORED = -100
"""The label of a token that is not learned."""


class Sft(Algorithm):
    """Desirable rows are imitated; there is no reference."""

    name = "sft"
    both_ends = False
    has_reference = False
    extra_passes = 0

    def trl(self) -> tuple[type, type]:
        from trl import SFTConfig, SFTTrainer

        from trainers.algorithms.steps import on_tokens

        return SFTConfig, on_tokens(SFTTrainer)

    def make_trainer(
        self,
        model: Any,
        reference: Any,
        tokenizer: Any,
        rows: list[Encoded],
        settings: TrainerSettings,
        common: dict[str, Any],
    ) -> Any:
        from datasets import Dataset

        config_of, trainer = self.trl()
        data = Dataset.from_dict({"input_ids": [r.prompt + r.completion for r in rows], "labels": [*map(labels, rows)]})
        return trainer(model, args=config_of(**common), train_dataset=data, processing_class=tokenizer)


def labels(row: Encoded) -> list[int]:
    """The row's tokens with those that are not learned struck out."""
    said = [t if learned else IGNORED for t, learned in zip(row.completion, row.mask, strict=True)]
    return [IGNORED] * len(row.prompt) + said
