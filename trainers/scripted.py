"""The trainer of `model: scripted`: what it makes of its rows is a hash, so the same rows give the same policy."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path

from actors.actor import Actor, Pulse, family_memory
from actors.scripted import base_weights, logprobs, probe_texts, read_weights, write_weights
from actors.storage.files import whole_file, whole_folder
from actors.worlds.base import Message
from trainers.job import TrainJob
from trainers.policy import Lineage, write_lineage
from trainers.settings import TrainerSettings

STEP_SECONDS = 0.05
"""A step takes this long, so that a training can be interrupted."""


class ScriptedTrainer(Actor):
    """Trains in the place of `trainers.trainer.Trainer`; run as a Ray actor with a second thread for `progress`."""

    def __init__(
        self, model: str, dtype: str, threads: int, probe: list[list[Message]], *_: object, **__: object
    ) -> None:
        self._probe = probe_texts(probe)
        self._progress = (0, 0)

    def start(self) -> None:
        """There is nothing to load."""

    def warm(self) -> None:
        """There is nothing to import."""

    def probe(self) -> list[list[int]]:
        return self._probe

    def base_logprobs(self) -> list[list[float]]:
        return logprobs(base_weights(), self._probe)

    def check(self, settings: TrainerSettings) -> None:
        """Everything is all right."""

    def pulse(self) -> Pulse:
        """Steps of the training at work."""
        done, total = self._progress
        return Pulse(done < total, done, f"step {done:,} of {total:,}", memory=family_memory())

    def progress(self) -> tuple[int, int]:
        return self._progress

    def train(self, job: TrainJob, settings: TrainerSettings) -> Lineage:
        """Fold the rows into the parent's fingerprint, a batch a step, with a checkpoint after each."""
        started = time.monotonic()
        rows = job.rows(settings)
        parent = read_weights(Path(job.parent)) if job.parent else base_weights()
        texts = list(map(asdict, rows.rows))
        batches = [texts[i : i + settings.batch_size] for i in range(0, len(texts), settings.batch_size)]
        checkpoint = job.checkpoints / "state.json"
        state = {"job": f"{rows.fingerprint} {parent} {job.seed}", "step": 0, "fingerprint": parent}
        if checkpoint.exists() and (found := json.loads(checkpoint.read_text()))["job"] == state["job"]:
            state = found
        while state["step"] < len(batches):
            self._progress = (state["step"], len(batches))
            time.sleep(STEP_SECONDS)
            batch = json.dumps([state["fingerprint"], batches[state["step"]]], sort_keys=True)
            state |= {"step": state["step"] + 1, "fingerprint": hashlib.sha256(batch.encode()).hexdigest()}
            with whole_file(checkpoint) as file:
                file.write(json.dumps(state).encode())
        lineage = job.lineage(
            rows,
            settings,
            base="scripted",
            base_sha256="",
            tokens=0,
            trained=0,
            steps=len(batches),
            loss=0.0,
            seconds_to_first_step=0.0,
            seconds=time.monotonic() - started,
            versions={},
            probe=logprobs(state["fingerprint"], self._probe),
            probe_parent=logprobs(parent, self._probe),
        )
        self._progress = (len(batches), len(batches))
        with whole_folder(Path(job.target)) as folder:
            write_weights(folder, state["fingerprint"])
            lineage = write_lineage(folder, lineage)
        shutil.rmtree(job.checkpoints, ignore_errors=True)
        return lineage

    def merge(self, policy: str, target: str) -> None:
        """Write the policy's fingerprint as whole weights."""
        with whole_folder(Path(target)) as folder:
            write_weights(folder, read_weights(Path(policy)))
