"""The loop itself: what happens in a run, in its order.

    publish    every assistant replica serves policy r, and a probe proves it
    evaluate   the evaluator benchmarks policy r, beside the rollouts
    plan       the conversations of the round, a pure function of the config
    rollout    user pools hold them with the assistant, rate every reply, and stream them into the buffer
    select     the best and the worst by reward, or a control
    train      the trainer turns the selection into policy r+1

Each stage leaves a file or folder that is complete or absent; what is there is not done again.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray

from actors.assistant import BASE_POLICY, policy_name
from actors.buffer import read_round, read_table, write_table
from evals.evaluator import SUITES, load_items, summarise
from loop.cluster import Crew, connect
from loop.config import ArmSettings, RunConfig
from loop.monitor import Stage, Stages, TensorBoard
from loop.plan import conversation_seed, plan_round
from loop.rundir import RunDir, read_json, write_json
from loop.select import select
from loop.summary import write_summary
from trainers.base import TrainJob
from trainers.policy import prove, read_lineage

POLL_SECONDS = 0.3


class ExcludedError(RuntimeError):
    """Too many conversations of a round failed for it to mean anything."""


def run(config: RunConfig, model: str, out: RunDir, ui: Stages) -> None:
    """Do everything that a run still lacks.

    Args:
        model: Path or hub name of the base model.
        out: The run directory, opened for this config.
    """
    if is_finished(config, out):
        return
    connect(config)
    crew = Crew(config, model)
    try:
        with ui.stage("start engines and trainer", crew.size(), "actors") as stage:
            engine = crew.start(stage.update)
        write_summary(out, config, "running", engine)
        for arm in config.arms:
            Arm(config, arm, model, crew, out, ui).run()
        write_summary(out, config, "finished", engine)
    finally:
        crew.stop()


def is_finished(config: RunConfig, out: RunDir) -> bool:
    """Whether every policy of every arm has been evaluated."""
    return read_json(out.summary).get("status") == "finished" and all(
        (out.evals(arm.name, r) / f"{suite}.arrow").exists()
        for arm in config.arms
        for r in range(config.rounds + 1)
        for suite in SUITES
    )


@dataclass
class Arm:
    """One arm of a run, from the untouched base to the last policy."""

    run_config: RunConfig
    arm: ArmSettings
    model: str
    crew: Crew
    out: RunDir
    ui: Stages

    def run(self) -> None:
        self.config = self.run_config.for_arm(self.arm)
        self.board = TensorBoard(self.out.tensorboard / self.arm.name)
        try:
            for r in range(self.config.rounds + 1):
                self.round(r)
        finally:
            self.board.close()

    def round(self, r: int) -> None:
        """Policy r: publish it, evaluate it, and unless it is the last make policy r+1 of what users thought of it."""
        last = r == self.config.rounds
        trained = last or self.out.policy(self.arm.name, r + 1).exists()
        if trained and self.evaluated(r):
            return
        self.publish(r)
        evaluation = self.begin_evaluation(r)
        if not trained:
            self.rollout(r)
        self.end_evaluation(r, evaluation)
        if not trained:
            self.select(r)
            self.train(r)

    def publish(self, r: int) -> None:
        """Make every replica serve policy r, and prove that its log-probabilities are the trainer's."""
        name, target, crew = policy_name(r), self.out.policy(self.arm.name, r), self.crew
        with self.ui.stage(self._title(f"publish policy {r}"), len(crew.assistants), "replicas") as stage:
            if r == 0:
                expected = parent = ray.get(crew.trainer.base_logprobs.remote())
                if self.config.sync == "merged":
                    ray.get([e.publish.remote(BASE_POLICY, self.model, "merged") for e in crew.assistants])
                else:
                    ray.get([e.retire.remote() for e in crew.assistants])
            else:
                lineage = read_lineage(target)
                expected, parent = lineage.probe, lineage.probe_parent
                path = target
                if self.config.sync == "merged" and self.config.trainer.lora is not None:
                    path = self.out.merged(self.arm.name, r)
                    ray.get(crew.trainer.merge.remote(str(target), str(path)))
                ray.get([e.publish.remote(name, str(path), self.config.sync) for e in crew.assistants])
            texts = ray.get(crew.trainer.probe.remote())
            served = ray.get([e.prompt_logprobs.remote(name, texts) for e in crew.assistants])
            proofs = [prove(s, expected, parent, self.config.assistant.probe_tolerance, name) for s in served]
            stage.update(len(proofs))
        worst = max(proofs, key=lambda p: p.error)
        self.board.delivery(worst, r)
        if r > 0 and not worst.tells_apart:
            self.ui.say(f"  policy {r} moved by {worst.moved:.4f} nats a token, too little to tell it from its parent")
        self._record(r, "publish", stage)
        if r > 0:
            shutil.rmtree(self.out.merged(self.arm.name, r), ignore_errors=True)

    def rollout(self, r: int) -> None:
        """Hold the round's conversations; those that are on disk are kept."""
        plan = plan_round(self.config, self.arm, r)
        folder = self.out.trajectories(self.arm.name, r)
        crew = self.crew
        kept = set(ray.get(crew.buffer.open_round.remote(str(folder), [c.trajectory_id for c in plan])))
        todo = [c for c in plan if c.trajectory_id not in kept]
        with self.ui.stage(self._title(f"round {r} rollout"), len(plan), "conversations") as stage:
            shares = [todo[i :: len(crew.pools)] for i in range(len(crew.pools))]
            work = [
                pool.hold_all.remote(share, self.config.rollout, crew.assistants, crew.user_engines, BASE_POLICY)
                for pool, share in zip(crew.pools, shares, strict=True)
            ]
            self._watch(work, stage, lambda: (ray.get(crew.buffer.count.remote()), len(plan)))
            ray.get(work)
            missing = ray.get(crew.buffer.close_round.remote())
            if missing:
                raise ExcludedError(f"{missing} of {len(plan)} planned conversations did not reach the buffer")
        table = read_round(folder)
        excluded = [e for e in table["error"].to_pylist() if e is not None]
        if len(excluded) > self.config.users.max_excluded_share * len(plan):
            aside = folder.with_name(f"{folder.name}.failed-{time.strftime('%Y%m%d-%H%M%S')}")
            folder.rename(aside)
            raise ExcludedError(
                f"{len(excluded)} of {len(plan)} conversations were excluded, more than users.max_excluded_share = "
                f"{self.config.users.max_excluded_share:g} allows; the first failed with {excluded[0]}. The round "
                f"is set aside as {aside.name} and will be held again"
            )
        self.board.rollout(table, r)
        self._record(r, "rollout", stage)

    def select(self, r: int) -> None:
        target = self.out.selection(self.arm.name, r)
        if not target.exists():
            seed = conversation_seed(self.config.seed, r, -1)
            write_table(
                target, select(read_round(self.out.trajectories(self.arm.name, r)), self.config.selection, seed)
            )

    def train(self, r: int) -> None:
        """Policy r+1 from the selection of round r."""
        name, config = self.arm.name, self.config
        job = TrainJob(
            arm=name,
            version=r + 1,
            trajectories=str(self.out.trajectories(name, r)),
            selection=str(self.out.selection(name, r)),
            parent=str(self.out.policy(name, r)) if r > 0 else None,
            target=str(self.out.policy(name, r + 1)),
            seed=conversation_seed(config.seed, r, -2),
            tensorboard=str(self.out.tensorboard / name / "train"),
        )
        with self.ui.stage(self._title(f"round {r} train policy {r + 1}"), 1, "steps") as stage:
            work = [self.crew.trainer.train.remote(job, config.trainer)]
            self._watch(work, stage, lambda: ray.get(self.crew.trainer.progress.remote()))
            lineage = ray.get(work[0])
            stage.update(lineage.steps, lineage.steps)
        self._record(r, "train", stage)

    def evaluated(self, r: int) -> bool:
        return all((self.out.evals(self.arm.name, r) / f"{s}.arrow").exists() for s in SUITES)

    def begin_evaluation(self, r: int) -> Any:
        """Start to evaluate policy r; policy 0 is the same in every arm, so an evaluation of it is taken over."""
        if r == 0 and not self.evaluated(0):
            self._take_over_base_evaluation()
        if self.evaluated(r):
            return None
        folder = self.out.evals(self.arm.name, r)
        return self.crew.evaluator.evaluate.remote(
            self.arm.name, r, policy_name(r), self.crew.assistants, str(folder), self.config.evals
        )

    def end_evaluation(self, r: int, evaluation: Any) -> None:
        if evaluation is not None:
            total = sum(map(len, load_items(self.config.world, self.config.evals, self.config.seed).values()))
            with self.ui.stage(self._title(f"evaluate policy {r}"), total, "items") as stage:
                self._watch([evaluation], stage, lambda: ray.get(self.crew.evaluator.progress.remote()))
                stage.update(total)
                stage.took(ray.get(evaluation))
            self._record(r, "evaluate", stage)
        figures = summarise(self.out.evals(self.arm.name, r), self.config.evals.max_error_share)
        self.board.evaluation(figures, r)
        write_summary(self.out, self.run_config, "running")

    def _take_over_base_evaluation(self) -> None:
        """Copy the outcomes of policy 0 from an arm that has them and asks the same, under this arm's name."""
        for other in self.run_config.arms:
            source = self.out.evals(other.name, 0)
            same = self.run_config.for_arm(other).evals == self.config.evals
            if other.name == self.arm.name or not same or not all((source / f"{s}.arrow").exists() for s in SUITES):
                continue
            for suite in SUITES:
                table = read_table(source / f"{suite}.arrow")
                column = table.schema.get_field_index("arm")
                names = pa.array([self.arm.name] * len(table), pa.string())
                copied = table.set_column(column, table.schema.field(column), names)
                write_table(self.out.evals(self.arm.name, 0) / f"{suite}.arrow", copied)
            return

    def _watch(self, work: list[Any], stage: Stage, count: Callable[[], tuple[float, float]]) -> None:
        """Show progress until the work is done."""
        waiting = list(work)
        while waiting:
            _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=POLL_SECONDS)
            done, total = count()
            stage.update(done, total or None)

    def _record(self, r: int, name: str, stage: Stage) -> None:
        """Add a stage's seconds to what it took before, in the run directory and in TensorBoard."""
        path = self.out.stages(self.arm.name, r)
        record = read_json(path)
        record[name] = round(record.get(name, 0.0) + stage.seconds(), 3)
        write_json(path, record)
        self.board.seconds(name, record[name], r)

    def _title(self, what: str) -> str:
        return f"{self.arm.name}: {what}"
