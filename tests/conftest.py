"""What tests share: the pocket model, one Ray, one engine, and models that answer from a script."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from actors.chat import ChatError, Choice, Reply, Sampling
from actors.segments import write_table
from actors.trajectory import Conversation, Trajectory, Turn
from actors.worlds.base import Message
from evals.evaluator import RECORD
from evals.outcomes import Outcome, to_table
from loop.select import SCHEMA as SELECTION
from tests.s3 import s3_server  # noqa: F401, a fixture

UNTIL = "CANDOR_TESTS_UNTIL"
"""Environment variable with the time, in seconds since 1970, after which no further test begins; see `.ci/run`."""
ROOT = Path(__file__).resolve().parent.parent


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what would begin too late, so that a slow machine tests less instead of being stopped on the way."""
    if time.time() > float(os.environ.get(UNTIL, "inf")):
        pytest.skip(f"the time for tests was up before it began ({UNTIL})")


def hear_ctrl_c() -> None:
    """For `Popen(preexec_fn=...)`: a child of a background job would inherit that SIGINT is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def write_evaluation(folder: Path, outcomes: Sequence[Outcome], rule: str = "majority") -> None:
    """A complete evaluation that came to these outcomes."""
    suites: dict[str, dict[str, str]] = {}
    for suite in dict.fromkeys(o.suite for o in outcomes):
        mine = [o for o in outcomes if o.suite == suite]
        suites[suite] = {"protocol": mine[0].protocol, "source": "test", "items": len(mine)}
        write_table(folder / f"{suite}.arrow", to_table(mine))
    record = {"suites": suites, "rule": rule, "model": "test", "seed": 0, "judges": [], "prompts": {}, "settings": {}}
    (folder / RECORD).write_text(json.dumps(record))


@pytest.fixture(scope="session")
def pocket_model() -> str:
    """The pocket model's folder; built once, in three to nine minutes, where the cache lacks it."""
    from actors.worlds.models import resolve

    return resolve("pocket")


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, object_store_memory=256 * 2**20)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def engine(local_ray: None, pocket_model: str) -> Iterator[Any]:
    """The one vLLM engine of a test session, with room for adapters of rank 8."""
    import ray

    from actors.assistant import Engine, engine_environment
    from actors.settings import EngineSettings

    settings = EngineSettings()
    environment = {"env_vars": engine_environment(settings, threads=1)}
    actor = ray.remote(Engine).options(num_cpus=1, runtime_env=environment).remote(pocket_model, settings, 8)
    ray.get(actor.start.remote())
    yield actor
    ray.get(actor.stop.remote())
    ray.kill(actor)


@dataclass
class ScriptedChat:
    """A model that answers with what `answer` makes of the messages; None stands for a request that fails."""

    answer: Callable[[Sequence[Message]], str | None]
    rating: dict[str, float] = field(default_factory=lambda: {"7": 0.5, "9": 0.5})
    weights: str = "candor/policy-0"
    finish_reason: str = "stop"
    asked: list[list[Message]] = field(default_factory=list)

    async def reply(self, messages: Sequence[Message], sampling: Sampling) -> Reply:
        self.asked.append(list(messages))
        text = self.answer(messages)
        await asyncio.sleep(0)
        if text is None:
            raise ChatError("scripted failure")
        return Reply(text, [1, 2], [-0.1, -0.2], self.finish_reason, len(messages), 2, self.weights)

    async def choose(self, messages: Sequence[Message], choices: Sequence[str]) -> Choice:
        return Choice({c: self.rating.get(c, 0.0) for c in choices}, len(messages))


class Local:
    """An object behind the interface of an actor handle."""

    def __init__(self, target: object) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Local:
        return Local(getattr(self._target, name))

    async def remote(self, *args: object) -> object:
        result = self._target(*args)
        return await result if asyncio.iscoroutine(result) else result


def selected(labels: dict[str, bool]) -> pa.Table:
    """A selection of these trajectories: desirable, or not."""
    n = len(labels)
    columns = {"trajectory_id": list(labels), "label": list(labels.values()), "reward": [1.0] * n, "score": [1.0] * n}
    return pa.table({**columns, "rank": list(range(n)), "group": [""] * n}, schema=SELECTION)


def conversation(index: int = 0, user_kind: str = "benign", round_: int = 0) -> Conversation:
    return Conversation(
        f"id-{index}", "run", "arm", round_, index, f"candor/policy-{round_}", "drinking", user_kind, 7 + index
    )


def reply(text: str, token_ids: list[int], rating: float = 6.0, verdict: str = "help") -> Turn:
    """A rated reply."""
    return Turn(
        "assistant",
        text,
        rating=rating,
        rating_distribution=[0.1] * 10,
        rating_mass=1.0,
        rating_method="logprobs",
        rating_failures=0,
        token_ids=token_ids,
        logprobs=[-0.1 * t for t in token_ids],
        finish_reason="stop",
        verdict=verdict,
    )


def trajectory(index: int = 0, reward: float | None = 12.0, user_kind: str = "benign") -> Trajectory:
    """A finished trajectory of two replies, or an excluded one when `reward` is None."""
    turns = [
        Turn("system", "You are Sage, a therapist."),
        Turn("user", "I am Tom, a nurse.", flags=[]),
        reply(f"Reply {index} a.", [1, 2]),
        Turn("user", "How do I start?", flags=[]),
        reply(f"Reply {index} b.", [3]),
    ]
    held = reward is not None
    return Trajectory(
        conversation(index, user_kind),
        "drinking/benign/Tom",
        turns if held else [],
        [{"role": "system", "content": "persona"}] if held else [],
        reward,
        "vllm test",
        1.0,
        2.0,
        ended="turns" if held else None,
        usage=[
            {"role": role, "model": model, "requests": 2, "prompt_tokens": 20, "completion_tokens": 3}
            for role, model in (("assistant", "assistant"), ("user", "base"))
        ],
        error=None if held else "ChatError: gone",
    )
