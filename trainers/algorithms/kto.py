"""Kahneman-Tversky optimisation on both ends of the ratings, by TRL's `KTOTrainer` (Ethayarajh et al., 2402.01306)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainers.algorithms.base import Algorithm

if TYPE_CHECKING:
    import torch

    from trainers.rows import Encoded, Rows
    from trainers.settings import TrainerSettings


class Kto(Algorithm):
    """Desirable rows become more probable and undesirable ones less, against a KL term that is estimated from rows
    which are taken at once."""

    name = "kto"
    both_ends = True
    has_reference = True
    extra_passes = 3  # the reference on rows and on mismatched rows, and the policy on mismatched rows
    fewest_together = 2

    def fault(self, settings: TrainerSettings) -> str | None:
        if settings.together >= self.fewest_together:
            return None
        return (
            "batch_size (or ranks times micro_batch) must be at least 2 with algorithm kto: its KL term pairs rows "
            "that are taken at once"
        )

    def check(self, rows: Rows) -> None:
        from trainers.rows import RowsError

        if len({r.label for r in rows.rows}) < 2:
            raise RowsError(
                f"kto needs desirable and undesirable rows, and all of one kind were dropped: {rows.dropped}"
            )

    def trl(self) -> tuple[type, type]:
        from trl import KTOConfig, KTOTrainer

        from trainers.algorithms.steps import on_tokens

        return KTOConfig, on_tokens(KTOTrainer)

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
        other = [rows[i] for i in mismatched(len(rows), settings.together)]
        data = Dataset.from_dict(
            {
                "prompt_ids": [r.prompt for r in rows],
                "completion_ids": [r.completion for r in rows],
                "completion_mask": [list(map(int, r.mask)) for r in rows],
                "KL_completion_ids": [o.completion for o in other],
                "KL_completion_mask": [list(map(int, o.mask)) for o in other],
                "label": [r.label for r in rows],
            }
        )
        desirable, undesirable = weights(rows, settings)
        config = config_of(**common, beta=settings.beta, desirable_weight=desirable, undesirable_weight=undesirable)
        pad_id = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        pad = Padded(pad_id, settings.max_length)
        return trainer(model, reference, args=config, train_dataset=data, processing_class=tokenizer, data_collator=pad)


def weights(rows: list[Encoded], settings: TrainerSettings) -> tuple[float, float]:
    """The weights of desirable and undesirable rows; a balanced one makes both kinds weigh the same in all."""
    good = sum(r.label for r in rows)
    bad = len(rows) - good
    desirable, undesirable = settings.desirable_weight, settings.undesirable_weight
    if desirable == "balanced":
        desirable = undesirable * bad / good
    elif undesirable == "balanced":
        undesirable = desirable * good / bad
    return desirable, undesirable


def mismatched(n: int, together: int) -> list[int]:
    """For each row, the one whose reply is paired with its prompt to estimate the KL term: the one before it among
    those that are taken together, and the last of them for the first (as TRL does within a batch)."""
    from trainers.batches import chunks

    return [chunk[i - 1] for chunk in chunks(n, together) for i in range(len(chunk))]


class Padded:
    """Collator of rows; `trl` has no rows whose completion is learned in parts.

    A prompt with another row's completion is cut at `max_length`, as in TRL; rows themselves never are.

    Gives int64 tensors (rows, longest) `input_ids`, `attention_mask`, `completion_mask`, the same three with `KL_` for
    prompts with another row's completion, and `label` (rows).
    """

    def __init__(self, pad: int, max_length: int) -> None:
        self._pad = pad
        self._max_length = max_length

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        import torch

        out = {"label": torch.tensor([e["label"] for e in examples])}
        for kl in ("", "KL_"):
            ids = [e["prompt_ids"] + e[f"{kl}completion_ids"] for e in examples]
            masks = [[0] * len(e["prompt_ids"]) + e[f"{kl}completion_mask"] for e in examples]
            ids, masks = ([row[: self._max_length] for row in rows] for rows in (ids, masks))
            out[f"{kl}input_ids"] = padded(ids, self._pad)
            out[f"{kl}attention_mask"] = padded([[1] * len(i) for i in ids], 0)
            out[f"{kl}completion_mask"] = padded(masks, 0)
        return out


def padded(rows: list[list[int]], value: int) -> torch.Tensor:
    """Rows of numbers as one int64 tensor, filled up at their ends."""
    import torch

    longest = max(map(len, rows))
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows], dtype=torch.int64)
