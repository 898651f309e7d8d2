"""What the machine at hand computes fast.

Importing this module imports no torch.
"""

from __future__ import annotations

import os
from typing import Literal


def cores() -> int:
    """CPU cores that this process may use; those that others were given do not count."""
    return max(1, len(os.sched_getaffinity(0)))


def fast_dtype(device: Literal["cuda", "cpu"] | None = None) -> Literal["bfloat16", "float32"]:
    """The number format in which models run fast here: bfloat16 on a GPU and on a CPU with instructions for it, float32
    on other CPUs, which are two to four times as slow with bfloat16 (measured with torch 2.13 and vLLM 0.32).

    Args:
        device: What computes; where it is not given, a GPU if there is one.
    """
    import torch

    if device == "cuda" or (device is None and torch.cuda.is_available()):
        return "bfloat16"
    has = torch.cpu.get_capabilities()
    x86, arm = ("avx512_bf16", "amx_bf16"), ("bf16", "sve_bf16")
    return "bfloat16" if any(has.get(name) for name in (*x86, *arm)) else "float32"
