"""Supervised fine-tuning on what users liked, by TRL's `SFTTrainer`; the loss is on the assistant's reply only."""

from __future__ import annotations

from typing import Any

from trainers.rows import Row
from trainers.settings import TrainerSettings


def make_trainer(model: Any, reference: Any, tokenizer: Any, rows: list[Row], settings: TrainerSettings, common: dict):
    """A TRL trainer for the rows; `reference` is not used, imitation has none."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    data = Dataset.from_list([{"prompt": r["prompt"], "completion": r["completion"]} for r in rows])
    config = SFTConfig(**common, completion_only_loss=True)
    return SFTTrainer(model, args=config, train_dataset=data, processing_class=tokenizer)
