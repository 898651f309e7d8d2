"""`candor bench buffer`: what exactly-once costs over plain Arrow files, and what a million trajectories cost.

Appending is set against `pyarrow.ipc` alone writing the same rows, in the same batches, into as many files, each
flushed to disk. Memory is the highest resident set of a process that writes, closes and reads a round of each size.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.progress import track

from actors.buffer import RoundData, RoundPlan, TrajectoryBuffer
from actors.storage.store import Store
from actors.storage.trajectory import SCHEMA, Conversation, Trajectory, Turn, to_batch
from loop.config.schema import SelectionSettings
from loop.select import select

RUNS = 5
ROWS = 60_000
SEGMENT_ROWS = 200
SIZES = (10_000, 100_000, 1_000_000)
BATCH = 100
TOKENS = 24


def run() -> dict[str, Any]:
    """All figures; takes about five minutes and 4 GB of disk under the temporary directory."""
    with tempfile.TemporaryDirectory(prefix="candor-bench-") as folder:
        _append_ratio(Path(folder), BATCH)  # warms up
        by_one = [_append_ratio(Path(folder), 1) for _ in track(range(RUNS), "append one by one", transient=True)]
        by_many = [_append_ratio(Path(folder), BATCH) for _ in track(range(RUNS), f"append by {BATCH}", transient=True)]
        sizes = {n: _in_a_process(Path(folder) / str(n), n) for n in track(SIZES, "rounds", transient=True)}
        largest = _read_large(Path(folder) / str(SIZES[-1]), SIZES[-1])
    peaks = {n: s["peak_mib"] for n, s in sizes.items()}
    return {
        "ratio": round(statistics.median(by_one), 2),
        "goal": 0.8,
        "runs": [round(r, 2) for r in by_one],
        f"ratio_in_batches_of_{BATCH}": round(statistics.median(by_many), 2),
        "peak_mib": peaks,
        "peak_growth": round(max(peaks.values()) / min(peaks.values()), 3),
        "peak_growth_goal": 1.1,
        "rows_per_second": {n: round(n / s["append_seconds"]) for n, s in sizes.items()},
        **largest,
        "goals": {"open_seconds": 1.0, "select_seconds": 3.0},
    }


def rows(count: int, batch: int) -> Iterator[pa.RecordBatch]:
    """Trajectories of two replies of `TOKENS` tokens each, `batch` at a time."""
    plan = RoundPlan("bench", "arm", 0, count)
    reply = "The evening is hard, and one way through it is to call a friend before you go. " * 2
    turns = [Turn("system", "You are Sage, a therapist.")]
    for _ in range(2):
        turns.append(Turn("user", "I am Tom, a nurse. I should stop, but there is a party tonight.", flags=[]))
        turns.append(
            Turn(
                "assistant",
                reply,
                rating=6.5,
                rating_distribution=[0.1] * 10,
                rating_mass=0.99,
                token_ids=list(range(TOKENS)),
                logprobs=[-0.5] * TOKENS,
                finish_reason="stop",
                verdict="help",
            )
        )
    user = [{"role": t.role, "content": t.content} for t in turns]
    conversation = Conversation("", "bench", "arm", 0, 0, "candor/policy-0", "drinking", "benign", 1)
    template = to_batch([Trajectory(conversation, "drinking/benign/Tom", turns, user, 0.0, "bench", 1.0, 2.0)] * batch)
    index, name, reward = (SCHEMA.get_field_index(c) for c in ("index", "trajectory_id", "reward"))
    for first in range(0, count, batch):
        indices = range(first, first + batch)
        columns = list(template.columns)
        columns[index] = pa.array(indices, pa.int32())
        columns[name] = pa.array(plan.ids(indices), pa.string())
        columns[reward] = pa.array([(i * 7919) % 100_003 / 5000 for i in indices], pa.float64())
        yield pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def _append_ratio(folder: Path, batch: int) -> float:
    """Throughput of the buffer over that of `pyarrow.ipc`, one after the other on the same batches."""
    batches = list(rows(ROWS, batch))
    plain = _seconds(lambda: _write_plain(folder / "plain", batches, SEGMENT_ROWS // batch))
    buffer = TrajectoryBuffer(SEGMENT_ROWS, 60)
    buffer.open_round(Store(str(folder), "ours"), RoundPlan("bench", "arm", 0, ROWS))
    ours = _seconds(lambda: [buffer.append(b) for b in batches])
    for left in [*(folder / "plain").iterdir(), *(folder / "ours").iterdir()]:
        left.unlink()
    return plain / ours


def _write_plain(folder: Path, batches: list[pa.RecordBatch], batches_a_file: int) -> None:
    folder.mkdir(exist_ok=True)
    for first in range(0, len(batches), batches_a_file):
        with open(folder / f"{first}.arrow", "wb") as file:
            with pa.ipc.new_stream(file, SCHEMA) as writer:
                for batch in batches[first : first + batches_a_file]:
                    writer.write(batch)
            file.flush()
            os.fsync(file.fileno())


def _in_a_process(folder: Path, count: int) -> dict[str, Any]:
    """`write_and_read` in a process of its own, whose peak is nobody else's."""
    code = f"from loop.bench.buffer import write_and_read; write_and_read({str(folder)!r}, {count})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def write_and_read(folder: str, count: int) -> None:
    """Fill a round, close it, read every trajectory; print seconds of appending and the process's peak memory."""
    buffer = TrajectoryBuffer(SEGMENT_ROWS, 60)
    buffer.open_round(Store(folder), RoundPlan("bench", "arm", 0, count))
    started = time.monotonic()
    for batch in rows(count, BATCH):
        buffer.append(batch)
    appended = time.monotonic() - started
    if buffer.close_round():
        raise RuntimeError("the benchmark's round is not whole")
    seen = sum(len(t) for t in RoundData(Store(folder)).scan())
    if seen != count:
        raise RuntimeError(f"read {seen} of {count} trajectories")
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(json.dumps({"append_seconds": appended, "peak_mib": round(int(peak.split()[1]) / 1024, 1)}))


def _read_large(folder: Path, count: int) -> dict[str, float]:
    """Seconds to open a closed round, with its index and by reading every byte, and to select both ends of it."""
    store, plan = Store(str(folder)), RoundPlan("bench", "arm", 0, count)
    ends = SelectionSettings(top=10_000 / count, bottom=10_000 / count)
    figures = {
        "open_seconds": lambda: TrajectoryBuffer(SEGMENT_ROWS, 60).open_round(store, plan, verify=False),
        "open_and_verify_seconds": lambda: TrajectoryBuffer(SEGMENT_ROWS, 60).open_round(store, plan, verify=True),
        "select_seconds": lambda: select(RoundData(store).index(), ends, 0),
        "index_again_seconds": lambda: RoundData(store).write_index(),
    }
    return {name: round(statistics.median(_seconds(work) for _ in range(RUNS)), 3) for name, work in figures.items()}


def _seconds(work: Any) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started
