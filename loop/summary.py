"""`summary.json`: every figure of a run, computed from what is on disk."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from actors.buffer import BufferError, RoundData
from evals.evaluator import complete, summarise
from loop.config import ArmSettings, RunConfig
from loop.rundir import RunDir, read_json, write_json

SAMPLES = 3
"""Transcripts of each kind of user that a round shows."""
RATING_BINS = np.linspace(1, 10, 91)
"""Edges of the histogram of ratings."""
UNIT = 2**32


def write_summary(
    out: RunDir, config: RunConfig, status: str, engine: str | None = None, anew: bool = False
) -> dict[str, Any]:
    """Compute and write the summary; `status` is running, finished, stopped or failed.

    Args:
        engine: Name and version of the engine; where it is not given, the one recorded before stays.
        anew: Read the trajectories of finished rounds again instead of the figures kept of them.
    """
    summary = {
        "run": config.name,
        "status": status,
        "engine": engine or read_json(out.summary).get("engine"),
        "arms": [arm_summary(out, config.for_arm(arm), arm, anew) for arm in config.arms],
    }
    write_json(out.summary, summary)
    return summary


def arm_summary(out: RunDir, config: RunConfig, arm: ArmSettings, anew: bool = False) -> dict[str, Any]:
    """One arm; round r holds policy r's evaluations, and the last policy has an entry without trajectories."""
    rounds = []
    for r in range(config.rounds + 1):
        entry: dict[str, Any] = {}
        if r < config.rounds:
            entry |= rollout_summary(out, arm.name, r, config.rollout.conversations, anew)
        if complete(out.evals(arm.name, r)):
            entry["evals"] = summarise(out.evals(arm.name, r), config.evals.max_error_share)
        seconds = read_json(out.stages(arm.name, r))
        begun = bool(entry or seconds)
        if begun:
            rounds.append({"round": r, "policy": r, **entry, "seconds": seconds})
    return {
        "name": arm.name,
        "biased_ratio": arm.biased_ratio,
        "trainer": config.trainer.algorithm,
        "control": config.selection.control,
        "seed": config.seed,
        "rounds": rounds,
    }


def rollout_summary(out: RunDir, arm: str, round_: int, planned: int, anew: bool = False) -> dict[str, Any]:
    """Figures of a round's trajectories, from `rollout.json` or from those that are there; empty before the first."""
    kept = read_json(out.rollout(arm, round_))
    if kept and not anew:
        return kept
    data = RoundData(out.trajectories(arm, round_))
    if not data.segments.live():
        return {}
    try:
        figures = RolloutFigures.of(data.scan()).summary(planned)
    except (BufferError, FileNotFoundError):  # a round under way may hold a torn file, or be compacted just now
        if kept:
            raise
        return {}
    if kept:
        write_json(out.rollout(arm, round_), figures)
    return figures


@dataclass
class KindFigures:
    """What users of one kind did and got.

    Attributes:
        ratings: How many replies fell into each of the bins between `RATING_BINS`.
        rating_sum, rating_squares: Of the ratings, in units of 1 / `UNIT`: whole numbers, so that a sum does not depend
            on the order in which conversations ended.
        verdicts: How many replies the judge gave each label.
        samples: The held trajectories with the lowest plan index, as rows, each with its negated index before it.
    """

    ratings: np.ndarray = field(default_factory=lambda: np.zeros(len(RATING_BINS) - 1, np.int64))
    rating_sum: int = 0
    rating_squares: int = 0
    verdicts: Counter = field(default_factory=Counter)
    samples: list[tuple[int, dict]] = field(default_factory=list)

    @property
    def replies(self) -> int:
        return int(self.ratings.sum())

    @property
    def mean_rating(self) -> float | None:
        return self.rating_sum / UNIT / self.replies if self.replies else None


@dataclass
class RolloutFigures:
    """Figures of a round's trajectories; they are added up segment by segment, so memory does not grow."""

    finished: int = 0
    excluded: int = 0
    tokens: Counter = field(default_factory=Counter)
    kinds: dict[str, KindFigures] = field(default_factory=dict)

    @classmethod
    def of(cls, tables: Iterable[pa.Table]) -> RolloutFigures:
        """The figures of all tables of `actors.trajectory.SCHEMA` together."""
        figures = cls()
        for table in tables:
            figures.add(table)
        return figures

    def add(self, table: pa.Table) -> None:
        held = table.filter(pc.is_null(table["error"]))
        self.finished += len(held)
        self.excluded += len(table) - len(held)
        for side in ("prompt", "completion"):
            self.tokens[side] += pc.sum(table[f"{side}_tokens"]).as_py() or 0
        for kind in pc.unique(held["user_kind"]).to_pylist():
            mine = held.filter(pc.equal(held["user_kind"], kind))
            self._add_kind(self.kinds.setdefault(kind, KindFigures()), mine)

    def _add_kind(self, figures: KindFigures, held: pa.Table) -> None:
        messages = pc.list_flatten(held["messages"])
        replies = messages.filter(pc.equal(pc.struct_field(messages, "role"), "assistant"))
        ratings = pc.struct_field(replies, "rating").to_numpy()
        figures.ratings += np.histogram(ratings, RATING_BINS)[0]
        figures.rating_sum += int(np.rint(ratings * UNIT).astype(np.int64).sum())
        figures.rating_squares += int(np.rint(ratings**2 * UNIT).astype(np.int64).sum())
        figures.verdicts.update(map(str, pc.struct_field(replies, "verdict").to_pylist()))
        indices = held["index"].to_numpy()
        for row in np.argsort(indices)[:SAMPLES]:
            heapq.heappush(figures.samples, (-int(indices[row]), held.slice(row, 1).to_pylist()[0]))
        while len(figures.samples) > SAMPLES:
            heapq.heappop(figures.samples)

    def summary(self, planned: int) -> dict[str, Any]:
        """Counts, mean rating of a reply by user kind, what replies did by user kind, and tokens."""
        kinds = {kind: self.kinds.get(kind, KindFigures()) for kind in ("benign", "biased")}
        return {
            "trajectories": {"planned": planned, "finished": self.finished, "excluded": self.excluded},
            "mean_rating": {k: f.mean_rating for k, f in kinds.items()},
            "replies": {k: dict(sorted(f.verdicts.items())) for k, f in kinds.items()},
            "tokens": {"prompt": self.tokens["prompt"], "completion": self.tokens["completion"]},
        }
