import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from loop.bench.rollouts import parameters, widened


def test_a_widened_model_computes_the_same(pocket_model, tmp_path):
    folder = widened(pocket_model, 4, tmp_path / "wide")
    narrow, wide = (AutoModelForCausalLM.from_pretrained(m, dtype=torch.float32) for m in (pocket_model, folder))
    layer = wide.model.layers[0].mlp.up_proj.weight
    assert layer.shape == (4 * narrow.config.intermediate_size, narrow.config.hidden_size)
    torch.manual_seed(0)
    ids = torch.randint(len(AutoTokenizer.from_pretrained(folder)), (3, 40))
    with torch.no_grad():
        torch.testing.assert_close(wide(ids).logits, narrow(ids).logits, rtol=0, atol=1e-3)
    assert parameters(folder) == parameters(pocket_model) + 3 * 3 * (3 * 512 * 192)
