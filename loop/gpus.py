"""Kinds of GPUs, and how much memory each has; how fast each computes is in `trainers.flops`."""

from __future__ import annotations

from typing import Literal

MIB = 2**20
GpuKind = Literal["B200", "H200", "H100", "A100-80GB", "A100-40GB", "L40S", "A10", "L4"]
MEMORY: dict[GpuKind, int] = {
    "B200": 183_359,
    "H200": 143_771,
    "H100": 81_559,
    "A100-80GB": 81_920,
    "A100-40GB": 40_960,
    "L40S": 46_068,
    "A10": 23_028,
    "L4": 23_034,
}
"""MiB that `nvidia-smi` shows of each kind."""


def memory_of(kind: GpuKind) -> int:
    """Bytes of a GPU of a kind."""
    return MEMORY[kind] * MIB
