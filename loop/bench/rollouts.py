"""`candor bench rollouts`: how much of the engines' raw throughput is left inside the loop, and where the rest goes.

A real rollout of the pocket world is held by the actors of a run, and its engines record every request. Then the same
engines serve the same requests again, with the same lengths, all of them known in advance and nobody else at work. The
share kept is the seconds of the second over the seconds of the first.

With `--widen N` the model is the pocket model with N times the feed-forward width. The additional weights are zero: it
says the same, and every token costs what it costs in a larger model.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import track

from actors.assistant import BASE_POLICY, Request
from actors.trajectory import Conversation
from loop.config import RunConfig, build
from loop.plan import plan_round, plan_table

RUNS = 5
CONVERSATIONS = 1024
CONCURRENCY = 512


def run(widen: int = 1) -> dict[str, Any]:
    """All figures; takes about six minutes, and longer with a wider model."""
    with crew_at_work(widen) as (crew, model, folder):
        rounds = track(range(RUNS + 1), "rollouts", transient=True)
        found = [measure(crew, folder, r) for r in rounds][1:]  # the first one warms up
        weights = parameters(model)
    return {
        "ratio": _median(found, "share"),
        "goal": 0.9,
        "runs": [round(f["share"], 3) for f in found],
        "conversations": CONVERSATIONS,
        "concurrency": CONCURRENCY,
        "parameters": weights,
        **{name: _median(found, name) for name in found[0] if name != "share"},
    }


def config() -> RunConfig:
    """A run of the pocket world with half of the users biased."""
    return build(
        {
            "name": "bench",
            "arms": [{"name": "biased", "biased_ratio": 0.5}],
            "rollout": {"conversations": CONVERSATIONS},
            "users": {"pools": 1, "concurrency": CONCURRENCY},
        },
        "bench",
    )


@contextmanager
def crew_at_work(widen: int) -> Iterator[tuple[Any, str, Path]]:
    """The actors of a run with a model of `widen` times the feed-forward width, that model's folder, and one for what
    comes of the work."""
    import ray

    from actors.worlds.models import resolve
    from loop.cluster import connect
    from loop.crew import Crew

    settings = config()
    model = resolve(settings.model)
    with tempfile.TemporaryDirectory(prefix="candor-bench-") as at:
        folder = Path(at)
        if widen > 1:
            model = widened(model, widen, folder / "model")
        connect(settings)
        crew = Crew(settings, model, print)
        try:
            crew.start()
            yield crew, model, folder
        finally:
            crew.stop()
            ray.shutdown()


def widened(model: str, times: int, folder: Path) -> str:
    """Write a model to `folder` that computes the same as `model` with `times` its feed-forward width, and so at the
    cost of a larger one; returns the folder."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    narrow, shape = AutoModelForCausalLM.from_pretrained(model, dtype="auto"), AutoConfig.from_pretrained(model)
    shape.intermediate_size *= times
    wide = AutoModelForCausalLM.from_config(shape, dtype=narrow.dtype)
    weights = wide.state_dict()
    for name, value in narrow.state_dict().items():
        weights[name].zero_()
        weights[name][tuple(map(slice, value.shape))] = value
    wide.save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    return str(folder)


def parameters(model: str) -> int:
    """How many weights a model has."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model).num_parameters()


def planned(config: RunConfig, round_: int) -> list[Conversation]:
    """The conversations of a round, with the base as assistant."""
    return [Conversation(**{**vars(c), "policy": BASE_POLICY}) for c in plan_round(config, config.arms[0], round_)]


def measure(crew: Any, folder: Path, round_: int, replay: bool = True) -> dict[str, float]:
    """One rollout by a crew and, unless only its rate is wanted, the replay of its requests.

    Returns:
        `share` of raw throughput; seconds, tokens and requests per second of both; of each engine the share of its
        prompts' tokens that were cached, the share of time without any request, and the mean number under way; and the
        shares of the conversations' time that they spent waiting for the assistant, for the user's words and for
        ratings, in calls between actors and with the judge, and at the buffer.
    """
    from actors.buffer import RoundData, RoundPlan
    from actors.conversation import Terms
    from actors.segments import write_table
    from actors.store import Store
    from loop.crew import fetch

    settings, conversations = crew.config, planned(crew.config, round_)
    path, store = folder / f"plan-{round_}.arrow", Store(str(folder), f"round-{round_}")
    write_table(path, plan_table(conversations))
    buffer, pool, count = crew.buffer.handle, crew.pools[0].handle, len(conversations)
    fetch(buffer.open_round.remote(store, RoundPlan(settings.name, settings.arms[0].name, round_, count)))
    engines = {"assistant": crew.assistants[0].handle, "user": crew.base_engines[0].handle}
    terms = Terms(settings.conversation, settings.rating, settings.judge.contradiction, settings.judge.role_sample)
    fetch([e.record.remote(replay) for e in engines.values()])

    began = time.time()
    fetch(pool.hold_all.remote(path, range(count), terms, crew.peers(settings, BASE_POLICY)))
    fetch(buffer.close_round.remote())
    took = time.time() - began
    rates = {"seconds": took, "conversations_per_second": count / took}
    if not replay:
        return rates

    recorded = {name: fetch(e.record.remote(False)) for name, e in engines.items()}
    raw = max(fetch([e.replay.remote(recorded[name]) for name, e in engines.items()]))
    requests = [r for found in recorded.values() for r in found]
    tokens = sum(r.completion_tokens for r in requests)
    times = [r for t in RoundData(store).scan(["started", "finished"]) for r in t.to_pylist()]
    talking = sum(r["finished"] - r["started"] for r in times)
    waited = {
        "assistant": _waited(recorded["assistant"]),
        "user": _waited([r for r in recorded["user"] if r.kind == "reply"]),
        "rating": _waited([r for r in recorded["user"] if r.kind == "choose"]),
    }
    return {
        "share": raw / took,
        **rates,
        "raw_seconds": raw,
        "tokens_per_second": tokens / took,
        "raw_tokens_per_second": tokens / raw,
        "requests_per_second": len(requests) / took,
        **{f"{name}_prompts_cached": _cached(found) for name, found in recorded.items()},
        **{f"{name}_engine_idle": _idle(found, began, took) for name, found in recorded.items()},
        **{f"{name}_engine_in_flight": _waited(found) / took for name, found in recorded.items()},
        **{f"in_{name}": seconds / talking for name, seconds in waited.items()},
        "in_calls_and_judge": 1 - sum(waited.values()) / talking,
        "in_buffer": max(0.0, 1 - talking / (took * min(CONCURRENCY, count))),
    }


def _median(found: Sequence[dict[str, float]], name: str) -> float:
    value = statistics.median(f[name] for f in found)
    return round(value, 3) if value < 100 else round(value)


def _cached(requests: Sequence[Request]) -> float:
    """Share of the tokens of prompts that an engine had computed before."""
    return sum(r.cached for r in requests) / sum(len(r.prompt) for r in requests)


def _waited(requests: Sequence[Request]) -> float:
    """Seconds between arrival and answer, of all requests together."""
    return sum(r.done - r.arrived for r in requests)


def _idle(requests: Sequence[Request], began: float, took: float) -> float:
    """Share of the time in which an engine had no request at all."""
    busy, until = 0.0, began
    for r in sorted(requests, key=lambda r: r.arrived):
        busy += max(0.0, r.done - max(until, r.arrived))
        until = max(until, r.done)
    return 1 - busy / took
