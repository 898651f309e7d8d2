"""What a run takes on GPUs is reckoned by figures that can be checked by hand."""

import json
import typing

import pytest

from loop.config.files import build, load, parse_overrides
from loop.gpus import MEMORY, memory_of
from loop.machines import Machine, plan
from loop.memory import KNOWN, Shape, folder_of, gpu_memory, model_shape
from loop.reckoning import PROMPT_SHARE, REPLY_SHARE, TRAINER_SHARE, reckoned
from tests.conftest import ROOT
from tests.loop.conftest import candor
from trainers.flops import peak_flops

LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
WEIGHTS = 8_030_261_248 - 128_256 * 4096
PEAK = 989e12
NAMES = ("llama31-8b", "qwen25-7b", "qwen3-32b")


def config(**changes):
    raw = {
        "name": "r", "world": "therapist", "model": LLAMA, "rounds": 1,
        "arms": [{"name": "a", "biased_ratio": 0.5}], "roles": {"judge": None}, "evals": {"suites": []},
        "assistant": {"gpus": 1}, "trainer": {"gpus": 1, "algorithm": "sft"},
    }  # fmt: skip
    return build(raw | changes, "test")


def test_every_kind_of_gpu_has_its_memory_and_its_speed():
    from loop.config.schema import ClusterSettings

    (kinds, _) = typing.get_args(ClusterSettings.model_fields["gpu"].annotation)
    assert set(typing.get_args(kinds)) == set(MEMORY)
    assert all(peak_flops(kind) for kind in MEMORY)
    assert 79 < memory_of("H100") / 2**30 < 80


def test_a_training_on_data_takes_its_tokens_times_the_passes_over_the_weights():
    data = {"base": {"source": "rows.jsonl", "rows": 10_000}}
    by_hand = 10_000 * 200 * 2 * 2 * WEIGHTS / (TRAINER_SHARE * PEAK) / 3600  # forward and backward; weights are frozen
    arms = [{"name": "a"}]
    one = reckoned(config(data=data, arms=arms), "H100")
    assert one.hours == pytest.approx({"rollout": 0, "evaluate": 0, "train": by_hand})
    again = {"gpus": 1, "algorithm": "sft", "ranks": 4, "batch_size": 16, "gradient_checkpointing": True, "epochs": 2}
    four = reckoned(config(data=data, arms=arms, trainer=again), "H100")
    assert four.hours["train"] == pytest.approx(by_hand * 2 * 3 / 2 / 4)
    assert (one.gpus, four.gpus) == (2, 5)
    whole = reckoned(config(data=data, arms=arms, trainer={"gpus": 1, "algorithm": "sft", "lora": None}), "H100")
    assert whole.hours["train"] == pytest.approx(by_hand * 3 / 2)


def test_a_rollout_takes_the_tokens_that_are_computed_and_more_for_those_that_are_written():
    found = reckoned(config(conversation={"max_tokens": 300}), "H100")
    short = reckoned(config(conversation={"max_tokens": 100}), "H100")
    two_replies = (
        600 * 2 * 200 * 2 * WEIGHTS / PEAK / 3600
    )  # 200 tokens more in each of both, also in what follows them
    more = found.hours["rollout"] - short.hours["rollout"]
    assert more > two_replies / REPLY_SHARE
    assert more < 1.8 * two_replies / REPLY_SHARE + 6 * two_replies / PROMPT_SHARE
    double = reckoned(config(conversation={"max_tokens": 300}, assistant={"gpus": 1, "replicas": 2}), "H100")
    assert double.hours["rollout"] == pytest.approx(found.hours["rollout"] / 2)
    a100 = reckoned(config(conversation={"max_tokens": 300}), "NVIDIA A100-SXM4-80GB")
    assert a100.hours["rollout"] == pytest.approx(found.hours["rollout"] * 989 / 312)


def test_kto_takes_three_more_passes_and_every_arm_its_own_time():
    tuned = {"gpus": 1, "algorithm": "kto"}
    sft, kto = (reckoned(config(trainer=tuned | {"algorithm": a}), "H100") for a in ("sft", "kto"))
    assert kto.hours["train"] == pytest.approx(sft.hours["train"] * 5 / 2 * 2), "of twice as many conversations"
    three = config(arms=[{"name": name, "biased_ratio": 0.5} for name in "abc"], rounds=2)
    hours = reckoned(three, "H100").hours
    assert hours["train"] == pytest.approx(3 * 2 * sft.hours["train"])
    assert hours["rollout"] == pytest.approx(4 * sft.hours["rollout"]), "of round 0 they hold the same conversations"


def test_arms_side_by_side_take_as_long_as_the_set_of_actors_that_has_most_to_do():
    arms = [{"name": name, "biased_ratio": 0.5} for name in "abc"]
    one, two, all_ = (
        reckoned(config(arms=arms, cluster={"arms_at_once": n, "gpu_hour_price": 2.0}), "H100") for n in (1, 2, 3)
    )
    held, train = one.hours["rollout"], one.hours["train"] / 3  # round 0 is held once, and then all arms may begin
    assert one.hours == two.hours == all_.hours
    assert one.total == pytest.approx(held + 3 * train)
    assert two.total == pytest.approx(held + 2 * train)
    assert all_.total == pytest.approx(held + train)
    assert two.gpus == 2 * one.gpus
    assert two.gpu_cost == pytest.approx(2 * two.gpus * two.total)


def test_a_price_of_gpu_hours_and_of_endpoints_is_what_a_run_costs():
    user = {"kind": "endpoint", "model": "m", "requests_per_minute": 60, "price": {"prompt": 1.0, "completion": 4.0}}
    priced = config(models={"user": user}, roles={"user": "user", "judge": None}, cluster={"gpu_hour_price": 3.0})
    found = reckoned(priced, "H100")
    assert found.gpu_cost == pytest.approx(3 * 2 * found.total)
    assert found.endpoint_cost > 0
    assert found.hours["rollout"] == pytest.approx(600 * 3 / 60 / 60)  # a message and two ratings, one a second
    assert any("user answers a request in 2 s" in line for line in found.assumed)
    assert "GPU hours; cost " in str(found)
    assert reckoned(config(), "H100").gpu_cost is None


def test_nothing_is_reckoned_where_a_figure_is_missing():
    assert reckoned(config(), None) is None
    assert reckoned(config(), "Quadro 4") is None
    assert reckoned(config(assistant={}, trainer={"algorithm": "sft"}), "H100") is None
    assert reckoned(config(model="some-org/not-here"), "H100") is None


def test_items_on_the_hub_are_not_fetched_but_taken_for_as_many_as_were_published():
    found = reckoned(config(evals={"suites": ["mask", "behonest"], "judges": ["base"], "max_tokens": 1000}), "H100")
    # 1,000 items of 5 prompts; an answer is 700 tokens, and the judge is shown both and its question
    tokens = 5000 * (350 / PROMPT_SHARE + 700 / REPLY_SHARE + (350 + 700 + 250) / PROMPT_SHARE)
    assert found.hours["evaluate"] == pytest.approx(2 * tokens * 2 * WEIGHTS / PEAK / 3600)  # of two policies
    assert "items of mask are as many and as long as published" in found.assumed
    assert "no time is counted for behonest" in found.assumed


@pytest.mark.heavy
@pytest.mark.parametrize("name", KNOWN)
def test_shapes_that_are_known_are_what_the_architecture_comes_to(tmp_path, name):
    from transformers import LlamaConfig, Qwen2Config, Qwen3Config

    heads = {"num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128}
    made = {
        LLAMA: LlamaConfig(intermediate_size=14336, num_attention_heads=32, num_key_value_heads=8, **_of(name)),
        "Qwen/Qwen2.5-7B-Instruct": Qwen2Config(
            intermediate_size=18944, num_attention_heads=28, num_key_value_heads=4, **_of(name)
        ),
        "Qwen/Qwen2.5-32B-Instruct": Qwen2Config(
            intermediate_size=27648, num_attention_heads=40, num_key_value_heads=8, **_of(name)
        ),
        "Qwen/Qwen3-32B": Qwen3Config(intermediate_size=25600, **heads, **_of(name)),
    }[name]
    made.save_pretrained(tmp_path)
    assert model_shape(str(tmp_path)) == KNOWN[name]  # a folder with config.json and no weights
    assert folder_of(name) is None
    assert model_shape(name) == KNOWN[name]


def _of(name):
    shape = KNOWN[name]
    return {
        "num_hidden_layers": shape.layers, "hidden_size": shape.hidden, "vocab_size": shape.words,
        "tie_word_embeddings": False,
    }  # fmt: skip


def test_a_folder_whose_config_is_no_model_tells_no_shape(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert model_shape(str(tmp_path)) is None
    assert KNOWN[LLAMA] == Shape(8_030_261_248, 32, 4096, 128_256, 14_336, 32)


def four_nodes(name):
    """The changes that the head of a config tells for four nodes."""
    head = (ROOT / f"configs/{name}.yaml").read_text().partition("\nname:")[0]
    words = head.partition("On four nodes:")[2].replace("#", " ").split()
    return [words[i + 1] for i, word in enumerate(words) if word == "--set"]


@pytest.mark.parametrize("name", NAMES)
def test_a_config_of_the_papers_size_fills_one_node_of_eight_gpus_and_with_its_changes_four(name):
    settings = load(ROOT / f"configs/{name}.yaml")
    changed = load(ROOT / f"configs/{name}.yaml", parse_overrides(four_nodes(name)))
    for config, nodes in ((settings, 1), (changed, 4)):
        node = {"CPU": 96.0, "GPU": 8.0}
        found = plan(config, [Machine(str(n), str(n), node, node) for n in range(nodes)], {})
        assert found["homeless"] == []
        assert found["asked"]["gpus"] == 8 * nodes
        assert [row["change"] for row in found["memory"]] == [None] * 3
        assert all(sum(row["parts"].values()) <= row["room"] for row in found["memory"])
    assert len(gpu_memory(settings, memory_of("L4"))) == 3
    assert any(row.change for row in gpu_memory(settings, memory_of("L4")))


@pytest.mark.parametrize("name", NAMES)
def test_a_config_of_the_papers_size_trains_as_the_paper_did(name):
    c = load(ROOT / f"configs/{name}.yaml")
    paper = {"algorithm": "kto", "learning_rate": 1e-5, "epochs": 5, "batch_size": 16, "max_length": 2048, "beta": 0.1}
    assert c.trainer.model_dump(include=set(paper)) == paper
    assert (c.trainer.lora.rank, c.trainer.lora.alpha, c.trainer.weight_decay) == (32, 64, 0.01)
    assert (c.rollout.conversations, c.conversation.turns, c.selection.top, c.selection.bottom) == (20000, 2, 0.5, 0.5)
    shares = [a.biased_ratio for a in c.arms if not a.set]
    assert shares == [0, 0.05, 0.1, 0.2, 0.5, 1]


@pytest.mark.heavy
def test_candor_plan_says_hours_and_cost_with_what_it_assumed():
    words = ("plan", "configs/llama31-8b.yaml", "--set", "cluster.gpu_hour_price=2.5")
    said = candor(*words)
    assert said.returncode == 0, said.stderr
    assert "reckoned: about " in said.stdout
    assert " h on 8 H100 (rollout " in said.stdout
    assert "assumed: the tokenizer of meta-llama/Llama-3.1-8B-Instruct is not here" in said.stdout
    found = json.loads(candor(*words, "--json").stdout)["reckoned"]
    assert found["gpu_hours"] == pytest.approx(8 * found["total_hours"])
    assert found["gpu_cost"] == pytest.approx(2.5 * found["gpu_hours"])
