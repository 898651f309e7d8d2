"""Rollout: user pools hold a round's conversations, rate every reply, and stream them into the buffer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from actors.actor import ActorGone
from actors.buffer import RoundData, RoundPlan
from actors.conversation import Terms
from actors.engine import policy_name
from actors.storage.segments import read_table, write_table
from actors.storage.store import ASIDE
from loop.arm import POLL_SECONDS, Arm
from loop.plan import plan_round, plan_table
from loop.publish import take_in
from loop.report.summary import UNIT, RolloutFigures
from loop.report.terminal import Stage
from loop.rundir import read_json, write_json
from loop.serving import begin_count, record_engines
from loop.supervisor import SupervisedActor, fetch
from loop.takeover import take_over_conversations

NOTHING = np.empty(0, np.int64)
LITTLE = 0.5
"""Where less of the probability than this was on the answers that were asked for, the run says so."""


class ExcludedError(RuntimeError):
    """Too many conversations of a round failed for it to mean anything."""


def planned(arm: Arm, r: int) -> pa.Table:
    """The conversations of the round; once they are on disk, those."""
    path = arm.out.plan(arm.name, r)
    if not path.exists():
        write_table(path, plan_table(plan_round(arm.config, arm.settings, r)))
    return read_table(path)


def rollout(arm: Arm, r: int, plan: pa.Table, meanwhile: Callable[[], None]) -> None:
    """Hold the round's conversations; those that are on disk are kept, and what another arm held of round 0 is taken
    over.

    Args:
        meanwhile: Called now and then, for what happens beside the rollout.

    Raises:
        BudgetSpentError: The money does not reach for all of them; what was held is kept.
        ExcludedError: Too many of them failed.
        ActorGone: An actor died; what is in the buffer is kept.
    """
    data = RoundData(arm.out.trajectories(arm.name, r))
    buffer = arm.supervisor.buffer.handle
    ids = RoundPlan(plan["run"][0].as_py(), arm.name, r, len(plan))
    with arm.stage("rollout", r, f"round {r} rollout", len(plan), "conversations") as stage:
        opened = fetch(buffer.open_round.remote(data.store, ids, verify=r not in arm.verified))
        arm.verified.add(r)
        arm.budget.read_disk()
        if len(opened.missing):  # what was selected from other conversations does not speak of these
            arm.out.selection(arm.name, r).unlink(missing_ok=True)
        for why in opened.set_aside:
            arm.ui.say(f"  set aside in {ASIDE}/: {why}; what it held is done again")
        missing = opened.missing if r else take_over_conversations(arm, plan, opened.missing)
        begin_count(arm)
        try:
            _Conversations(arm, r, stage).run(missing, meanwhile)
        except ActorGone:  # the round is entered again and counts from there
            with contextlib.suppress(ActorGone):
                record_engines(arm, r)
            raise
        lost = fetch(buffer.close_round.remote())
        if lost:
            raise ActorGone(f"{lost} of {len(plan)} conversations did not reach the buffer")
        stage.update(len(plan))
        stage.note(arm.budget.line(r))
    _exclude(arm, r, data, len(plan))
    figures = RolloutFigures.of(data.scan())
    _say_what_is_odd(arm, figures)
    arm.monitor.rollout(figures, r, arm.config.prices)
    write_json(arm.out.rollout(arm.name, r), figures.summary(len(plan)))
    arm.record(r, "rollout", stage)
    record_engines(arm, r)


class _Conversations:
    """The conversations of a round that are missing, dealt out to the pools. What a pool had not handed in when it died
    is dealt out again, and a pool that joins or has nothing left to do takes over what others have not begun."""

    def __init__(self, arm: Arm, r: int, stage: Stage) -> None:
        config = arm.config
        self._arm = arm
        self._r = r
        self._stage = stage
        self._plan = arm.out.plan(arm.name, r)
        self._planned = config.rollout.conversations
        judge, generated = config.judge, config.roles.generator is not None
        self._terms = Terms(
            config.conversation, config.rating, judge.contradiction and not generated, judge.role_sample, generated
        )
        self._work: dict[Any, tuple[SupervisedActor, np.ndarray]] = {}
        self._left = NOTHING  # of pools that died
        self._all_begun = False
        self._taking_part: list[SupervisedActor] = []

    def run(self, missing: np.ndarray, meanwhile: Callable[[], None]) -> None:
        """Have the pools hold them.

        Raises:
            BudgetSpentError: The money does not reach for all of them; what was held is kept.
            ActorGone: Several pools died at once, or another actor did.
        """
        arm, pools = self._arm, self._arm.supervisor.live_pools
        fresh = len(missing) == self._planned
        gone: ActorGone | None = None
        enough = True
        arm.supervisor.trainer.handle.warm.remote()  # nobody waits for it
        for i, pool in enumerate(pools):
            self._give(pool, missing[i :: len(pools)], fresh)
        while self._work:
            ray.wait(list(self._work), num_returns=1, timeout=POLL_SECONDS)
            with contextlib.suppress(ActorGone):  # the work says so too
                self._take_in()
                self._stage.update(*self._count())
            meanwhile()
            for ref in ray.wait(list(self._work), num_returns=len(self._work), timeout=0)[0]:
                pool, share = self._work.pop(ref)
                try:
                    enough = fetch(ref) and enough
                except ActorGone as error:
                    gone = gone or self._lost(pool, share, error)
            if enough and not gone:
                self._deal_out()
        if gone:
            raise gone
        if not enough:
            fetch(arm.supervisor.buffer.handle.flush.remote())
            raise arm.budget.exhausted(self._r, "conversation")

    def _give(self, pool: SupervisedActor, indices: np.ndarray, first: bool = False) -> None:
        lease = self._arm.budget.for_pool(self._r)
        handles = self._arm.supervisor.handles(self._arm.config, policy_name(self._r))
        ref = pool.handle.run_conversations.remote(self._plan, indices.tolist(), self._terms, handles, lease, first)
        self._work[ref] = (pool, indices)
        self._all_begun = False
        if pool not in self._taking_part:
            self._taking_part.append(pool)

    def _deal_out(self) -> None:
        """Give pools that have nothing to do what was left by those that died, or else what others have not begun. With
        a budget others hold the money for it."""
        at_work = [pool for pool, _ in self._work.values()]
        idle = [pool for pool in self._arm.supervisor.live_pools if pool not in at_work]
        if not idle or self._arm.config.budget is not None:
            return
        if not len(self._left) and not self._all_begun:
            self._left = self._given_back(len(idle) / (len(idle) + len(at_work)))
            self._all_begun = not len(self._left)
        left, self._left = self._left, NOTHING
        for i, pool in enumerate(idle):
            if len(share := left[i :: len(idle)]):
                self._give(pool, share)

    def _given_back(self, part: float) -> np.ndarray:
        """Conversations that pools at work have not begun, and now leave to others."""
        asked = {ref: pool.handle.give_back.remote(part) for ref, (pool, _) in self._work.items()}
        found = [NOTHING]
        for ref, answer in asked.items():
            pool, share = self._work[ref]
            with contextlib.suppress(ActorGone):  # its share is dealt out when its work turns out to be lost
                back = np.array(fetch(answer), np.int64)
                found.append(back)
                self._work[ref] = pool, np.setdiff1d(share, back)
        return np.sort(np.concatenate(found))

    def _take_in(self) -> None:
        """Have engines that came up meanwhile take part in the conversations that are held."""
        arm, r = self._arm, self._r
        if not take_in(arm, r):
            return
        models = arm.supervisor.handles(arm.config, policy_name(r)).models
        fetch([pool.handle.admit.remote(models) for pool, _ in self._work.values()])

    def _count(self) -> tuple[float, float]:
        supervisor = self._arm.supervisor
        done = fetch(supervisor.buffer.handle.count.remote())
        live = [pool for pool in self._taking_part if pool in supervisor.live_pools]
        said = fetch([pool.handle.progress.remote() for pool in live])
        replies, tokens, planned = sum(s.replies for s in said), sum(s.tokens for s in said), self._planned
        self._stage.beside(replies, tokens)
        self._stage.note(self._arm.budget.line(self._r))
        beside = supervisor.figures
        self._stage.figures |= self._arm.monitor.progress(done, replies, tokens, self._r * planned, beside)
        self._stage.figures |= self._arm.budget.figures
        return done, planned

    def _lost(self, pool: SupervisedActor, share: np.ndarray, error: ActorGone) -> ActorGone | None:
        """Take back what a pool that died alone had not handed in. It is started again, now or, where enough others are
        up, beside them. With others dead too the round cannot continue: the other pools notice and end."""
        supervisor = self._arm.supervisor
        try:
            if [m for m, _ in supervisor.dead()] != [pool]:
                return error
            if self._arm.config.budget is not None:  # the others hold the rest of it: it is dealt out when they end
                return error
            if supervisor.spare(pool):
                supervisor.give_up(pool, error)
            else:
                supervisor.replace(pool, error)
            missing = np.intersect1d(share, fetch(supervisor.buffer.handle.missing.remote()))
            self._left = np.union1d(self._left, missing)
        except ActorGone as another:
            return another
        return None


def _exclude(arm: Arm, r: int, data: RoundData, count: int) -> None:
    """Set aside a round of which too many conversations failed.

    Raises:
        ExcludedError: It is set aside.
    """
    errors = data.index()["error"].drop_null()
    if len(errors) <= arm.config.users.max_excluded_share * count:
        return
    lost = read_json(arm.out.lost(arm.name, r)).get("usage", [])
    lost += RolloutFigures.of(data.scan()).usage_rows()
    write_json(arm.out.lost(arm.name, r), {"usage": lost})
    for name in data.store.names():
        data.store.set_aside(name)
    raise ExcludedError(
        f"{len(errors)} of {count} conversations were excluded, more than users.max_excluded_share = "
        f"{arm.config.users.max_excluded_share:g} allows; the first failed with {errors[0]}. The round "
        f"is set aside in {data.store}/{ASIDE} and will be held again"
    )


def _say_what_is_odd(arm: Arm, figures: RolloutFigures) -> None:
    rater = arm.config.roles.rater or arm.config.roles.user
    replies = sum(f.replies for f in figures.kinds.values())
    mass = sum(f.mass for f in figures.kinds.values()) / UNIT
    if arm.config.rating.form == "number" and replies and mass < LITTLE * replies:
        arm.ui.say(
            f"  {rater} was held to numbers, which had only {mass / replies:.2f} of the probability; candor bench "
            "rating finds out whether its ratings mean anything"
        )
    judged = sum(f.replies for f in figures.kinds.values()) if arm.config.judges else 0
    silent = sum(n for f in figures.kinds.values() for v, n in f.verdicts.items() if v.startswith("error"))
    if silent > judged / 2 > 0:
        arm.ui.say(f"  the judge gave no verdict on {silent} of {judged} replies; candor data shows why")
    sampled = sum(f.methods["sampled"] for f in figures.kinds.values())
    if sampled and arm.config.rating.method == "auto":
        arm.ui.say(f"  {sampled} ratings were sampled, because {rater} does not tell all the probabilities it takes")
