"""What one round's training is: where its rows come from, what it starts from, and where the policy goes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.buffer import RoundData
from actors.storage.segments import read_table
from actors.storage.store import Store
from trainers.algorithms import ALGORITHMS
from trainers.datasets import composed_rows
from trainers.policy import Lineage, read_lineage
from trainers.replay import REPLAY, noted, replay_rows
from trainers.rows import Rows, training_rows
from trainers.settings import TrainerSettings


@dataclass(frozen=True)
class TrainJob:
    """One round's training.

    Attributes:
        trajectories, selection: What to train on.
        composition: What to train on instead: a file of `trainers.datasets.SCHEMA`.
        parent: Directory of the policy before; None for the untouched base.
        reference: Directory of the policy to hold to; None for the untouched base.
        target: Directory of the new policy.
        metrics: Folder of what is logged.
    """

    arm: str
    version: int
    trajectories: Store
    selection: str
    parent: str | None
    target: str
    seed: int
    metrics: str
    reference: str | None = None
    composition: str | None = None

    @property
    def checkpoints(self) -> Path:
        """Where a training that is under way keeps its state."""
        target = Path(self.target)
        return target.with_name(f".{target.name}.checkpoints")

    def rows(self, settings: TrainerSettings) -> Rows:
        """What to train on, in its order."""
        if self.composition:
            return composed_rows(read_table(Path(self.composition)), settings.rows)
        selection = read_table(Path(self.selection))
        trajectories = RoundData(self.trajectories).rows(selection["trajectory_id"].to_pylist())
        learn_cut = settings.cut_replies == "learn"
        made = training_rows(trajectories, selection, settings.algorithm, settings.rows, self.seed, learn_cut)
        if settings.replay:
            wanted = round(settings.replay.share * len(made.rows))
            bad = noted(settings.replay)
            made = made.mixed_with(replay_rows(Path(settings.replay.path), wanted, self.seed, bad), self.seed)
            made.dropped["bad rows of replay"] += len(bad or ())
        return made

    def before(self) -> Lineage | None:
        """The lineage of the policy before; None for the untouched base."""
        return read_lineage(Path(self.parent)) if self.parent else None

    def lineage(self, rows: Rows, settings: TrainerSettings, **rest: Any) -> Lineage:
        """The lineage of the policy that comes of it; `rest` are the fields that training finds out."""
        before, held = self.before(), self.reference and ALGORITHMS[settings.algorithm].has_reference
        return Lineage(
            arm=self.arm,
            version=self.version,
            parents=[*(before.parents if before else []), *([_in_run(self.parent)] if self.parent else [])],
            reference=_in_run(self.reference) if held else None,
            algorithm=settings.algorithm,
            seed=self.seed,
            rows=len(rows.rows),
            rows_sha256=rows.fingerprint,
            rows_dropped={reason: n for reason, n in sorted(rows.dropped.items()) if n},
            rows_replayed=sum(r.source == REPLAY for r in rows.rows),
            steps_before=before.steps_before + before.steps if before else 0,
            settings=settings.model_dump(mode="json"),
            **rest,
        )


def _in_run(policy: str) -> str:
    """A policy's directory relative to its run."""
    return "/".join(Path(policy).parts[-3:])
