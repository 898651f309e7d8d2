"""`candor bench adapter`: what an active LoRA adapter costs an engine."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

RUNS = 5
REQUESTS = 512
TOKENS = 32


def run() -> dict[str, Any]:
    """How much of its throughput an engine keeps while it serves a LoRA adapter instead of merged weights.

    Two engines on one thread each, one with an active adapter and one without, take turns with the same requests.
    """
    import ray

    from actors.engine import BASE_POLICY, Engine, engine_environment, policy_name
    from actors.models.chat import Sampling
    from actors.settings import EngineSettings
    from actors.worlds import load_world
    from actors.worlds.models import resolve
    from loop.cluster import start_local_ray

    model, settings = resolve("pocket"), EngineSettings()
    environment = {"env_vars": engine_environment(threads=1)}
    chats = [i.statement for i in load_world("pocket").honesty_items("mask", REQUESTS, 0)]
    start_local_ray("bench")
    try:
        make = ray.remote(Engine).options(num_cpus=0.5, runtime_env=environment).remote
        engines = {"merged": make(model, settings, None), "lora": make(model, settings, 8)}
        ray.get([e.start.remote() for e in engines.values()])
        with tempfile.TemporaryDirectory() as folder:
            new_adapter(model, Path(folder), rank=4)
            loaded = ray.get(engines["lora"].publish.remote(policy_name(1), folder, "lora"))
        reloaded = ray.get(engines["merged"].publish.remote(BASE_POLICY, model, "merged"))
        served = {"merged": BASE_POLICY, "lora": policy_name(1)}
        rates: dict[str, list[float]] = {"merged": [], "lora": []}
        for run in range(RUNS + 1):
            for name, engine in engines.items():
                started = time.monotonic()
                work = [engine.reply.remote(served[name], c, Sampling(TOKENS, 1.0, s)) for s, c in enumerate(chats)]
                tokens = sum(len(r.token_ids) for r in ray.get(work))
                if run:  # the first of each warms up
                    rates[name].append(tokens / (time.monotonic() - started))
    finally:
        ray.shutdown()
    ratios = [a / b for a, b in zip(rates["lora"], rates["merged"], strict=True)]
    return {
        "ratio": round(statistics.median(ratios), 3),
        "goal": None,
        "runs": [round(r, 3) for r in ratios],
        "tokens_per_second": {name: round(statistics.median(r)) for name, r in rates.items()},
        "seconds_to_load": {"merged": round(reloaded, 3), "lora": round(loaded, 3)},
    }


def new_adapter(model: str, folder: Path, rank: int) -> None:
    """Write an adapter that was not trained: it changes nothing, and costs what any of its rank does."""
    import peft
    from transformers import AutoModelForCausalLM

    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(model), config).save_pretrained(folder)
