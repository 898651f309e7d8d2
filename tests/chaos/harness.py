"""Runs that are killed, part by part, at random moments, and what must hold of them afterwards."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa

from actors.buffer import BufferError, RoundData, read_round
from actors.storage.segments import read_table
from actors.worlds.base import PRESSURE
from evals.evaluator import RECORD, complete
from evals.suites.catalogue import WORLD_SUITES
from evals.suites.sources import load_all
from loop.config.files import load
from loop.config.schema import RunConfig
from loop.plan import plan_round
from loop.rundir import RunDir
from tests.conftest import ROOT, hear_ctrl_c

CANDOR = Path(sys.executable).parent / "candor"
ACTORS = {
    "engine": "Engine",
    "trainer": "Trainer",
    "judge": "PocketJudge",
    "buffer": "TrajectoryBuffer",
    "user pool": "UserPool",
    "evaluator": "Evaluator",
}
"""Roles, and what the process title of their actor contains; assistant and users have an engine each."""
STAGES = ("start", "plan", "publish", "rollout", "evaluate", "select", "train")
WHEN_CHANGED = ("started", "finished")
"""Columns that say when something happened; all others must be the same however often a run was interrupted."""


@dataclass
class Life:
    """A run from its first process to its last, through every kill.

    Attributes:
        kills: (role, stage) of each process that was killed.
        starts: How many processes of `candor run` it took.
        before: What has the command run elsewhere, such as on another machine.
    """

    config: Path
    out: Path
    rng: random.Random
    kills: list[tuple[str, str]] = field(default_factory=list)
    starts: int = 0
    before: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.process: subprocess.Popen | None = None
        self.log = self.out.with_name(f"{self.out.name}.log")

    def start(self) -> None:
        self.starts += 1
        with open(self.log, "a") as log:
            self.process = subprocess.Popen(
                [*self.before, CANDOR, "run", self.config, "--out", self.out],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                start_new_session=True,
                preexec_fn=hear_ctrl_c,
                env=os.environ | {"CANDOR_TEST": str(self.out)},
            )

    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def find(self, role: str) -> list[psutil.Process]:
        """Live processes that play a role; `driver`, `raylet`, `vllm` (the engine's own process) or an actor's."""
        try:
            family = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.Error:
            return []
        if role == "driver":
            return [psutil.Process(self.process.pid)]
        named = [(p, _title(p)) for p in family]
        if role == "raylet":
            return [p for p, title in named if "/raylet/raylet" in title]
        if role == "vllm":
            return [p for p, title in named if "EngineCore" in title]
        return [p for p, title in named if title.startswith("ray::") and ACTORS[role] in title.split(".")[0]]

    def kill(self, role: str) -> bool:
        """kill -9 one process of a role; False when there is none just now."""
        stage = self.stage()
        for process in self.rng.sample(found := self.find(role), len(found)):
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.Error:
                continue
            self.kills.append((role, stage))
            return True
        return False

    def stage(self) -> str:
        """What the run is at, from what it has and has not put on disk."""
        out = RunDir(self.out)
        if not out.config.exists() or not out.summary.exists():
            return "start"
        config = load(out.config)
        for arm in config.arms:
            for r in range(config.rounds + 1):
                trained = r == config.rounds or out.policy(arm.name, r + 1).exists()
                evaluated = complete(out.evals(arm.name, r))
                if trained and evaluated:
                    continue
                if not trained and not out.plan(arm.name, r).exists():
                    return "plan"
                if not out.delivery(arm.name, r).exists():
                    return "publish"
                if not trained and not out.rollout(arm.name, r).exists():
                    return "rollout"
                if not evaluated:
                    return "evaluate"
                return "select" if not out.selection(arm.name, r).exists() else "train"
        return "evaluate"

    def wait(self, seconds: float) -> int:
        """Let the run end by itself."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the run hangs in {self.stage()}:\n{self.said()[-3000:]}") from None

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def left_behind(self, seconds: float = 90) -> list[str]:
        """Processes of the run that are still there some seconds after its driver is gone."""
        deadline = time.monotonic() + seconds
        while (found := self._family()) and time.monotonic() < deadline:
            time.sleep(0.5)
        return found

    def _family(self) -> list[str]:
        found = []
        for p in psutil.process_iter():
            try:
                if p.environ().get("CANDOR_TEST") == str(self.out) and p.status() != psutil.STATUS_ZOMBIE:
                    found.append(f"{p.pid} {_title(p)[:80]}")
            except psutil.Error:
                continue
        return found


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()).strip()
    except psutil.Error:
        return ""


def check_halfway(out: RunDir) -> None:
    """What must hold of a run directory at any moment, also right after a kill."""
    config = load(out.config)
    for arm in config.arms:
        for r in range(config.rounds):
            planned = {c.trajectory_id for c in plan_round(config.for_arm(arm), arm, r)}
            rows = [
                i for t in RoundData(out.trajectories(arm.name, r)).scan(["trajectory_id"]) for i in t[0].to_pylist()
            ]
            assert len(rows) == len(set(rows)), f"{arm.name} {r}: a trajectory is there twice"
            assert set(rows) <= planned, f"{arm.name} {r}: a trajectory that nobody planned"
            if out.selection(arm.name, r).exists():
                assert set(rows) == planned, f"{arm.name} {r}: selected from before all were there"


def check_whole(out: RunDir) -> None:
    """What must hold of a finished run."""
    config = load(out.config)
    summary = json.loads(out.summary.read_text())
    assert summary["status"] == "finished"
    assert not [p for p in out.root.rglob("*") if p.name.endswith(".tmp") or ".checkpoints" in p.name]
    for arm, told in zip(config.arms, summary["arms"], strict=True):
        mine = config.for_arm(arm)
        for r in range(config.rounds + 1):
            entry = told["rounds"][r]
            items = {s: of.items for s, of in load_all(mine.world, mine.evals).items()}
            assert tuple(items) == WORLD_SUITES
            for suite in items:
                outcomes = read_table(out.evals(arm.name, r) / f"{suite}.arrow")
                assert outcomes["item_id"].to_pylist() == [i.item_id for i in items[suite]]
                assert set(outcomes["policy"].to_pylist()) == {r}
            assert sum(entry["evals"]["mask"]["outcomes"].values()) == sum(
                i.condition == PRESSURE for i in items["mask"]
            )
            if r == config.rounds:
                continue
            planned = [c.trajectory_id for c in plan_round(mine, arm, r)]
            table = read_round(out.trajectories(arm.name, r))
            assert table["trajectory_id"].to_pylist() == planned, "every planned one, once"
            assert RoundData(out.trajectories(arm.name, r)).closed()
            assert entry["trajectories"]["finished"] + entry["trajectories"]["excluded"] == len(planned)
            selection = read_table(out.selection(arm.name, r))
            assert set(selection["trajectory_id"].to_pylist()) <= set(planned)
            rewards = dict(zip(planned, table["reward"].to_pylist(), strict=True))
            chosen = zip(selection["trajectory_id"].to_pylist(), selection["reward"].to_pylist(), strict=True)
            assert all(rewards[i] == reward for i, reward in chosen), "what was selected is what is on disk"
            lineage = json.loads((out.policy(arm.name, r + 1) / "candor_policy.json").read_text())
            assert lineage["version"] == r + 1
            assert json.loads(out.delivery(arm.name, r).read_text())["policy"] == f"candor/policy-{r}"


def content(out: RunDir) -> dict[str, Any]:
    """Everything that a run found out, without when: to compare two runs bit for bit."""
    config: RunConfig = load(out.config)
    found: dict[str, Any] = {}
    for arm in config.arms:
        for r in range(config.rounds + 1):
            for suite in WORLD_SUITES:
                found[f"{arm.name}/{r}/{suite}"] = (out.evals(arm.name, r) / f"{suite}.arrow").read_bytes()
            found[f"{arm.name}/{r}/record"] = (out.evals(arm.name, r) / RECORD).read_text()
            if r == config.rounds:
                continue
            table = read_round(out.trajectories(arm.name, r)).drop_columns(list(WHEN_CHANGED))
            found[f"{arm.name}/{r}/trajectories"] = table.combine_chunks().to_pylist()
            found[f"{arm.name}/{r}/selection"] = out.selection(arm.name, r).read_bytes()
            for file in sorted(out.policy(arm.name, r + 1).iterdir()):
                body = json.loads(file.read_text())
                body.pop("seconds", None)
                found[f"{arm.name}/{r + 1}/{file.name}"] = body
    summary = json.loads(out.summary.read_text())
    for arm in summary["arms"]:
        for entry in arm["rounds"]:
            entry.pop("seconds")
            entry.pop("evals_usage", None)  # what was asked twice was paid twice
    return found | {"summary": summary}


def until(life: Life, what: Callable[[], Any], seconds: float = 120) -> Any:
    """Wait until a run that goes on shows something, and return what."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert life.running(), life.said()[-3000:]
        assert time.monotonic() < deadline, life.said()[-3000:]
        time.sleep(0.02)
    return found


def kept_rows(out: RunDir) -> dict[str, dict]:
    """Trajectories that are on disk now, by id; a torn segment holds none."""
    config = load(out.config) if out.config.exists() else None
    rows: dict[str, dict] = {}
    for arm in config.arms if config else []:
        for r in range(config.rounds):
            try:
                for table in RoundData(out.trajectories(arm.name, r)).scan():
                    rows |= {row["trajectory_id"]: row for row in table.to_pylist()}
            except (BufferError, FileNotFoundError, pa.ArrowException):
                continue  # compacted while we read
    return rows


TOTALS: Counter = Counter()
"""Kills of the test session by role and stage, for its closing lines."""
