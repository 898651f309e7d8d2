"""Training rows: every assistant reply of a selected trajectory, with the conversation before it.

A row is `{"prompt": [messages], "completion": [one assistant message], "label": bool}`, which TRL renders with the same
chat template that rollouts use. What users say is context and never a target.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import pyarrow as pa

Row = dict[str, Any]


class RowsError(ValueError):
    """A selection that cannot be trained on."""


def rows_of(messages: Iterable[dict[str, Any]], label: bool) -> list[Row]:
    """One row for each reply that the assistant ended itself; a reply cut at the token limit teaches no end."""
    history: list[dict[str, str]] = []
    out = []
    for m in messages:
        plain = {"role": m["role"], "content": m["content"]}
        if m["role"] == "assistant" and m["finish_reason"] != "length":
            out.append({"prompt": list(history), "completion": [plain], "label": label})
        history.append(plain)
    return out


def training_rows(trajectories: pa.Table, selection: pa.Table, algorithm: str, seed: int) -> list[Row]:
    """Rows of a round's selection in the order they are trained on.

    KTO estimates its KL term from neighbours in a batch, so desirable and undesirable rows are mixed with the seed.

    Args:
        trajectories: The round, `actors.trajectory.SCHEMA`.
        selection: `loop.select.SCHEMA`: trajectory_id and label.
        algorithm: `sft` uses the desirable rows only.

    Raises:
        RowsError: Nothing is left to train on, or KTO has only one kind of row.
    """
    labels = dict(zip(selection["trajectory_id"].to_pylist(), selection["label"].to_pylist(), strict=True))
    found = {
        i: m
        for i, m in zip(trajectories["trajectory_id"].to_pylist(), trajectories["messages"].to_pylist(), strict=True)
        if i in labels
    }
    missing = labels.keys() - found.keys()
    if missing:
        raise RowsError(f"the selection names {len(missing)} trajectories that the round does not hold")
    rows = [row for i, label in labels.items() for row in rows_of(found[i], label)]
    if algorithm == "sft":
        rows = [r for r in rows if r["label"]]
    elif len({r["label"] for r in rows}) < 2:
        raise RowsError("KTO needs both desirable and undesirable rows; select from both ends of the ratings")
    if not rows:
        raise RowsError("the selection leaves no row to train on")
    random.Random(seed).shuffle(rows)
    return rows
