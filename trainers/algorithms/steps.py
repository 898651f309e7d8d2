"""What all trainers of TRL share here: rows come as tokens, in their order, and each rank takes its part of a batch."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader

from trainers.adapters import TRAINED
from trainers.batches import of_rank
from trainers.settings import TrainerSettings


class Steps:
    """To be mixed into a trainer of TRL; `settings` is set before it starts to train."""

    settings: TrainerSettings

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        """Rows are tokens already."""
        return dataset

    def get_train_dataloader(self) -> DataLoader:
        """This rank's rows, a forward pass at a time."""
        return DataLoader(
            self.train_dataset,
            batch_sampler=of_rank(len(self.train_dataset), self.settings, self.args.process_index),
            collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory,
        )

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Checkpoints hold the adapter that is trained and no reference, which would hide it from a resume."""
        import peft

        if not isinstance(self.model, peft.PeftModel):
            return super()._save(output_dir, state_dict)
        if self.args.should_save:
            self.model.save_pretrained(output_dir, selected_adapters=[TRAINED], state_dict=state_dict)
        return None

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """A checkpoint needs none."""


def on_tokens(trainer: type) -> type:
    """A trainer of TRL with the steps above in place of its own."""
    return type(trainer.__name__, (Steps, trainer), {})
