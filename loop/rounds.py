"""The loop itself: what happens in a run, in its order.

    plan       the conversations of the round, a pure function of the config
    publish    every assistant replica serves policy r, and a probe proves it
    evaluate   the evaluator benchmarks policy r, beside the rollout
    rollout    user pools hold the conversations, rate every reply, and stream them into the buffer
    select     the best and the worst by reward, or a control; with `data`, rows are composed instead
    train      the trainer turns the selection into policy r+1

Each stage leaves a file or folder that is complete or absent; what is there is not done again. This is how a run
continues after a crash, and how it recovers while it runs: an actor that died is started again, and the round is
entered again.
"""

from __future__ import annotations

import time

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
from loop.config.schema import RunConfig
from loop.door import open_door
from loop.estimate import fitted
from loop.evaluation import Evaluation
from loop.heartbeat import Heartbeat
from loop.machines import check_machines, look_everywhere, machines_now
from loop.preflight import check_models
from loop.publish import publish
from loop.report.summary import write_summary
from loop.report.terminal import Stages
from loop.retention import keep_small
from loop.rollout import planned, rollout
from loop.rundir import RunDir, read_json, write_json
from loop.supervisor import ActorSupervisor, ClusterGoneError, wait_seconds
from loop.training import check_data, compose_rows, select_trajectories, train


def run_round(arm: Arm, evaluation: Evaluation, r: int) -> None:
    """Policy r: publish it, evaluate it, and unless it is the last make policy r+1: of what users thought of it, or of
    data."""
    trains = not arm.trained(r)
    converses = trains and arm.config.data is None
    plan = planned(arm, r) if converses else None
    publish(arm, r)
    evaluation.begin(r)
    if converses:
        rollout(arm, r, plan, meanwhile=lambda: evaluation.attend(r))
    evaluation.end(r)
    if converses:
        select_trajectories(arm, r)
    elif trains:
        compose_rows(arm, r)
    if trains:
        train(arm, r)


def run_arm(arm: Arm) -> None:
    """Every round that the arm still lacks; an actor that dies is started again, and its round continues with what is
    missing."""
    begin = arm.first_round()
    if begin is None:
        return
    evaluation = Evaluation(arm)
    with arm.figures_from(begin):
        for r in range(begin, arm.config.rounds + 1):
            while not arm.done(r):
                try:
                    run_round(arm, evaluation, r)
                except ActorGone as gone:
                    arm.supervisor.restart_dead(gone)
            arm.supervisor.forget_deaths()
            if told := keep_small(arm.run_config, arm.out):
                arm.ui.say(f"  {told}")


STOPS = (BudgetSpentError, ClusterGoneError, ModelRefusedError, StorageError, OSError)
"""What no other arm of a run could do better with."""


def run_arms(
    config: RunConfig, model: str, out: RunDir, ui: Stages, first: bool = True, keep_going: bool = False
) -> None:
    """Start the actors, run one arm after the other, and stop the actors.

    Args:
        first: Whether this process does so for the first time.
        keep_going: Whether an arm that fails leaves the others their turn; its error is raised after them.
    """
    connect(config, print_actors=True)
    if config.cluster.address:
        machines = machines_now()
        check_machines(machines, look_everywhere(machines, out.root), ui.say)
    supervisor = ActorSupervisor(config, model, ui.say, log=ui.log)
    heartbeat = Heartbeat(supervisor, out, ui)
    try:
        with heartbeat, open_door(config.assistant.serve, supervisor, ui.say):
            _run_arms(config, model, out, ui, supervisor, first, keep_going)
    finally:
        supervisor.stop()


def _run_arms(
    config: RunConfig,
    model: str,
    out: RunDir,
    ui: Stages,
    supervisor: ActorSupervisor,
    first: bool,
    keep_going: bool,
) -> None:
    with ui.stage("start engines and trainer", len(supervisor.actors), "actors", stage="start") as stage:
        supervisor.start(stage.update)
    out.pin_served(model)
    for name, engine in config.engines.items():
        out.pin_served(resolve(engine.model), name)
    starts = read_json(out.timing).get("starts", 0) + 1
    began = psutil.Process().create_time() if first else time.time() - stage.seconds()
    write_json(out.timing, {"starts": starts, "start": round(time.time() - began, 1)})
    write_summary(out, config, "running", supervisor.engine)
    failed: Exception | None = None
    for settings in config.arms:
        try:
            run_arm(Arm(config, settings, model, supervisor, out, ui))
        except STOPS:
            raise
        except Exception as error:
            if not keep_going:
                raise
            own = unwrapped(error)
            ui.say(f"  {settings.name} failed ({type(own).__name__}: {first_line(own)}); going on without it")
            failed = failed or error
            supervisor.begin_anew()
    if failed is not None:
        raise failed
    write_summary(out, config, "finished", supervisor.engine)


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
