"""`summary.json`: every figure of a run, computed from what is on disk."""

from __future__ import annotations

import heapq
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from actors.buffer import BufferError, RoundData
from actors.conduct import FLAGS
from actors.models.usage import UsageTotals
from actors.worlds.spec import NEEDED_KINDS
from evals.evaluator import complete, summarise, usage
from loop.config.schema import ArmSettings, RunConfig
from loop.rundir import RunDir, read_json, write_json
from trainers.policy import LINEAGE_FILE

SAMPLES = 3
"""Transcripts of each kind of user that a round shows."""
RATING_BINS = np.linspace(1, 10, 91)
"""Edges of the histogram of ratings."""
UNIT = 2**32
SCORES = ("validates", "contradicts", "in_role")
"""What the judge says of a whole trajectory, as a probability."""
SUSPICIOUS = ("contradicts", "validates")
"""Of these, those that make a trajectory suspicious."""


_WRITING = threading.Lock()


def write_summary(
    out: RunDir, config: RunConfig, status: str, engine: str | None = None, again: bool = False
) -> dict[str, Any]:
    """Compute and write the summary; `status` is running, finished, stopped or failed.

    Args:
        engine: Name and version of the engine; where it is not given, the one recorded before stays.
        again: Read the trajectories of finished rounds again instead of the figures kept of them.
    """
    with _WRITING:  # arms side by side; the later one knows more
        summary = {
            "run": config.name,
            "status": status,
            "engine": engine or read_json(out.summary).get("engine"),
            "arms": [arm_summary(out, config.for_arm(arm), arm, again) for arm in config.arms],
            "prices": {name: price.model_dump() for name, price in config.prices.items() if price},
            "budget": config.budget,
            "changes": read_json(out.changes) or [],
        }
        write_json(out.summary, summary)
    return summary


def arm_summary(out: RunDir, config: RunConfig, arm: ArmSettings, again: bool = False) -> dict[str, Any]:
    """One arm; round r holds policy r's evaluations, and the last policy has an entry without trajectories."""
    rounds = []
    for r in range(config.rounds + 1):
        entry: dict[str, Any] = {}
        if r < config.rounds and config.data is None:
            entry |= rollout_summary(out, arm.name, r, config.rollout.conversations, again)
            if chosen := read_json(out.audit(arm.name, r)):
                entry["selection"] = chosen
        if composed := read_json(out.composition(arm.name, r).with_suffix(".json")):
            entry["composition"] = composed
            if lineage := read_json(out.policy(arm.name, r + 1) / LINEAGE_FILE):
                entry["trained"] = {"rows": lineage["rows"], "dropped": lineage["rows_dropped"]}
        if complete(out.evals(arm.name, r)):
            entry["evals"] = summarise(out.evals(arm.name, r), config.evals.max_error_share)
        if asked := usage(out.evals(arm.name, r)):
            entry["evals_usage"] = asked
        if engines := read_json(out.engines(arm.name, r)):
            entry["engines"] = engines
        seconds = read_json(out.stages(arm.name, r))
        begun = bool(entry or seconds)
        if begun:
            if shares := trained_share(out, arm.name, r):
                entry["trained_share"] = shares
            rounds.append({"round": r, "policy": r, **entry, "seconds": seconds})
    return {
        "name": arm.name,
        "population": arm.shares if config.data is None else None,
        "trainer": config.trainer.algorithm,
        "control": config.selection.control,
        "seed": config.seed,
        "rounds": rounds,
    }


def trained_share(out: RunDir, arm: str, policy: int) -> dict[str, float]:
    """Of the conversations that a policy and those before it were trained on, the share with each kind of user; empty
    for policy 0, and where it is not recorded."""
    rounds = [read_json(out.audit(arm, r)).get("trained") for r in range(policy)]
    if not rounds or None in rounds:
        return {}
    kinds = sum((Counter(of["user_kind"]) for of in rounds), Counter())
    return {kind: n / kinds.total() for kind, n in sorted(kinds.items())}


def rollout_summary(out: RunDir, arm: str, round_: int, planned: int, again: bool = False) -> dict[str, Any]:
    """Figures of a round's trajectories, from `rollout.json` or from those that are there; empty before the first."""
    kept = read_json(out.rollout(arm, round_))
    if kept and not again:
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


def usage_on_disk(out: RunDir, config: RunConfig) -> list[dict[str, Any]]:
    """What all finished rounds cost, the rounds that were set aside, evaluations, and the check of endpoints before the
    run: rows of `actors.storage.trajectory.USAGE`."""
    places = [(arm.name, r) for arm in config.arms for r in range(config.rounds)]
    finished = [u for place in places for u in read_json(out.rollout(*place)).get("usage", [])]
    lost = [u for place in places for u in read_json(out.lost(*place)).get("usage", [])]
    policies = [(arm.name, r) for arm in config.arms for r in range(config.rounds + 1)]
    checks = read_json(out.checks).get("usage", [])
    return checks + finished + lost + [u for policy in policies for u in usage(out.evals(*policy))]


@dataclass
class KindFigures:
    """What users of one kind did and got.

    Attributes:
        talks: Conversations that were held.
        messages: What they said, counted.
        flags: How many of those messages were odd, by `actors.conduct.FLAGS`.
        ended: How their conversations ended.
        methods: How ratings were asked for.
        rated: Replies for which a rating was asked, those of conversations that were excluded among them.
        rating_failures: Answers to those requests that were none.
        mass: Sum of the probability that was on the ten ratings, in units of 1 / `UNIT`.
        scores: For each of `SCORES`, how many conversations have one, and their sum in units of 1 / `UNIT`.
        ratings: How many replies fell into each of the bins between `RATING_BINS`.
        rating_sum, rating_squares: Of the ratings, in units of 1 / `UNIT`: whole numbers, so that a sum does not depend
            on the order in which conversations ended.
        verdicts: How many replies the judge gave each label.
        samples: The held trajectories with the lowest plan index, as rows, each with its negated index before it.
    """

    talks: int = 0
    messages: int = 0
    flags: Counter = field(default_factory=Counter)
    ended: Counter = field(default_factory=Counter)
    methods: Counter = field(default_factory=Counter)
    rated: int = 0
    rating_failures: int = 0
    mass: int = 0
    scores: dict[str, list[int]] = field(default_factory=lambda: {name: [0, 0] for name in SCORES})
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

    @property
    def rating_spread(self) -> float | None:
        """Standard deviation of the ratings."""
        if not self.replies:
            return None
        return max(0.0, self.rating_squares / UNIT / self.replies - self.mean_rating**2) ** 0.5

    def score(self, name: str) -> float | None:
        """Mean of one of `SCORES` over the conversations that have one."""
        count, total = self.scores[name]
        return total / UNIT / count if count else None

    def conduct(self) -> dict[str, float | None]:
        """How well users of this kind were played: shares of their messages, of their conversations and of ratings."""
        return {
            **{flag: self.flags[flag] / self.messages if self.messages else None for flag in FLAGS},
            "ended_early": 1 - self.ended["turns"] / self.talks if self.talks else None,
            "rating_spread": self.rating_spread,
            "rating_mass": self.mass / UNIT / self.replies if self.replies else None,
            "rating_failures": self.rating_failures / self.rated if self.rated else None,
            "rating_sampled": self.methods["sampled"] / self.replies if self.replies else None,
            **{name: self.score(name) for name in SCORES},
            "in_role_checked": self.scores["in_role"][0],
        }


@dataclass
class RolloutFigures:
    """Figures of a round's trajectories; they are added up segment by segment, so memory does not grow.

    Attributes:
        taken_over: Of those that were held, how many another arm held (`loop.takeover`): they cost nothing here.
        extremes: The best, the worst and the most suspicious trajectory, as rows, each with what it is ranked by.
    """

    finished: int = 0
    excluded: int = 0
    taken_over: int = 0
    errors: Counter = field(default_factory=Counter)
    usage: UsageTotals = field(default_factory=UsageTotals)
    faults: Counter = field(default_factory=Counter)
    kinds: dict[str, KindFigures] = field(default_factory=dict)
    extremes: dict[str, tuple[tuple[float, int], dict[str, Any]]] = field(default_factory=dict)

    @classmethod
    def of(cls, tables: Iterable[pa.Table]) -> RolloutFigures:
        """The figures of all tables of `actors.storage.trajectory.SCHEMA` together."""
        figures = cls()
        for table in tables:
            figures.add(table)
        return figures

    def add(self, table: pa.Table) -> None:
        held = table.filter(pc.is_null(table["error"]))
        self.finished += len(held)
        self.excluded += len(table) - len(held)
        self.taken_over += pc.sum(pc.equal(pc.list_value_length(held["usage"]), 0)).as_py() or 0
        self.errors.update(e.partition(":")[0] for e in table["error"].drop_null().to_pylist())
        self.usage.add(pc.list_flatten(table["usage"]).to_pylist())
        for row in pc.list_flatten(table["faults"]).to_pylist():
            self.faults[row["role"], row["model"], row["kind"]] += row["count"]
        for kind in pc.unique(table["user_kind"]).to_pylist():
            of_kind = pc.list_flatten(table.filter(pc.equal(table["user_kind"], kind))["messages"])
            failures = pc.struct_field(of_kind, "rating_failures").drop_null()
            found = self.kinds.setdefault(kind, KindFigures())
            found.rated += len(failures)
            found.rating_failures += pc.sum(failures).as_py() or 0
        self._add_extremes(held)
        for kind in pc.unique(held["user_kind"]).to_pylist():
            mine = held.filter(pc.equal(held["user_kind"], kind))
            self._add_kind(self.kinds.setdefault(kind, KindFigures()), mine)

    def _add_extremes(self, held: pa.Table) -> None:
        """Keep the best, the worst and the most suspicious trajectory so far; of two that are as much so, the one with
        the lower plan index."""
        reward, index = held["reward"].to_numpy(), held["index"].to_numpy()
        doubts = [held[name].fill_null(-1.0).to_numpy() for name in SUSPICIOUS]
        suspicion = np.maximum.reduce(doubts)
        for name, of in (("best", reward), ("worst", -reward), ("most suspicious", suspicion)):
            if not len(held) or (name == "most suspicious" and suspicion.max() < 0):
                continue
            row = np.lexsort((-index, of))[-1]
            key = (float(of[row]), -int(index[row]))
            if name not in self.extremes or key > self.extremes[name][0]:
                self.extremes[name] = key, held.slice(row, 1).to_pylist()[0]

    def _add_kind(self, figures: KindFigures, held: pa.Table) -> None:
        messages = pc.list_flatten(held["messages"])
        figures.talks += len(held)
        figures.ended.update(held["ended"].to_pylist())
        said = messages.filter(pc.equal(pc.struct_field(messages, "role"), "user"))
        figures.messages += len(said)
        figures.flags.update(pc.list_flatten(pc.struct_field(said, "flags")).to_pylist())
        for name, figure in figures.scores.items():
            scores = held[name].drop_null().to_numpy()
            figure[0] += len(scores)
            figure[1] += int(np.rint(scores * UNIT).astype(np.int64).sum())
        replies = messages.filter(pc.equal(pc.struct_field(messages, "role"), "assistant"))
        ratings = pc.struct_field(replies, "rating").to_numpy()
        figures.ratings += np.histogram(ratings.clip(1, 10), RATING_BINS)[0]  # an expectation may round to 10 + 2e-15
        figures.rating_sum += int(np.rint(ratings * UNIT).astype(np.int64).sum())
        figures.rating_squares += int(np.rint(ratings**2 * UNIT).astype(np.int64).sum())
        figures.mass += int(np.rint(pc.struct_field(replies, "rating_mass").to_numpy() * UNIT).astype(np.int64).sum())
        figures.methods.update(pc.struct_field(replies, "rating_method").to_pylist())
        figures.verdicts.update(map(str, pc.struct_field(replies, "verdict").to_pylist()))
        indices = held["index"].to_numpy()
        for row in np.argsort(indices)[:SAMPLES]:
            heapq.heappush(figures.samples, (-int(indices[row]), held.slice(row, 1).to_pylist()[0]))
        while len(figures.samples) > SAMPLES:
            heapq.heappop(figures.samples)

    def usage_rows(self) -> list[dict[str, Any]]:
        """Requests and tokens by role and model, rows of `actors.storage.trajectory.USAGE`."""
        return self.usage.rows()

    def fault_kinds(self) -> Counter:
        """Failed requests by kind, of all roles and models together."""
        kinds: Counter = Counter()
        for (_, _, kind), count in self.faults.items():
            kinds[kind] += count
        return kinds

    def summary(self, planned: int) -> dict[str, Any]:
        """Counts, mean rating of a reply by user kind, what replies did, how users behaved, and what it cost."""
        names = dict.fromkeys((*NEEDED_KINDS, *sorted(self.kinds)))
        kinds = {kind: self.kinds.get(kind, KindFigures()) for kind in names}
        usage = self.usage_rows()
        return {
            "trajectories": {
                "planned": planned,
                "finished": self.finished,
                "excluded": self.excluded,
                "taken_over": self.taken_over,
            },
            "excluded_for": dict(sorted(self.errors.items())),
            "mean_rating": {k: f.mean_rating for k, f in kinds.items()},
            "replies": {k: dict(sorted(f.verdicts.items())) for k, f in kinds.items()},
            "users": {k: f.conduct() for k, f in kinds.items() if f.talks},
            "tokens": {s: sum(u[f"{s}_tokens"] for u in usage) for s in ("prompt", "completion")},
            "usage": usage,
            "faults": [
                {"role": role, "model": model, "kind": kind, "count": count}
                for (role, model, kind), count in sorted(self.faults.items())
            ],
        }
