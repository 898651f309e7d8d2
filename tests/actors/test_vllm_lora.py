from types import SimpleNamespace

import pytest
import torch
from vllm.lora.layers import LoRAMapping
from vllm.lora.model_manager import LoRAModelManager

from actors import vllm_plugin
from actors.vllm_lora import GroupedPunica

SLOTS, RANK, INPUTS = 3, 4, 16
IDS: list[int | None] = [7, 8, 9]
"""Adapters by slot; every slot is taken."""
NONE = 0


def weights(*shape):
    return torch.randn(SLOTS, 1, *shape, generator=torch.Generator().manual_seed(sum(shape)))


def wrapper(adapters):
    """One token for each request."""
    made = GroupedPunica(64, 64, "cpu")
    made.update_metadata(LoRAMapping(tuple(adapters), tuple(adapters), is_prefill=True), IDS, SLOTS, 32)
    return made


def expected(adapters, x, y, a, b, scale):
    """What each row's own adapter makes of it."""
    rows = [
        row if adapter == NONE else row + scale * of @ a[IDS.index(adapter), 0].T @ b[IDS.index(adapter), 0].T
        for adapter, of, row in zip(adapters, x, y, strict=True)
    ]
    return torch.stack(rows)


BATCHES = [[7, 7, 7, 7], [NONE] * 4, [NONE, 7, NONE, 9], [9, 8, 7, NONE, 9, NONE], [NONE, NONE, 8], [9]]


@pytest.mark.parametrize("adapters", BATCHES)
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_each_token_of_a_batch_goes_through_the_adapter_of_its_request(adapters, scale):
    torch.manual_seed(0)
    x, y = torch.randn(len(adapters), INPUTS), torch.randn(len(adapters), 24)
    a = weights(RANK, INPUTS), weights(RANK, INPUTS) + 1
    b = weights(8, RANK), weights(16, RANK)
    parts = [expected(adapters, x, part, *w, scale) for part, *w in zip(y.split([8, 16], dim=1), a, b, strict=True)]
    got = y.clone()
    wrapper(adapters).add_lora_linear(got, x, a, b, scale, (8, 16))
    torch.testing.assert_close(got, torch.cat(parts, dim=1))


@pytest.mark.parametrize("rank", [4, 64])
def test_so_it_does_whatever_the_rank(rank):
    torch.manual_seed(0)
    x, y = torch.randn(5, INPUTS), torch.randn(5, 24)
    a, b = (weights(rank, INPUTS), weights(rank, INPUTS) + 1), (weights(8, rank), weights(16, rank))
    adapters = [NONE, 7, 9, 7, NONE]
    parts = [expected(adapters, x, part, *w, 1.0) for part, *w in zip(y.split([8, 16], dim=1), a, b, strict=True)]
    got = y.clone()
    wrapper(adapters).add_lora_linear(got, x, a, b, 1.0, (8, 16))
    torch.testing.assert_close(got, torch.cat(parts, dim=1), rtol=1e-4, atol=1e-3)


def test_an_adapter_that_takes_the_slot_of_another_is_what_is_served():
    """The weights change in place, as vLLM writes a new policy over an old one."""

    class Layer:
        def set_lora(self, slot, lora_a, lora_b):
            a[slot, 0], b[slot, 0] = lora_a, lora_b

    torch.manual_seed(0)
    x, y, a, b = torch.randn(2, INPUTS), torch.zeros(2, 8), weights(RANK, INPUTS), weights(8, RANK)
    made = wrapper([8, NONE])
    made.add_lora_linear(y, x, (a,), (b,), 1.0, (8,))
    torch.testing.assert_close(y, expected([8, NONE], x, torch.zeros(2, 8), a, b, 1.0))
    manager = LoRAModelManager.__new__(LoRAModelManager)
    manager._active_adapters, manager.lora_index_to_id = {7: None, 9: None}, [7, None, 9]
    lora = SimpleNamespace(lora_a=torch.randn(RANK, INPUTS), lora_b=torch.randn(8, RANK))
    manager._registered_adapters = {8: SimpleNamespace(id=8, get_lora=lambda name: lora)}
    manager.modules = {"layer": Layer()}
    manager._get_lora_layer_weights = lambda model, name: lora
    assert manager.activate_adapter(8)
    assert torch.equal(a[1, 0], lora.lora_a)
    loads = GroupedPunica.loads
    assert not manager.activate_adapter(8)
    assert GroupedPunica.loads == loads, "it is there, and nothing has to be read again"
    after = torch.zeros(2, 8)
    made.add_lora_linear(after, x, (a,), (b,), 1.0, (8,))
    torch.testing.assert_close(after, expected([8, NONE], x, torch.zeros(2, 8), a, b, 1.0))


@pytest.mark.parametrize("adapters", BATCHES)
def test_so_do_the_logits_of_each_request(adapters):
    torch.manual_seed(0)
    x, y = torch.randn(len(adapters), INPUTS), torch.randn(len(adapters), 32)
    a, b = weights(RANK, INPUTS), weights(40, RANK)
    got = y.clone()
    wrapper(adapters).add_lora_logits(got, x, a, b, 1.0)
    torch.testing.assert_close(got, expected(adapters, x, y, a, b[:, :, :32], 1.0))


def test_half_precision_is_as_good_as_its_rounding():
    torch.manual_seed(0)
    adapters = [7, NONE, 9, 7]
    x, y, a, b = (
        t.bfloat16() for t in (torch.randn(4, INPUTS), torch.randn(4, 8), weights(RANK, INPUTS), weights(8, RANK))
    )
    right = expected(adapters, *(t.float() for t in (x, y, a, b)), 1.0)
    wrapper(adapters).add_lora_linear(y, x, (a,), (b,), 1.0, (8,))
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), right, rtol=2e-2, atol=1e-1)


def test_engines_on_a_cpu_use_it(monkeypatch):
    from vllm.lora.punica_wrapper import get_punica_wrapper
    from vllm.platforms import current_platform

    monkeypatch.setattr(vllm_plugin, "_die_with_the_owner", lambda: None)
    monkeypatch.setattr(type(current_platform), "get_punica_wrapper", type(current_platform).get_punica_wrapper)
    vllm_plugin.register()
    assert isinstance(get_punica_wrapper(64, 64, device="cpu"), GroupedPunica)
