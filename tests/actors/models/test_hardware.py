import time

import pytest
import torch

from actors.models.hardware import fast_dtype


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


def test_a_cpu_beside_a_gpu_is_asked_for_by_name(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert (fast_dtype(), fast_dtype("cpu")) == ("bfloat16", "float32")


def test_the_other_format_is_not_much_faster_here():
    a, b = torch.randn(512, 256), torch.randn(256, 512)
    took = {"bfloat16": [], "float32": []}
    for _ in range(50):
        for name, times in took.items():
            x, y = a.to(getattr(torch, name)), b.to(getattr(torch, name))
            began = time.perf_counter()
            x @ y
            times.append(time.perf_counter() - began)
    fast = fast_dtype("cpu")
    (other,) = took.keys() - {fast}
    assert min(took[fast]) < 1.5 * min(took[other])
