"""Selection: which trajectories of a round become desirable and undesirable training data."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from loop.config.schema import SelectionSettings
from loop.controls import CONTROLS

SCHEMA = pa.schema(
    [
        ("trajectory_id", pa.string()),
        ("label", pa.bool_()),
        ("reward", pa.float64()),
        ("score", pa.float64()),
        ("rank", pa.int32()),
        ("group", pa.string()),
    ],
    metadata={"candor_schema": "selection/2"},
)
"""`label`: True is desirable. `score`: what was ranked, the reward itself or the control's. `rank`: in its group, 0 is
the best. `group`: the scenario, kind of user or persona that it was ranked within; empty where all were one group."""
NAMED = 3
"""So many ids are named in an error."""


class SelectionError(ValueError):
    """A round that cannot be selected from."""


def select(trajectories: pa.Table, settings: SelectionSettings, seed: int) -> pa.Table:
    """The best `top` and the worst `bottom` of each group by reward; the desirable first, groups as they come.

    Trajectories without a reward were excluded and take no part, nor do those of users whose kind is not among
    `settings.kinds`. Ties are broken by a seeded order, so that neither the
    plan's nor the disk's order decides; `audit` says how often that was so. A group whose scores are all the same
    prefers nothing and gives nothing, and neither does one that is too small for both ends. A veto before the choice
    lets the next in rank take the place, but an undesirable trajectory always ranks below every desirable one of its
    group. No trajectory is in both ends. Numbers that only the choice knows are in the table's metadata, for `audit`.

    Args:
        trajectories: Columns `trajectory_id`, `reward`, with a veto its rubric and with groups the column they are
            named after, in the order of the plan; a round's index has them.

    Raises:
        SelectionError: A reward is NaN, or nothing can be chosen for an end: too few trajectories have a reward or pass
            the veto, or all rewards are the same. Or a control did not give one finite number for each reward.
    """
    finished = trajectories.filter(pc.is_valid(trajectories["reward"]))
    if settings.kinds is not None:
        finished = finished.filter(pc.is_in(finished["user_kind"], pa.array(settings.kinds, pa.string())))
    rewards = finished["reward"].to_numpy()
    _check_numbers(finished, rewards)
    rng = np.random.default_rng(seed)
    groups = list(_groups(finished, settings.within))
    scores = _scores(rewards, [rows for _, rows in groups], settings.control, rng)
    vetoed, unjudged = _vetoed(finished, settings)
    of = _choose(groups, scores, rng.random(len(rewards)), vetoed, settings)
    if not any(map(len, of.best)) or (settings.bottom > 0 and not any(map(len, of.worst))):
        raise SelectionError(_nothing(trajectories, rewards, settings, of.left_out, vetoed, unjudged))
    chosen = np.concatenate(of.best + of.worst)
    names = {int(i): name for name, rows in groups for i in rows} if settings.within != "all" else {}
    notes = {
        "vetoed": int(vetoed.sum()),
        "unjudged": unjudged,
        "tied": dict(of.tied),
        "groups": len(groups),
        "left_out": dict(of.left_out),
    }
    table = pa.table(
        {
            "trajectory_id": finished["trajectory_id"].take(pa.array(chosen)),
            "label": [True] * sum(map(len, of.best)) + [False] * sum(map(len, of.worst)),
            "reward": rewards[chosen],
            "score": scores[chosen],
            "rank": of.rank[chosen],
            "group": [names.get(int(i), "") for i in chosen],
        },
        schema=SCHEMA,
    )
    return table.replace_schema_metadata({**SCHEMA.metadata, b"notes": json.dumps(notes).encode()})


@dataclass
class _Choice:
    """The ends of every group, best first; each row's rank in its group; how many rows were tied with the last one that
    was chosen for an end; and how many groups gave nothing, by reason."""

    best: list[np.ndarray]
    worst: list[np.ndarray]
    rank: np.ndarray
    tied: Counter[str]
    left_out: Counter[str]


def _choose(
    groups: list[tuple[str, np.ndarray]],
    scores: np.ndarray,
    chance: np.ndarray,
    vetoed: np.ndarray,
    settings: SelectionSettings,
) -> _Choice:
    """Rank every group, ties by `chance`, and take its ends."""
    made = _Choice([], [], np.empty(len(scores), np.int32), Counter(top=0, bottom=0), Counter())
    both = settings.veto is not None and settings.veto.ends == "both"
    for _, rows in groups:
        order = rows[np.lexsort((chance[rows], -scores[rows]))]
        made.rank[order] = np.arange(len(order), dtype=np.int32)
        found = _ends(order, scores, vetoed, settings)
        if isinstance(found, str):
            made.left_out[found] += 1
            continue
        for end, chosen, last in zip(("top", "bottom"), found, (-1, 0), strict=True):
            if len(chosen):
                barred = vetoed[order] & (end == "top" or both)
                left = order[~np.isin(order, np.concatenate(found)) & ~barred]
                made.tied[end] += int((scores[left] == scores[chosen[last]]).sum())
        made.best.append(found[0])
        made.worst.append(found[1])
    return made


def audit(trajectories: pa.Table, selection: pa.Table) -> dict[str, Any]:
    """What a selection consists of, for JSON.

    `round` and each of the two ends have their count, their composition by user kind and scenario, their rewards, and
    the tokens that the assistant said. An end also has its `threshold`, the score that was just good or bad enough (the
    least strict one where groups have their own), and how many trajectories were `tied` with a threshold and left out.
    `trained` has how many conversations of each kind of user are trained on: the share of biased users in a round is
    not theirs in the training data.

    Args:
        trajectories: A round's index (`actors.buffer.INDEX_SCHEMA`).
        selection: What `select` made of it.
    """
    notes = json.loads(selection.schema.metadata[b"notes"])
    finished = trajectories.filter(pc.is_valid(trajectories["reward"]))
    said = {"excluded": len(trajectories) - len(finished), **_composition(finished)}
    ends = {}
    for end, label in (("top", True), ("bottom", False)):
        chosen = selection.filter(pc.equal(selection["label"], label))
        rows = finished.filter(pc.is_in(finished["trajectory_id"], chosen["trajectory_id"].combine_chunks()))
        least = pc.min(chosen["score"]) if label else pc.max(chosen["score"])
        ends[end] = {**_composition(rows), "threshold": least.as_py(), "tied": notes["tied"][end]}
    kinds = Counter(ends["top"]["user_kind"]) + Counter(ends["bottom"]["user_kind"])
    trained = {"count": kinds.total(), "user_kind": dict(sorted(kinds.items()))}
    return {
        "round": said,
        **ends,
        "trained": trained,
        **{k: notes[k] for k in ("vetoed", "unjudged", "groups", "left_out")},
    }


def _composition(rows: pa.Table) -> dict[str, Any]:
    def counted(column: str) -> dict[str, int]:
        return dict(sorted(Counter(rows[column].to_pylist()).items(), key=lambda kv: str(kv[0])))

    def spread(column: str) -> dict[str, float | None]:
        values = rows[column].cast(pa.float64())
        return {"mean": pc.mean(values).as_py(), "min": pc.min(values).as_py(), "max": pc.max(values).as_py()}

    return {
        "count": len(rows),
        "user_kind": counted("user_kind"),
        "scenario": counted("scenario"),
        "reward": spread("reward"),
        "completion_tokens": spread("completion_tokens"),
    }


def _check_numbers(finished: pa.Table, rewards: np.ndarray) -> None:
    broken = np.flatnonzero(~np.isfinite(rewards))
    if len(broken):
        named = ", ".join(finished["trajectory_id"].take(pa.array(broken[:NAMED])).to_pylist())
        raise SelectionError(
            f"the reward of {len(broken)} trajectories is no finite number ({named}{', ...' * (len(broken) > NAMED)}); "
            "a reward is a number, or null where the conversation was excluded"
        )


def _groups(finished: pa.Table, within: str) -> Iterator[tuple[str, np.ndarray]]:
    """Name and rows of each group, in the order in which they first appear."""
    if within == "all":
        yield "", np.arange(len(finished))
        return
    codes = finished[within].combine_chunks().dictionary_encode()
    codes = codes.combine_chunks() if isinstance(codes, pa.ChunkedArray) else codes
    numbers = pc.fill_null(codes.indices, -1).to_numpy(zero_copy_only=False)
    by_group = np.argsort(numbers, kind="stable")
    starts = np.flatnonzero(np.diff(numbers[by_group], prepend=-2))
    for rows in np.split(by_group, starts[1:]) if len(by_group) else ():
        number = numbers[rows[0]]
        yield ("" if number < 0 else str(codes.dictionary[int(number)])), rows


def _scores(rewards: np.ndarray, groups: list[np.ndarray], control: str, rng: np.random.Generator) -> np.ndarray:
    """What is ranked in the place of the rewards."""
    scores = np.asarray(CONTROLS[control](rewards, groups, rng), np.float64)
    if scores.shape != rewards.shape or not np.isfinite(scores).all():
        raise SelectionError(
            f"selection.control {control}: gave {scores.size} scores, {int(np.isfinite(scores).sum())} of them finite, "
            f"for {len(rewards)} rewards; a control gives one finite number for each"
        )
    return scores


def _ends(
    order: np.ndarray, scores: np.ndarray, vetoed: np.ndarray, s: SelectionSettings
) -> tuple[np.ndarray, np.ndarray] | str:
    """The two ends of a group, best first, or why it has none.

    Args:
        order: Rows of the group, best first.
    """
    n = len(order)
    # Rounded down, so that the ends never meet; the addition keeps 0.07 * 100 from being 6.
    top, bottom = (int(end * n + 1e-9) if s.unit == "share" else int(end) for end in (s.top, s.bottom))
    if top < 1 or (s.bottom > 0 and bottom < 1) or top + bottom > n:
        return "too small"
    if n > 1 and scores[order[0]] == scores[order[-1]]:
        return "tied"
    clear = order[~vetoed[order]]
    both = s.veto is not None and s.veto.ends == "both"
    if s.veto is not None and s.veto.when == "after":
        best, worst = order[:top], order[n - bottom :]
        return best[~vetoed[best]], worst[~vetoed[worst]] if both else worst
    best = clear[:top]
    if len(best) < top:
        return "vetoed"
    last = int(np.flatnonzero(order == best[-1])[0])
    below = order[last + 1 :]
    below = below[~vetoed[below]] if both else below
    if len(below) < bottom:
        return "vetoed"
    return best, below[len(below) - bottom :]


def _nothing(
    trajectories: pa.Table,
    rewards: np.ndarray,
    s: SelectionSettings,
    left_out: Counter[str],
    vetoed: np.ndarray,
    unjudged: int,
) -> str:
    """Why nothing could be selected."""
    n, unit = len(rewards), "share" if s.unit == "share" else "count"
    asked = f"top {s.top:g} and bottom {s.bottom:g} by {unit}"
    where = "" if s.within == "all" else f", each of {sum(left_out.values())} groups by {s.within} by itself"
    of = f" by users who are {' or '.join(s.kinds)}" if s.kinds is not None else ""
    have = f"{n} of {len(trajectories)} trajectories have a reward{of}"
    if left_out["tied"]:
        value = f": {rewards[0]:g}" if len(set(rewards.tolist())) == 1 else ""
        return f"{have}, and all rewards that would be compared are the same{value}{where}; nothing is preferred"
    if left_out["vetoed"] or (s.veto and len(vetoed) and not left_out["too small"]):
        return (
            f"the veto leaves {int((~vetoed).sum())} of {n} trajectories ({unjudged} are struck out because they "
            f"have no verdict); {asked} cannot be filled from them{where}"
        )
    return f"{have}{where}; that is too few for {asked}, as each end needs one"


def _vetoed(trajectories: pa.Table, settings: SelectionSettings) -> tuple[np.ndarray, int]:
    """Which trajectories the judge strikes out, and how many of those because it gave no verdict."""
    if settings.veto is None:
        return np.zeros(len(trajectories), bool), 0
    score = pc.fill_null(trajectories[settings.veto.rubric], np.nan).to_numpy()
    return ~(score <= settings.veto.threshold), int(np.isnan(score).sum())
