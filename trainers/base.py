"""The trainer actor: keeps the base model in memory between rounds and turns a round's selection into a policy."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.buffer import RoundData
from actors.chat import prompt_ids
from actors.files import flush_files, whole_file, whole_folder
from actors.lifeline import Actor
from actors.segments import read_table
from actors.store import Store
from actors.worlds.base import Message
from trainers.policy import Lineage, read_lineage, write_lineage
from trainers.rows import Row, RowsError, training_rows
from trainers.settings import TrainerSettings

CHECKPOINT_DONE = "candor_complete.json"
"""Written last into a checkpoint, with the job that it belongs to; a checkpoint without it is half written."""


@dataclass(frozen=True)
class TrainJob:
    """One round's training.

    Attributes:
        trajectories, selection: What to train on.
        parent: Directory of the policy to go on from; None for the untouched base.
        target: Directory of the new policy.
        tensorboard: Folder of the event files.
    """

    arm: str
    version: int
    trajectories: Store
    selection: str
    parent: str | None
    target: str
    seed: int
    tensorboard: str

    @property
    def checkpoints(self) -> Path:
        """Where a training that is under way keeps its state."""
        target = Path(self.target)
        return target.with_name(f".{target.name}.checkpoints")

    def rows(self, algorithm: str) -> list[Row]:
        """What to train on, in its order."""
        selection = read_table(Path(self.selection))
        trajectories = RoundData(self.trajectories).rows(selection["trajectory_id"].to_pylist())
        return training_rows(trajectories, selection, algorithm, self.seed)

    def before(self) -> Lineage | None:
        """The lineage of the policy to go on from; None for the untouched base."""
        return read_lineage(Path(self.parent)) if self.parent else None

    def lineage(self, rows: list[Row], settings: TrainerSettings, **rest: Any) -> Lineage:
        """The lineage of the policy that comes of it; `rest` are the fields that training finds out."""
        return Lineage(
            arm=self.arm,
            version=self.version,
            parent="/".join(Path(self.parent).parts[-3:]) if self.parent else None,
            algorithm=settings.algorithm,
            seed=self.seed,
            rows=len(rows),
            rows_sha256=content_hash(rows),
            settings=settings.model_dump(),
            **rest,
        )


def content_hash(value: Any) -> str:
    """SHA-256 of a value as JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


class Trainer(Actor):
    """Trains policies of one run; run as a Ray actor with a second thread for `progress`."""

    def __init__(self, model: str, dtype: str, threads: int, probe: list[list[Message]]) -> None:
        """Args:
        model: The base model.
        dtype: Number format of its frozen weights under adapters.
        probe: Chats whose log-probabilities prove delivery.
        """
        self._model_path = model
        self._dtype = dtype
        self._threads = threads
        self._probe_chats = probe
        self._progress = (0, 0)

    def start(self) -> None:
        """Import the libraries and load the base model."""
        import peft  # noqa: F401
        import torch
        import transformers
        import trl  # noqa: F401
        from datasets.utils.logging import disable_progress_bar

        torch.set_num_threads(self._threads)
        transformers.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        disable_progress_bar()
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(self._model_path)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._base = self._load(self._model_path, getattr(torch, self._dtype))
        self._probe = [prompt_ids(self._tokenizer, chat) for chat in self._probe_chats]

    def _load(self, path: str, dtype: Any) -> Any:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(path, dtype=dtype).to(self._device)

    def probe(self) -> list[list[int]]:
        """Token ids of the probe texts."""
        return self._probe

    def base_logprobs(self) -> list[list[float]]:
        """Log-probabilities of the probe texts under the untouched base."""
        return self._logprobs(self._base)

    def progress(self) -> tuple[int, int]:
        """Steps done and steps in all of the training at work."""
        return self._progress

    def train(self, job: TrainJob, settings: TrainerSettings) -> Lineage:
        """Train policy `job.version`, save it whole and return its lineage.

        A training of the same job that was cut short goes on from its last whole checkpoint.

        Raises:
            RowsError: The selection cannot be trained on.
        """
        started = time.monotonic()
        s = settings
        self._progress = (0, 0)
        rows = job.rows(s.algorithm)
        fits = [r for r in rows if len(prompt_ids(self._tokenizer, r["prompt"])) < s.max_length]
        if not fits:
            raise RowsError(f"every prompt of the selection is longer than max_length = {s.max_length} tokens")
        before = job.before()
        probe_parent = before.probe if before else self.base_logprobs()

        steps_before = before.steps_before + before.steps if before else 0
        policy, reference = self._policy(job.parent, s, job.seed)
        job_hash = content_hash([fits, job.parent, job.seed, s.model_dump(mode="json")])
        checkpoint = _last_checkpoint(job.checkpoints, job_hash)
        trainer = self._trl(policy, reference, fits, job, s, steps_before, job_hash)
        result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        trained = trainer.model
        lineage = job.lineage(
            fits,
            s,
            base=self._model_path,
            rows_cut=len(rows) - len(fits),
            steps_before=steps_before,
            steps=trainer.state.global_step,
            loss=_mean_loss(trainer.state.log_history) or result.training_loss,
            seconds=time.monotonic() - started,
            versions=self._versions(),
            probe=self._logprobs(trained),
            probe_parent=probe_parent,
        )
        with whole_folder(Path(job.target)) as folder:
            self._save(folder, trained, s, lineage)
        shutil.rmtree(job.checkpoints, ignore_errors=True)
        self._restore_base(trained, s)
        return lineage

    def merge(self, policy: str, target: str) -> None:
        """Write the base with the policy's adapter merged into it, as a whole model in bfloat16."""
        import peft
        import torch

        whole = peft.PeftModel.from_pretrained(copy.deepcopy(self._base), policy).merge_and_unload()
        with whole_folder(Path(target)) as folder:
            whole.to(torch.bfloat16).save_pretrained(folder)
            self._tokenizer.save_pretrained(folder)

    def _policy(self, parent: str | None, s: TrainerSettings, seed: int) -> tuple[Any, Any]:
        """The trainable model of a round and, for full fine-tuning, its frozen reference."""
        import peft
        import torch

        if s.lora is None:
            policy = self._load(parent or self._model_path, torch.float32)
            if s.algorithm != "kto":
                return policy, None
            held_to = parent if parent and s.reference == "previous" else self._model_path
            return policy, self._load(held_to, torch.float32)
        if parent:
            return peft.PeftModel.from_pretrained(self._base, parent, is_trainable=True), None
        config = peft.LoraConfig(
            r=s.lora.rank,
            lora_alpha=s.lora.alpha,
            lora_dropout=0.0,
            target_modules=s.lora.targets,
            task_type="CAUSAL_LM",
        )
        torch.manual_seed(seed)  # the same in every arm, so they begin with the same adapter
        return peft.get_peft_model(self._base, config), None

    def _trl(
        self,
        policy: Any,
        reference: Any,
        rows: list[Row],
        job: TrainJob,
        s: TrainerSettings,
        steps_before: int,
        job_hash: str,
    ) -> Any:
        from trainers import kto, sft

        common = {
            "output_dir": str(job.checkpoints),
            "per_device_train_batch_size": s.batch_size,
            "num_train_epochs": s.epochs,
            "learning_rate": s.learning_rate,
            "lr_scheduler_type": s.schedule,
            "weight_decay": s.weight_decay,
            "max_length": s.max_length,
            "gradient_checkpointing": s.gradient_checkpointing,
            "bf16": self._device != "cpu" and s.dtype == "bfloat16",
            "use_cpu": self._device == "cpu",
            "dataloader_pin_memory": self._device != "cpu",
            "seed": job.seed % 2**31,
            "data_seed": job.seed % 2**31,
            "logging_steps": 1,
            "save_strategy": "steps",
            "save_steps": s.checkpoint_steps,
            "save_total_limit": 2,
            "report_to": [],
            "disable_tqdm": True,
        }
        make = {"kto": kto, "sft": sft}[s.algorithm].make_trainer
        trainer = make(policy, reference, self._tokenizer, rows, s, common)
        trainer.remove_callback(_printer())
        trainer.add_callback(self._watcher(job, steps_before, job_hash))
        return trainer

    def _watcher(self, job: TrainJob, steps_before: int, job_hash: str) -> Any:
        """A callback that counts steps, marks whole checkpoints and writes every logged number to TensorBoard."""
        from torch.utils.tensorboard import SummaryWriter
        from transformers import TrainerCallback

        actor = self

        class Watcher(TrainerCallback):
            def on_train_begin(self, args, state, control, **_):
                # What a training that was cut short wrote beyond its checkpoint is written again.
                self.writer = SummaryWriter(job.tensorboard, purge_step=steps_before + state.global_step + 1)
                actor._progress = (state.global_step, state.max_steps)

            def on_step_end(self, args, state, control, **_):
                actor._progress = (state.global_step, state.max_steps)
                if state.global_step >= state.max_steps:  # the policy itself is saved next
                    control.should_save = False
                return control

            def on_save(self, args, state, control, **_):
                saved = job.checkpoints / f"checkpoint-{state.global_step}"
                flush_files(saved)
                with whole_file(saved / CHECKPOINT_DONE) as file:
                    file.write(json.dumps({"job": job_hash}).encode())

            def on_log(self, args, state, control, logs=None, **_):
                for name, value in (logs or {}).items():
                    if isinstance(value, int | float):
                        self.writer.add_scalar(f"train/{name}", value, steps_before + state.global_step)

            def on_train_end(self, args, state, control, **_):
                self.writer.close()

        return Watcher()

    def _save(self, folder: Path, trained: Any, s: TrainerSettings, lineage: Lineage) -> None:
        if s.lora is not None:
            trained.save_pretrained(folder, selected_adapters=["default"])
        else:
            trained.save_pretrained(folder)
        self._tokenizer.save_pretrained(folder)
        write_lineage(folder, lineage)

    def _restore_base(self, trained: Any, s: TrainerSettings) -> None:
        """Take the adapter and TRL's patched forward off the base; its weights are as they were."""
        if s.lora is not None:
            self._base = trained.unload()
            self._base.__dict__.pop("forward", None)
            self._base.requires_grad_(False)

    def _logprobs(self, model: Any) -> list[list[float]]:
        import torch

        model.eval()
        out = []
        with torch.no_grad():
            for ids in self._probe:
                tokens = torch.tensor([ids], device=self._device)
                logprobs = model(input_ids=tokens).logits[0, :-1].float().log_softmax(-1)
                out.append(logprobs.gather(1, tokens[0, 1:, None])[:, 0].tolist())
        return out

    def _versions(self) -> dict[str, str]:
        import peft
        import torch
        import transformers
        import trl

        return {m.__name__: m.__version__ for m in (torch, transformers, trl, peft)}


def _last_checkpoint(folder: Path, job_hash: str) -> Path | None:
    """The last whole checkpoint of this job; what is torn or another job's is removed."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    whole = [p for p in found if (p / CHECKPOINT_DONE).exists()]
    mine = [p for p in whole if json.loads((p / CHECKPOINT_DONE).read_text())["job"] == job_hash]
    for other in set(found) - set(mine[-1:]):
        shutil.rmtree(other)
    return mine[-1] if mine else None


def _mean_loss(history: list[dict[str, Any]]) -> float | None:
    """Mean loss over all steps; after a resume TRL's own mean leaves out what came before."""
    losses = [entry["loss"] for entry in history if "loss" in entry]
    return sum(losses) / len(losses) if losses else None


def _printer() -> type:
    from transformers import PrinterCallback

    return PrinterCallback
