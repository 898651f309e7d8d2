"""A long run leaks nothing: memory of every process, open files, files on disk and ports stay what they are.

It takes as many minutes as `CANDOR_SOAK_MINUTES` says, 30 by default, and runs only when it is asked for: `make soak`.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import defaultdict
from statistics import median

import psutil
import pytest

from loop.rundir import RunDir
from tests.chaos.harness import ACTORS, Life, until

MINUTES = float(os.environ.get("CANDOR_SOAK_MINUTES", "30"))
SAMPLE_SECONDS = 5
CONFIG = """
name: soak
model: scripted
rounds: 100000
arms: [{name: biased, biased_ratio: 0.5}]
rollout: {conversations: 200}
buffer: {segment_rows: 16}
users: {pools: 2, concurrency: 16}
trainer: {lora: {rank: 4, alpha: 8}, batch_size: 8}
evals: {mask: 48, sycophancy: 12, provided: 12, deceptionbench: 12, capability: 8}
cluster: {keep_policies: 2}
"""
GROWTH = 0.05
"""How much more memory a process may have in the last part of the run than in an early one..."""
SLACK_MIB = 15
"""...beyond so much, which is what an allocator keeps or a table of the rounds grows by."""
KEPT_FILES = 40
"""Files that one finished round may leave behind."""


def family(life: Life) -> dict[str, list[psutil.Process]]:
    """Live processes of the run by role."""
    return {role: found for role in ("driver", "raylet", *ACTORS) if (found := life.find(role))}


def ports(life: Life) -> set[int]:
    """Ports on which a process of the run listens."""
    mine = {p.pid for found in family(life).values() for p in found}
    return {c.laddr.port for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.pid in mine}


@pytest.mark.soak
@pytest.mark.slow
def test_nothing_grows_in_a_long_run(tmp_path):
    config = tmp_path / "soak.yaml"
    config.write_text(CONFIG)
    life = Life(config, tmp_path / "out", random.Random(0))
    out = RunDir(life.out)
    life.start()
    until(life, lambda: out.selection("biased", 0).exists())
    memory: dict[str, list[tuple[float, float]]] = defaultdict(list)
    handles: dict[str, list[tuple[float, int]]] = defaultdict(list)
    rounds: list[tuple[float, int]] = []
    listened: set[int] = set()
    began = time.monotonic()
    while (at := time.monotonic() - began) < 60 * MINUTES:
        assert life.running(), life.said()[-3000:]
        for role, found in family(life).items():
            try:
                memory[role].append((at, max(p.memory_full_info().uss for p in found) / 2**20))
                handles[role].append((at, max(p.num_fds() for p in found)))
            except psutil.Error:
                continue
        rounds.append((at, len(list(out.root.glob("rounds/biased/*/selection.arrow")))))
        listened |= ports(life)
        time.sleep(SAMPLE_SECONDS)
    done = rounds[-1][1]
    files = [p for p in out.root.rglob("*") if p.is_file()]
    weights = [p for p in files if p.name == "scripted_weights.json"]
    life.process.send_signal(signal.SIGTERM)
    assert life.wait(90) == 130, life.said()[-3000:]
    assert life.left_behind() == []
    still = {c.laddr.port for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    assert not listened & still

    def parts(values):
        """Medians of an early part, after everything has been warm for a while, and of the last."""
        end = values[-1][0]
        early, late = ([v for t, v in values if a * end <= t <= b * end] for a, b in ((0.2, 0.4), (0.8, 1.0)))
        return median(early), median(late)

    seen = {role: len(of) for role, of in memory.items()}
    assert {role for role, count in seen.items() if count > 0.9 * len(rounds)} == {"driver", "raylet", *ACTORS}, seen
    told = {role: parts(of) for role, of in memory.items()}
    print(f"{done} rounds in {MINUTES:g} min; MiB of each role early and late: {told}")
    assert done >= 2 * MINUTES, "else it was no load"
    for role, (early, late) in told.items():
        assert late <= early * (1 + GROWTH) + SLACK_MIB, f"{role} grew from {early:.0f} to {late:.0f} MiB: {told}"
    for role, of in handles.items():
        early, late = parts(of)
        assert late <= early + 8, f"{role} had {early} files open, and then {late}"
    assert len(files) <= KEPT_FILES * (done + 3)
    assert len(weights) <= 4
