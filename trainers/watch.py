"""What is kept while a training is under way: its progress, its figures, and checkpoints that are whole."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from actors.metrics import open_metrics
from actors.storage.files import flush_files, whole_file
from trainers.batches import sizes
from trainers.flops import ModelSize, peak_flops, step_flops
from trainers.job import TrainJob
from trainers.rows import Rows
from trainers.settings import TrainerSettings

CHECKPOINT_DONE = "candor_complete.json"
"""Written last into a checkpoint, with the job that it belongs to; a checkpoint without it is half written."""


class Watcher(TrainerCallback):
    """Counts steps and marks whole checkpoints; the first rank's also logs every number."""

    def __init__(
        self, job: TrainJob, rows: Rows, meter: Meter, job_hash: str, first: bool, told: Callable[[int, int], None]
    ) -> None:
        """Args:
        job_hash: What a checkpoint belongs to.
        first: Whether this is the first rank.
        told: Called with the steps done and the steps in all, at the beginning and after each step.
        """
        self._job, self._rows, self._meter, self._job_hash, self._first = job, rows, meter, job_hash, first
        self._told = told
        before = job.before()
        self._steps_before = before.steps_before + before.steps if before else 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._told(state.global_step, state.max_steps)
        self._meter.begin()
        if self._first:
            begin = self._steps_before + 1
            # What a training that was cut short wrote beyond its checkpoint is written again.
            self._metrics = open_metrics(Path(self._job.metrics), begin + state.global_step)
            self._metrics.log("train/rows", len(self._rows.rows), begin)
            self._metrics.log("train/rows_dropped", self._rows.dropped.total(), begin)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        self._meter.end(state.global_step)
        self._told(state.global_step, state.max_steps)
        if state.global_step >= state.max_steps:  # the policy itself is saved next
            control.should_save = False
        return control

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if torch.distributed.is_initialized():  # every rank writes a part
            torch.distributed.barrier()
        if self._first:
            saved = self._job.checkpoints / f"checkpoint-{state.global_step}"
            flush_files(saved)
            with whole_file(saved / CHECKPOINT_DONE) as file:
                file.write(json.dumps({"job": self._job_hash}).encode())

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if not self._first:
            return
        for name, value in {**(logs or {}), **self._meter.figures()}.items():
            if isinstance(value, int | float):
                self._metrics.log(f"train/{name}", value, self._steps_before + state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._first:
            self._metrics.close()


class Meter:
    """Tokens a second, padding and utilisation of each step.

    Args:
        model: The size of the base.
        device: Name of the GPU; empty on a CPU.
    """

    def __init__(self, model: ModelSize, rows: Rows, settings: TrainerSettings, device: str) -> None:
        self._sizes = sizes(rows.rows, settings)
        self._model = model
        self._frozen = settings.lora is not None
        self._device = device
        self._peak = (peak_flops(device) or 0) * settings.ranks
        self._figures: dict[str, float] = {}
        self._began = 0.0

    def begin(self) -> None:
        self._began = time.perf_counter()

    def end(self, step: int) -> None:
        """A step takes from the end of the one before it, so that rows are put together in its time too."""
        if self._device:
            torch.cuda.synchronize()
        now = time.perf_counter()
        seconds, self._began = now - self._began, now
        size = self._sizes[(step - 1) % len(self._sizes)]
        self._figures = {
            "tokens_per_second": size.tokens / seconds,
            "rows_per_second": size.rows / seconds,
            "padding_share": 1 - size.tokens / size.padded,
        }
        if self._peak:
            self._figures["mfu"] = step_flops(size, self._model, self._frozen) / seconds / self._peak

    def figures(self) -> dict[str, float]:
        """Of the last step; once."""
        figures, self._figures = self._figures, {}
        return figures


def last_checkpoint(folder: Path, job_hash: str) -> Path | None:
    """The last whole checkpoint of this job; what is torn or another job's is removed."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    whole = [p for p in found if (p / CHECKPOINT_DONE).exists()]
    mine = [p for p in whole if json.loads((p / CHECKPOINT_DONE).read_text())["job"] == job_hash]
    for other in set(found) - set(mine[-1:]):
        shutil.rmtree(other)
    return mine[-1] if mine else None


def mean_loss(history: list[dict[str, Any]]) -> float:
    """Mean loss over all steps; after a resume TRL's own mean leaves out what came before."""
    losses = [entry["loss"] for entry in history if "loss" in entry]
    return sum(losses) / len(losses)
