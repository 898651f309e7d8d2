import platform
import time

import pytest
import torch

from actors.hardware import fast_dtype


@pytest.mark.parametrize(
    ("has", "gpu", "fast"),
    [
        ({"avx512_f": True, "avx512_vnni": True, "avx512_bf16": False, "amx_bf16": False}, False, "float32"),
        ({"avx512_bf16": True, "amx_bf16": False}, False, "bfloat16"),
        ({"avx512_bf16": False, "amx_bf16": True}, False, "bfloat16"),
        ({"neon": True, "bf16": False}, False, "float32"),
        ({"neon": True, "bf16": True}, False, "bfloat16"),
        ({"avx2": True}, True, "bfloat16"),
    ],
)
def test_bfloat16_is_for_machines_with_instructions_for_it(monkeypatch, has, gpu, fast):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert fast_dtype() == fast


@pytest.mark.skipif(torch.cuda.is_available(), reason="about CPUs")
def test_the_other_format_is_not_much_faster_here():
    def seconds(dtype):
        a, b = torch.randn(512, 256).to(dtype), torch.randn(256, 512).to(dtype)
        took = []
        for _ in range(30):
            began = time.perf_counter()
            a @ b
            took.append(time.perf_counter() - began)
        return min(took)

    other = {"bfloat16": torch.float32, "float32": torch.bfloat16}[fast_dtype()]
    assert seconds(getattr(torch, fast_dtype())) < 1.5 * seconds(other), platform.processor()
