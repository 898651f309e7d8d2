"""What the machine at hand computes fast.

Importing this module imports no torch.
"""

from __future__ import annotations

from typing import Literal

Dtype = Literal["bfloat16", "float32"]


def fast_dtype() -> Dtype:
    """The number format in which models run fast here: bfloat16 on a GPU and on a CPU with instructions for it.

    Other CPUs do without: torch and vLLM take each product apart there, and float32 is several times as fast.
    """
    import torch

    if torch.cuda.is_available():
        return "bfloat16"
    has = torch.cpu.get_capabilities()
    x86, arm = ("avx512_bf16", "amx_bf16"), ("bf16", "sve_bf16")
    return "bfloat16" if any(has.get(name) for name in (*x86, *arm)) else "float32"
