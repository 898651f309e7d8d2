"""The loop itself: what happens in a run, in its order.

    plan       the conversations of the round, a pure function of the config
    publish    every assistant replica serves policy r, and a probe proves it
    evaluate   the evaluator benchmarks policy r, beside the rollouts
    rollout    user pools hold the conversations, rate every reply, and stream them into the buffer
    select     the best and the worst by reward, or a control
    train      the trainer turns the selection into policy r+1

Each stage leaves a file or folder that is complete or absent; what is there is not done again. So a run goes on after a
crash, and so it goes on within itself: when an actor dies, it is started again and the round is entered anew.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from actors.assistant import policy_name
from actors.buffer import RoundData, RoundPlan
from actors.conversation import Terms
from actors.lifeline import ActorGone
from actors.segments import read_table, write_table
from actors.store import ASIDE
from actors.usage import BudgetError, money
from evals.evaluator import RECORD, complete, record, summarise
from loop.cluster import connect
from loop.config import ArmSettings, RunConfig
from loop.crew import ClusterGoneError, Crew, Member, check_endpoints, fetch, wait_seconds
from loop.deliver import Parcel, deliver
from loop.monitor import Stage, Stages, TensorBoard
from loop.plan import conversation_seed, plan_round, plan_table
from loop.rundir import RunDir, read_json, write_json, write_text
from loop.select import audit, select
from loop.summary import RolloutFigures, usage_on_disk, write_summary
from trainers.datasets import compose
from trainers.job import TrainJob

POLL_SECONDS = 0.3


class ExcludedError(RuntimeError):
    """Too many conversations of a round failed for it to mean anything."""


class BudgetSpentError(RuntimeError):
    """The next conversation could cost more than is left of `budget`."""


def run(config: RunConfig, model: str, out: RunDir, ui: Stages) -> None:
    """Do everything that a run still lacks.

    Args:
        model: Path or hub name of the base model.
        out: The run directory, opened for this config.
    """
    if not is_finished(config, out):
        check_endpoints(config)
    losses, done = 0, None
    while not is_finished(config, out):
        try:
            _with_crew(config, model, out, ui)
        except ClusterGoneError as gone:
            before, done = done, sorted(out.root.glob("policies/*/[0-9]*"))
            losses = losses + 1 if before == done else 1
            if losses > config.cluster.max_restarts:
                raise
            ui.say(f"  {gone}; starting again, {losses} of {config.cluster.max_restarts}")
            ray.shutdown()
            time.sleep(wait_seconds(losses))
    out.sweep()


def _with_crew(config: RunConfig, model: str, out: RunDir, ui: Stages) -> None:
    connect(config)
    crew = Crew(config, model, ui.say)
    try:
        with ui.stage("start engines and trainer", len(crew.members), "actors") as stage:
            crew.start(stage.update)
        write_summary(out, config, "running", crew.engine)
        for arm in config.arms:
            Arm(config, arm, model, crew, out, ui).run()
        write_summary(out, config, "finished", crew.engine)
    finally:
        crew.stop()


def is_finished(config: RunConfig, out: RunDir) -> bool:
    """Whether every policy of every arm has been evaluated."""
    return read_json(out.summary).get("status") == "finished" and all(
        complete(out.evals(arm.name, r)) for arm in config.arms for r in range(config.rounds + 1)
    )


class Arm:
    """One arm of a run, from the untouched base to the last policy."""

    def __init__(self, config: RunConfig, arm: ArmSettings, model: str, crew: Crew, out: RunDir, ui: Stages) -> None:
        self.run_config = config
        self.config = config.for_arm(arm)
        self.arm = arm
        self.model = model
        self.crew = crew
        self.out = out
        self.ui = ui
        self._evaluating: Any = None  # the evaluation under way; it outlives a stage that has to be entered anew
        self._books: list[dict[str, Any]] = []  # what was spent before the rollout at work
        self._verified: set[int] = set()  # rounds whose files this process has compared with their checksums

    def run(self) -> None:
        begin = next((r for r in range(self.config.rounds + 1) if not self.done(r)), None)
        if begin is None:
            return
        self.board = TensorBoard(self.out.tensorboard / self.arm.name, begin)
        try:
            for r in range(begin, self.config.rounds + 1):
                self.round(r)
        finally:
            self.board.close()

    def round(self, r: int) -> None:
        """One round; an actor that dies in it is started again, and the round goes on with what is missing."""
        while not self.done(r):
            try:
                self.stages(r)
            except ActorGone as gone:
                self.crew.heal(gone)
        self.crew.all_is_well()

    def done(self, r: int) -> bool:
        """Whether policy r is evaluated and policy r+1, if there is to be one, is made."""
        return self.trained(r) and complete(self.out.evals(self.arm.name, r))

    def trained(self, r: int) -> bool:
        return r == self.config.rounds or self.out.policy(self.arm.name, r + 1).exists()

    def stages(self, r: int) -> None:
        """Policy r: publish it, evaluate it, and unless it is the last make policy r+1: of what users thought of it, or
        of data."""
        held = not self.trained(r) and self.config.data is None
        plan = self.plan(r) if held else None
        self.publish(r)
        self.begin_evaluation(r)
        if held:
            self.rollout(r, plan)
        self.end_evaluation(r)
        if held:
            self.select(r)
        elif not self.trained(r):
            self.compose(r)
        if not self.trained(r):
            self.train(r)

    def compose(self, r: int) -> None:
        """What the policy is trained on, and what that consists of; once it is on disk, that."""
        target, settings = self.out.composition(self.arm.name, r), self.config.data
        if not target.exists():
            made = compose(settings, self.config.world, self.config.seed)
            write_json(target.with_suffix(".json"), made.record)
            write_table(target, made.table)
        counts = read_json(target.with_suffix(".json"))["counts"]
        self.ui.say(f"  {self.arm.name}: {counts['all']} rows, {counts['added']} of them added")

    def plan(self, r: int) -> pa.Table:
        """The conversations of the round; once they are on disk, those."""
        path = self.out.plan(self.arm.name, r)
        if not path.exists():
            write_table(path, plan_table(plan_round(self.config, self.arm, r)))
        return read_table(path)

    def publish(self, r: int) -> None:
        """Make every replica serve policy r, and prove that its log-probabilities are the trainer's."""
        crew, config, name = self.crew, self.config, self.arm.name
        serves = f"{name}/{r}"
        behind = [m for m in crew.assistants if m.serves != serves]
        if not behind:
            return
        parcel = Parcel(
            version=r,
            policy=self.out.policy(name, r) if r > 0 else None,
            base=self.model,
            sync=config.sync,
            merged=self.out.merged(name, r) if r > 0 and config.sync == "merged" and config.trainer.lora else None,
        )
        with self.ui.stage(self._title(f"publish policy {r}"), len(behind), "replicas") as stage:
            engines, tolerance = [m.handle for m in behind], config.assistant.probe_tolerance
            made = deliver(parcel, crew.trainer.handle, engines, tolerance)
            proofs = made.proofs
            stage.update(len(proofs))
        worst = max(proofs, key=lambda p: p.error)
        for m, proof in zip(behind, proofs, strict=True):
            m.serves, m.proof = serves, proof
        replicas = [asdict(m.proof) for m in crew.assistants if m.proof is not None]
        write_json(
            self.out.delivery(self.arm.name, r),
            {
                "policy": policy_name(r),
                "engine": crew.engine,
                "at": time.time(),
                "seconds": {part: round(s, 4) for part, s in made.seconds.items()},
                "replicas": replicas,
            },
        )
        self.board.delivery(worst, r)
        if r > 0 and not worst.tells_apart:
            self.ui.say(f"  policy {r} moved by {worst.moved:.4f} nats a token, too little to tell it from its parent")
        self._record(r, "publish", stage)
        if r > 0:
            shutil.rmtree(self.out.merged(self.arm.name, r), ignore_errors=True)

    def rollout(self, r: int, plan: pa.Table) -> None:
        """Hold the round's conversations; those that are on disk are kept."""
        data = RoundData(self.out.trajectories(self.arm.name, r))
        buffer = self.crew.buffer.handle
        ids = RoundPlan(plan["run"][0].as_py(), self.arm.name, r, len(plan))
        with self.ui.stage(self._title(f"round {r} rollout"), len(plan), "conversations") as stage:
            opened = fetch(buffer.open_round.remote(data.store, ids, verify=r not in self._verified))
            self._verified.add(r)
            self._books = usage_on_disk(self.out, self.run_config)
            if len(opened.missing):  # what was selected from other conversations does not speak of these
                self.out.selection(self.arm.name, r).unlink(missing_ok=True)
            for why in opened.set_aside:
                self.ui.say(f"  set aside in {ASIDE}/: {why}; what it held is done again")
            self._hold(r, opened.missing, stage)
            missing = fetch(buffer.close_round.remote())
            if missing:
                raise ActorGone(f"{missing} of {len(plan)} conversations did not reach the buffer")
            stage.update(len(plan))
            stage.note(self._cost(r))
        errors = data.index()["error"].drop_null()
        if len(errors) > self.config.users.max_excluded_share * len(plan):
            lost = read_json(self.out.lost(self.arm.name, r)).get("usage", [])
            lost += RolloutFigures.of(data.scan()).usage_rows()
            write_json(self.out.lost(self.arm.name, r), {"usage": lost})
            for name in data.store.names():
                data.store.set_aside(name)
            raise ExcludedError(
                f"{len(errors)} of {len(plan)} conversations were excluded, more than users.max_excluded_share = "
                f"{self.config.users.max_excluded_share:g} allows; the first failed with {errors[0]}. The round "
                f"is set aside in {data.store}/{ASIDE} and will be held again"
            )
        figures = RolloutFigures.of(data.scan())
        judged = sum(f.replies for f in figures.kinds.values()) if self.config.judges else 0
        silent = sum(n for f in figures.kinds.values() for v, n in f.verdicts.items() if v.startswith("error"))
        if silent > judged / 2 > 0:
            self.ui.say(f"  the judge gave no verdict on {silent} of {judged} replies; candor data shows why")
        sampled = sum(f.methods["sampled"] for f in figures.kinds.values())
        if sampled and self.config.rating.method == "auto":
            rater = self.config.roles.rater or self.config.roles.user
            self.ui.say(f"  {sampled} ratings were sampled, because {rater} does not tell probabilities of ratings")
        self.board.rollout(figures, r, self.config.prices)
        write_json(self.out.rollout(self.arm.name, r), figures.summary(len(plan)))
        self._record(r, "rollout", stage)

    def _hold(self, r: int, missing: np.ndarray, stage: Stage) -> None:
        """Let the pools hold what is missing. A pool that dies is replaced and given what it had not handed in.

        Raises:
            BudgetSpentError: The money does not reach for all of it; what was held is kept.
        """
        crew, plan, config = self.crew, self.out.plan(self.arm.name, r), self.config
        terms = Terms(config.conversation, config.rating, config.judge.contradiction, config.judge.role_sample)
        work: dict[Any, tuple[Member, np.ndarray]] = {}
        gone: ActorGone | None = None
        enough = True

        def give(pool: Member, indices: np.ndarray) -> None:
            left = None if config.budget is None else max(0.0, config.budget - self._spent(r))
            purse = left and left / (len(crew.pools) + self._judging_costs)
            peers = crew.peers(config, policy_name(r))
            work[pool.handle.hold_all.remote(plan, indices.tolist(), terms, peers, purse)] = (pool, indices)

        def count() -> tuple[float, float]:
            stage.note(self._cost(r))
            return fetch(crew.buffer.handle.count.remote()), config.rollout.conversations

        for i, pool in enumerate(crew.pools):
            give(pool, missing[i :: len(crew.pools)])
        while work:
            self._watch(list(work), stage, count, all_=False)
            self._mind_evaluation(r)
            for ref in ray.wait(list(work), num_returns=len(work), timeout=0)[0]:
                pool, share = work.pop(ref)
                try:
                    enough = fetch(ref) and enough
                except ActorGone as error:
                    gone = gone or self._held_by_another(pool, share, error, give)
        if gone:
            raise gone
        if not enough:
            fetch(crew.buffer.handle.flush.remote())
            raise self._broke(r, "conversation")

    def _broke(self, r: int, what: str) -> BudgetSpentError:
        return BudgetSpentError(
            f"the budget is spent: {self._spent(r):.4g} of {self.config.budget:g}, and the next {what} could cost more "
            "than is left. What was done is kept; raise budget to go on"
        )

    def _spent(self, r: int, usage: list[dict[str, Any]] | None = None) -> float:
        """Money spent so far: what all finished rounds cost, and the conversations of round r that are there (`usage`,
        where it has been asked for already)."""
        prices = self.run_config.prices
        if not any(prices.values()):
            return 0.0
        return money([*self._books, *(self._usage(r) if usage is None else usage)], prices)

    def _usage(self, r: int) -> list[dict[str, Any]]:
        """What the conversations cost that round r has so far; nothing more once its figures are on disk."""
        if self.out.rollout(self.arm.name, r).exists():
            return []
        return fetch(self.crew.buffer.handle.usage.remote())

    def _cost(self, r: int) -> str:
        """What is said of the cost on the terminal: of this round by role, in money where models have a price and else
        in tokens, and of the run where there is a budget."""
        usage, prices = self._usage(r), self.run_config.prices
        roles: dict[str, float] = {}
        for u in usage:
            cost = money([u], prices) if any(prices.values()) else u["prompt_tokens"] + u["completion_tokens"]
            roles[u["role"]] = roles.get(u["role"], 0) + cost
        said = ", ".join(f"{role} {cost:,.4g}" if any(prices.values()) else f"{role} {cost / 1000:,.0f}k tokens"
                         for role, cost in roles.items() if cost)  # fmt: skip
        return said + (f"; {self._spent(r, usage):,.4g} of {self.config.budget:g} spent" if self.config.budget else "")

    def _held_by_another(
        self, pool: Member, share: np.ndarray, error: ActorGone, give: Callable[[Member, np.ndarray], None]
    ) -> ActorGone | None:
        """Replace a pool that died alone; with others dead too there is no going on: the other pools notice and end."""
        crew = self.crew
        try:
            if [m for m, _ in crew.dead()] != [pool]:
                return error
            if self.config.budget is not None:  # the others hold the rest of it: it is dealt out anew when they end
                return error
            crew.replace(pool, error)
            give(pool, np.intersect1d(share, fetch(crew.buffer.handle.missing.remote())))
        except ActorGone as another:
            return another
        return None

    def select(self, r: int) -> None:
        """The selection of the round, and what it consists of."""
        target, name = self.out.selection(self.arm.name, r), self.arm.name
        source = self._selected_from(r)
        if not target.exists() or not self.out.audit(name, r).exists():
            index = RoundData(self.out.trajectories(name, source)).index()
            chosen = select(index, self.config.selection, conversation_seed(self.config.seed, source, -1))
            write_json(self.out.audit(name, r), {"from_round": source, **audit(index, chosen)})
            write_table(target, chosen)
        self.board.selection(read_json(self.out.audit(name, r)), r)

    def _selected_from(self, r: int) -> int:
        """The round whose trajectories are trained on."""
        return 0 if self.config.selection.control == "frozen" else r

    def train(self, r: int) -> None:
        """Policy r+1 from the selection of round r."""
        name, config = self.arm.name, self.config
        held = {"base": 0, "previous": r}.get(config.trainer.reference, config.trainer.reference)
        held = min(held, r)
        job = TrainJob(
            arm=name,
            version=r + 1,
            trajectories=self.out.trajectories(name, self._selected_from(r)),
            selection=str(self.out.selection(name, r)),
            parent=str(self.out.policy(name, r)) if r > 0 else None,
            reference=str(self.out.policy(name, held)) if held > 0 else None,
            target=str(self.out.policy(name, r + 1)),
            seed=conversation_seed(config.seed, r, -2),
            tensorboard=str(self.out.tensorboard / name / "train"),
            composition=str(self.out.composition(name, r)) if config.data else None,
        )
        trainer = self.crew.trainer.handle
        with self.crew.resting(), self.ui.stage(self._title(f"round {r} train policy {r + 1}"), 1, "steps") as stage:
            work = trainer.train.remote(job, config.trainer)
            self._watch([work], stage, lambda: fetch(trainer.progress.remote()))
            lineage = fetch(work)
            stage.update(lineage.steps, lineage.steps)
        if lineage.rows_dropped:
            reasons = ", ".join(f"{n} {reason}" for reason, n in lineage.rows_dropped.items())
            self.ui.say(f"  trained on {lineage.rows} rows; left out: {reasons}")
        self._record(r, "train", stage)

    def _judges_allowance(self, alone: bool) -> float | None:
        """The money that an evaluation may spend on judges; where it is not alone, each of the pools has as much."""
        if self.config.budget is None or not self._judging_costs:
            return None
        left = self.config.budget - money(usage_on_disk(self.out, self.run_config), self.run_config.prices)
        return max(0.0, left) / (1 if alone else len(self.crew.pools) + 1)

    @property
    def _judging_costs(self) -> bool:
        """Whether evaluations spend money: on models that judge."""
        return any(self.run_config.prices.get(name) for name in self.config.eval_judges)

    def begin_evaluation(self, r: int, alone: bool = False) -> None:
        """Start to evaluate policy r; policy 0 is the same in every arm, so an evaluation of it is taken over.

        Args:
            alone: Whether no conversations are held meanwhile.
        """
        folder = self.out.evals(self.arm.name, r)
        if self._evaluating is not None and ray.wait([self._evaluating], timeout=0)[0]:
            try:
                fetch(self._evaluating)
            except (ActorGone, BudgetError):
                self._evaluating = None
        if r == 0 and not complete(folder):
            self._take_over_base_evaluation()
        if self._evaluating is None and not complete(folder):
            self._evaluating = self.crew.evaluator.handle.evaluate.remote(
                self.arm.name,
                r,
                self.crew.access(self.config, policy_name(r), self._judges_allowance(alone)),
                str(folder),
                self.config.evals,
            )

    def _mind_evaluation(self, r: int) -> None:
        """While the rollout goes on: start an evaluation again whose evaluator died, and pass on why another failed."""
        if self._evaluating is None or not ray.wait([self._evaluating], timeout=0)[0]:
            return
        try:
            fetch(self._evaluating)
        except BudgetError:
            self._evaluating = None  # its share was too small; what the pools leave may do
        except ActorGone as error:
            self._evaluating = None  # where an engine died, the pools notice and the round is entered anew
            if [m for m, _ in self.crew.dead()] == [self.crew.evaluator]:
                self.crew.replace(self.crew.evaluator, error)
                self.begin_evaluation(r)

    def end_evaluation(self, r: int) -> None:
        """Wait for the evaluation, and show what it came to. Judges whose share of the budget was too small while
        conversations were held get all that is left of it."""
        alone = self._judging_costs and self._evaluating is None
        if alone:
            self.begin_evaluation(r, alone)
        if self._evaluating is not None:
            evaluation, evaluator = self._evaluating, self.crew.evaluator.handle
            total = fetch(evaluator.progress.remote())[1]
            with self.ui.stage(self._title(f"evaluate policy {r}"), total, "answers") as stage:
                self._watch([evaluation], stage, lambda: fetch(evaluator.progress.remote()))
                self._evaluating = None
                try:
                    stage.took(fetch(evaluation))
                except BudgetError:
                    if not alone:
                        self.end_evaluation(r)
                        return
                    self._books = usage_on_disk(self.out, self.run_config)
                    raise self._broke(r, "verdict") from None
                stage.update(*fetch(evaluator.progress.remote()))
            self._record(r, "evaluate", stage)
        folder = self.out.evals(self.arm.name, r)
        if not complete(folder):  # it was cut short during the rollout, which did not need whoever died
            raise ActorGone(f"the evaluation of policy {r} was cut short")
        figures = summarise(folder, self.config.evals.max_error_share)
        self.board.evaluation(figures, r)
        write_summary(self.out, self.run_config, "running")

    def _take_over_base_evaluation(self) -> None:
        """Copy the outcomes of policy 0 from an arm that has them and asks the same, under this arm's name."""
        for other in self.run_config.arms:
            source = self.out.evals(other.name, 0)
            same = self.run_config.for_arm(other).evals == self.config.evals
            if other.name == self.arm.name or not same or not complete(source):
                continue
            target = self.out.evals(self.arm.name, 0)
            for suite in record(source)["suites"]:
                table = read_table(source / f"{suite}.arrow")
                column = table.schema.get_field_index("arm")
                names = pa.array([self.arm.name] * len(table), pa.string())
                copied = table.set_column(column, table.schema.field(column), names)
                write_table(target / f"{suite}.arrow", copied)
            write_text(target / RECORD, (source / RECORD).read_text(encoding="utf-8"))
            return

    def _watch(
        self, work: list[Any], stage: Stage, count: Callable[[], tuple[float, float]], all_: bool = True
    ) -> None:
        """Show progress until the work, or with `all_=False` a part of it, is done or has failed."""
        done: list[Any] = []
        while len(done) < (len(work) if all_ else 1):
            done, _ = ray.wait(work, num_returns=len(work) if all_ else 1, timeout=POLL_SECONDS)
            try:
                at, total = count()
            except ActorGone:  # the work says so too
                continue
            stage.update(at, total or None)

    def _record(self, r: int, name: str, stage: Stage) -> None:
        """Add a stage's seconds to what it took before, in the run directory and in TensorBoard."""
        path = self.out.stages(self.arm.name, r)
        record = read_json(path)
        record[name] = round(record.get(name, 0.0) + stage.seconds(), 3)
        write_json(path, record)
        self.board.seconds(name, record[name], r)

    def _title(self, what: str) -> str:
        return f"{self.arm.name}: {what}"
