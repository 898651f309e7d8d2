"""What runs of a sweep share: policy 0 is the untouched base in each of them, so it is asked once."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from actors.storage.files import model_fingerprint
from actors.worlds import WorldError
from actors.worlds.models import resolve
from evals.evaluator import complete
from loop.config.files import dump
from loop.config.schema import ArmSettings, RunConfig
from loop.rundir import read_json, write_text
from loop.sweep.folder import SweepDir
from loop.sweep.spec import SweepRun

OF_TRAINING = ("name", "seed", "rounds", "arms", "rollout", "conversation", "rating", "selection", "data", "budget")
"""Parts of a config that say nothing of how the base is asked."""
OF_ACTORS = ("users", "buffer", "cluster")


def asked_of_base(config: RunConfig, arm: ArmSettings) -> dict[str, Any]:
    """All that decides what evaluating policy 0 in an arm comes to."""
    own = config.for_arm(arm).model_dump(mode="json")
    kept = {key: value for key, value in own.items() if key not in (*OF_TRAINING, *OF_ACTORS, "trainer")}
    return kept | {"sync": config.sync}


def take_over_base(folder: SweepDir, run: SweepRun, runs: Iterable[SweepRun]) -> None:
    """Give a run that has not begun the evaluation of policy 0 of a run that has it and asks the same.

    The run's other arms take it over from the first one. Where the model's files have changed since, nothing is taken.
    """
    from loop.takeover import copy_evaluation

    out, first = folder.run(run), run.config.arms[0]
    if out.summary.exists() or complete(out.evals(first.name, 0)):
        return
    wanted = asked_of_base(run.config, first)
    for other in runs:
        if other.label == run.label:
            continue
        for arm in other.config.arms:
            source = folder.run(other).evals(arm.name, 0)
            same = complete(source) and asked_of_base(other.config, arm) == wanted
            if same and read_json(folder.run(other).model).get("sha256") == _fingerprint(run.config.model):
                write_text(out.config, dump(run.config))  # so that it is a run's directory
                copy_evaluation(source, out.evals(first.name, 0), first.name)
                return


def _fingerprint(model: str) -> str | None:
    try:
        return model_fingerprint(Path(resolve(model)))
    except WorldError:
        return None
