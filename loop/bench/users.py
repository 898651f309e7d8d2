"""`candor bench users`: how near pools come to the rate that waiting alone would allow.

By Little's law, conversations that run side by side and each wait for a known time end at a known rate: their number
over that time. Here 1,000 run in two pools. The users live behind an endpoint that answers after 200 ms on average,
over real HTTP and the `openai` client; the assistant is an actor that takes about a second for a reply. What is missing
to the ideal rate is processor time: of the client, the calls between actors, and the conversations themselves. The
second figure has the assistant behind the endpoint too, which means 5,000 requests a second.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import track

from actors.models.chat import Reply, Sampling
from actors.scripted import ScriptedEngine
from actors.worlds.base import Message
from loop.bench import server

RUNS = 5
POOLS = 2
CONCURRENCY = 1000
WAVES = 9
ENDPOINT_SECONDS = 0.2
ASSISTANT_SECONDS = 1.0
TURNS = 2


class SlowEngine(ScriptedEngine):
    """An assistant that takes its time and no processor."""

    async def reply(self, policy: str, messages: Sequence[Message], sampling: Sampling) -> Reply:
        await asyncio.sleep(server.about(ASSISTANT_SECONDS))
        return Reply(
            "Thank you for telling me. What would help you now?", [1] * 12, [-0.5] * 12, "stop", 200, 12, policy
        )


def run() -> dict[str, Any]:
    """All figures; takes about five minutes."""
    import ray

    from actors.buffer import TrajectoryBuffer
    from actors.settings import EngineSettings, UserSettings
    from actors.users import UserPool
    from loop.cluster import start_local_ray

    with _endpoint() as address, tempfile.TemporaryDirectory(prefix="candor-bench-") as folder:
        start_local_ray("bench")
        try:
            pool = ray.remote(UserPool).options(num_cpus=0.1)
            settings = UserSettings(concurrency=CONCURRENCY // POOLS)
            actors = {
                "pools": [pool.remote("support", settings) for _ in range(POOLS)],
                "buffer": ray.remote(TrajectoryBuffer).options(num_cpus=0.1).remote(200, 60),
                "engine": ray.remote(SlowEngine).options(num_cpus=0.1).remote("scripted", EngineSettings()),
            }
            rounds = iter(range(1000))
            _share(actors, address, Path(folder), next(rounds), False)  # warms up
            apart, together = (
                [
                    _share(actors, address, Path(folder), next(rounds), both)
                    for _ in track(range(RUNS), name, transient=True)
                ]
                for both, name in ((False, "users at the endpoint"), (True, "everybody at the endpoint"))
            )
        finally:
            ray.shutdown()
    per_second = CONCURRENCY / _seconds(False)
    return {
        "ratio": round(statistics.median(apart), 3),
        "goal": 0.9,
        "runs": [round(r, 3) for r in apart],
        "concurrency": CONCURRENCY,
        "ideal_conversations_per_second": round(per_second),
        "conversations_per_second": round(per_second * statistics.median(apart)),
        "ratio_with_everybody_at_the_endpoint": round(statistics.median(together), 3),
        "requests_per_second_then": round(statistics.median(together) * CONCURRENCY / ENDPOINT_SECONDS),
    }


def _seconds(both: bool) -> float:
    """What a conversation waits for: the user speaks once after the persona's first words, and rates every reply."""
    return (2 * TURNS - 1) * ENDPOINT_SECONDS + TURNS * (ENDPOINT_SECONDS if both else ASSISTANT_SECONDS)


def _share(actors: dict[str, Any], address: str, folder: Path, round_: int, both: bool) -> float:
    """Hold conversations; the rate at which they ended over the ideal one, from when they no longer all begin together
    until they get fewer."""
    import ray

    from actors.buffer import RoundData, RoundPlan
    from actors.conversation import Terms
    from actors.models.ref import ModelRef
    from actors.roles import ActorHandles
    from actors.settings import EndpointSettings
    from actors.storage.segments import write_table
    from actors.storage.store import Store
    from loop.config.files import build
    from loop.plan import plan_round, plan_table

    count = CONCURRENCY * WAVES
    config = build(
        {
            "name": "bench",
            "world": "support",
            "model": "scripted",
            "arms": [{"name": "arm", "biased_ratio": 0.5}],
            "rollout": {"conversations": count},
            "conversation": {"turns": TURNS},
            "evals": {"suites": []},
        },
        "bench users",
    )
    plan = plan_table(plan_round(config, config.arms[0], round_))
    policy = server.MODEL if both else "candor/policy-0"
    plan = plan.set_column(plan.schema.get_field_index("policy"), plan.schema.field("policy"), [[policy] * count])
    path = folder / f"plan-{round_}.arrow"
    write_table(path, plan)
    settings = EndpointSettings(
        kind="endpoint", model=server.MODEL, base_url=address, key_env=None, concurrency=CONCURRENCY
    )
    away = ModelRef("away", endpoint=settings, share=1 / POOLS)
    here = ModelRef("assistant", [actors["engine"]], policy)
    handles = ActorHandles({"assistant": away if both else here, "user": away}, None, actors["buffer"], "bench")
    terms = Terms(config.conversation, config.rating)
    ids = RoundPlan("bench", "arm", round_, count)
    store = Store(str(folder), f"round-{round_}")
    ray.get(actors["buffer"].open_round.remote(store, ids))
    ray.get(
        [
            p.run_conversations.remote(path, range(i, count, POOLS), terms, handles)
            for i, p in enumerate(actors["pools"])
        ]
    )
    missing = ray.get(actors["buffer"].close_round.remote())
    if missing:
        raise RuntimeError(f"{missing} of {count} conversations were not held")
    ends = sorted(t for table in RoundData(store).scan(["finished"]) for t in table["finished"].to_pylist())
    first, last = 2 * CONCURRENCY, count - CONCURRENCY
    return (last - first) / (ends[last] - ends[first]) / (CONCURRENCY / _seconds(both))


@contextmanager
def _endpoint() -> Iterator[str]:
    command = [sys.executable, "-m", "loop.bench.server", str(ENDPOINT_SECONDS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.kill()
