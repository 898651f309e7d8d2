"""Adapters on a CPU: each token goes through the adapter of its own request, and others through none.

In vLLM 0.32 a request without an adapter has slot -1, and vLLM's operators for CPUs take that as an index: where it
shares a batch with one that has an adapter, it is answered with the adapter in the last slot. They also gather a copy
of the adapter's weights for each token, which takes most of the time that an adapter costs.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

Group = tuple[int, torch.Tensor | None]
"""A slot and the rows of a batch that it serves; None for all of them."""


def groups(slots: torch.Tensor) -> list[Group]:
    """The rows of each adapter in a batch, those without one left out.

    Args:
        slots: Of shape (rows,); -1 for a row without an adapter.
    """
    found = slots.unique().tolist()
    if len(found) == 1:
        return [] if found[0] < 0 else [(found[0], None)]
    return [(slot, (slots == slot).nonzero()[:, 0]) for slot in found if slot >= 0]


class GroupedPunica(PunicaWrapperCPU):
    """Multiplies the rows of a batch that have the same adapter at once, and leaves those without one alone.

    Weights lie in slots: those that shrink have shape (slots, 1, rank, inputs), those that expand (slots, 1, outputs,
    rank). Embeddings, which no trainer here adapts, and layers that are split in both directions are left to vLLM.
    """

    def update_metadata(self, *args: Any, **more: Any) -> None:
        super().update_metadata(*args, **more)
        self._token_groups = groups(self.token_lora_indices)
        self._sampler_groups = groups(self.sampler_indices)

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        **_: Any,
    ) -> None:
        """Add scale * x a^T b^T to each slice of `y`, which has shape (tokens, sum of `output_slices`)."""
        y, x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        for slot, rows in self._token_groups:
            given = x if rows is None else x[rows]
            left = 0
            for a, b, width in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
                _add(y[:, left : left + width], rows, given, a[slot, 0], b[slot, 0], scale)
                left += width

    def add_lora_logits(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        scale: float,
        **_: Any,
    ) -> None:
        """Add scale * x a^T b^T to logits, of shape (requests, vocabulary).

        Raises:
            ValueError: The logits are those of a prompt, in a batch of several adapters: nobody knows of which.
        """
        y, x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        if len(x) != len(self.sampler_indices) and any(rows is not None for _, rows in self._sampler_groups):
            raise ValueError(f"logits of {len(x)} tokens for {len(self.sampler_indices)} requests of several adapters")
        for slot, rows in self._sampler_groups:
            b = lora_b_stacked[slot, 0][: y.shape[-1]]  # an adapter may pad the vocabulary more than its model
            given = x if rows is None else x[rows]
            _add(y[:, : len(b)], rows, given, lora_a_stacked[slot, 0], b, scale)


def _add(
    y: torch.Tensor, rows: torch.Tensor | None, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float
) -> None:
    inner = x.to(a.dtype) @ a.T
    if rows is None and b.dtype == y.dtype:
        y.addmm_(inner, b.T, alpha=scale)
    elif rows is None:
        y.add_(inner @ b.T, alpha=scale)
    else:
        y.index_add_(0, rows, (inner @ b.T).to(y.dtype), alpha=scale)
