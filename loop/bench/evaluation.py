"""`candor bench eval`: how much of an engine's raw throughput an evaluation reaches, and the same beside Inspect.

An evaluator asks one engine the pocket world's suites, as in a run, and the engine records every request. Then it
serves the same requests again, with the same lengths, all of them known in advance and nobody else at work. The ratio
is the tokens a second of the first over those of the second. Another model is asked the canary suite, read by `words`.

For the pocket model, where `inspect_ai` is installed, an evaluator and an Inspect task put the items of one suite to
vLLM's own server, in turns. Inspect elicits beliefs for each item, an evaluator once for each fact, so requests a
second are told as well.
"""

from __future__ import annotations

import asyncio
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import ray
from rich.progress import track

from actors.engine import BASE_POLICY, engine_environment
from actors.models.hardware import fast_dtype
from actors.models.ref import ModelRef
from actors.settings import EndpointSettings, EngineSettings
from actors.storage.segments import read_table
from actors.worlds.models import home_of, resolve
from actors.worlds.pocket.exact_judge import PocketJudge
from actors.worlds.pocket.judge import stated
from evals.evaluator import Access, Evaluator, usage
from evals.protocols import mask
from evals.settings import EvalSettings, MaskSettings
from evals.suites.sources import load
from loop.bench.recording import RecordingEngine
from loop.cluster import start_local_ray

RUNS = 5
SUITES = EvalSettings(
    mask=1440, sycophancy=432, provided=432, deceptionbench=432, arithmetic=600, lookup=600, arithmetic_easy=150
)
"""Twice what a policy of the pocket world is asked in a run, so that it takes twenty seconds."""
CANARY = EvalSettings(
    suites=["canary_mask"], canary_mask=MaskSettings(items=24), judges=["words"], max_tokens=64, temperature=0.7
)
"""What another model is asked."""
CANARY_RUNS = 3
RUNS_BESIDE = 3
BESIDE = EvalSettings(suites=["mask"], mask=576)
"""What is asked beside Inspect."""
THREADS = max(1, (os.cpu_count() or 1) // 2)
"""Of the engine: a run on a CPU has one for the assistant and one for the users, and they share the cores."""
SERVED = "pocket"
LEFT_OUT = "left out: inspect_ai is not installed (the extra `inspect`)"
ONLY_POCKET = "left out: only for the pocket model"


@dataclass(frozen=True)
class Load:
    """Who is asked what, and how often after a run that warms up."""

    model: str = "pocket"
    world: str | None = "pocket"
    asked: EvalSettings = field(default_factory=lambda: SUITES)
    runs: int = field(default_factory=lambda: RUNS)


def load_of(model: str | None) -> Load:
    """The load for a model: the world's suites for the pocket model, the canary suite for another."""
    if model is None or home_of(model) is not None:
        return Load(model=model or "pocket")
    return Load(model, None, CANARY, CANARY_RUNS)


def run(model: str | None = None) -> dict[str, Any]:
    """All figures; takes about ten minutes on two cores."""
    wanted = load_of(model)
    beside = wanted.world is not None and find_spec("inspect_ai")
    path = resolve(wanted.model)
    start_local_ray("bench")
    try:
        judge = wanted.world and ray.remote(PocketJudge).options(num_cpus=0.1, max_concurrency=1000).remote()
        evaluator = ray.remote(Evaluator).options(num_cpus=0.1).remote(wanted.world)
        asked = [wanted.asked, *([BESIDE] if beside else [])]
        if faults := [f for f in ray.get([evaluator.prepare.remote(s) for s in asked]) if f]:
            raise RuntimeError(faults[0])
        with tempfile.TemporaryDirectory(prefix="candor-bench-") as folder:
            found = _alone(path, wanted, evaluator, judge, Path(folder))
            left_out = LEFT_OUT if wanted.world else ONLY_POCKET
            inspect = _beside_inspect(path, evaluator, judge, Path(folder)) if beside else left_out
    finally:
        ray.shutdown()
    runs = [round(f.pop("ratio"), 3) for f in found]
    goal = 0.9 if wanted.world else 0.95
    parts = {**_medians(found), "inspect": inspect}
    return {
        "ratio": round(statistics.median(runs), 3),
        "goal": goal,
        "runs": runs,
        "model": wanted.model,
        "parts": parts,
    }


def _alone(model: str, wanted: Load, evaluator: Any, judge: Any, folder: Path) -> list[dict[str, float]]:
    """Evaluations with one engine, each followed by the replay of its requests; the first one warms up."""
    settings = EngineSettings()
    environment = {"env_vars": engine_environment(THREADS if wanted.world else os.cpu_count() or 1)}
    engine = ray.remote(RecordingEngine).options(num_cpus=settings.cpus, runtime_env=environment)
    engine = engine.remote(model, settings)
    ray.get(engine.start.remote())
    access = Access(ModelRef("assistant", [engine], BASE_POLICY), (), judge, settings.max_num_seqs)
    found = []
    for k in track(range(wanted.runs + 1), "evaluations and replays", transient=True):
        ray.get(engine.record.remote(True))
        took = _timed(evaluator, access, folder / f"alone-{k}", wanted.asked)
        requests = ray.get(engine.record.remote(False))
        raw = ray.get(engine.replay.remote(requests))
        tokens = sum(r.completion_tokens for r in requests)
        rates = {"seconds": took, "raw_seconds": raw, "requests": len(requests), "tokens": tokens}
        rates |= {"tokens_per_second": tokens / took, "raw_tokens_per_second": tokens / raw}
        found.append({"ratio": raw / took, **rates, "in_flight": sum(r.done - r.arrived for r in requests) / took})
    ray.get(engine.stop.remote())
    ray.kill(engine)
    return found[1:]


def _timed(evaluator: Any, access: Access, folder: Path, settings: EvalSettings) -> float:
    began = time.monotonic()
    ray.get(evaluator.evaluate.remote("", 0, access, str(folder), settings))
    return time.monotonic() - began


def _beside_inspect(model: str, evaluator: Any, judge: Any, folder: Path) -> dict[str, Any]:
    """The same items through one server, by an evaluator and by Inspect, in turns; the first of each warms up."""
    theirs = ray.remote(_ask_with_inspect).options(num_cpus=0.1)
    found: list[tuple[dict[str, float], dict[str, float]]] = []
    with _server(model, folder / "server.log") as address:
        settings = EndpointSettings(kind="endpoint", model=SERVED, base_url=address, key_env=None)
        access = Access(ModelRef(SERVED, endpoint=settings), (), judge, settings.concurrency)
        for k in track(range(RUNS_BESIDE + 1), "evaluations beside Inspect", transient=True):
            took = _timed(evaluator, access, place := folder / f"beside-{k}", BESIDE)
            honesty = _kept(place)
            items = len(load("mask", BESIDE.mask, "pocket", 0).items)
            ours = _rates(items, took, sum(row["requests"] for row in usage(place)), honesty)
            found.append((ours, ray.get(theirs.remote(address, settings.concurrency, str(folder), BESIDE))))
        ray.get(evaluator.close.remote())
    runs = {r: [a[r] / b[r] for a, b in found[1:]] for r in ("items_per_second", "requests_per_second")}
    return {
        "ratios": {name: round(statistics.median(ratios), 2) for name, ratios in runs.items()},
        "runs": [round(r, 2) for r in runs["items_per_second"]],
        **{name: _medians([pair[i] for pair in found[1:]]) for i, name in enumerate(("candor", "inspect"))},
        "version": version("inspect_ai"),
    }


def _kept(folder: Path) -> float:
    """The share of answers that are no lie, controls among them, as the task of Inspect counts it."""
    outcomes = read_table(folder / "mask.arrow")["outcome"].to_pylist()
    return sum(o not in ("lie", "error") for o in outcomes) / len(outcomes)


def _ask_with_inspect(address: str, concurrency: int, folder: str, asked: EvalSettings) -> dict[str, float]:
    """The items as a task of Inspect, a sample each, whose statement and beliefs are asked side by side."""
    from inspect_ai import Task, dataset, eval, model, scorer, solver

    served = model.get_model(f"openai-api/candor/{SERVED}", base_url=address, api_key="none-needed", memoize=False)
    items = {item.item_id: (seed, item) for seed, item in enumerate(load("mask", asked.mask, "pocket", 0).items)}

    def messages(prompt: Any) -> list[Any]:
        kinds = {"system": model.ChatMessageSystem, "user": model.ChatMessageUser}
        return [kinds[m["role"]](content=m["content"]) for m in prompt]

    async def say(prompt: Any, temperature: float, seed: int) -> str:
        config = model.GenerateConfig(max_tokens=asked.max_tokens, temperature=temperature, seed=seed)
        return (await served.generate(messages(prompt), config=config)).completion

    @solver.solver
    def statement_and_beliefs() -> Any:
        async def solve(state: Any, generate: Any) -> Any:
            seed, item = items[state.sample_id]
            beliefs = (say(b.prompt, 0.0, seed) for b in item.beliefs)
            state.metadata["said"] = await asyncio.gather(say(item.prompt, asked.temperature, seed), *beliefs)
            return state

        return solve

    @scorer.scorer(metrics=[scorer.accuracy()])
    def honest() -> Any:
        async def score(state: Any, target: Any) -> Any:
            item = items[state.sample_id][1]
            options = [label for label, _ in item.options]
            found = (stated(text, options, item.proposition) or mask.NOTHING for text in state.metadata["said"])
            said, *beliefs = found
            return scorer.Score(value=mask.score(said, mask.belief(beliefs)) != "lie", answer=said)

        return score

    samples = [dataset.Sample(messages(item.prompt), id=name) for name, (_, item) in items.items()]
    task = Task(samples, solver=statement_and_beliefs(), scorer=honest())
    limits = {"max_connections": concurrency, "max_samples": concurrency}
    began = time.monotonic()
    (log,) = eval(task, served, display="none", log_level="error", log_dir=folder, **limits)
    took = time.monotonic() - began
    if log.status != "success":
        raise RuntimeError(f"Inspect: {log.error.message if log.error else log.status}")
    requests = sum(1 + len(item.beliefs) for _, item in items.values())
    return _rates(len(items), took, requests, log.results.scores[0].metrics["accuracy"].value)


def _rates(items: int, seconds: float, requests: int, honesty: float) -> dict[str, float]:
    found = {"seconds": seconds, "requests": requests, "honesty": honesty}
    return found | {"items_per_second": items / seconds, "requests_per_second": requests / seconds}


def _medians(found: Sequence[dict[str, float]]) -> dict[str, float]:
    values = {name: statistics.median(f[name] for f in found) for name in found[0]}
    return {name: round(value, 3) if value < 100 else round(value) for name, value in values.items()}


@contextmanager
def _server(model: str, log: Path) -> Iterator[str]:
    """The address of vLLM's own server on loopback, which is up while the block runs."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--port", str(port)]
    command += ["--host", "127.0.0.1", "--served-model-name", SERVED, "--dtype", fast_dtype(), "--enforce-eager"]
    command += ["--max-model-len", "512", "--no-enable-chunked-prefill", "--max-num-batched-tokens", "8192"]
    # Without the size of its cache vLLM takes nine tenths of the machine's memory.
    environment = os.environ | engine_environment(THREADS) | {"VLLM_CPU_KVCACHE_SPACE": "1"}
    with open(log, "wb") as out, subprocess.Popen(command, env=environment, stdout=out, stderr=out) as process:
        try:
            while process.poll() is None:
                with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                    break
                time.sleep(0.5)
            else:
                raise RuntimeError(f"vLLM's server did not start: {log.read_text(encoding='utf-8')}")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
