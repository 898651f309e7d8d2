"""Which trajectories are asked for: filters of `candor data` and `candor view`, checked against what a run can have."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from actors.registry import nearest
from actors.worlds import load_world
from actors.worlds.questions import REPLY_KINDS
from loop.config.schema import RunConfig
from loop.report.chats import NO_VERDICT

SELECTED = {"top": True, "bottom": False, "desirable": True, "undesirable": False, "any": None}
"""What of a selection may be asked for, and the label that it has there; None for either."""
GROUPS = {"arm": "arm", "round": "round", "kind": "user_kind", "scenario": "scenario"}
"""What conversations can be counted by, and the column that says it."""
BY_REPLY = "verdict"
"""What replies can be counted by, beside that."""
ERROR = "error"
VERDICTS = (*REPLY_KINDS.values(), NO_VERDICT, ERROR)
"""What may be asked for: the labels of replies, none, and judges that failed, whose verdict is `error: ` and why."""


class QueryError(ValueError):
    """Something was asked for that the run does not have; the message names the option and what is known."""


@dataclass(frozen=True)
class Query:
    """Which trajectories are asked for; what is None asks for all.

    Attributes:
        verdict: Any reply has it, one of `VERDICTS`; `none` is a reply without a label, `error` one whose judge failed.
        low, high: The reward lies between them, ends included.
        low_rating, high_rating: So does the mean of the replies' ratings.
        errors: True for excluded conversations only, False for the others only.
        selected: Which part of the round's selection, one of `SELECTED`.
    """

    arms: tuple[str, ...]
    rounds: tuple[int, ...]
    kind: str | None = None
    scenario: str | None = None
    verdict: str | None = None
    low: float = -math.inf
    high: float = math.inf
    errors: bool | None = None
    selected: str | None = None
    low_rating: float = -math.inf
    high_rating: float = math.inf

    @classmethod
    def checked(
        cls,
        config: RunConfig,
        arms: Sequence[str],
        rounds: Sequence[str],
        low: float | None,
        high: float | None,
        ratings: tuple[float | None, float | None] = (None, None),
        **rest: Any,
    ) -> Query:
        """A query of this run; no arms or rounds mean all. `QueryError` for what the run does not have."""
        world = load_world(config.world)
        options = {"kind": world.user_kinds, "scenario": world.scenarios, "verdict": VERDICTS, "selected": SELECTED}
        for option, there in options.items():
            if rest.get(option) is not None:
                known(f"--{option}", [rest[option]], there)
        ends = _ends("reward", low, high)
        rated = _ends("rating", *ratings)
        return cls(
            known("--arm", arms, [a.name for a in config.arms]),
            tuple(map(int, known("--round", rounds, [str(r) for r in range(config.rounds)]))),
            low=ends[0],
            high=ends[1],
            low_rating=rated[0],
            high_rating=rated[1],
            **rest,
        )

    def of(self, table: pa.Table, chosen: pa.Array | None) -> pa.Table:
        """The rows of a table (`actors.storage.trajectory.SCHEMA`) that are asked for; `chosen` are the selection's
        ids. Instead of `messages` a table may have their mean `rating` and list of `verdicts`."""
        reward, error = table["reward"], table["error"]
        masks = [
            pc.equal(table[column], value)
            for column, value in (("user_kind", self.kind), ("scenario", self.scenario))
            if value is not None
        ]
        if (self.low, self.high) != (-math.inf, math.inf):
            masks.append(pc.and_(pc.greater_equal(reward, self.low), pc.less_equal(reward, self.high)))
        if (self.low_rating, self.high_rating) != (-math.inf, math.inf):
            rating = mean_ratings(table)
            masks.append(pc.and_(pc.greater_equal(rating, self.low_rating), pc.less_equal(rating, self.high_rating)))
        if self.errors is not None:
            masks.append(pc.is_valid(error) if self.errors else pc.is_null(error))
        if chosen is not None:
            masks.append(pc.is_in(table["trajectory_id"], value_set=chosen))
        if self.verdict is not None:
            masks.append(_said(table, self.verdict))
        return table.filter(reduce(pc.and_, masks)) if masks else table


def known(option: str, given: Sequence[str], there: Iterable[str]) -> tuple[str, ...]:
    """What is given, in the order of what is there, or all of it where nothing is; `QueryError` for anything else."""
    there = list(there)
    for value in given:
        if value not in there:
            near = nearest(value, there)
            hint = f"did you mean {near}? known" if near else "known"
            raise QueryError(f"{option} {value}: unknown; {hint}: {', '.join(there)}")
    return tuple(k for k in there if not given or k in given)


def _ends(what: str, low: float | None, high: float | None) -> tuple[float, float]:
    """Both ends of a range, where None leaves one open."""
    ends = -math.inf if low is None else low, math.inf if high is None else high
    if not ends[0] <= ends[1]:
        raise QueryError(f"--min-{what} {ends[0]:g} --max-{what} {ends[1]:g}: no {what} lies between them")
    return ends


def mean_ratings(table: pa.Table) -> pa.Array | pa.ChunkedArray:
    """For each row the mean of the replies' ratings, or what an index has for it; null where none was rated."""
    if "rating" in table.column_names:
        return table["rating"]
    messages = table["messages"].combine_chunks()
    ratings = pc.struct_field(pc.list_flatten(messages), "rating")
    rated = pc.is_valid(ratings)
    rows = pc.list_parent_indices(messages).filter(rated).to_numpy()
    counts = np.bincount(rows, minlength=len(table))
    sums = np.bincount(rows, ratings.drop_null().to_numpy(), minlength=len(table))
    return pa.array(sums / np.maximum(counts, 1), mask=counts == 0)


def _said(table: pa.Table, verdict: str) -> pa.Array:
    """For each row whether any reply has the verdict."""
    if "verdicts" in table.column_names:
        replies = table["verdicts"].combine_chunks()
        labels = pc.list_flatten(replies)
        hits = pc.starts_with(labels, f"{ERROR}: ") if verdict == ERROR else pc.equal(labels, verdict)
    else:
        replies = table["messages"].combine_chunks()
        flat = pc.list_flatten(replies)
        labels = pc.fill_null(pc.struct_field(flat, "verdict"), NO_VERDICT)
        said = pc.starts_with(labels, f"{ERROR}: ") if verdict == ERROR else pc.equal(labels, verdict)
        hits = pc.and_(pc.equal(pc.struct_field(flat, "role"), "assistant"), said)
    rows = np.zeros(len(table), bool)
    rows[pc.list_parent_indices(replies).filter(hits).to_numpy()] = True
    return pa.array(rows)
