"""The loop itself: what happens in a run, in its order.

    plan       the conversations of the round, a pure function of the config
    publish    every assistant replica serves policy r, and a probe proves it
    evaluate   the evaluator benchmarks policy r, beside the rollout
    rollout    user pools hold the conversations, rate every reply, and stream them into the buffer
    select     the best and the worst by reward, or a control; with `data`, rows are composed instead
    train      the trainer turns the selection into policy r+1

Arms take turns, or are at work side by side with actors of their own (`cluster.arms_at_once`, `loop.lanes`).

Each stage leaves a file or folder that is complete or absent; what is there is not done again. This is how a run
continues after a crash, and how it recovers while it runs: an actor that died is started again, and the round is
entered again.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import psutil
import ray

from actors.actor import ActorGone, first_line, unwrapped
from actors.models.chat import ModelRefusedError
from actors.storage.store import StorageError
from actors.worlds.models import resolve
from evals.evaluator import complete
from loop.arm import Arm
from loop.budget import BudgetSpentError
from loop.cluster import connect
from loop.config.explain import ConfigError
from loop.config.schema import ArmSettings, RunConfig
from loop.door import open_door
from loop.estimate import fitted
from loop.evaluation import Evaluation
from loop.heartbeat import Heartbeat
from loop.lanes import Turns, side_by_side
from loop.machines import check_machines, look_everywhere, machines_now
from loop.plan import hold_alike
from loop.preflight import check_models
from loop.publish import publish
from loop.report.card import write_card
from loop.report.summary import write_summary
from loop.report.terminal import Stages
from loop.retention import keep_small
from loop.rollout import planned, rollout
from loop.rundir import RunDir, read_json, write_json
from loop.supervisor import ActorSupervisor, ClusterGoneError, wait_seconds
from loop.training import check_data, compose_rows, select_trajectories, train


def run_round(arm: Arm, evaluation: Evaluation, r: int, turns: Turns) -> None:
    """Policy r: publish it, evaluate it, and unless it is the last make policy r+1: of what users thought of it, or of
    data."""
    if r == 0:
        turns.wait_for(arm.name, arm.ui)
    trains = not arm.trained(r)
    converses = trains and arm.config.data is None
    plan = planned(arm, r) if converses else None
    publish(arm, r)
    evaluation.begin(r)
    if converses:
        rollout(arm, r, plan, meanwhile=lambda: evaluation.attend(r))
    evaluation.end(r)
    turns.over(arm.name)  # what round 0 has in common with that of other arms is there
    if converses:
        select_trajectories(arm, r)
    elif trains:
        compose_rows(arm, r)
    if trains:
        train(arm, r)


def run_arm(arm: Arm, turns: Turns | None = None) -> None:
    """Every round that the arm still lacks; an actor that dies is started again, and its round continues with what is
    missing.

    Args:
        turns: Whose turn it is to begin; None where no other arm is at work.
    """
    turns = turns or Turns({arm.name: []})
    with turns.over_at_last(arm.name):
        begin = arm.first_round()
        if begin is not None:
            _run_from(arm, begin, turns)


def _run_from(arm: Arm, begin: int, turns: Turns) -> None:
    evaluation = Evaluation(arm)
    if begin > 0:
        turns.over(arm.name)
    with arm.figures_from(begin):
        for r in range(begin, arm.config.rounds + 1):
            while not arm.done(r):
                try:
                    run_round(arm, evaluation, r, turns)
                except ActorGone as gone:
                    arm.ui.heed()  # the run may be about to stop, and its actors with it
                    arm.supervisor.restart_dead(gone)
            arm.supervisor.forget_deaths()
            if told := keep_small(arm.run_config, arm.out):
                arm.ui.say(f"  {told}")


STOPS = (BudgetSpentError, ClusterGoneError, ModelRefusedError, StorageError, OSError)
"""What no other arm of a run could do better with."""


def run_arms(
    config: RunConfig, model: str, out: RunDir, ui: Stages, first: bool = True, keep_going: bool = False
) -> None:
    """Start the actors, run the arms, and stop the actors.

    Args:
        first: Whether this process does so for the first time.
        keep_going: Whether an arm that fails leaves the others their turn; its error is raised after them.
    """
    connect(config, print_actors=True)
    if config.cluster.address:
        machines = machines_now()
        check_machines(machines, look_everywhere(machines, out.root), ui.say)
    sets = range(config.side_by_side)
    supervisors = [ActorSupervisor(config, model, ui.say, log=ui.log, number=n, heed=ui.heed) for n in sets]
    for supervisor in supervisors:
        supervisor.beside = [s for s in supervisors if s is not supervisor]
    heartbeat = Heartbeat(supervisors, out, ui)
    try:
        with heartbeat, open_door(config.assistant.serve, supervisors[0], ui.say):
            _run_arms(config, model, out, ui, supervisors, first, keep_going)
    finally:
        with ThreadPoolExecutor(len(supervisors)) as pool:
            list(pool.map(lambda s: s.stop(), supervisors))


def _run_arms(
    config: RunConfig,
    model: str,
    out: RunDir,
    ui: Stages,
    supervisors: Sequence[ActorSupervisor],
    first: bool,
    keep_going: bool,
) -> None:
    actors = [m for s in supervisors for m in s.actors]
    with ui.stage("start engines and trainer", len(actors), "actors", stage="start") as stage:
        supervisors[0].find_room()
        side_by_side([partial(s.start, lambda _: stage.update(sum(m.up for m in actors))) for s in supervisors], ui)
    engine = supervisors[0].engine
    if unlike := {s.engine for s in supervisors} - {engine}:
        raise ConfigError(
            f"the assistant of one arm is {engine} and that of another {min(unlike)}; arms must compute the same, so "
            "install the same on every machine, and name assistant.dtype where their processors differ"
        )
    out.pin_served(model)
    for name, settings in config.engines.items():
        out.pin_served(resolve(settings.model), name)
    starts = read_json(out.timing).get("starts", 0) + 1
    began = psutil.Process().create_time() if first else time.time() - stage.seconds()
    write_json(out.timing, {"starts": starts, "start": round(time.time() - began, 1)})
    write_summary(out, config, "running", engine)
    left, turns, failed = deque(config.arms), Turns(_in_common(config)), list[Exception]()

    def lane(supervisor: ActorSupervisor) -> None:
        while settings := _next(left):
            try:
                run_arm(Arm(config, settings, model, supervisor, out, ui), turns)
            except STOPS:
                raise
            except Exception as error:
                if not keep_going:
                    raise
                own = unwrapped(error)
                ui.say(f"  {settings.name} failed ({type(own).__name__}: {first_line(own)}); going on without it")
                failed.append(error)
                supervisor.begin_anew()

    side_by_side([partial(lane, s) for s in supervisors], ui)
    if failed:
        raise failed[0]
    if len(supervisors) > 1:  # a card has figures of the first arm, which may have come later
        for arm in config.arms:
            for r in range(1, config.rounds + 1):
                write_card(out, config, arm.name, r)
    write_summary(out, config, "finished", engine)


def _in_common(config: RunConfig) -> dict[str, list[str]]:
    """By arm, those before it of which it may take over something of round 0: the evaluation of the base, or
    conversations."""
    found: dict[str, list[str]] = {}
    for n, arm in enumerate(config.arms):
        mine = config.for_arm(arm)
        found[arm.name] = [
            other.name
            for other in config.arms[:n]
            if config.for_arm(other).evals == mine.evals or hold_alike(config, arm, other)
        ]
    return found


def _next(left: deque[ArmSettings]) -> ArmSettings | None:
    """The next arm that nobody has begun."""
    try:
        return left.popleft()
    except IndexError:
        return None


def run(config: RunConfig, model: str, out: RunDir, ui: Stages, keep_going: bool = False) -> None:
    """Do everything that a run still lacks; a cluster that is lost is started again.

    Args:
        model: Path or hub name of the base model.
        out: The run directory, opened for this config.
        keep_going: As of `run_arms`.
    """
    if not is_finished(config, out):
        check_data(config, out)
        check_models(config, model, out, ui.say)
        config = fitted(config, model, ui.say)
    losses, policies = 0, None
    while not is_finished(config, out):
        try:
            run_arms(config, model, out, ui, first=not losses, keep_going=keep_going)
        except ClusterGoneError as gone:
            before, policies = policies, sorted(out.root.glob("policies/*/[0-9]*"))
            losses = losses + 1 if before == policies else 1
            if losses > config.cluster.max_restarts:
                raise
            ui.say(f"  {gone}; starting again, {losses} of {config.cluster.max_restarts}")
            ray.shutdown()
            time.sleep(wait_seconds(losses))
    out.sweep()


def is_finished(config: RunConfig, out: RunDir) -> bool:
    """Whether every policy of every arm has been evaluated."""
    return read_json(out.summary).get("status") == "finished" and all(
        complete(out.evals(arm.name, r)) for arm in config.arms for r in range(config.rounds + 1)
    )
