"""What of a run directory is damaged, before the run goes on: what can be made again is, and the rest is named.

Damage is a file that is torn, empty, garbage or another run's. Trajectories have checksums of their own and are looked
at when their round is opened (`actors.buffer`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from actors.buffer import RoundData
from actors.engine import policy_name
from actors.storage.segments import BufferError, read_table
from actors.storage.trajectory import PLAN_SCHEMA
from evals.evaluator import RECORD, USAGE, complete
from evals.outcomes import SCHEMA as OUTCOMES
from evals.settings import EvalSettings
from evals.suites.catalogue import SUITES
from loop.config.files import MAY_CHANGE, unlike
from loop.config.schema import ArmSettings, RunConfig
from loop.plan import plan_round, plan_table
from loop.report.summary import rollout_summary
from loop.retention import PRUNED
from loop.rundir import RESTORE, DamagedError, RunDir, read_json, write_json
from loop.select import SCHEMA as SELECTION
from loop.selection import make_selection, selected_from
from trainers.policy import LINEAGE_FILE, PolicyError, changed_files, read_lineage

Say = Callable[[str], None]


def mend(config: RunConfig, out: RunDir, say: Say) -> None:
    """Look at every file that a run has, and remove those that are damaged and are made again.

    Raises:
        DamagedError: One is damaged that nothing can make again.
    """
    for path in (out.summary, out.timing):
        _drop(path, say, "will be made again")
    _needed(out.changes, list)
    _needed(out.checks)
    for arm in config.arms:
        mine = config.for_arm(arm)
        for v in range(1, mine.rounds + 1):
            _check_policy(out, arm.name, v)
        for r in range(mine.rounds + 1):
            _mend_round(mine, arm, out, r, say)
            _mend_evaluation(mine, out, arm.name, r, say)


def _drop(path: Path, say: Say, then: str) -> bool:
    """Remove a file that is not the JSON that was written; whether it was."""
    try:
        if not isinstance(read_json(path), dict):
            raise DamagedError
    except DamagedError:
        say(f"{path} is damaged; it {then}")
        path.unlink()
        return True
    return False


def _mend_round(config: RunConfig, arm: ArmSettings, out: RunDir, r: int, say: Say) -> None:
    place = (arm.name, r)
    for path in (out.stages(*place), out.engines(*place), out.lost(*place)):
        _needed(path)
    if _needed(out.delivery(*place)).get("policy", policy_name(r)) != policy_name(r):
        raise DamagedError(f"{out.delivery(*place)} belongs to another round or run; {RESTORE}")
    trained = out.policy(arm.name, r + 1).exists()
    if r < config.rounds and config.data is not None:
        _mend_composition(out, arm.name, r, trained, say)
    if r == config.rounds or config.data is not None:
        return
    if out.plan(*place).exists():
        planned = plan_table(plan_round(config, arm, r))
        found = _table(out.plan(*place), PLAN_SCHEMA)
        # A later version may plan other users; ids and seeds follow from the run alone.
        if found is None or any(not found[c].equals(planned[c]) for c in ("trajectory_id", "seed")):
            say(f"{out.plan(*place)} is damaged or another run's; it is made again from the config")
            out.plan(*place).unlink()
    if _drop(out.rollout(*place), say, "is made again from the trajectories"):
        figures = rollout_summary(out, arm.name, r, config.rollout.conversations)
        if figures and RoundData(out.trajectories(*place)).closed():
            write_json(out.rollout(*place), figures)
    audit_lost = _drop(out.audit(*place), say, "is made again from the trajectories")
    if out.selection(*place).exists() or audit_lost:
        found = _table(out.selection(*place), SELECTION)
        data = RoundData(out.trajectories(arm.name, selected_from(config, r)))
        pruned = found is not None and not audit_lost and not data.segments.live()
        if not pruned and (found is None or audit_lost or not _ids(found) <= _ids(data.index())):
            say(f"{out.selection(*place)} is damaged or another run's; it is made again from the trajectories")
            out.selection(*place).unlink(missing_ok=True)
            out.audit(*place).unlink(missing_ok=True)
            if trained:  # nobody else would
                make_selection(config, out, arm.name, r)


def _mend_composition(out: RunDir, arm: str, r: int, trained: bool, say: Say) -> None:
    """What a policy is trained on in the place of conversations; once it was, only its owner can say what that was."""
    table, record = out.composition(arm, r), out.composition(arm, r).with_suffix(".json")
    if trained:
        _needed(record)
        if table.exists() and _table(table) is None:
            raise DamagedError(f"{table} is damaged: it is no table; {RESTORE}")
    elif _drop(record, say, "is made again from the data") or (table.exists() and _table(table) is None):
        say(f"{table} is made again from the data")
        for path in (table, record):
            path.unlink(missing_ok=True)


def _mend_evaluation(config: RunConfig, out: RunDir, arm: str, r: int, say: Say) -> None:
    folder = out.evals(arm, r)
    _needed(folder / USAGE, list)
    if not complete(folder):
        return
    try:
        about = read_json(folder / RECORD)
        asked = EvalSettings.model_validate(about["settings"]).model_dump(mode="json")
        differs = unlike({"evals": asked}, {"evals": config.evals.model_dump(mode="json")})
        mine = all(MAY_CHANGE.fullmatch(key) for key in differs)
        suites = list(about["suites"])
    except (DamagedError, KeyError, TypeError, ValueError):
        mine, suites = False, []
    if not mine:
        say(f"{folder / RECORD} is damaged or another run's; the evaluation is completed again")
        (folder / RECORD).unlink()
    for path in sorted(folder.glob("*.arrow")):
        found = _table(path, OUTCOMES)
        if found is None or any(set(found[c].to_pylist()) - {own} for c, own in (("arm", arm), ("policy", r))):
            say(f"{path} is damaged or another run's; its items are asked again")
            path.unlink()
            (folder / RECORD).unlink(missing_ok=True)
    for suite in (s for s in suites if not (folder / f"{s}.arrow").exists() and (folder / RECORD).exists()):
        say(f"{folder / suite}.arrow is gone; its items are asked again")
        (folder / RECORD).unlink()
    for suite in (s for s in suites if s in SUITES and SUITES[s].by_lm_eval):
        if _drop(folder / f"{suite}.json", say, "is made again"):
            (folder / f"{suite}.arrow").unlink(missing_ok=True)
            (folder / RECORD).unlink(missing_ok=True)


def _check_policy(out: RunDir, arm: str, version: int) -> None:
    """Whether a policy is the one that was trained; policies are not made again, as rounds were built on them."""
    folder = out.policy(arm, version)
    if not folder.exists():
        return
    again = (
        f"restore it, or remove policies/{arm}/{version} and what came after it in rounds/{arm}, evals/{arm} and "
        f"policies/{arm}, from number {version} on, and it is trained again"
    )
    try:
        lineage = read_lineage(folder)
    except (OSError, ValueError, TypeError, RecursionError, PolicyError):
        raise DamagedError(f"{folder / LINEAGE_FILE} is damaged; {again}") from None
    if (lineage.arm, lineage.version) != (arm, version):
        raise DamagedError(f"{folder} holds policy {lineage.version} of arm {lineage.arm}; {again}")
    changed = [] if (folder / PRUNED).exists() else changed_files(folder, lineage)
    if changed:
        raise DamagedError(f"{folder / changed[0]} is not the file that was trained; {again}")


def _needed(path: Path, kind: type = dict) -> Any:
    """A file of JSON that cannot be made again; empty where there is none."""
    value = read_json(path) if path.exists() else kind()
    if not isinstance(value, kind):
        raise DamagedError(f"{path} is damaged: it holds no {'list' if kind is list else 'mapping'}; {RESTORE}")
    return value


def _table(path: Path, schema: pa.Schema | None = None) -> pa.Table | None:
    """A table on disk; None where it is none of this kind."""
    try:
        return read_table(path, schema)
    except BufferError:
        return None


def _ids(table: pa.Table) -> set[str]:
    return set(table["trajectory_id"].to_pylist())
