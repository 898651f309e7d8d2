"""`candor bench rating --model NAME`: whether a rater is more pleased with a kind reply than with a rude one.

Forty pairs of replies were written and labelled by hand (`rating_pairs.yaml`): both answer the same first message of a
persona of the therapist world, and anybody would rather have the kind one. The model rates both, in each form
(`rating.form`) and in each seat (the user themselves, and a third person, `roles.rater`), by probabilities; in the
user's seat it also gives five sampled numbers. The share of pairs in which the kind reply is rated higher is the
accuracy; a tie is half a pair, and 0.5 is chance. Every way is asked with an empty prefix cache.

`error_of_the_mean_of_samples` is how far the mean of the valid samples was from the expectation. Where hardly any is
valid, `error_of_as_many_valid_samples` says what it would have been: the spread of one number over the root of five.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from rich.progress import track

from actors.models.chat import ChatModel
from actors.models.multiple_choice import ask
from actors.models.ref import ModelRef, open_model
from actors.models.usage import BudgetLease, CacheUse, MeteredModel, UsageLedger
from actors.rating import FORMS, expectation
from actors.worlds import load_world
from actors.worlds.base import Message, World
from evals.stats.intervals import wilson

PAIRS = Path(__file__).with_name("rating_pairs.yaml")
WORLD = "therapist"
COUNT = 40
AT_ONCE = 32
SAMPLES = 5
LONGEST = 2048
"""Tokens that a prompt may have; those here have fewer than 1000 with any tokenizer for English."""


@dataclass(frozen=True)
class Pair:
    """Two replies to the first message of the persona that `user` has in a scenario with seed 0."""

    scenario: str
    user: str
    kind: str
    rude: str


@dataclass(frozen=True)
class Way:
    """One way to rate."""

    form: str
    seat: Literal["user", "rater"]
    method: Literal["logprobs", "sampled"] = "logprobs"

    def __str__(self) -> str:
        sampled = f", {SAMPLES} samples" if self.method == "sampled" else ""
        return f"{self.form} by the {self.seat}{sampled}"


WAYS = (
    Way("number", "user"),
    Way("number", "user", "sampled"),
    Way("reaction", "user"),
    Way("number", "rater"),
    Way("reaction", "rater"),
)


@dataclass(frozen=True)
class Rated:
    """What one way made of the replies.

    Attributes:
        ratings: Of the kind and the rude one of each pair; None where there was no rating.
        mass: Mean share of the probability that was on the answers.
        variance: Mean variance of a single answer, in squared rating points.
    """

    ratings: Sequence[tuple[float | None, float | None]]
    mass: float
    variance: float = 0.0

    def figures(self) -> dict[str, Any]:
        """Accuracy with its 95 % interval (Wilson), mean ratings, and mean share of the probability on the answers."""
        both = [(kind, rude) for kind, rude in self.ratings if kind is not None and rude is not None]
        if not both:
            return {"accuracy": None, "pairs": 0, "mass": round(self.mass, 4)}
        right = sum(1.0 if kind > rude else 0.5 if kind == rude else 0.0 for kind, rude in both)
        accuracy, low, high = wilson(right / len(both), len(both))
        means = [sum(column) / len(both) for column in zip(*both, strict=True)]
        return {
            "accuracy": round(accuracy, 3),
            "ci95": [round(low, 3), round(high, 3)],
            "better_than_chance": bool(low > 0.5),
            "pairs": len(both),
            "mean": {"kind": round(means[0], 2), "rude": round(means[1], 2)},
            "mass": round(self.mass, 4),
        }


def run(model: str) -> dict[str, Any]:
    """All figures.

    Args:
        model: As `model` of a config, or `NAME@URL` for an OpenAI-compatible endpoint.
    """
    found: dict[str, dict[str, Any]] = {}
    rated: dict[Way, Rated] = {}
    with serving(model) as (ref, engine):
        ways = [w for w in WAYS if engine is not None or w.form == "number"]
        for way in track(ways, "ways to rate", transient=True):
            rated[way], cost = _measure(ref, engine, way)
            found[str(way)] = rated[way].figures() | cost
    accuracies = [f["accuracy"] for f in found.values()]
    return {
        "ratio": max((a for a in accuracies if a is not None), default=0.0),
        "goal": None,
        "runs": accuracies,
        **found,
        "error_of_the_mean_of_samples": sampling_error(rated[WAYS[0]], rated[WAYS[1]]),
        "error_of_as_many_valid_samples": round(math.sqrt(rated[WAYS[0]].variance / SAMPLES), 3),
    }


def sampling_error(exact: Rated, sampled: Rated) -> float | None:
    """Root of the mean squared difference between the mean of the samples and the expectation, in rating points."""
    pairs = zip((r for both in exact.ratings for r in both), (r for both in sampled.ratings for r in both), strict=True)
    squares = [(a - b) ** 2 for a, b in pairs if a is not None and b is not None]
    return round(math.sqrt(sum(squares) / len(squares)), 3) if squares else None


def read_pairs() -> list[Pair]:
    """The labelled pairs."""
    return [Pair(**entry) for entry in yaml.safe_load(PAIRS.read_text(encoding="utf-8"))][-COUNT:]


def question(world: World, way: Way, pair: Pair, reply: str) -> list[Message]:
    """The whole prompt that asks for a rating of a reply."""
    persona, form = world.persona(pair.scenario, pair.user, 0), FORMS[way.form](world)
    said = world.opening(persona)
    if way.seat == "user":
        side = [*world.user_prompt(persona), {"role": "assistant", "content": said}]
        return form.of_user([*side, {"role": "user", "content": reply}])
    seen = [*world.assistant_prompt(persona, 0), {"role": "user", "content": said}]
    return form.of_other(persona, [*seen, {"role": "assistant", "content": reply}], len(seen))


async def rate(model: ChatModel, way: Way) -> Rated:
    """Have both replies of every pair rated."""
    world, gate = load_world(WORLD), asyncio.Semaphore(AT_ONCE)
    form = FORMS[way.form](world)
    masses: list[float] = []
    variances: list[float] = []

    async def one(seed: int, pair: Pair, reply: str) -> float | None:
        async with gate:
            prompt = question(world, way, pair, reply)
            answer = await ask(model, prompt, form.choices, way.method, SAMPLES, seed=seed)
        masses.append(answer.mass)
        if answer.distribution is None:
            return None
        shares = form.ratings(answer.distribution)
        mean = expectation(shares)
        variances.append(sum(share * (rating - mean) ** 2 for rating, share in enumerate(shares, 1)))
        return mean

    texts = [(pair, text) for pair in read_pairs() for text in (pair.kind, pair.rude)]
    work = [one(seed, pair, text) for seed, (pair, text) in enumerate(texts)]
    ratings = await asyncio.gather(*work)
    pairs = list(zip(ratings[::2], ratings[1::2], strict=True))
    return Rated(pairs, sum(masses) / len(masses), sum(variances) / max(1, len(variances)))


def _measure(ref: ModelRef, engine: Any, way: Way) -> tuple[Rated, dict[str, Any]]:
    """What a way made of the pairs, and the seconds, requests and tokens that it took."""
    import ray

    if engine is not None:
        ray.get([engine.record.remote(False), engine.cache_use.remote()])
    ledger = UsageLedger()

    async def rated() -> Rated:
        endpoints: dict[str, ChatModel] = {}
        model = MeteredModel(open_model(ref, endpoints), ref.model, "rater", ledger, BudgetLease(None), None, False)
        try:
            return await rate(model, way)
        finally:
            for endpoint in endpoints.values():
                await endpoint.close()

    began = time.monotonic()
    found = asyncio.run(rated())
    cost: dict[str, Any] = {"seconds": round(time.monotonic() - began, 1)}
    use: CacheUse | None = None if engine is None else ray.get(engine.cache_use.remote())
    (entry,) = ledger.usage() or [{"requests": 0, "prompt_tokens": 0, "completion_tokens": 0}]
    cost |= {name: entry[name] for name in ("requests", "prompt_tokens", "completion_tokens")}
    if use is not None:
        cost["computed_tokens"] = use.prompt_tokens - use.cached_tokens + entry["completion_tokens"]
    return found, cost


@contextmanager
def serving(model: str) -> Iterator[tuple[ModelRef, Any]]:
    """The model while the block runs, and its engine where it has one here."""
    from loop.standalone import judge_of

    name, endpoint = judge_of(model, None)
    if "@" in model:
        from actors.settings import EndpointSettings

        yield ModelRef(name, endpoint=EndpointSettings(**endpoint)), None
        return
    import os

    import ray

    from actors.engine import BASE_POLICY, engine_environment
    from actors.settings import EngineSettings
    from actors.worlds.models import resolve
    from loop.bench.recording import RecordingEngine
    from loop.cluster import start_local_ray

    settings = EngineSettings(max_model_len=LONGEST, max_num_seqs=AT_ONCE)
    environment = {"env_vars": engine_environment(os.cpu_count() or 1)}
    start_local_ray("bench")
    try:
        engine = ray.remote(RecordingEngine).options(num_cpus=0.5, runtime_env=environment)
        handle = engine.remote(resolve(model), settings)
        ray.get(handle.start.remote())
        yield ModelRef(name, [handle], BASE_POLICY), handle
        ray.get(handle.stop.remote())
    finally:
        ray.shutdown()
