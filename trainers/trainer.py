"""The trainer actor: keeps the base model in memory between rounds and turns a round's selection into a policy.

Every rank of a trainer that has several runs this; the first also decides what is done, keeps the others in step
(`trainers.group`), and writes what comes of it.
"""

from __future__ import annotations

import gc
import hashlib
import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from actors.actor import Actor, Pulse, family_memory
from actors.models.hardware import fast_dtype
from actors.models.template import ChatTemplate
from actors.settings import TemplateSettings
from actors.storage.files import model_fingerprint, whole_folder
from actors.worlds.base import Message
from trainers.algorithms import ALGORITHMS
from trainers.arguments import arguments
from trainers.batches import even, sizes
from trainers.flops import ModelSize
from trainers.job import TrainJob
from trainers.policy import Lineage, PolicyError, write_lineage
from trainers.rows import Encoder, Rows, RowsError
from trainers.settings import TrainerSettings


class Trainer(Actor):
    """Trains policies of one run; run as a Ray actor with a second thread for `progress`."""

    def __init__(
        self,
        model: str,
        dtype: str,
        threads: int,
        probe: list[list[Message]],
        ranks: int = 1,
        waits: bool = False,
        rank: int = 0,
        template: TemplateSettings | None = None,
    ) -> None:
        """Args:
        model: The base model.
        dtype: Number format of its frozen weights under adapters; `auto` for the one that is fast here.
        probe: Chats whose log-probabilities prove delivery.
        ranks: How many train together; the first of them starts the others.
        waits: Whether the base model is kept in the machine's memory while no training is at work.
        rank: Which of them this is.
        template: What the chat template is given, as in the engine of the same model.
        """
        self._model_path = model
        self._dtype = dtype
        self._threads = threads
        self._probe_chats = probe
        self._base_logprobs: list[list[float]] = []
        self._ranks = ranks
        self._waits = waits
        self._rank = rank
        self._template_settings = template
        self._group: Any = None
        self._warming = threading.Lock()
        self._progress = (0, 0)
        self._training = False
        self._first_step: float | None = None

    def start(self) -> None:
        """Load the base model; what only training needs is imported by `warm`, or with the first training."""
        import torch
        import transformers

        if self._dtype == "auto":
            self._dtype = fast_dtype()
        if self._ranks > 1 and self._rank == 0:
            from trainers.group import Followers

            self._group = Followers(type(self), self._model_path, self._dtype, self._threads, self._ranks, self._waits)
        torch.set_num_threads(self._threads)
        transformers.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(self._model_path)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._base = self._load(self._model_path, getattr(torch, self._dtype), waiting=True)
        self._known()
        self._template = ChatTemplate(self._tokenizer, self._template_settings, self._generation_ends())
        self._probe = [self._template.ids(chat) for chat in self._probe_chats]
        if self._group:
            self._group.wait()

    def warm(self) -> None:
        """Import what training needs, which takes some seconds, while others are at work. One thread at a time: a
        second one would find modules that TRL imports lazily half imported."""
        with self._warming:
            from datasets.utils.logging import disable_progress_bar

            from trainers import adapters, watch  # noqa: F401

            for algorithm in ALGORITHMS.values():
                algorithm.trl()
            disable_progress_bar()

    def _load(self, path: str, dtype: Any, waiting: bool = False) -> Any:
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
        return model.to("cpu" if waiting and self._waits else self._device)

    def _known(self) -> None:
        """Note what training changes in the base, and what cannot be read while an adapter is on it."""
        self._use_cache = self._base.config.use_cache
        self._size = ModelSize.of(self._base)

    @contextmanager
    def _at_work(self, settings: TrainerSettings) -> Iterator[None]:
        """The base model on the device; where the GPU is the engines' too, only during the block. A sharded trainer
        keeps it in the machine's memory and trains copies."""
        import torch

        if settings.sharding == "none":
            self._base.to(self._device)
        try:
            yield
        finally:
            gc.collect()  # models of this round hold themselves in memory, by the forward that TRL gave them
            if self._device != "cpu":
                if self._waits:
                    self._base.to("cpu")
                torch.cuda.empty_cache()

    def probe(self) -> list[list[int]]:
        """Token ids of the probe texts."""
        return self._probe

    def base_logprobs(self) -> list[list[float]]:
        """Log-probabilities of the probe texts under the untouched base."""
        self._base_logprobs = self._logprobs(self._base)
        return self._base_logprobs

    def progress(self) -> tuple[int, int]:
        """Steps done and steps in all of the training at work."""
        return self._progress

    def pulse(self) -> Pulse:
        """Steps of the training at work."""
        done, total = self._progress
        doing = f"step {done:,} of {total:,}" if self._training else "waits for calls"
        return Pulse(self._training, done, doing, memory=family_memory())

    def _tell(self, done: int, total: int) -> None:
        self._progress = (done, total)
        if self._first_step is None:
            self._first_step = time.monotonic()

    def train(self, job: TrainJob, settings: TrainerSettings) -> Lineage:
        """Train policy `job.version`, save it whole and return its lineage.

        A training of the same job that was cut short continues from its last whole checkpoint.

        Raises:
            RowsError: The selection cannot be trained on.
            PolicyError: The previous policy does not fit this base.
        """
        self.warm()
        from trainers import adapters

        if settings.lora is not None:
            for policy in filter(None, (job.parent, job.reference)):
                adapters.check_base(Path(policy), self._model_path)
        self._training = True
        try:
            with self._at_work(settings):
                return self._train(job, settings)
        finally:
            self._training = False

    def _train(self, job: TrainJob, settings: TrainerSettings) -> Lineage:
        from trainers import watch

        started = time.monotonic()
        settings = settings.model_copy(update={"dtype": self._dtype})  # what `auto` is here
        self._progress, self._first_step = (0, 0), None
        rows = self.rows(job, settings)
        before = job.before()
        probe_parent = before.probe if before else self._base_logprobs or self.base_logprobs()
        job_hash = _hash([rows.fingerprint, job.parent, job.reference, job.seed, _learned(settings)])
        checkpoint = watch.last_checkpoint(job.checkpoints, job_hash)
        if self._group:
            with self._group.following(job, settings, rows, checkpoint):
                trainer = self._fit(job, settings, rows, checkpoint, job_hash)
        else:
            trainer = self._fit(job, settings, rows, checkpoint, job_hash)
        trained = trainer.model
        lineage = job.lineage(
            rows,
            settings,
            base=self._model_path,
            base_sha256=model_fingerprint(Path(self._model_path)),
            tokens=sum(step.tokens for step in sizes(rows.rows, settings)),
            trained=sum(p.numel() for p in trained.parameters() if p.requires_grad),
            steps=trainer.state.global_step,
            loss=watch.mean_loss(trainer.state.log_history),
            seconds=time.monotonic() - started,
            seconds_to_first_step=self._first_step - started,
            versions=_versions(),
            probe=self._logprobs(trained),
            probe_parent=probe_parent,
        )
        with whole_folder(Path(job.target)) as folder:
            self._save(folder, trained, job, settings)
            lineage = write_lineage(folder, lineage)
        shutil.rmtree(job.checkpoints, ignore_errors=True)
        self._restore_base(trained, settings)
        return lineage

    def follow(self, job: TrainJob, settings: TrainerSettings, rows: Rows, checkpoint: Path | None) -> None:
        """Train as a rank that is not the first."""
        self.warm()
        with self._at_work(settings):
            self._restore_base(self._fit(job, settings, rows, checkpoint, "").model, settings)

    def join(self, environment: dict[str, str]) -> None:
        """Take the place among the ranks that torch's variables name."""
        import os

        os.environ.update(environment)

    def check(self, settings: TrainerSettings) -> str | None:
        """Which setting the model does not allow, before anything is trained; None where it allows all."""
        import torch

        most = getattr(self._base.config.get_text_config(), "max_position_embeddings", None)
        if most and settings.max_length > most:
            return f"trainer.max_length {settings.max_length} is more than the {most} tokens that the model can take"
        if not self._template.end_ids:
            return f"the tokenizer of {self._model_path} has no token that ends a reply, so none could be learned"
        if settings.lora and isinstance(settings.lora.targets, list):
            linear = {n.split(".")[-1] for n, m in self._base.named_modules() if isinstance(m, torch.nn.Linear)}
            linear.discard("lm_head")  # engines serve no adapter there
            if unknown := [t for t in settings.lora.targets if t not in linear]:
                known = ", ".join(sorted(linear))
                return f"trainer.lora.targets: the model has no linear layers {', '.join(unknown)}; it has {known}"
        return None

    def rows(self, job: TrainJob, settings: TrainerSettings) -> Rows:
        """The rows of a job in tokens.

        Raises:
            RowsError: There are none that can be trained on.
        """
        rows = Encoder(self._tokenizer, self._template, settings.max_length)(job.rows(settings))
        algorithm = ALGORITHMS[settings.algorithm]
        rows = even(algorithm.prepare(rows), settings)
        algorithm.check(rows)
        if not rows.rows:
            raise RowsError(f"no row is left to train on; dropped: {dict(rows.dropped)}")
        return rows

    def _generation_ends(self) -> list[int]:
        """Tokens at which the model's own generation stops."""
        ends = self._base.generation_config.eos_token_id
        return [t for t in (ends if isinstance(ends, list) else [ends]) if t is not None]

    def merge(self, policy: str, target: str) -> None:
        """Write the base with the policy's adapter merged into it, as a whole model in the trainer's number format: a
        small update would be lost in fewer digits than an engine computes with."""
        self.warm()

        from trainers import adapters

        whole = adapters.merged(self._base, Path(policy), self._model_path)
        with whole_folder(Path(target)) as folder:
            whole.save_pretrained(folder)
            self._tokenizer.save_pretrained(folder)

    def _fit(self, job: TrainJob, s: TrainerSettings, rows: Rows, checkpoint: Path | None, job_hash: str) -> Any:
        """TRL's trainer after training."""
        sharded = s.sharding != "none"
        base = self._load(self._model_path, self._base.dtype, waiting=True) if sharded and s.lora else self._base
        trainer = self._trl(self._policy(base, job, s), self._reference(job, s), rows, job, s, job_hash)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if sharded:
            trainer.model = self._gathered(trainer, job, s)
        return trainer

    def _gathered(self, trainer: Any, job: TrainJob, s: TrainerSettings) -> Any:
        """The whole policy in the first rank's memory, put together from every rank's part; None in the others."""
        weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
        if self._rank:
            return None
        whole = self._policy(self._base, job, s)
        trained = {name for name, p in whole.named_parameters() if p.requires_grad}
        if lost := trained - weights.keys():
            raise PolicyError(f"{len(lost)} trained weights did not come back from the ranks, among them {min(lost)}")
        whole.load_state_dict({name: weights[name] for name in trained}, strict=False)
        return whole

    def _policy(self, base: Any, job: TrainJob, s: TrainerSettings) -> Any:
        """The trainable model of a round."""
        import torch

        from trainers import adapters

        torch.manual_seed(job.seed)  # the same in every arm, so they begin with the same adapter
        parent = job.parent if s.start != "restart" else None
        if s.lora is None:
            return self._load(parent or self._model_path, torch.float32, waiting=s.sharding != "none")
        if parent is None:
            return adapters.new(base, s.lora)
        if s.start == "continue":
            return adapters.saved(base, Path(parent), self._model_path)
        return adapters.new(adapters.merged(base, Path(parent), self._model_path), s.lora)

    def _reference(self, job: TrainJob, s: TrainerSettings) -> Any:
        """What the policy is held to, where that is a model of its own: with full fine-tuning, and with `stack` unless
        it is the policy before, which is what lies under the new adapter."""
        import torch

        from trainers import adapters

        sharded = s.sharding != "none"
        if not ALGORITHMS[s.algorithm].has_reference:
            return None
        if s.lora is None:
            return self._load(job.reference or self._model_path, torch.float32, waiting=sharded)
        if s.start != "stack" or job.parent is None or job.reference == job.parent:
            return None
        if job.reference:
            return adapters.merged(self._base, Path(job.reference), self._model_path)
        # A sharded model cannot be put together again, and the base is needed afterwards.
        return self._load(self._model_path, self._base.dtype, waiting=True) if sharded else self._base

    def _trl(self, policy: Any, reference: Any, rows: Rows, job: TrainJob, s: TrainerSettings, job_hash: str) -> Any:
        import torch
        import transformers

        from trainers import watch

        common = arguments(job, s, self._device, self._dtype)
        algorithm = ALGORITHMS[s.algorithm]
        trainer = algorithm.make_trainer(policy, reference, self._tokenizer, rows.rows, s, common)
        trainer.settings = s
        if algorithm.has_reference and s.lora is not None and reference is None:
            self._set_reference(trainer.model, job, s)
        trainer.remove_callback(transformers.PrinterCallback)
        device = torch.cuda.get_device_name() if self._device == "cuda" else ""
        meter = watch.Meter(self._size, rows, s, device)
        trainer.add_callback(watch.Watcher(job, rows, meter, job_hash, self._rank == 0, self._tell))
        return trainer

    def _set_reference(self, model: Any, job: TrainJob, s: TrainerSettings) -> None:
        """Set the reference that the job names. TRL froze a copy of the adapter as it is; without that copy it takes
        the model with adapters off, which is the base, or with `stack` the policy before."""
        from trainers import adapters

        model.delete_adapter("ref")
        if job.reference and not (s.start == "stack" and job.parent):
            model.load_adapter(job.reference, "ref", is_trainable=False)
            model.set_adapter(adapters.TRAINED)

    def _save(self, folder: Path, trained: Any, job: TrainJob, s: TrainerSettings) -> None:
        trained.config.use_cache = self._use_cache  # transformers trains without one, and would save it so
        if s.lora is not None:
            from trainers import adapters

            under = Path(job.parent) if s.start == "stack" and job.parent else None
            adapters.save(trained, folder, self._model_path, under)
        else:
            trained.save_pretrained(folder)
        self._tokenizer.save_pretrained(folder)

    def _restore_base(self, trained: Any, s: TrainerSettings) -> None:
        """Take adapters, TRL's patched forward and what recomputation hooked in off the base; its weights are as they
        were."""
        if trained is not None and s.lora is not None:
            trained.unload()
        base = self._base
        base.__dict__.pop("forward", None)
        base.gradient_checkpointing_disable()
        base.get_input_embeddings()._forward_hooks.clear()
        base.config.use_cache = self._use_cache
        base.requires_grad_(False)

    def _logprobs(self, model: Any) -> list[list[float]]:
        import torch

        model.eval()
        out = []
        with torch.no_grad():
            for ids in self._probe:
                tokens = torch.tensor([ids], device=model.device)
                logprobs = model(input_ids=tokens).logits[0, :-1].float().log_softmax(-1)
                out.append(logprobs.gather(1, tokens[0, 1:, None])[:, 0].tolist())
        return out


def _versions() -> dict[str, str]:
    import accelerate
    import peft
    import torch
    import transformers
    import trl

    return {m.__name__: m.__version__ for m in (torch, transformers, accelerate, trl, peft)}


def _learned(settings: TrainerSettings) -> dict[str, Any]:
    """What of the settings changes the weights; a training that was cut short may go on with other settings else."""
    return settings.model_dump(mode="json", exclude={"cpus", "gpus", "threads", "checkpoint_steps"})


def _hash(value: Any) -> str:
    """SHA-256 of a value as JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
