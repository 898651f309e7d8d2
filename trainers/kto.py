"""Kahneman-Tversky optimisation on both ends of the ratings, by TRL's `KTOTrainer` (Ethayarajh et al., 2402.01306)."""

from __future__ import annotations

from typing import Any

from trainers.rows import Row
from trainers.settings import TrainerSettings


def make_trainer(model: Any, reference: Any, tokenizer: Any, rows: list[Row], settings: TrainerSettings, common: dict):
    """A TRL trainer for the rows.

    Args:
        reference: The frozen model for full fine-tuning; None with an adapter, whose reference is the base with the
            adapter off, or a frozen copy of the adapter as the round found it.
    """
    from datasets import Dataset
    from trl import KTOConfig, KTOTrainer

    config = KTOConfig(
        **common,
        beta=settings.beta,
        desirable_weight=settings.desirable_weight,
        undesirable_weight=settings.undesirable_weight,
    )
    trainer = KTOTrainer(
        model, reference, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )
    if settings.lora is not None and settings.reference == "base":
        # TRL froze a copy of the adapter as its reference; without that copy it falls back to the base model.
        trainer.model.delete_adapter("ref")
    return trainer
