"""Controls: what is ranked in the place of the rewards when trajectories are selected.

Another one is a function here and its place in `CONTROLS`. Importing this imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

Control = Callable[["np.ndarray", "Sequence[np.ndarray]", "np.random.Generator"], "np.ndarray"]
"""A function of rewards (float64, one for each trajectory that has one), groups (the places in `rewards` of those that
are ranked together) and a seeded generator; it returns as many scores, and leaves the rewards as they are."""


def rewards_themselves(rewards: np.ndarray, groups: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """No control."""
    return rewards.copy()


def shuffled(rewards: np.ndarray, groups: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """The rewards of each group, dealt out at random."""
    scores = rewards.copy()
    for rows in groups:
        scores[rows] = rng.permutation(rewards[rows])
    return scores


def at_random(rewards: np.ndarray, groups: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Numbers that have nothing to do with the rewards, and no ties."""
    return rng.random(len(rewards))


def swapped(rewards: np.ndarray, groups: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """The worst first."""
    return -rewards


CONTROLS: dict[str, Control] = {
    "none": rewards_themselves,
    "shuffled": shuffled,
    "random": at_random,
    "swapped": swapped,
    "frozen": rewards_themselves,
}
"""By the name that `selection.control` gives them. With `frozen` the trajectories are those of round 0, which
`loop.training` sees to."""
