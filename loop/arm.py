"""One arm at work: what its stages share, and how far it has come, judging by what is on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import ray

from actors.actor import ActorGone
from actors.metrics import open_metrics
from evals.evaluator import complete
from loop.budget import Budget
from loop.config.schema import ArmSettings, RunConfig
from loop.report.monitor import Monitor
from loop.report.terminal import Stage, Stages
from loop.rundir import RunDir, read_json, write_json
from loop.supervisor import ActorSupervisor

POLL_SECONDS = 0.3


class Arm:
    """One arm of a run, from the untouched base to the last policy.

    Attributes:
        run_config: The config of the whole run.
        config: The same with the arm's own settings in place.
        model: Path or hub name of the base model.
        verified: Rounds whose files this process has compared with their checksums.
        monitor: Logs figures while the arm is at work.
    """

    monitor: Monitor

    def __init__(
        self, config: RunConfig, arm: ArmSettings, model: str, supervisor: ActorSupervisor, out: RunDir, ui: Stages
    ) -> None:
        self.run_config = config
        self.config = config.for_arm(arm)
        self.settings = arm
        self.name = arm.name
        self.model = model
        self.supervisor = supervisor
        self.out = out
        self.ui = ui
        self.budget = Budget(config, self.config, arm.name, out, supervisor)
        self.verified: set[int] = set()

    def first_round(self) -> int | None:
        """The first round that lacks something; None when the arm is done."""
        return next((r for r in range(self.config.rounds + 1) if not self.done(r)), None)

    def done(self, r: int) -> bool:
        """Whether policy r is evaluated and policy r+1, if there is to be one, is made."""
        return self.trained(r) and complete(self.out.evals(self.name, r))

    def trained(self, r: int) -> bool:
        """Whether policy r+1 is made, or none is to be."""
        return r == self.config.rounds or self.out.policy(self.name, r + 1).exists()

    @contextmanager
    def figures_from(self, begin: int) -> Iterator[None]:
        """Log figures during the block; those of round `begin` and later ones replace what was logged before."""
        folder, held = self.out.tensorboard / self.name, begin * self.config.rollout.conversations
        after = held + 1 if held else 0  # the end of the round before stays
        live = open_metrics(folder / "rollout", after) if self.config.data is None else None
        self.monitor = Monitor(open_metrics(folder, begin), live)
        try:
            self.monitor.begin(self.config, self.settings)
            yield
        finally:
            self.monitor.close()

    def stage(self, kind: str, r: int, what: str, total: float, unit: str) -> AbstractContextManager[Stage]:
        """Show a stage of the arm; arguments as of `Stages.stage`.

        Args:
            kind: `publish`, `rollout`, `evaluate` or `train`.
            what: The same in words.
        """
        return self.ui.stage(f"{self.name}: {what}", total, unit, stage=kind, arm=self.name, round=r)

    def watch(self, work: Any, stage: Stage, count: Callable[[], tuple[float, float]]) -> None:
        """Show progress until work is done or has failed."""
        done: list[Any] = []
        while not done:
            done, _ = ray.wait([work], timeout=POLL_SECONDS)
            try:
                at, total = count()
            except ActorGone:  # the work says so too
                continue
            stage.update(at, total or None)

    def record(self, r: int, name: str, stage: Stage) -> None:
        """Add a stage's seconds to what it took before, in the run directory and among the figures."""
        path = self.out.stages(self.name, r)
        record = read_json(path)
        record[name] = round(record.get(name, 0.0) + stage.seconds(), 3)
        write_json(path, record)
        self.monitor.seconds(name, record[name], r)
