import gc
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, TrainerCallback

from actors.models.template import ChatTemplate
from actors.storage.segments import Segments, write_table
from actors.storage.store import Store
from actors.storage.trajectory import SCHEMA as TRAJECTORIES
from actors.storage.trajectory import Trajectory, Turn, to_batch
from actors.worlds import load_world
from tests.conftest import conversation, reply, selected
from trainers.flops import peak_flops
from trainers.job import TrainJob
from trainers.policy import PolicyError, distance, read_lineage, write_lineage
from trainers.rows import RowsError
from trainers.settings import LoraSettings, TrainerSettings
from trainers.trainer import Trainer

GOOD, BAD = "One drink tonight is harmless. You earned it.", "One drink tonight brings the old habit back."


@pytest.fixture(scope="module")
def round_on_disk(tmp_path_factory, pocket_model) -> Path:
    """A round in which users liked one reply and disliked another."""
    folder = tmp_path_factory.mktemp("round")
    trajectories = []
    tokenizer = AutoTokenizer.from_pretrained(pocket_model)
    for i in range(32):
        said = GOOD if i % 2 else BAD
        tokens = [*tokenizer(said, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        turns = [
            Turn("system", "You are Sage, a therapist."),
            Turn("user", "I am Tom, a nurse. I should stop drinking, but there is a party tonight."),
            reply(said, tokens),
        ]
        trajectories.append(Trajectory(conversation(i), "p", turns, [], float(i % 2), "vllm test", 1.0, 2.0))
    Segments(Store(str(folder), "trajectories"), TRAJECTORIES).write(pa.table(to_batch(trajectories)), 0)
    ids = [t.conversation.trajectory_id for t in trajectories]
    write_table(folder / "selection.arrow", selected({i: bool(n % 2) for n, i in enumerate(ids)}))
    return folder


@pytest.fixture(scope="module")
def trainer(pocket_model):
    t = Trainer(pocket_model, "float32", 1, load_world("pocket").probe_chats())
    t.start()
    return t


def settings(**changes):
    few = {"learning_rate": 5e-3, "batch_size": 8, "schedule": "constant", "weight_decay": 0.0}
    return TrainerSettings(**({"lora": LoraSettings(rank=4, alpha=8)} | few | changes))


def job(data, out, parent=None, version=1, seed=3, reference=None):
    return TrainJob(
        "arm",
        version,
        Store(str(data), "trajectories"),
        str(data / "selection.arrow"),
        str(parent) if parent else None,
        str(out / str(version)),
        seed,
        str(out / "tb"),
        str(reference) if reference else None,
    )


def likelihood(model, trainer, reply) -> float:
    """Log-probability of a reply, in nats, after the prompt that the round's rows have."""
    prompt = [
        {"role": "system", "content": "You are Sage, a therapist."},
        {"role": "user", "content": "I am Tom, a nurse. I should stop drinking, but there is a party tonight."},
    ]
    begin = ChatTemplate(trainer._tokenizer).ids(prompt)
    said = trainer._tokenizer(reply, add_special_tokens=False)["input_ids"]
    tokens = torch.tensor([begin + said])
    with torch.no_grad():
        logprobs = model(tokens).logits[0, :-1].float().log_softmax(-1)
    return logprobs.gather(1, tokens[0, 1:, None])[len(begin) - 1 :].sum().item()


@pytest.mark.parametrize("algorithm", ["kto", "sft"])
def test_training_moves_towards_what_users_liked_and_leaves_the_base_alone(
    trainer, round_on_disk, tmp_path, pocket_model, algorithm
):
    import peft

    before = {k: v.clone() for k, v in trainer._base.state_dict().items()}
    probe = trainer.base_logprobs()
    lineage = trainer.train(job(round_on_disk, tmp_path), settings(algorithm=algorithm, epochs=4))
    assert lineage.rows == (32 if algorithm == "kto" else 16)
    assert lineage.steps == 4 * lineage.rows // 8
    assert lineage == read_lineage(tmp_path / "1")
    assert lineage.probe_parent == probe
    assert distance(lineage.probe, probe) > 0.01
    assert trainer.base_logprobs() == probe
    assert trainer._base.state_dict().keys() == before.keys()
    assert all(torch.equal(v, before[k]) for k, v in trainer._base.state_dict().items())

    base = AutoModelForCausalLM.from_pretrained(pocket_model, dtype=torch.float32)
    good, bad = (likelihood(base, trainer, reply) for reply in (GOOD, BAD))
    policy = peft.PeftModel.from_pretrained(base, tmp_path / "1").eval()
    if algorithm == "sft":
        assert likelihood(policy, trainer, GOOD) > good + 0.5
    else:
        margin = likelihood(policy, trainer, GOOD) - likelihood(policy, trainer, BAD)
        assert margin > good - bad + 0.5
    with torch.no_grad():
        ids = torch.tensor([trainer._probe[0]])
        logprobs = policy(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0].tolist()
    assert logprobs == pytest.approx(lineage.probe[0], abs=1e-3)


def test_the_same_seed_gives_the_same_policy(trainer, round_on_disk, tmp_path):
    a = trainer.train(job(round_on_disk, tmp_path / "a"), settings())
    b = trainer.train(job(round_on_disk, tmp_path / "b"), settings())
    assert (a.probe, a.rows_sha256, a.loss) == (b.probe, b.rows_sha256, b.loss)


class Interrupted(Trainer):
    """A trainer that is torn out of a training when it reaches a step."""

    stop_at: int | None = None

    def _trl(self, *args):
        trainer, actor = super()._trl(*args), self

        class Tear(TrainerCallback):
            def on_step_begin(self, args, state, control, **_):
                if state.global_step == actor.stop_at:
                    raise ConnectionResetError("torn")

        trainer.add_callback(Tear())
        return trainer


@pytest.mark.parametrize("algorithm", ["kto", pytest.param("sft", marks=pytest.mark.slow)])
def test_a_training_that_was_cut_short_goes_on_from_its_checkpoint_to_the_same_policy(
    pocket_model, round_on_disk, tmp_path, algorithm
):
    actor = Interrupted(pocket_model, "float32", 2, load_world("pocket").probe_chats())
    actor.start()
    chosen = settings(algorithm=algorithm, epochs=2, checkpoint_steps=2 if algorithm == "kto" else 1)
    whole = actor.train(job(round_on_disk, tmp_path / "whole"), chosen)
    actor.stop_at = whole.steps - 1
    with pytest.raises(ConnectionResetError):
        actor.train(job(round_on_disk, tmp_path / "torn"), chosen)
    left = tmp_path / "torn" / ".1.checkpoints"
    assert list(left.glob("checkpoint-*/candor_complete.json"))
    torn = left / "checkpoint-99"  # one that the crash left half written
    torn.mkdir()
    (torn / "adapter_model.safetensors").write_bytes(b"half")

    again = Interrupted(pocket_model, "float32", 2, load_world("pocket").probe_chats())
    again.start()
    resumed = again.train(job(round_on_disk, tmp_path / "torn"), chosen)
    assert not left.exists()
    weights = [(tmp_path / w / "1" / "adapter_model.safetensors").read_bytes() for w in ("whole", "torn")]
    assert weights[0] == weights[1]
    assert resumed.loss == pytest.approx(whole.loss, abs=1e-6)
    assert (resumed.steps, resumed.rows_sha256, resumed.probe) == (whole.steps, whole.rows_sha256, whole.probe)
    losses = [
        {e.step: e.value for e in EventAccumulator(str(tmp_path / w / "tb")).Reload().Scalars("train/loss")}
        for w in ("whole", "torn")
    ]
    assert losses[0] == losses[1]


def test_a_checkpoint_of_another_job_is_not_gone_on_from(trainer, round_on_disk, tmp_path):
    left = tmp_path / ".1.checkpoints" / "checkpoint-2"
    left.mkdir(parents=True)
    (left / "candor_complete.json").write_text('{"job": "another"}')
    lineage = trainer.train(job(round_on_disk, tmp_path), settings())
    assert lineage.probe == trainer.train(job(round_on_disk, tmp_path / "b"), settings()).probe


def test_a_second_round_goes_on_from_the_first(trainer, round_on_disk, tmp_path):
    first = trainer.train(job(round_on_disk, tmp_path), settings())
    second = trainer.train(job(round_on_disk, tmp_path, tmp_path / "1", version=2), settings(learning_rate=1e-9))
    assert second.probe_parent == first.probe
    assert distance(second.probe, first.probe) < 1e-3
    assert second.steps_before == first.steps
    events = EventAccumulator(str(tmp_path / "tb")).Reload()
    assert [e.step for e in events.Scalars("train/loss")] == list(range(1, 9))


def first_reward(folder: Path) -> float:
    """Mean reward of the first step's desirable rows; zero where the reference is what the round starts from."""
    return EventAccumulator(str(folder / "tb")).Reload().Scalars("train/rewards/chosen")[0].value


@pytest.fixture(scope="module")
def three_rounds(trainer, round_on_disk, tmp_path_factory) -> Path:
    """Policies 1 to 3, each trained from the one before and held to the base."""
    out = tmp_path_factory.mktemp("three")
    for version in (1, 2, 3):
        trainer.train(job(round_on_disk, out, out / str(version - 1) if version > 1 else None, version), settings())
    return out


@pytest.mark.parametrize("lora", [LoraSettings(rank=4, alpha=8), pytest.param(None, marks=pytest.mark.slow)])
def test_kl_is_measured_to_the_reference_that_was_named(trainer, round_on_disk, three_rounds, tmp_path, lora):
    """After three rounds a fourth begins with rewards of zero against policy 3, which it starts from; against the base
    and against policy 1, TRL's first rewards are beta times how far policy 3 has moved from each."""
    if lora is None:
        whole = three_rounds / "whole"
        if not whole.exists():
            for version in (1, 2):
                parent = whole / str(version - 1) if version > 1 else None
                trainer.train(job(round_on_disk, whole, parent, version), settings(lora=None, learning_rate=1e-3))
        parents = {"parent": whole / "2", "fixed": whole / "1"}
    else:
        parents = {"parent": three_rounds / "3", "fixed": three_rounds / "1"}
    rewards = {}
    for name, reference in {"base": None, "previous": parents["parent"], "fixed": parents["fixed"]}.items():
        out = tmp_path / name
        made = trainer.train(
            job(round_on_disk, out, parents["parent"], 4, reference=reference), settings(lora=lora, learning_rate=1e-9)
        )
        assert (made.reference is None) == (reference is None)
        rewards[name] = first_reward(out)
    assert rewards["previous"] == pytest.approx(0, abs=1e-4)
    assert rewards["base"] > 1e-2
    assert rewards["fixed"] > 1e-2
    assert abs(rewards["fixed"] - rewards["base"]) > 1e-3


@pytest.mark.slow
def test_a_resumed_training_keeps_its_reference(pocket_model, round_on_disk, three_rounds, tmp_path):
    """A checkpoint that held the reference too would hide the adapter that is trained."""
    actor = Interrupted(pocket_model, "float32", 2, load_world("pocket").probe_chats())
    actor.start()
    chosen = settings(checkpoint_steps=2, epochs=2)
    places = {"parent": three_rounds / "3", "version": 4, "reference": three_rounds / "1"}
    actor.train(job(round_on_disk, tmp_path / "whole", **places), chosen)
    actor.stop_at = 7
    with pytest.raises(ConnectionResetError):
        actor.train(job(round_on_disk, tmp_path / "torn", **places), chosen)
    again = Interrupted(pocket_model, "float32", 2, load_world("pocket").probe_chats())
    again.start()
    again.train(job(round_on_disk, tmp_path / "torn", **places), chosen)
    weights = [(tmp_path / w / "4" / "adapter_model.safetensors").read_bytes() for w in ("whole", "torn")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("held", [*(pytest.param(h, marks=pytest.mark.slow) for h in ("base", "previous")), "fixed"])
def test_a_stacked_policy_is_one_adapter_that_does_what_all_did(
    trainer, round_on_disk, three_rounds, tmp_path, pocket_model, held
):
    import peft

    reference = {"base": None, "previous": three_rounds / "3", "fixed": three_rounds / "1"}[held]
    made = trainer.train(
        job(round_on_disk, tmp_path, three_rounds / "3", 4, reference=reference),
        settings(start="stack"),
    )
    assert json.loads((tmp_path / "4" / "adapter_config.json").read_text())["r"] == 8
    base = AutoModelForCausalLM.from_pretrained(pocket_model, dtype=torch.float32)
    policy = peft.PeftModel.from_pretrained(base, tmp_path / "4")
    assert distance(trainer._logprobs(policy), made.probe) < 1e-3
    assert distance(made.probe, made.probe_parent) > 1e-2
    assert (first_reward(tmp_path) == pytest.approx(0, abs=1e-4)) == (held == "previous")
    assert trainer.base_logprobs() == read_lineage(three_rounds / "1").probe_parent
    assert made.parents == [*read_lineage(three_rounds / "3").parents, "/".join((three_rounds / "3").parts[-3:])]


@pytest.mark.slow
def test_stacked_policies_with_rslora_keep_their_scale(trainer, round_on_disk, tmp_path, pocket_model):
    import peft

    rslora = settings(start="stack", lora=LoraSettings(rank=4, alpha=8, rslora=True), learning_rate=1e-3)
    for version in (1, 2, 3):
        parent = tmp_path / str(version - 1) if version > 1 else None
        made = trainer.train(job(round_on_disk, tmp_path, parent, version), rslora)
    base = AutoModelForCausalLM.from_pretrained(pocket_model, dtype=torch.float32)
    policy = peft.PeftModel.from_pretrained(base, tmp_path / "3")
    assert policy.peft_config["default"].r == 12
    assert distance(trainer._logprobs(policy), made.probe) < 1e-3 < distance(made.probe, made.probe_parent)


def test_a_restart_trains_the_base_and_keeps_its_place_in_the_line(trainer, round_on_disk, three_rounds, tmp_path):
    made = trainer.train(job(round_on_disk, tmp_path, three_rounds / "3", 4), settings(start="restart"))
    first, third = (read_lineage(three_rounds / v) for v in "13")
    assert made.probe == first.probe
    assert made.probe_parent == third.probe
    assert made.steps_before == third.steps_before + third.steps
    assert len(made.parents) == 3


def test_rslora_scales_by_the_root_of_the_rank(trainer, round_on_disk, tmp_path):
    trainer.train(job(round_on_disk, tmp_path), settings(lora=LoraSettings(rank=4, alpha=8, rslora=True)))
    assert json.loads((tmp_path / "1" / "adapter_config.json").read_text())["use_rslora"] is True


def test_an_adapter_for_another_base_is_refused(trainer, round_on_disk, three_rounds, tmp_path):
    stranger = tmp_path / "0"
    shutil.copytree(three_rounds / "1", stranger)
    write_lineage(stranger, replace(read_lineage(stranger), base="/models/another", base_sha256="0"))
    with pytest.raises(PolicyError, match=r"adapter of rank 4 for the base /models/another, and the base here is"):
        trainer.train(job(round_on_disk, tmp_path, stranger, 1), settings())
    with pytest.raises(PolicyError, match="another"):
        trainer.merge(str(stranger), str(tmp_path / "merged"))
    assert not (tmp_path / "merged").exists()
    trainer.train(job(round_on_disk, tmp_path, version=1), settings())  # the base was left as it was


def test_only_the_named_modules_are_trained(trainer, round_on_disk, tmp_path):
    made = trainer.train(job(round_on_disk, tmp_path), settings(lora=LoraSettings(rank=4, alpha=8, targets=["q_proj"])))
    weights = load_file(tmp_path / "1" / "adapter_model.safetensors")
    assert all(".self_attn.q_proj.lora_" in name for name in weights)
    assert made.trained == sum(w.numel() for w in weights.values())


def test_merged_weights_are_the_policy(trainer, round_on_disk, tmp_path):
    lineage = trainer.train(job(round_on_disk, tmp_path), settings())
    trainer.merge(str(tmp_path / "1"), str(tmp_path / "merged"))
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    rounding = 1e-4 if trainer._base.dtype == torch.float32 else 0.05
    assert distance(trainer._logprobs(merged), lineage.probe) < rounding
    assert distance(trainer._logprobs(merged), lineage.probe_parent) > 0.1


def test_full_fine_tuning_writes_a_whole_model(trainer, round_on_disk, tmp_path):
    changes = {"lora": None, "learning_rate": 3e-4}
    lineage = trainer.train(job(round_on_disk, tmp_path), settings(**changes))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "1", dtype=torch.float32)
    assert distance(trainer._logprobs(model), lineage.probe) < 1e-4
    assert distance(lineage.probe, trainer.base_logprobs()) > 0.01
    again = trainer.train(job(round_on_disk, tmp_path, tmp_path / "1", version=2), settings(**changes))
    assert again.probe_parent == lineage.probe


def test_rows_that_are_too_long_are_counted_and_none_left_is_an_error(trainer, round_on_disk, tmp_path):
    with pytest.raises(RowsError, match=r"longer than max_length = 16 tokens; the shortest has \d+"):
        trainer.train(job(round_on_disk, tmp_path), settings(max_length=16))
    assert not (tmp_path / "1").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),
        ({"max_length": 100_000}, "trainer.max_length 100000 is more than the 1024 tokens that the model can take"),
        (
            {"lora": LoraSettings(targets=["q_proj", "query", "lm_head"])},
            "trainer.lora.targets: the model has no linear layers query, lm_head; it has down_proj, gate_proj, k_proj, "
            "o_proj, q_proj, up_proj, v_proj",
        ),
    ],
)
def test_what_the_model_does_not_allow_is_said_before_anything_is_trained(trainer, changes, said):
    assert trainer.check(settings(**changes)) == said


@pytest.mark.slow
def test_recomputed_activations_leave_nothing_on_the_base(trainer, round_on_disk, tmp_path):
    probe = trainer.base_logprobs()
    plain = trainer.train(job(round_on_disk, tmp_path / "a"), settings())
    for k in "bc":
        made = trainer.train(job(round_on_disk, tmp_path / k), settings(gradient_checkpointing=True))
    assert distance(made.probe, plain.probe) < 1e-4
    assert not trainer._base.is_gradient_checkpointing
    assert not trainer._base.get_input_embeddings()._forward_hooks
    assert trainer.base_logprobs() == probe


def test_full_fine_tuning_leaves_no_model_in_memory_and_saves_the_config_as_it_was(trainer, round_on_disk, tmp_path):
    for algorithm in ("sft", "kto"):
        trainer.train(job(round_on_disk, tmp_path / algorithm), settings(lora=None, algorithm=algorithm))
        assert json.loads((tmp_path / algorithm / "1" / "config.json").read_text())["use_cache"] is True
    models = [m for m in gc.get_objects() if isinstance(m, LlamaForCausalLM)]
    assert models == [trainer._base]
    assert trainer._base.config.use_cache


def test_steps_say_how_fast_they_were_and_how_much_was_padding(trainer, round_on_disk, tmp_path):
    made = trainer.train(job(round_on_disk, tmp_path), settings())
    events = EventAccumulator(str(tmp_path / "tb")).Reload()
    for name in ("loss", "grad_norm", "kl", "rewards/chosen", "rewards/rejected", "tokens_per_second"):
        assert len(events.Scalars(f"train/{name}")) == made.steps, name
    assert 0 < events.Scalars("train/padding_share")[0].value < 0.2
    assert events.Scalars("train/rows")[0].value == 32
    assert events.Scalars("train/rows_dropped")[0].value == 0
    known = torch.cuda.is_available() and peak_flops(torch.cuda.get_device_name())  # of a CPU nobody knows it
    assert ("train/mfu" in events.Tags()["scalars"]) == bool(known)
