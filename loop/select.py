"""Selection: which trajectories of a round become desirable and undesirable training data."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from loop.config import SelectionSettings

SCHEMA = pa.schema(
    [
        ("trajectory_id", pa.string()),
        ("label", pa.bool_()),
        ("reward", pa.float64()),
        ("score", pa.float64()),
        ("rank", pa.int32()),
    ],
    metadata={"candor_schema": "selection/1"},
)
"""`label`: True from the top, False from the bottom. `score`: what was ranked; the reward itself, or the control's."""


class SelectionError(ValueError):
    """A round that cannot be selected from."""


def select(trajectories: pa.Table, settings: SelectionSettings, seed: int) -> pa.Table:
    """The best `top` and the worst `bottom` share of a round by reward; rows in rank order, best first.

    Trajectories without a reward were excluded and take no part. Ties are broken by a seeded order, so that neither the
    plan's nor the disk's order decides.

    Args:
        trajectories: Columns `trajectory_id` and `reward`, in the order of the plan; a round's index has them.

    Raises:
        SelectionError: Too few trajectories have a reward to fill both ends.
    """
    finished = trajectories.filter(pa.compute.is_valid(trajectories["reward"]))
    rewards = finished["reward"].to_numpy()
    n = len(rewards)
    top, bottom = int(settings.top * n + 1e-9), int(settings.bottom * n + 1e-9)  # rounded down, so that they never meet
    if top < 1 or (settings.bottom > 0 and bottom < 1):
        raise SelectionError(
            f"{n} of {len(trajectories)} trajectories have a reward; the top {settings.top:g} and bottom "
            f"{settings.bottom:g} of them would be {top} and {bottom}, and each needs one"
        )
    rng = np.random.default_rng(seed)
    scores = {"none": lambda: rewards, "shuffled": lambda: rng.permutation(rewards), "random": lambda: rng.random(n)}[
        settings.control
    ]()
    order = np.lexsort((rng.random(n), -scores))
    chosen = np.concatenate([order[:top], order[n - bottom :]])
    rank = np.empty(n, np.int32)
    rank[order] = np.arange(n, dtype=np.int32)
    return pa.table(
        {
            "trajectory_id": finished["trajectory_id"].take(pa.array(chosen)),
            "label": [True] * top + [False] * bottom,
            "reward": rewards[chosen],
            "score": scores[chosen],
            "rank": rank[chosen],
        },
        schema=SCHEMA,
    )
