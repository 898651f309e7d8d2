"""Runs of a sweep side by side: how many fit, what each gets of the machine, and the processes that hold them."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil

from actors.scripted import SCRIPTED
from loop.cluster import Need, needs, place
from loop.config.schema import RunConfig
from loop.rundir import held
from loop.sweep.folder import SweepDir, standing
from loop.sweep.sharing import take_over_base
from loop.sweep.spec import SweepRun

CORES_A_RUN = 2
"""Cores that a run on CPUs gets for each arm that is at work: engine and trainer take turns, and two processes that
compute on the same cores slow each other down far more than twofold."""
GIB_A_RUN = 8
"""Free memory that a run on CPUs is given for each arm that is at work, for its engines and a trainer."""
SCRIPTED_GIB = 1.5
"""The same for a run whose models are scripted."""
POLL_SECONDS = 0.5
STOP_SECONDS = 120
"""So long a run that was asked to stop may take to write down what it has."""


@dataclass(frozen=True)
class Machine:
    """What there is to share out.

    Attributes:
        cores: Numbers of the cores that this process may use.
        gpus: Names of the GPUs, as CUDA_VISIBLE_DEVICES takes them.
        gib: Free memory.
        nodes: Resources of each machine of the cluster that the runs are to join; None where each starts its own Ray.
    """

    cores: Sequence[int]
    gpus: Sequence[str] = ()
    gib: float = 1e9
    nodes: Sequence[dict[str, float]] | None = None

    @classmethod
    def here(cls, config: RunConfig) -> Machine:
        """This machine, or the cluster that the config names."""
        own, gib = sorted(os.sched_getaffinity(0)), psutil.virtual_memory().available / 2**30
        if config.cluster.address:
            return cls(own, gib=gib, nodes=_nodes(config))
        gpus = _gpus() if any(n.gpus for n in needs(config)) else ()
        return cls(own, gpus, gib)


@dataclass(frozen=True)
class Slot:
    """What one run at a time gets; nothing said of GPUs or cores means all of them."""

    cores: tuple[int, ...] = ()
    gpus: tuple[str, ...] = ()


def slots(config: RunConfig, machine: Machine, parallel: int | None) -> list[Slot]:
    """The places for runs, each with its part of the machine; always one at least.

    Args:
        config: A run that asks for as much as any.
        parallel: How many runs at once; None for as many as fit.
    """
    if machine.nodes is not None:
        return [Slot()] * (parallel or _fit_cluster(needs(config), machine.nodes))
    each = _gpus_each(needs(config), len(machine.gpus))
    count = parallel or _fit_machine(config, machine, each)
    if count == 1:
        return [Slot()]
    share = len(machine.cores) // count
    if share < _cores_needed(config):  # more than there is room for was asked for, so they take what they get
        share = 0
    begins = [i * share for i in range(count)]
    return [
        Slot(
            tuple(machine.cores[b : b + share]),
            tuple(machine.gpus[(i * each + g) % len(machine.gpus)] for g in range(each)) if machine.gpus else (),
        )
        for i, b in enumerate(begins)
    ]


def hungriest(runs: Sequence[SweepRun]) -> RunConfig:
    """The config of the run that asks for most, GPUs before cores."""

    def asks(config: RunConfig) -> tuple[float, float]:
        return tuple(sum(n.count * getattr(n, kind) for n in needs(config)) for kind in ("gpus", "cpus"))

    return max((run.config for run in runs), key=asks)


def _fit_machine(config: RunConfig, machine: Machine, gpus_each: int) -> int:
    """How many runs this machine has room for."""
    if gpus_each:
        return max(1, min(len(machine.gpus) // gpus_each, len(machine.cores) // _cores_needed(config)))
    scripted = config.model == SCRIPTED
    sets = config.side_by_side
    by_cores = len(machine.cores) // max(_cores_needed(config), sets * (1 if scripted else CORES_A_RUN))
    return max(1, min(by_cores, int(machine.gib / (sets * (SCRIPTED_GIB if scripted else GIB_A_RUN)))))


def _cores_needed(config: RunConfig) -> int:
    """Cores that a run's actors reserve."""
    return max(1, math.ceil(sum(n.count * n.cpus for n in needs(config)) - 1e-9))


def _fit_cluster(asked: Sequence[Need], nodes: Sequence[dict[str, float]]) -> int:
    """How many runs a cluster has room for."""
    count = 1
    while not place([*asked] * (count + 1), list(nodes))[1]:
        count += 1
        if count >= sum(node.get("CPU", 0) for node in nodes):  # runs that ask for next to nothing
            break
    return count


def _gpus_each(asked: Sequence[Need], there: int) -> int:
    """The fewest whole GPUs of one machine that a run fits on; 0 where it asks for none."""
    if not any(n.gpus for n in asked):
        return 0
    fitting = (g for g in range(1, there + 1) if not place(list(asked), [{"GPU": g, "CPU": 1e9}])[1])
    return next(fitting, max(1, there))


def _gpus() -> tuple[str, ...]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(filter(None, visible.split(",")))
    import torch

    return tuple(map(str, range(torch.cuda.device_count())))


def _nodes(config: RunConfig) -> list[dict[str, float]]:
    """Resources of the machines of the cluster that a config names."""
    import ray

    from loop.cluster import connect

    connect(config)
    try:
        return [node["Resources"] for node in ray.nodes() if node["Alive"]]
    finally:
        ray.shutdown()


@dataclass
class Child:
    """A run at work in its process."""

    run: SweepRun
    slot: int
    process: subprocess.Popen
    log: Any
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began


@dataclass
class Schedule:
    """All runs of a sweep on their way.

    Attributes:
        places: What each run at work gets; as many runs are at work at once.
        active: Runs at work, by label.
        failed: Exit codes of runs that ended otherwise than well, by label.
    """

    folder: SweepDir
    runs: Sequence[SweepRun]
    places: Sequence[Slot]
    active: dict[str, Child] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)

    def work(self, shown: Callable[[], None]) -> None:
        """Hold every run that is not finished; those that fail are left, and the others go on.

        Args:
            shown: Called twice a second, and raises what is to stop the sweep.
        """
        waiting = [run for run in self.runs if standing(self.folder, run).state != "finished"]
        try:
            while waiting or self.active:
                free = [i for i in range(len(self.places)) if i not in {c.slot for c in self.active.values()}]
                # one that another process has, such as a killed sweep's that is about to end, has its turn later
                ready = [run for run in waiting if not held(self.folder.run(run).root)]
                for slot, run in zip(free, ready, strict=False):
                    waiting.remove(run)
                    self.active[run.label] = self._begin(run, slot)
                shown()
                time.sleep(POLL_SECONDS)
                self._collect()
        finally:
            self.stop()

    def _begin(self, run: SweepRun, slot: int) -> Child:
        take_over_base(self.folder, run, self.runs)
        place, log = self.places[slot], self.folder.log(run)
        log.parent.mkdir(parents=True, exist_ok=True)
        file = open(log, "ab")  # noqa: SIM115, closed when the run ends
        given = [self.folder.config(run), self.folder.run(run).root, os.getpid(), ",".join(map(str, place.cores))]
        environment = dict(os.environ)
        if place.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(place.gpus)
        process = subprocess.Popen(
            [sys.executable, "-m", "loop.sweep.child", *map(str, given)],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches the sweep alone, which asks its runs to stop
        )
        return Child(run, slot, process, file)

    def _collect(self) -> None:
        """Take note of runs that ended."""
        for label, child in list(self.active.items()):
            code = child.process.poll()
            if code is None:
                continue
            child.log.close()
            del self.active[label]
            if code or standing(self.folder, child.run).state != "finished":
                self.failed[label] = code

    def stop(self) -> None:
        """Ask runs at work to stop, and wait until they have."""
        for child in self.active.values():
            child.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for child in self.active.values():
            try:
                child.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(child.process.pid, signal.SIGKILL)
                child.process.wait()
            child.log.close()
        self.active.clear()
