"""Adapters on a CPU: each token goes through the adapter of its own request, and others through none.

In vLLM 0.32 a request without an adapter has slot -1, and vLLM's operators for CPUs take that as an index: where it
shares a batch with one that has an adapter, it is answered with the adapter in the last slot. They also gather a copy
of the adapter's weights for each token, which takes most of the time that an adapter costs. Small products take as long
as their number, so those of the slices of a layer, such as queries, keys and values, are put together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from vllm.lora.model_manager import LoRAModelManager
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


NARROW = 64
"""Up to so many ranks of all slices together, their expansions are one product, most of whose factors are zero."""


@dataclass(frozen=True)
class Joined:
    """The weights of one adapter in one layer.

    Attributes:
        loaded: `GroupedPunica.loads` when they were read.
        a: Shape (inputs, ranks of all slices).
        b: For each product the columns of the output, the ranks that it takes, and weights of shape (ranks, columns).
    """

    loaded: int
    a: torch.Tensor
    b: list[tuple[slice, slice, torch.Tensor]]

    @classmethod
    def of(cls, loaded: int, a: Sequence[torch.Tensor], b: Sequence[torch.Tensor], scale: float) -> Joined:
        """Args:
        a, b: Of each slice, of shapes (rank, inputs) and (outputs, rank).
        """
        ranks = sum(len(part) for part in a)
        joined = torch.cat([*a]).T.contiguous()
        if ranks <= NARROW:
            whole = scale * torch.block_diag(*b).T
            return cls(loaded, joined, [(slice(None), slice(None), whole.contiguous())])
        parts, column, rank = [], 0, 0
        for of_a, of_b in zip(a, b, strict=True):
            columns, taken = slice(column, column + len(of_b)), slice(rank, rank + len(of_a))
            parts.append((columns, taken, (scale * of_b.T).contiguous()))
            column, rank = columns.stop, taken.stop
        return cls(loaded, joined, parts)

    def add(self, y: torch.Tensor, rows: torch.Tensor | None, x: torch.Tensor) -> None:
        """Add to `rows` of `y`, or to all, what the adapter makes of `x`, which has a row for each of them."""
        inner = x.to(self.a.dtype) @ self.a
        for columns, ranks, weights in self.b:
            if rows is None and weights.dtype == y.dtype:
                y[:, columns].addmm_(inner[:, ranks], weights)
            elif rows is None:
                y[:, columns].add_(inner[:, ranks] @ weights)
            else:
                y[:, columns].index_add_(0, rows, (inner[:, ranks] @ weights).to(y.dtype))


class GroupedPunica(PunicaWrapperCPU):
    """Multiplies the rows of a batch that have the same adapter at once, and leaves those without one alone.

    Weights lie in slots: those that shrink have shape (slots, 1, rank, inputs), those that expand (slots, 1, outputs,
    rank). Embeddings, which no trainer here adapts, and layers that are split in both directions are left to vLLM.

    Attributes:
        loads: How often an adapter was put into slots; what was read of slots before is read again.
    """

    loads = 0

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._joined: dict[tuple[int, int, float], Joined] = {}

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
            place = (lora_a_stacked[0].data_ptr(), slot, scale)
            joined = self._joined.get(place)
            if joined is None or joined.loaded != self.loads:
                b = [part[slot, 0, :width] for part, width in zip(lora_b_stacked, output_slices, strict=True)]
                joined = Joined.of(self.loads, [part[slot, 0] for part in lora_a_stacked], b, scale)
                self._joined[place] = joined
            joined.add(y, rows, x if rows is None else x[rows])

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
            joined = Joined.of(self.loads, [lora_a_stacked[slot, 0]], [b], scale)
            joined.add(y[:, : len(b)], rows, x if rows is None else x[rows])


_put_into_a_slot = LoRAModelManager.activate_adapter


def _activate(manager: LoRAModelManager, lora_id: int) -> bool:
    there = lora_id in manager._active_adapters  # as it is for every batch but the first
    try:
        return _put_into_a_slot(manager, lora_id)
    finally:
        GroupedPunica.loads += not there


LoRAModelManager.activate_adapter = _activate
