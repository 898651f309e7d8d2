"""`candor bench train`: our trainer actor against a script of a few lines with TRL, on the same rows.

Both have the base model in memory and turn the same rows into a saved adapter; they take turns. The share is the
script's seconds over ours, from the call to the adapter on disk, so that reading, rendering, checkpoints and the probe
count against us. The rows are questions of the pocket world, or of the canary suite for another model.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.progress import track

from actors.worlds.base import Message
from actors.worlds.models import home_of
from evals.settings import MaskSettings
from evals.suites.sources import load as load_items
from trainers.job import TrainJob
from trainers.settings import LoraSettings, TrainerSettings
from trainers.trainer import Trainer

RUNS = 5
RANK, ALPHA, RATE = 4, 8, 1e-3


@dataclass(frozen=True)
class Load:
    """What is trained, and on how much.

    Attributes:
        runs: Of either side; one more warms up.
        length: Tokens of the longest row.
    """

    model: str
    world: str
    runs: int
    conversations: int
    batch: int
    length: int


POCKET = Load("pocket", "pocket", runs=5, conversations=480, batch=32, length=256)


def load(model: str | None) -> Load:
    """The load for a model; a token of one that is not bound to a world costs a hundred times as much."""
    if model is None or home_of(model) is not None:
        return replace(POCKET, model=model or POCKET.model)
    return Load(model, "therapist", 3, conversations=48, batch=4, length=512)


def run(model: str | None = None) -> dict[str, Any]:
    """All figures; takes about three minutes on two cores with the pocket model, and a quarter of an hour with
    one of 135 million parameters."""
    import ray

    from actors.worlds import load_world
    from actors.worlds.models import resolve
    from loop.cluster import start_local_ray

    wanted, threads = load(model), len(os.sched_getaffinity(0))
    path = resolve(wanted.model)
    start_local_ray("bench")
    try:
        options = {"num_cpus": 0.5, "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(threads)}}}
        actor = ray.remote(Trainer).options(**options)
        actor = actor.remote(path, "float32", threads, load_world(wanted.world).probe_chats())
        script = ray.remote(Script).options(**options).remote(path, threads)
        ray.get([actor.start.remote(), script.start.remote()])
        with tempfile.TemporaryDirectory(prefix="candor-bench-") as folder:
            data = round_on_disk(Path(folder), wanted.conversations, path, questions(wanted))
            found = {a: _measure(actor, script, a, wanted, data, Path(folder)) for a in ("kto", "sft")}
    finally:
        ray.shutdown()
    headline = {"ratio": found["kto"]["ratio"], "goal": 0.97, "runs": found["kto"].pop("runs")}
    return {**headline, "model": wanted.model, **found}


def _measure(actor: Any, script: Any, algorithm: str, wanted: Load, data: Path, folder: Path) -> dict[str, Any]:
    import ray

    from actors.storage.store import Store
    from trainers.policy import read_lineage

    settings = TrainerSettings(
        algorithm=algorithm,
        lora=LoraSettings(rank=RANK, alpha=ALPHA),
        batch_size=wanted.batch,
        learning_rate=RATE,
        max_length=wanted.length,
    )
    rows = _messages(data, algorithm)
    seconds: dict[str, list[float]] = {"ours": [], "script": []}
    starts = []
    for k in track(range(wanted.runs + 1), algorithm, transient=True):
        target = folder / f"{algorithm}-{k}"
        store = Store(str(data), "trajectories")
        job = TrainJob("bench", 1, store, str(data / "selection.arrow"), None, str(target / "1"), k, str(target / "tb"))
        took = {"ours": _timed(lambda j=job: ray.get(actor.train.remote(j, settings)))}
        took["script"] = _timed(lambda t=str(target): ray.get(script.train.remote(rows, settings, t)))
        lineage = read_lineage(target / "1")
        if k:  # the first round imports what the first round needs
            starts.append(lineage.seconds_to_first_step)
            for name, s in took.items():
                seconds[name].append(s)
    ratios = [s / o for s, o in zip(seconds["script"], seconds["ours"], strict=True)]
    ours = statistics.median(seconds["ours"])
    return {
        "ratio": round(statistics.median(ratios), 3),
        "runs": [round(r, 3) for r in ratios],
        "rows": lineage.rows,
        "rows_per_second": round(lineage.rows / ours, 1),
        "tokens_per_second": round(lineage.tokens / ours),
        "seconds": {name: round(statistics.median(s), 2) for name, s in seconds.items()},
        "seconds_to_first_step": round(statistics.median(starts), 3),
    }


def _timed(work: Any) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


class Script:
    """What a researcher would write: a Ray actor only so that it has a process of its own, as ours has."""

    def __init__(self, model: str, threads: int) -> None:
        self._path, self._threads = model, threads

    def start(self) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(self._threads)
        self._tokenizer = AutoTokenizer.from_pretrained(self._path)
        self._model = AutoModelForCausalLM.from_pretrained(self._path, dtype=torch.float32)

    def train(self, rows: list[dict], settings: TrainerSettings, out: str) -> None:
        import peft
        from datasets import Dataset
        from trl import KTOConfig, KTOTrainer, SFTConfig, SFTTrainer

        s = settings
        common = {
            "output_dir": out,
            "per_device_train_batch_size": s.batch_size,
            "learning_rate": s.learning_rate,
            "num_train_epochs": 1,
            "max_length": s.max_length,
            "gradient_checkpointing": False,
            "use_cpu": True,
            "bf16": False,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": [],
            "disable_tqdm": True,
        }
        shape = {"r": s.lora.rank, "lora_alpha": s.lora.alpha, "target_modules": "all-linear"}
        lora = peft.LoraConfig(**shape, task_type="CAUSAL_LM")
        make, config = (KTOTrainer, KTOConfig) if s.algorithm == "kto" else (SFTTrainer, SFTConfig)
        data, options = Dataset.from_list(rows), {"processing_class": self._tokenizer, "peft_config": lora}
        trainer = make(self._model, args=config(**common), train_dataset=data, **options)
        trainer.train()
        trainer.save_model(f"{out}/script")
        self._model = trainer.model.unload()
        self._model.__dict__.pop("forward", None)  # TRL's own


def questions(wanted: Load) -> list[Sequence[Message]]:
    """Chats that end in a question or in an answer."""
    from actors.worlds import load_world

    if wanted.world == "pocket":
        return [i.statement for i in load_world("pocket").honesty_items("mask", wanted.conversations, 0)]
    return [i.prompt for i in load_items("canary_mask", MaskSettings(), None, 0).items]


def round_on_disk(folder: Path, conversations: int, model: str, chats: Sequence[Sequence[Message]]) -> Path:
    """A round of conversations on disk: each chat is answered with the last words of the next one.

    Args:
        model: Folder of the model, for its tokenizer.
    """
    from transformers import AutoTokenizer

    from actors.storage.segments import Segments, write_table
    from actors.storage.store import Store
    from actors.storage.trajectory import SCHEMA, Conversation, Trajectory, Turn, to_batch
    from loop.config.schema import SelectionSettings
    from loop.select import select

    tokenizer = AutoTokenizer.from_pretrained(model)
    made = []
    for n in range(conversations):
        chat, said = chats[n % len(chats)], chats[(n + 1) % len(chats)][-1]["content"]
        tokens = [*tokenizer(said, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        reply = Turn("assistant", said, token_ids=tokens, finish_reason="stop")
        about = Conversation(f"bench-{n}", "bench", "bench", 0, n, "candor/policy-0", "drinking", "benign", n)
        turns = [*(Turn(m["role"], m["content"]) for m in chat), reply]
        made.append(Trajectory(about, "p", turns, [], float(n), "bench", 1.0, 2.0))
    table = pa.table(to_batch(made))
    Segments(Store(str(folder), "trajectories"), SCHEMA).write(table, 0)
    write_table(folder / "selection.arrow", select(table, SelectionSettings(top=0.5, bottom=0.5), 0))
    return folder


def _messages(data: Path, algorithm: str) -> list[dict[str, Any]]:
    """The same rows as TRL takes them from people."""
    from actors.storage.store import Store

    settings = TrainerSettings(algorithm=algorithm)
    job = TrainJob("bench", 1, Store(str(data), "trajectories"), str(data / "selection.arrow"), None, "", 0, "")
    out = []
    for row in job.rows(settings).rows:
        *prompt, said = row.messages
        out.append({"prompt": prompt, "completion": [said]} | ({"label": row.label} if algorithm == "kto" else {}))
    return out
