"""Training: what a policy is trained on, selected from conversations or composed of data, and the training itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from actors.storage.segments import write_table
from loop.arm import Arm
from loop.config.explain import ConfigError
from loop.config.schema import RunConfig
from loop.plan import conversation_seed
from loop.report.card import write_card
from loop.rundir import RunDir, read_json, write_json
from loop.selection import make_selection, selected_from
from loop.supervisor import fetch
from trainers.datasets import DatasetError, compose
from trainers.job import TrainJob
from trainers.replay import noted, read_conversations
from trainers.rows import RowsError


def select_trajectories(arm: Arm, r: int) -> None:
    """The selection of the round, and what it consists of; once they are on disk, those."""
    if not arm.out.selection(arm.name, r).exists() or not arm.out.audit(arm.name, r).exists():
        make_selection(arm.config, arm.out, arm.name, r)
    arm.monitor.selection(read_json(arm.out.audit(arm.name, r)), r)


def check_data(config: RunConfig, out: RunDir) -> None:
    """Compose what arms are trained on in the place of conversations, and read what they replay, before any actor
    starts.

    Raises:
        ConfigError: Data are not there, or not what they should be.
    """
    try:
        for arm in config.arms:
            mine = config.for_arm(arm)
            if replay := mine.trainer.replay:
                read_conversations(Path(replay.path), noted(replay))
            if mine.data is not None and not out.policy(arm.name, 1).exists():
                _compose(mine, out.composition(arm.name, 0))
    except (DatasetError, RowsError) as error:
        raise ConfigError(str(error)) from None


def _compose(config: RunConfig, target: Path) -> None:
    """Write what a policy is trained on, and what that consists of; once it is on disk, that stays."""
    if not target.exists():
        made = compose(config.data, config.world, config.seed)
        write_json(target.with_suffix(".json"), made.record)
        write_table(target, made.table)


def compose_rows(arm: Arm, r: int) -> None:
    """What the policy is trained on in the place of conversations, and what that consists of."""
    target = arm.out.composition(arm.name, r)
    _compose(arm.config, target)
    made = read_json(target.with_suffix(".json"))
    counts = made["counts"]
    arm.ui.log("detail", f"{arm.name}: {counts['all']} rows, {counts['added']} of them added")
    for source in filter(None, (made["base"], made["added"])):
        for line in dropped(source):
            arm.ui.say(f"  {arm.name}: {line}")


def dropped(source: dict[str, Any], most: int = 3) -> list[str]:
    """How many bad rows of a source were left out, and the first of them by name."""
    count, named = source.get("dropped", 0), source.get("dropped_rows", [])[:most]
    if not count:
        return []
    told = [f"left out {count} bad {'row' if count == 1 else 'rows'} of {source['source']}", *named]
    return told + ([f"and {count - len(named)} more"] if count > len(named) else [])


def train(arm: Arm, r: int) -> None:
    """Policy r+1 from what round r selected or composed."""
    name, config, out = arm.name, arm.config, arm.out
    reference = {"base": 0, "previous": r}.get(config.trainer.reference, config.trainer.reference)
    reference = min(reference, r)
    job = TrainJob(
        arm=name,
        version=r + 1,
        trajectories=out.trajectories(name, selected_from(config, r)),
        selection=str(out.selection(name, r)),
        parent=str(out.policy(name, r)) if r > 0 else None,
        reference=str(out.policy(name, reference)) if reference > 0 else None,
        target=str(out.policy(name, r + 1)),
        seed=conversation_seed(config.seed, r, -2),
        metrics=str(out.tensorboard / name / "train"),
        composition=str(out.composition(name, r)) if config.data else None,
    )
    trainer, what = arm.supervisor.trainer.handle, f"round {r} train policy {r + 1}"
    with arm.supervisor.engines_asleep(), arm.stage("train", r, what, 1, "steps") as stage:
        work = trainer.train.remote(job, config.trainer)
        arm.watch(work, stage, lambda: fetch(trainer.progress.remote()))
        lineage = fetch(work)
        stage.update(lineage.steps, lineage.steps)
    if lineage.rows_dropped:
        reasons = ", ".join(f"{n} {reason}" for reason, n in lineage.rows_dropped.items())
        arm.ui.say(f"  trained on {lineage.rows} rows; left out: {reasons}")
    write_card(out, arm.run_config, name, r + 1)
    arm.record(r, "train", stage)
