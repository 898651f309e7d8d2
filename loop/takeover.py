"""What an arm takes over from the others of its run: policy 0 is the untouched base in all of them.

Its evaluation is the same wherever the same is asked. So is a conversation of round 0 that two arms plan alike (the
same scenario, seed and kind of user) and hold alike: the arm that comes first holds it, and the others get its
trajectory. What it cost is counted where it was held.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from actors.buffer import RoundData
from actors.storage.segments import read_table, write_table
from actors.storage.trajectory import PLAN_SCHEMA
from evals.evaluator import RECORD, complete, record
from loop.arm import Arm
from loop.config.schema import ArmSettings
from loop.plan import hold_alike
from loop.rundir import write_text
from loop.supervisor import fetch

OF_THE_ARM = ("trajectory_id", "arm")
"""What a plan says of a conversation that only tells whose it is."""


def take_over_evaluation(arm: Arm) -> None:
    """Copy the outcomes of policy 0 from an arm that has them and asks the same, under this arm's name."""
    for other in arm.run_config.arms:
        source = arm.out.evals(other.name, 0)
        same = arm.run_config.for_arm(other).evals == arm.config.evals
        if other.name == arm.name or not same or not complete(source):
            continue
        copy_evaluation(source, arm.out.evals(arm.name, 0), arm.name)
        return


def copy_evaluation(source: Path, target: Path, arm: str) -> None:
    """Copy the outcomes of a policy that another arm has as well, under this arm's name."""
    for suite in record(source)["suites"]:
        table = read_table(source / f"{suite}.arrow")
        column = table.schema.get_field_index("arm")
        names = pa.array([arm] * len(table), pa.string())
        write_table(target / f"{suite}.arrow", table.set_column(column, table.schema.field(column), names))
    write_text(target / RECORD, (source / RECORD).read_text(encoding="utf-8"))


def take_over_conversations(arm: Arm, plan: pa.Table, missing: np.ndarray) -> np.ndarray:
    """Have the buffer take the conversations of round 0 that other arms have held; those that were excluded there are
    not taken.

    Args:
        plan: The arm's round 0, which the buffer has open.
        missing: Indices of the plan that the buffer lacks.

    Returns:
        Those that are still to be held, ascending.
    """
    buffer = arm.supervisor.buffer.handle
    for other in arm.run_config.arms:
        mine = other.name == arm.name
        if mine or not len(missing) or not hold_alike(arm.run_config, arm.settings, other) or not _held_all(arm, other):
            continue
        alike = _planned_alike(arm, other.name, plan, missing)
        if taken := fetch(buffer.take_over.remote(arm.out.trajectories(other.name, 0), alike)):
            missing = fetch(buffer.missing.remote())
            arm.ui.say(f"  {arm.name}: {taken} conversations of round 0 are those of {other.name}")
    return missing


def _held_all(arm: Arm, other: ArmSettings) -> bool:
    """Whether another arm has held all conversations of its round 0."""
    return arm.out.plan(other.name, 0).exists() and RoundData(arm.out.trajectories(other.name, 0)).closed()


def _planned_alike(arm: Arm, other: str, plan: pa.Table, missing: np.ndarray) -> np.ndarray:
    """Indices that both arms plan alike, of those that are missing here."""
    columns = [name for name in PLAN_SCHEMA.names if name not in OF_THE_ARM]
    theirs = read_table(arm.out.plan(other, 0)).select(columns)
    mine = plan.select(columns).filter(pc.is_in(plan["index"], pa.array(missing, pa.int32())))
    return mine.join(theirs, columns, join_type="inner")["index"].to_numpy()
