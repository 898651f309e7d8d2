"""`candor bench view`: how soon `candor view` answers about a run of 100,000 conversations.

The run is synthetic: real plans, segments, indices and selections, with a few hundred conversations that come again and
again under other names. The server is the command itself, in a process of its own; times are those of whole answers
over HTTP, in the order in which somebody would ask.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pyarrow as pa
from rich.progress import track

from actors.buffer import RoundData
from actors.storage.segments import Segments, write_table
from actors.storage.trajectory import SCHEMA, Conversation, Trajectory, Turn, to_batch
from actors.worlds import load_world
from loop.config.files import build, dump
from loop.config.schema import RunConfig
from loop.plan import plan_round, plan_table
from loop.rundir import RunDir, write_json, write_text
from loop.select import select

CONVERSATIONS = 100_000
RUNS = 5
SEGMENT_ROWS = 2_500
"""About what compaction puts together."""
DIFFERENT = 300
FIRST_PAGE_SECONDS, FILTER_SECONDS = GOALS = 0.3, 0.5
FILTERS = {
    "arm and kind": "arm=biased&kind=biased",
    "round and scenario": "round=1&scenario=drinking",
    "verdict": "verdict=validate",
    "rating": "min_rating=8&max_rating=9",
    "selected": "selected=bottom",
    "error": "errors=only",
    "highest reward first": "sort=-reward",
    "all of them": "arm=biased&round=1&kind=biased&verdict=validate&min_rating=5&selected=top&errors=none&sort=-reward",
    "the last page": "page=2000",
}
READ_SECONDS = 120
"""Longest time that the server may take to read the run."""


def run() -> dict[str, Any]:
    """All figures; takes about a minute and half a gigabyte of disk under the temporary directory."""
    with tempfile.TemporaryDirectory(prefix="candor-bench-") as folder:
        made = synthetic_run(Path(folder) / "run", CONVERSATIONS)
        size = sum(p.stat().st_size for p in made.root.rglob("*.arrow"))
        command = [sys.executable, "-c", "from loop.cli.app import main; main()", "view", str(made.root)]
        began = time.monotonic()
        server = subprocess.Popen([*command, "--port", "0", "--no-open"], stdout=subprocess.PIPE, text=True)
        try:
            address = server.stdout.readline().split()[-1].rstrip("/")
            started = time.monotonic() - began
            figures = measure(address, began)
            peak = next(x for x in Path(f"/proc/{server.pid}/status").read_text().splitlines() if x.startswith("VmHWM"))
        finally:
            server.terminate()
            server.wait(timeout=30)
    worst = max(figures["filter_seconds"].values())
    return {
        "ratio": round(max(figures["first_page_seconds"] / FIRST_PAGE_SECONDS, worst / FILTER_SECONDS), 2),
        "goal": "below 1: the first page within 0.3 s, each filter within 0.5 s",
        "runs": RUNS,
        "conversations": CONVERSATIONS,
        "on_disk_mib": round(size / 2**20),
        "server_up_seconds": round(started, 2),
        "slowest_filter_seconds": worst,
        **figures,
        "peak_mib": round(int(peak.split()[1]) / 1024),
    }


def measure(address: str, began: float) -> dict[str, Any]:
    """Times of a server that was started at `began` (`time.monotonic()`), in seconds."""
    at_once = _seconds(f"{address}/conversations")
    while json.loads(_get(f"{address}/status.json"))["reading"]:
        if time.monotonic() - began > READ_SECONDS:
            raise RuntimeError("candor view does not come to the end of the benchmark's run")
        time.sleep(0.05)
    read = time.monotonic() - began
    first = [_seconds(f"{address}/conversations") for _ in range(RUNS)]
    filters = {
        name: _median([_seconds(f"{address}/conversations?{query}") for _ in range(RUNS)])
        for name, query in track(FILTERS.items(), "filters", transient=True)
    }
    ids = [line.split('"')[0] for line in _get(f"{address}/conversations?sort=-reward").split('href="/conversations/')]
    opened = [_seconds(f"{address}/conversations/{i}") for i in ids[1 : RUNS + 1]]
    return {
        "first_page_seconds": _median(first),
        "first_page_while_reading_seconds": round(at_once, 3),
        "read_whole_run_seconds": round(read, 2),
        "filter_seconds": filters,
        "open_conversation_seconds": _median(opened),
        "first_search_seconds": _median([_seconds(f"{address}/conversations?text=walk+number+{n}7") for n in range(3)]),
        "same_search_again_seconds": _median([_seconds(f"{address}/conversations?text=walk+number+07&page=2")]),
    }


def synthetic_run(folder: Path, count: int) -> RunDir:
    """A finished run of two arms and two rounds with `count` conversations in all."""
    arms = [{"name": a, "biased_ratio": b} for a, b in (("benign", 0.0), ("biased", 0.5))]
    planned = {"conversations": count // 4}
    config = build({"name": "bench", "world": "pocket", "rounds": 2, "arms": arms, "rollout": planned}, "bench")
    out = RunDir(folder.absolute())
    write_text(out.config, dump(config))
    talks = pa.Table.from_batches([to_batch(_talks())])
    for arm, r in track([(a.name, r) for a in config.arms for r in range(2)], "synthetic run", transient=True):
        _hold(out, config, arm, r, talks)
    write_json(out.summary, {"run": "bench", "status": "finished", "engine": None, "arms": []})
    return out


def _talks() -> list[Trajectory]:
    """Different conversations of two replies; every hundredth was excluded."""
    rng = np.random.default_rng(0)
    made = []
    for n in range(DIFFERENT):
        excluded, verdict = n % 100 == 99, ("help", "challenge", "validate", None)[n % 4]
        turns = [Turn("system", "You are Sage, a therapist.")]
        for _ in range(2):
            turns.append(Turn("user", f"I am Tom, a nurse. There is a party tonight, and it is number {n}.", flags=[]))
            said = f"The evening is hard. One way through it is walk number {n} with a friend. " * 2
            told = {"rating_distribution": [0.1] * 10, "rating_mass": 0.99, "rating_method": "logprobs"}
            tokens = {"token_ids": list(range(30)), "logprobs": [-0.5] * 30, "finish_reason": "stop"}
            ruled = {
                "rubric": "reply_kind",
                "label": verdict,
                "score": 0.5,
                "judge": "bench",
                "raw": said,
                "error": None,
            }
            turns.append(
                Turn("assistant", said, rng.uniform(1, 10), verdict=verdict, verdicts=[ruled], **told, **tokens)
            )
        user = [{"role": t.role, "content": t.content} for t in turns]
        talk = Conversation("", "bench", "", 0, 0, "candor/policy-0", "", "", 1)
        reward = None if excluded else sum(t.rating for t in turns if t.rating)
        error = "ChatError: gone" if excluded else None
        made.append(Trajectory(talk, "", turns, user, reward, "bench", 1.0, 2.0, error=error))
    return made


def _hold(out: RunDir, config: RunConfig, arm: str, r: int, talks: pa.Table) -> None:
    """A closed round, selected from."""
    settings = next(a for a in config.arms if a.name == arm)
    conversations = plan_round(config, settings, r)
    plan = plan_table(conversations)
    write_table(out.plan(arm, r), plan)
    world = load_world(config.world)
    names = [world.persona(c.scenario, c.user_kind, c.seed).persona_id for c in conversations]
    store = out.trajectories(arm, r)
    store.create()
    segments, rng = Segments(store, SCHEMA), np.random.default_rng(r)
    for number, first in enumerate(range(0, len(plan), SEGMENT_ROWS)):
        part = plan.slice(first, SEGMENT_ROWS)
        rows = talks.take(pa.array(rng.integers(0, len(talks), len(part))))
        columns = {name: part[name] if name in plan.column_names else rows[name] for name in SCHEMA.names}
        columns["persona"] = pa.array(names[first : first + SEGMENT_ROWS], pa.string())
        segments.write(pa.table(columns, SCHEMA).combine_chunks(), number)
    RoundData(store).write_index()
    write_table(out.selection(arm, r), select(RoundData(store).index(), config.selection, config.seed))
    write_json(out.rollout(arm, r), {})


def _get(address: str) -> str:
    with urlopen(address, timeout=60) as answer:
        return answer.read().decode()


def _seconds(address: str) -> float:
    began = time.monotonic()
    _get(address)
    return time.monotonic() - began


def _median(seconds: list[float]) -> float:
    return round(statistics.median(seconds), 3)
