"""What memory is reckoned, beside what an H200 took."""

import re

import pytest

from loop.config.files import build
from loop.memory import GIB, KNOWN, Shape, _engine, gpu_memory, model_shape, trainer_memory
from trainers.settings import LoraSettings, TrainerSettings

SMALL = {"name": "test", "arms": [{"name": "a", "biased_ratio": 0.5}]}
LLAMA_8B = KNOWN["meta-llama/Llama-3.1-8B-Instruct"]
QUARTER = Shape(2_795_573_248, 8, 4096, 128_256, 14_336, 32)
QWEN_7B_CUT = Shape(2_954_000_000, 8, 3584, 152_064, 18_944, 28)
LLAMA_1B = Shape(1_235_814_400, 16, 2048, 128_256, 8192, 32)
LLAMA_1B_CUT = Shape(749_242_368, 8, 2048, 128_256, 8192, 32)
ALL = {"lora": None}
LESS = {"gradient_checkpointing": True}


@pytest.mark.parametrize(
    ("shape", "settings", "peak"),
    [
        (LLAMA_8B, {}, 45.2),
        (LLAMA_8B, {"algorithm": "kto"}, 45.4),
        (LLAMA_8B, {**LESS}, 19.9),
        (LLAMA_8B, {**LESS, "algorithm": "kto"}, 19.8),
        (QUARTER, {"micro_batch": 4}, 21.2),
        (QUARTER, {**LESS, "micro_batch": 8}, 13.8),
        (QUARTER, {"algorithm": "dpo"}, 21.3),
        (QUARTER, {"dtype": "float32"}, 34.7),
        (QWEN_7B_CUT, {}, 14.7),
        (LLAMA_1B, {**ALL}, 33.8),
        (LLAMA_1B, {**ALL, "algorithm": "kto"}, 39.3),
        (LLAMA_1B_CUT, {**ALL, **LESS}, 16.1),
        (LLAMA_1B_CUT, {**ALL, "micro_batch": 4}, 23.9),
        (LLAMA_1B_CUT, {**ALL, "dtype": "float32"}, 34.4),
    ],
)
def test_the_trainers_memory_is_what_was_measured(shape, settings, peak):
    """On an H200, rows of 2,048 tokens, in GiB; an estimate that is too low ends a run when it trains."""
    given = {"algorithm": "sft", "micro_batch": 2, "max_length": 2048, "lora": LoraSettings(rank=32)} | settings
    reckoned = trainer_memory(TrainerSettings(**given), shape, None).total / GIB
    assert 0.99 * peak < reckoned < 1.15 * peak


def test_a_stacked_policy_needs_the_base_with_those_before_it_merged_in():
    def of(**changes):
        return trainer_memory(TrainerSettings(**changes), LLAMA_8B, None).total

    base = 2 * LLAMA_8B.weights
    assert of(start="stack") - of() == base
    assert of(start="stack", reference=1) - of() == 2 * base
    assert of(start="stack", reference=1, algorithm="sft") - of(algorithm="sft") == base


@pytest.mark.parametrize("gib", [19.5, 23, 24, 40, 45.25, 72.25, 80, 126, 140])
@pytest.mark.parametrize("algorithm", ["kto", "sft"])
@pytest.mark.parametrize("recomputed", [False, True])
def test_what_is_advised_for_a_trainer_that_does_not_fit_makes_it_fit(gib, algorithm, recomputed):
    given = {"gpus": 1, "batch_size": 64, "max_length": 2048, "algorithm": algorithm}
    given |= {"gradient_checkpointing": recomputed}

    def of(**changes):
        return trainer_memory(TrainerSettings(**given | changes), LLAMA_8B, int(gib * GIB))

    found = of()
    assert (found.change is None) == (found.total <= found.room)
    for advice in (found.change or "").split(", or "):
        fewer = re.search(r"trainer.micro_batch to (\d+) \(now 64\)", advice)
        changes = {"micro_batch": int(fewer[1])} if fewer else {}
        if "gradient_checkpointing" in advice:
            assert not recomputed
            changes["gradient_checkpointing"] = True
        if changes:
            assert of(**changes).change is None
        if fewer and changes["micro_batch"] < 32:
            assert of(**changes | {"micro_batch": 2 * changes["micro_batch"]}).change is not None


def test_a_model_that_no_setting_makes_fit_is_to_be_sharded():
    found = trainer_memory(TrainerSettings(gpus=1, batch_size=16, max_length=2048), LLAMA_8B, 16 * GIB)
    assert found.change == "use trainer.sharding: fsdp2 with more trainer.ranks"


def test_memory_of_an_8b_model_fits_one_gpu_of_80_gb_and_not_one_of_16():
    settings = build(SMALL | {"assistant": {"gpus": 1}}, "test").assistant
    fits, small = (_engine("assistant", LLAMA_8B, settings, int(gib * GIB)) for gib in (80, 16))
    assert 14.9 < fits.parts["weights"] / GIB < 15
    assert fits.change is None
    assert fits.parts["cache"] == pytest.approx(80 * 0.85 * GIB - fits.parts["weights"] - fits.parts["overhead"])
    assert small.change.startswith("raise assistant.tensor_parallel and assistant.gpus")


def test_a_trainer_that_does_not_fit_is_told_the_number_to_change():
    def of(gib, **trainer):
        config = build(SMALL | {"trainer": {"gpus": 1, "batch_size": 16, "max_length": 2048, **trainer}}, "test")
        return trainer_memory(config.trainer, LLAMA_8B, int(gib * GIB))

    crowded = of(80)
    assert "set trainer.micro_batch to 4 (now 16)" in crowded.change
    assert of(80, micro_batch=4).change is None
    assert of(80, gradient_checkpointing=True, micro_batch=8).change is None
    whole = of(80, lora=None, micro_batch=2, gradient_checkpointing=True, learning_rate=1e-6)
    assert whole.change.startswith("train an adapter")
    assert whole.parts["trained"] == pytest.approx(16 * LLAMA_8B.weights, rel=0.02)  # and a gradient of the head


def test_the_shape_of_a_model_is_read_from_its_files(pocket_model):
    shape = model_shape(pocket_model)
    assert 1e6 < shape.weights < 1e7
    assert model_shape("scripted") is None
    assert model_shape("some-org/not-here") is None
    assert gpu_memory(build(SMALL, "test"), None) == []
