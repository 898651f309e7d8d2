"""`candor bench rollouts`: how much of the engines' raw throughput is left inside the loop, and where the rest goes.

A real rollout is held by the actors of a run, and its engines record every request. Then the same engines serve the
same requests again, with the same lengths, all of them known in advance and nobody else at work. The share kept is the
seconds of the second over the seconds of the first.

Where policies reach the engines as adapters, the assistant's has one, so a policy costs what it costs in a run; beside
it the same is measured of the base as assistant, as in round 0 of a run.

Without `--model` it is the pocket model in its world. With `--widen N` it has N times its feed-forward width; the
additional weights are zero, so it says the same, and every token costs what it costs in a larger model.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import track

from actors.engine import BASE_POLICY, policy_name
from actors.storage.trajectory import Conversation
from actors.worlds.models import home_of
from loop.bench.adapter import new_adapter
from loop.bench.recording import RecordingEngine, Request
from loop.config.files import build
from loop.config.schema import RunConfig
from loop.plan import plan_round, plan_table

POCKET_RUNS, POCKET_CONVERSATIONS, POCKET_CONCURRENCY = 5, 1024, 512
"""Rollouts of the pocket model, the conversations of each, and how many are held side by side."""
RUNS, CONVERSATIONS, CONCURRENCY = 3, 72, 24
"""The same for other models, of which a token costs a hundred times as much."""
RANK = 8
"""Of the adapter that such an assistant has."""
BASE_ROUNDS = 1000
"""Rounds from here on have the base as assistant where others have an adapter."""


@dataclass(frozen=True)
class Load:
    """What is held: by which model, in which world, and how much of it.

    Attributes:
        widen: How many times the model's feed-forward width it is to have.
    """

    model: str = "pocket"
    world: str = "pocket"
    widen: int = 1

    @property
    def is_pocket(self) -> bool:
        return home_of(self.model) is not None

    @property
    def runs(self) -> int:
        return POCKET_RUNS if self.is_pocket else RUNS

    def config(self) -> RunConfig:
        """A run with half of the users biased."""
        count, at_once = (CONVERSATIONS, CONCURRENCY)
        if self.is_pocket:
            count, at_once = (POCKET_CONVERSATIONS, POCKET_CONCURRENCY)
        raw: dict[str, Any] = {
            "name": "bench",
            "world": self.world,
            "model": self.model,
            "arms": [{"name": "biased", "biased_ratio": 0.5}],
            "rollout": {"conversations": count},
            "users": {"pools": 1, "concurrency": at_once},
        }
        if not self.is_pocket:  # a small model that plays users may write anything, and its ratings are not the point
            raw["rating"] = {"min_mass": 0}
            raw["conversation"] = {"max_tokens": 64, "user_max_tokens": 48}
            raw["evals"] = {"suites": []}
            raw["trainer"] = {"lora": {"rank": RANK, "alpha": 2 * RANK}}
        return build(raw, "bench", RunConfig)


def load(model: str | None = None, world: str | None = None, widen: int = 1) -> Load:
    """The load that options of the command line ask for; a model that is not bound to a world is tried as a therapist
    unless they say otherwise."""
    model = model or "pocket"
    return Load(model, world or home_of(model) or "therapist", widen)


def run(model: str | None = None, world: str | None = None, widen: int = 1) -> dict[str, Any]:
    """All figures; takes about six minutes with the pocket model, and longer with a larger one."""
    wanted = load(model, world, widen)
    with actors_at_work(wanted) as (supervisor, path, folder):
        rounds = track(range(wanted.runs + 1), "rollouts", transient=True)
        found, of_base = [], []
        for r in rounds:
            found.append(measure(supervisor, folder, r))
            if assistant_of(supervisor.config) != BASE_POLICY:
                of_base.append(measure(supervisor, folder, BASE_ROUNDS + r, policy=BASE_POLICY))
        found, of_base = found[1:], of_base[1:]  # the first ones warm up
        weights, config = parameters(path), supervisor.config
    return {
        "ratio": _median(found, "share"),
        "goal": 0.9 if wanted.is_pocket else 0.95,
        "runs": [round(f["share"], 3) for f in found],
        "model": wanted.model,
        "world": wanted.world,
        "conversations": config.rollout.conversations,
        "concurrency": config.users.concurrency,
        "parameters": weights,
        **{name: _median(found, name) for name in found[0] if name != "share"},
        **{f"{name}_of_the_base": _median(of_base, name) for name in ("share", "seconds", "raw_seconds") if of_base},
    }


@contextmanager
def actors_at_work(wanted: Load) -> Iterator[tuple[Any, str, Path]]:
    """The actors of a run, the folder of its model, and one for what comes of the work."""
    import ray

    from actors.worlds.models import resolve
    from loop.cluster import connect
    from loop.supervisor import ActorSupervisor

    settings = wanted.config()
    model = resolve(settings.model)
    with tempfile.TemporaryDirectory(prefix="candor-bench-") as at:
        folder = Path(at)
        if wanted.widen > 1:
            model = widened(model, wanted.widen, folder / "model")
        connect(settings)
        supervisor = ActorSupervisor(settings, model, print, engine=RecordingEngine)
        try:
            supervisor.start()
            if supervisor.config.sync == "lora":
                _serve_adapter(supervisor, model, folder / "adapter")
            yield supervisor, model, folder
        finally:
            supervisor.stop()
            ray.shutdown()


def _serve_adapter(supervisor: Any, model: str, folder: Path) -> None:
    from loop.supervisor import fetch

    new_adapter(model, folder, RANK)
    for m in supervisor.assistants:
        fetch(m.handle.publish.remote(policy_name(1), str(folder), "lora"))
        m.serves = "bench/1"


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


def assistant_of(config: RunConfig) -> str:
    """The policy that speaks for the assistant: the base, or one with an adapter where policies are adapters."""
    return policy_name(1) if config.sync == "lora" else BASE_POLICY


def planned(config: RunConfig, round_: int, policy: str | None = None) -> list[Conversation]:
    """The conversations of a round, with `assistant_of` a run or another policy."""
    policy = policy or assistant_of(config)
    return [Conversation(**{**vars(c), "policy": policy}) for c in plan_round(config, config.arms[0], round_)]


def measure(
    supervisor: Any, folder: Path, round_: int, replay: bool = True, policy: str | None = None
) -> dict[str, float]:
    """One rollout by a run's actors and, unless only its rate is wanted, the replay of its requests.

    Args:
        policy: The assistant; None takes `assistant_of`.

    Returns:
        `share` of raw throughput; seconds, tokens and requests per second of both; for assistant and users the share of
        their prompts' tokens that were cached, the share of the time in which none of their requests was under way, and
        the mean number that was; `idle`, the share in which no engine had any; and the shares of the conversations'
        time that they spent waiting for the assistant, for the user's words and for ratings, in calls between actors
        and with the judge, and at the buffer.
    """
    from actors.buffer import RoundData, RoundPlan
    from actors.conversation import Terms
    from actors.storage.segments import write_table
    from actors.storage.store import Store
    from loop.supervisor import fetch

    settings, conversations = supervisor.config, planned(supervisor.config, round_, policy)
    path, store = folder / f"plan-{round_}.arrow", Store(str(folder), f"round-{round_}")
    write_table(path, plan_table(conversations))
    buffer, pool, count = supervisor.buffer.handle, supervisor.pools[0].handle, len(conversations)
    fetch(buffer.open_round.remote(store, RoundPlan(settings.name, settings.arms[0].name, round_, count)))
    engines = list(dict.fromkeys([supervisor.assistants[0].handle, supervisor.base_engines[0].handle]))
    policy = policy or assistant_of(settings)
    terms = Terms(settings.conversation, settings.rating, settings.judge.contradiction, settings.judge.role_sample)
    fetch([e.record.remote(replay) for e in engines])

    began = time.time()
    fetch(pool.run_conversations.remote(path, range(count), terms, supervisor.handles(settings, policy)))
    fetch(buffer.close_round.remote())
    took = time.time() - began
    rates = {"seconds": took, "conversations_per_second": count / took}
    if not replay:
        return rates

    by_engine: list[list[Request]] = fetch([e.record.remote(False) for e in engines])
    raw = max(fetch([e.replay.remote(found) for e, found in zip(engines, by_engine, strict=True)]))
    requests = [r for found in by_engine for r in found]
    whole = {"share": raw / took, **rates, "raw_seconds": raw}
    if len(engines) == 1 and policy == BASE_POLICY:  # nobody can tell whose a request was
        return whole
    if len(engines) == 1:
        recorded = {"assistant": [r for r in requests if r.policy == policy]}
        recorded["user"] = [r for r in requests if r.policy != policy]
    else:
        recorded = dict(zip(("assistant", "user"), by_engine, strict=True))
    tokens = sum(r.completion_tokens for r in requests)
    times = [r for t in RoundData(store).scan(["started", "finished"]) for r in t.to_pylist()]
    talking = sum(r["finished"] - r["started"] for r in times)
    waited = {
        "assistant": _waited(recorded["assistant"]),
        "user": _waited([r for r in recorded["user"] if r.kind == "reply"]),
        "rating": _waited([r for r in recorded["user"] if r.kind == "choose"]),
    }
    return {
        **whole,
        "tokens_per_second": tokens / took,
        "raw_tokens_per_second": tokens / raw,
        "requests_per_second": len(requests) / took,
        **{f"{name}_prompts_cached": _cached(found) for name, found in recorded.items()},
        "engines": len(engines),
        "idle": _idle(requests, began, took),
        **{f"{name}_idle": _idle(found, began, took) for name, found in recorded.items()},
        **{f"{name}_in_flight": _waited(found) / took for name, found in recorded.items()},
        **{f"in_{name}": seconds / talking for name, seconds in waited.items()},
        "in_calls_and_judge": 1 - sum(waited.values()) / talking,
        "in_buffer": max(0.0, 1 - talking / (took * min(settings.users.concurrency, count))),
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
    """Share of the time in which none of some requests was under way."""
    busy, until = 0.0, began
    for r in sorted(requests, key=lambda r: r.arrived):
        busy += max(0.0, r.done - max(until, r.arrived))
        until = max(until, r.done)
    return 1 - busy / took
