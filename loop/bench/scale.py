"""`candor bench scale`: what the loop itself costs as it grows, measured without a GPU.

Engines are real actors, reached over the real lines and routing by real pools that hand in to a real buffer. Only the
model is replaced, by a clock: a reply takes as long as a model of eight billion parameters on one GPU might, and costs
no processor time. Three things are measured:

- the rate of 1 to 64 replicas, each with as many conversations, over as many times the rate of one;
- the processor time of the driver while 10,000 conversations are under way, in a rollout of a run with its heartbeat;
- the processor time of a conversation, of all processes together, in rounds of a thousand to ten thousand.

All of it shares the cores of this machine, so the rate grows no more once they are used up; `cores` says how many were.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from rich.progress import track

from actors.models.chat import Choice, Reply, Sampling
from actors.scripted import SCRIPTED, ScriptedEngine
from actors.worlds.base import Message

REPLICAS = (1, 2, 4, 8, 16, 32, 64)
A_REPLICA = 16
"""Conversations under way for each replica."""
WAVES, FEWEST = 6, 256
"""Conversations of a measurement, over those under way, and how many there are at least; of the first and the last wave
none is counted."""
GOAL_AT = 16
"""The number of replicas for which there is a goal."""
POOLS = 2
IN_FLIGHT = 10_000
SLOWLY = 30
"""How many times slower the clock is while so many are under way, so that their number costs and not their rate."""
WINDOW = 30
"""Seconds in which the driver is watched."""
SIZES = (1_000, 3_000, 10_000)
TURNS = 2
STEP_SECONDS, SEQUENCE_SECONDS = 0.010, 0.0001
"""What the clock takes for a token: a fixed part, and one for each sequence that is decoded beside it."""
PROMPT_TOKENS = 20_000
"""How many tokens of prompts it takes in a second."""
REPLY_TOKENS = (45, 135)
"""The shortest and the longest reply."""
WORD = "evening "
MIB = 2**20
AN_ENGINE = 100 * MIB
"""Memory that an engine without a model takes."""


class ClockEngine(ScriptedEngine):
    """Engine whose model is a clock; it says the same to everybody, for as long as a model would."""

    _pace = 1.0
    _decoding = 0

    async def set_pace(self, pace: float) -> None:
        """Have everything take so many times as long; 0 for no time at all."""
        self._pace = pace

    async def reply(self, policy: str, messages: Sequence[Message], sampling: Sampling) -> Reply:
        tokens = min(sampling.max_tokens, random.randint(*REPLY_TOKENS))
        prompt = sum(len(m["content"]) for m in messages) // 4
        self._decoding += 1
        step = STEP_SECONDS + SEQUENCE_SECONDS * self._decoding
        await self._take(prompt / PROMPT_TOKENS + tokens * step)
        self._decoding -= 1
        return Reply(WORD * tokens, [1] * tokens, [-0.5] * tokens, "stop", prompt, tokens, policy)

    async def choose(self, policy: str, messages: Sequence[Message], choices: Sequence[str]) -> Choice:
        prompt = sum(len(m["content"]) for m in messages) // 4
        await self._take(prompt / PROMPT_TOKENS + STEP_SECONDS)
        return Choice(dict.fromkeys(choices, 1 / len(choices)), prompt)

    async def _take(self, seconds: float) -> None:
        await asyncio.sleep(seconds * self._pace)


@dataclass
class Spent:
    """Processor seconds between two looks, by who spent them: `driver`, `pools`, `engines`, `buffer` and `ray`."""

    seconds: float
    by: dict[str, float]

    @property
    def total(self) -> float:
        return sum(self.by.values())


def run(plot: Path | None = None) -> dict[str, Any]:
    """All figures; takes about six minutes on two cores and 6 GB of memory.

    Args:
        plot: Where the chart is written, as SVG; null takes a new file in `runs/`.
    """
    import ray

    from loop.cluster import start_local_ray

    free = psutil.virtual_memory().available
    most = max(n for n in REPLICAS if n == min(REPLICAS) or n * AN_ENGINE < free)
    replicas = [n for n in REPLICAS if n <= most]
    with tempfile.TemporaryDirectory(prefix="candor-bench-") as folder:
        start_local_ray("bench")
        try:
            bench = _Bench(Path(folder))
            bench.hold(1, 2 * A_REPLICA)  # warms up
            points = [
                bench.hold(n, max(FEWEST, n * A_REPLICA * WAVES)) for n in track(replicas, "replicas", transient=True)
            ]
            bench.set_pace(0.0)
            sizes = [bench.hold(min(8, most), n) for n in track(SIZES, "sizes", transient=True)]
        finally:
            ray.shutdown()
        driver = _driver(Path(folder) / "run")
    alone = points[0]["conversations_per_second"] / points[0]["replicas"]
    for p in points:
        p["of_linear"] = round(p["conversations_per_second"] / p["replicas"] / alone, 3)
    at_goal = next((p for p in points if p["replicas"] == GOAL_AT), points[-1])
    costs = [p["milliseconds_each"] for p in sizes]
    found = {
        "ratio": at_goal["of_linear"],
        "goal": f"0.95 at {GOAL_AT} replicas",
        "runs": [p["of_linear"] for p in points],
        "replicas": points,
        "driver": driver,
        "driver_goal": f"below 1 core at {IN_FLIGHT:,} conversations under way",
        "sizes": sizes,
        "cost_growth": round(max(costs) / min(costs), 3),
        "cost_growth_goal": "1: a conversation costs the same in a large round",
    }
    file = plot or Path("runs") / f"bench-scale-{time.strftime('%Y%m%d-%H%M%S')}.svg"
    draw(found, file)
    return found | {"plot": str(file)}


class _Bench:
    """Rounds that are held by some engines, which are started when a round first needs them."""

    def __init__(self, folder: Path) -> None:
        import ray

        from actors.buffer import TrajectoryBuffer

        self._folder = folder
        self._engines: list[Any] = []
        self._rounds = 0
        self._buffer = ray.remote(TrajectoryBuffer).options(num_cpus=0).remote(200, 60)
        self._pids = {ray.get(self._buffer.ping.remote()).pid: "buffer"}

    def _have(self, replicas: int) -> None:
        """Start the engines that are lacking, a few at a time, as each imports for a second."""
        import ray

        from actors.settings import EngineSettings

        made = ray.remote(ClockEngine).options(num_cpus=0)
        while (lacking := replicas - len(self._engines)) > 0:
            new = [made.remote(SCRIPTED, EngineSettings()) for _ in range(min(4, lacking))]
            self._pids |= dict.fromkeys((at.pid for at in ray.get([e.ping.remote() for e in new])), "engines")
            self._engines += new

    def set_pace(self, pace: float) -> None:
        """Have all engines take so many times as long."""
        import ray

        ray.get([e.set_pace.remote(pace) for e in self._engines])

    def hold(self, replicas: int, count: int) -> dict[str, Any]:
        """Hold a round of `count` conversations on so many engines: the rate at which they ended when all were under
        way, the cores that were used, and processor time of each."""
        import ray

        from actors.buffer import RoundData, RoundPlan
        from actors.conversation import Terms
        from actors.models.ref import ModelRef
        from actors.roles import ActorHandles
        from actors.settings import UserSettings
        from actors.storage.segments import write_table
        from actors.storage.store import Store
        from actors.users import UserPool
        from loop.plan import plan_round, plan_table

        self._have(replicas)
        self._rounds += 1
        config = _config(count, replicas)
        side_by_side = replicas * A_REPLICA
        settings = UserSettings(concurrency=max(1, side_by_side // POOLS))
        pools = [ray.remote(UserPool).options(num_cpus=0).remote(config.world, settings) for _ in range(POOLS)]
        pids = self._pids | dict.fromkeys((at.pid for at in ray.get([p.ping.remote() for p in pools])), "pools")
        path, store = self._folder / f"plan-{self._rounds}.arrow", Store(str(self._folder), f"round-{self._rounds}")
        write_table(path, plan_table(plan_round(config, config.arms[0], 0)))
        ray.get(self._buffer.open_round.remote(store, RoundPlan("bench", "arm", 0, count)))
        here = ModelRef(
            "assistant",
            self._engines[:replicas],
            "candor/policy-0",
            share=1 / POOLS,
            capacity=config.assistant.max_num_seqs,
        )
        handles = ActorHandles({"assistant": here, "user": here}, None, self._buffer, "bench")
        terms = Terms(config.conversation, config.rating)
        watch = _Watch(pids)
        work = [p.run_conversations.remote(path, range(i, count, POOLS), terms, handles) for i, p in enumerate(pools)]
        ray.get(work)
        spent = watch.spent()
        if missing := ray.get(self._buffer.close_round.remote()):
            raise RuntimeError(f"{missing} of {count} conversations were not held")
        for p in pools:
            ray.kill(p)
        ends = sorted(t for table in RoundData(store).scan(["finished"]) for t in table["finished"].to_pylist())
        first, last = min(side_by_side, count // 4), max(count - side_by_side, count // 2) - 1
        rate = (last - first) / max(1e-9, ends[last] - ends[first])
        return {
            "replicas": replicas,
            "conversations": count,
            "conversations_per_second": round(rate, 2),
            "cores": round(spent.total / spent.seconds, 2),
            "milliseconds_each": round(1000 * spent.total / count, 2),
            "milliseconds_by": {who: round(1000 * s / count, 2) for who, s in sorted(spent.by.items())},
        }


def _config(count: int, replicas: int, pools: int = POOLS, concurrency: int = A_REPLICA) -> Any:
    """A run of one arm whose engines play everybody."""
    from loop.config.files import build

    raw = {
        "name": "bench",
        "world": "support",
        "model": SCRIPTED,
        "rounds": 1,
        "arms": [{"name": "arm", "biased_ratio": 0.5}],
        "rollout": {"conversations": count},
        "roles": {"judge": None},
        "conversation": {"turns": TURNS, "max_tokens": max(REPLY_TOKENS)},
        "assistant": {"replicas": replicas, "sync": "lora", "cpus": 0, "max_num_seqs": 2048},
        "users": {"pools": pools, "concurrency": concurrency},
        "evals": {"suites": []},
    }
    return build(raw, "bench scale")


class _Watch:
    """Processor time of this process and all that it started, from now on."""

    def __init__(self, pids: dict[int, str]) -> None:
        self._pids = pids | {os.getpid(): "driver"}
        self._began = time.monotonic()
        self._before = self._seconds()

    def _seconds(self) -> dict[int, float]:
        own = psutil.Process()
        found = {}
        for process in (own, *own.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                found[process.pid] = times.user + times.system
        return found

    def spent(self) -> Spent:
        by: dict[str, float] = defaultdict(float)
        for pid, seconds in self._seconds().items():
            by[self._pids.get(pid, "ray")] += seconds - self._before.get(pid, 0.0)
        return Spent(time.monotonic() - self._began, dict(by))


def _driver(folder: Path) -> dict[str, float]:
    """The share of a core that the driver takes in a rollout with `IN_FLIGHT` conversations under way; its heartbeat,
    run log and TensorBoard are counted."""
    import ray
    from rich.console import Console

    from loop.arm import Arm
    from loop.cluster import connect
    from loop.heartbeat import Heartbeat
    from loop.report.terminal import Stages, Stopped
    from loop.rollout import planned, rollout
    from loop.rundir import RunDir
    from loop.runlog import RunLog
    from loop.supervisor import ActorSupervisor

    pools = 4
    config = _config(2 * IN_FLIGHT, 16 if IN_FLIGHT > 1000 else 2, pools, -(-IN_FLIGHT // pools))
    out = RunDir(folder)
    out.open(config)
    connect(config)
    with open(os.devnull, "w") as nowhere, Stages(Console(file=nowhere), RunLog(out.log)) as ui:
        supervisor = ActorSupervisor(config, SCRIPTED, lambda _: None, engine=ClockEngine)
        try:
            with Heartbeat([supervisor], out, ui):
                supervisor.start()
                ray.get([m.handle.set_pace.remote(SLOWLY) for m in supervisor.assistants])
                arm = Arm(config, config.arms[0], SCRIPTED, supervisor, out, ui)
                watched = _Driver(supervisor, ui)
                with arm.figures_from(0), contextlib.suppress(Stopped):
                    watched.start()
                    rollout(arm, 0, planned(arm, 0), meanwhile=lambda: None)
        finally:
            supervisor.stop()
            ray.shutdown()
    return watched.found()


class _Driver(threading.Thread):
    """Watches the process of the driver from when all conversations are under way, and then stops the rollout."""

    def __init__(self, supervisor: Any, ui: Any) -> None:
        super().__init__(daemon=True)
        self._supervisor = supervisor
        self._ui = ui
        self._share: float | None = None
        self._under_way: list[float] = []

    def run(self) -> None:
        from loop.report.terminal import Stopped

        own, began, before = psutil.Process(), 0.0, 0.0
        while True:
            time.sleep(0.5)
            under_way = self._supervisor.figures.get("conversations_under_way", 0.0)
            if under_way < 0.99 * IN_FLIGHT:
                began = 0.0
                continue
            used, now = sum(own.cpu_times()[:2]), time.monotonic()
            if not began:
                began, before, self._under_way = now, used, []
            self._under_way.append(under_way)
            if now - began >= WINDOW:
                self._share = (used - before) / (now - began)
                with contextlib.suppress(Stopped):  # the driver raises it too, where it looks next
                    self._ui.stop()
                return

    def found(self) -> dict[str, float]:
        if self._share is None:
            raise RuntimeError(f"there were never {IN_FLIGHT:,} conversations under way for {WINDOW} s")
        under_way = round(statistics.median(self._under_way))
        return {"cores": round(self._share, 3), "conversations_under_way": under_way, "seconds": WINDOW}


def draw(found: dict[str, Any], file: Path) -> None:
    """The three measurements as a chart, in SVG."""
    import vl_convert

    from loop.report.charts import ARM_COLOURS, SCHEMA

    def panel(
        title: str, rows: list[dict[str, Any]], x: str, y: str, names: tuple[str, str], ideal: bool
    ) -> dict[str, Any]:
        scale = {"type": "log", "base": 2 if ideal else 10}
        line = {
            "mark": {"type": "line", "point": True, "color": ARM_COLOURS[0]},
            "encoding": {
                "x": {
                    "field": x,
                    "type": "quantitative",
                    "title": names[0],
                    "scale": scale,
                    "axis": {"values": [r[x] for r in rows]},
                },
                "y": {
                    "field": y,
                    "type": "quantitative",
                    "title": names[1],
                    "scale": {"zero": True} if not ideal else scale,
                },
            },
        }
        straight = {
            "mark": {"type": "line", "strokeDash": [4, 4], "color": "#888888"},
            "encoding": {"x": line["encoding"]["x"], "y": {**line["encoding"]["y"], "field": "linear"}},
        }
        layers = [line, straight] if ideal else [line]
        return {"title": title, "width": 320, "height": 240, "data": {"values": rows}, "layer": layers}

    alone = found["replicas"][0]["conversations_per_second"] / found["replicas"][0]["replicas"]
    rates = [
        {"replicas": p["replicas"], "rate": p["conversations_per_second"], "linear": alone * p["replicas"]}
        for p in found["replicas"]
    ]
    driver = found["driver"]
    spec = {
        "$schema": SCHEMA,
        "background": "white",
        "title": f"candor bench scale: the driver takes {driver['cores']} of a core at "
        f"{driver['conversations_under_way']:,} conversations under way",
        "hconcat": [
            panel(
                "Rate over replicas, and linear",
                rates,
                "replicas",
                "rate",
                ("replicas", "conversations a second"),
                True,
            ),
            panel(
                "Cost over the size of a round",
                [{"size": p["conversations"], "cost": p["milliseconds_each"]} for p in found["sizes"]],
                "size",
                "cost",
                ("conversations", "processor milliseconds each"),
                False,
            ),
        ],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(vl_convert.vegalite_to_svg(spec), encoding="utf-8")
