"""Training is TRL's, exactly: the same losses as a script of a few lines, on several architectures."""

from pathlib import Path

import peft
import pytest
import torch
import transformers
from datasets import Dataset
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, SFTConfig, SFTTrainer

from actors.storage.store import Store
from actors.worlds import load_world
from trainers.job import TrainJob
from trainers.settings import LoraSettings, TrainerSettings
from trainers.trainer import Trainer

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
BATCH, SEED = 8, 11


@pytest.fixture(
    scope="module",
    params=["Llama", *(pytest.param(m, marks=pytest.mark.slow) for m in ("pocket", "Qwen2", "Qwen3"))],
)
def model(request, pocket_model, tmp_path_factory) -> str:
    """The pocket model, or one of random weights of another architecture with its tokenizer."""
    if request.param == "pocket":
        return pocket_model
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = AutoTokenizer.from_pretrained(pocket_model)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = getattr(transformers, f"{request.param}Config")(vocab_size=len(tokenizer), **SMALL, **ends)
    torch.manual_seed(0)
    getattr(transformers, f"{request.param}ForCausalLM")(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def trainer(model) -> Trainer:
    made = Trainer(model, "float32", 1, load_world("pocket").probe_chats())
    made.start()
    return made


def job(data: Path, out: Path) -> TrainJob:
    store = Store(str(data), "trajectories")
    return TrainJob("a", 1, store, str(data / "selection.arrow"), None, str(out / "1"), SEED, str(out / "tb"))


def settings(**changes) -> TrainerSettings:
    few = {"learning_rate": 5e-3, "batch_size": BATCH, "epochs": 2, "max_length": 256}
    return TrainerSettings(**({"lora": LoraSettings(rank=4, alpha=8)} | few | changes))


def script(algorithm: str, model: str, rows: list[dict], out: Path, lora: bool) -> list[float]:
    """Losses of each step of a bare run of TRL."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    torch.manual_seed(SEED)
    if lora:
        config = peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
        policy = peft.get_peft_model(policy, config)
    common = {
        "output_dir": str(out),
        "per_device_train_batch_size": BATCH,
        "num_train_epochs": 2,
        "learning_rate": 5e-3,
        "weight_decay": 0.01,
        "max_length": 256,
        "train_sampling_strategy": "sequential",
        "gradient_checkpointing": False,
        "use_cpu": True,
        "bf16": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }
    kinds = {"sft": (SFTTrainer, SFTConfig), "kto": (KTOTrainer, KTOConfig), "dpo": (DPOTrainer, DPOConfig)}
    make, configure = kinds[algorithm]
    options = {"completion_only_loss": True} if algorithm == "sft" else {"beta": 0.1}
    bare = make(policy, args=configure(**common, **options), train_dataset=Dataset.from_list(rows),
                processing_class=tokenizer)  # fmt: skip
    bare.train()
    return [entry["loss"] for entry in bare.state.log_history if "loss" in entry]


def as_messages(trainer: Trainer, data: Path, out: Path, s: TrainerSettings) -> list[dict]:
    """The rows of a job as TRL takes them from people."""
    texts = {r.source: r for r in job(data, out).rows(s).rows}

    def row(source: str) -> dict:
        *before, said = texts[source].messages
        return {"prompt": before, "completion": [said], "label": texts[source].label}

    if s.algorithm != "dpo":
        return [row(r.source) for r in trainer.rows(job(data, out), s).rows]
    found = []
    for pair in trainer.rows(job(data, out), s).rows:
        chosen, rejected = map(row, pair.source.split())
        found.append({"prompt": chosen["prompt"], "chosen": chosen["completion"], "rejected": rejected["completion"]})
    return found


@pytest.mark.parametrize("algorithm", ["kto", "sft", "dpo"])
@pytest.mark.parametrize("lora", [True, False])
def test_losses_are_those_of_a_bare_run_of_trl(model, trainer, data, tmp_path, algorithm, lora):
    s = settings(algorithm=algorithm, **({} if lora else {"lora": None}))
    made = trainer.train(job(data, tmp_path), s)
    ours = [e.value for e in EventAccumulator(str(tmp_path / "tb")).Reload().Scalars("train/loss")]
    bare = script(algorithm, model, as_messages(trainer, data, tmp_path, s), tmp_path / "bare", lora)
    assert len(ours) == made.steps == 2 * {"kto": 5, "sft": 3, "dpo": 3}[algorithm]
    assert ours == pytest.approx(bare, abs=1e-5)
    assert ours[0] != pytest.approx(ours[-1], abs=1e-3)


@pytest.mark.parametrize("algorithm", ["kto", "sft", "dpo"])
def test_exactly_the_intended_weights_change(model, trainer, data, tmp_path, algorithm):
    before = {name: w.clone() for name, w in trainer._base.state_dict().items()}
    adapter = trainer.train(job(data, tmp_path), settings(algorithm=algorithm))
    assert trainer._base.state_dict().keys() == before.keys()
    assert all(torch.equal(w, before[name]) for name, w in trainer._base.state_dict().items())
    saved = load_file(tmp_path / "1" / "adapter_model.safetensors")
    linear = {n for n, m in trainer._base.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"}
    assert {n.removeprefix("base_model.model.").split(".lora_")[0] for n in saved} == linear
    assert all(w.any() for name, w in saved.items() if "lora_B" in name), "an adapter that learned nothing"
    assert adapter.trained == sum(w.numel() for w in saved.values())

    whole = trainer.train(job(data, tmp_path / "whole"), settings(algorithm=algorithm, lora=None))
    trained = AutoModelForCausalLM.from_pretrained(tmp_path / "whole" / "1", dtype=torch.float32)
    assert whole.trained == sum(p.numel() for p in trained.parameters())
    for name, weight in trained.named_parameters():
        assert not torch.equal(weight, before[name].cpu()), name
