"""Direct preference optimisation on pairs of replies to one prompt, by TRL's `DPOTrainer` (Rafailov et al.,
2305.18290)."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from trainers.algorithms.base import Algorithm

if TYPE_CHECKING:
    from trainers.rows import Encoded, Pair, Rows
    from trainers.settings import TrainerSettings


class Dpo(Algorithm):
    """The desirable one of two replies to a prompt is preferred to the other."""

    name = "dpo"
    both_ends = True
    has_reference = True
    extra_passes = 1

    def fault(self, settings: TrainerSettings) -> str | None:
        if settings.rows == "conversation":
            return "rows conversation does not go with algorithm dpo, which compares replies to one prompt"
        if settings.replay:
            return "replay does not go with algorithm dpo: its rows are pairs; use sft or kto"
        return None

    def prepare(self, rows: Rows) -> Rows:
        return pairs(rows)

    def trl(self) -> tuple[type, type]:
        from trl import DPOConfig, DPOTrainer

        from trainers.algorithms.steps import on_tokens

        return DPOConfig, on_tokens(DPOTrainer)

    def make_trainer(
        self,
        model: Any,
        reference: Any,
        tokenizer: Any,
        rows: list[Pair],
        settings: TrainerSettings,
        common: dict[str, Any],
    ) -> Any:
        from datasets import Dataset

        config_of, trainer = self.trl()
        data = Dataset.from_dict(
            {
                "prompt_ids": [r.prompt for r in rows],
                "chosen_ids": [r.chosen for r in rows],
                "rejected_ids": [r.rejected for r in rows],
            }
        )
        config = config_of(**common, beta=settings.beta)
        return trainer(model, reference, args=config, train_dataset=data, processing_class=tokenizer)


def pairs(rows: Rows) -> Rows:
    """Two rows of one prompt each, a desirable and an undesirable one; a row without a partner is dropped and counted.

    Replies answer the same prompt where personas open their conversations with the same words and got different first
    replies.

    Args:
        rows: Of `Encoded`.

    Raises:
        RowsError: No two rows have the same prompt.
    """
    from trainers.rows import Pair, Rows, RowsError

    ends: dict[tuple[int, ...], tuple[list[Encoded], list[Encoded]]] = defaultdict(lambda: ([], []))
    for row in rows.rows:
        ends[tuple(row.prompt)][0 if row.label else 1].append(row)
    made = Rows([], Counter(rows.dropped))
    for chosen, rejected in ends.values():
        made.rows += [
            Pair(c.prompt, c.completion, r.completion, f"{c.source} {r.source}")
            for c, r in zip(chosen, rejected, strict=False)
        ]
        made.dropped["without a partner"] += abs(len(chosen) - len(rejected))
    if not made.rows:
        raise RowsError(
            f"none of the {len(rows.rows)} rows has a partner: dpo compares two replies to the same prompt, as two "
            "conversations of one persona have; let personas meet the assistant more than once and set "
            "selection.within to persona, or use kto"
        )
    return made
