"""`candor bench sync`: from "policy saved" to the first token of the new policy on every replica, and the parts of it.

The path is the one that a run takes (`loop.publish`), proof included. The overhead is what that takes beyond the
slowest engine's own call that loads the weights.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.progress import track

RUNS = 5
REPLICAS = 2


def run() -> dict[str, Any]:
    """Figures of adapters and of merged weights; the headline is the overhead of adapters in seconds."""
    import ray

    from actors.engine import Engine, engine_environment
    from actors.settings import EngineSettings
    from actors.worlds import load_world
    from actors.worlds.models import resolve
    from loop.cluster import start_local_ray
    from trainers.trainer import Trainer

    model, settings = resolve("pocket"), EngineSettings()
    environment = {"env_vars": engine_environment(threads=1)}
    start_local_ray("bench")
    found: dict[str, Any] = {}
    try:
        trainer = ray.remote(Trainer).options(num_cpus=0.1, max_concurrency=2)
        trainer = trainer.remote(model, "auto", 1, load_world("pocket").probe_chats())
        ray.get(trainer.start.remote())
        for sync, rank in (("lora", 8), ("merged", None)):
            make = ray.remote(Engine).options(num_cpus=0.1, runtime_env=environment).remote
            engines = [make(model, settings, rank) for _ in range(REPLICAS)]
            ray.get([e.start.remote() for e in engines])
            with tempfile.TemporaryDirectory(prefix="candor-bench-") as folder:
                found[sync] = _measure(trainer, engines, model, sync, Path(folder))
            ray.get([e.stop.remote() for e in engines])
            for engine in engines:
                ray.kill(engine)
    finally:
        ray.shutdown()
    return {"ratio": found["lora"]["overhead"], "goal": 0.05, "runs": found["lora"].pop("runs"), **found}


def _measure(trainer: Any, engines: list[Any], model: str, sync: str, folder: Path) -> dict[str, Any]:
    import ray

    from actors.engine import policy_name
    from actors.models.chat import Sampling
    from actors.storage.store import Store
    from loop.bench.train import POCKET, questions, round_on_disk
    from loop.publish import PolicyDelivery, deliver
    from trainers.job import TrainJob
    from trainers.settings import LoraSettings, TrainerSettings

    chat, sampling = [{"role": "user", "content": "Hello."}], Sampling(1, 0.0, 0)
    settings = TrainerSettings(algorithm="sft", lora=LoraSettings(rank=4, alpha=8), learning_rate=1e-3)
    data = round_on_disk(folder, 64, model, questions(POCKET))
    parts: list[dict[str, float]] = []
    parent = None
    for version in track(range(1, RUNS + 2), sync, transient=True):
        policy = folder / str(version)
        store, selection = Store(str(data), "trajectories"), str(data / "selection.arrow")
        before = str(parent) if parent else None
        job = TrainJob("bench", version, store, selection, before, str(policy), version, str(folder / "tb"))
        ray.get(trainer.train.remote(job, settings))
        delivery = PolicyDelivery(version, policy, model, sync, folder / f"m{version}" if sync == "merged" else None)
        started = time.perf_counter()
        made = deliver(delivery, trainer, engines, 0.5)
        told = time.perf_counter()
        ray.get([e.reply.remote(policy_name(version), chat, sampling) for e in engines])
        ended = time.perf_counter()
        took = {**made.seconds, "first token": ended - told, "all": ended - started}
        parts.append({**took, "overhead": took["publish"] - took["load"]})
        parent = policy
    measured = parts[1:]  # the first policy warms everything up
    return {
        "overhead": round(statistics.median(p["overhead"] for p in measured), 4),
        "runs": [round(p["overhead"], 4) for p in measured],
        "seconds": {name: round(statistics.median(p[name] for p in measured), 4) for name in measured[0]},
        "replicas": len(engines),
    }
