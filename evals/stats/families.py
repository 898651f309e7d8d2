"""Many tests at once: those that were declared beforehand, and all others."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)
PRIMARY, EXPLORATORY = "primary", "exploratory"
METHODS = {PRIMARY: "holm", EXPLORATORY: "fdr_bh"}
"""How each family is corrected, as statsmodels calls it: declared tests so that one in twenty families at most has a
false one (Holm 1979), all others so that one in twenty of those that look significant is false on average (Benjamini &
Hochberg 1995)."""


@dataclass(frozen=True)
class Corrected:
    """A p value among others.

    Attributes:
        p: Corrected within its family; of an exploratory test this is a false discovery rate.
        alone: As it was, uncorrected.
        family: `PRIMARY` or `EXPLORATORY`.
    """

    p: float
    alone: float
    family: str


def correct(p_values: Mapping[Key, float], primary: Collection[Key] = ()) -> dict[Key, Corrected]:
    """P values of tests, corrected among those that were declared, and among the rest.

    Args:
        p_values: By whatever names a test.
        primary: Names of those that were declared before the data were seen; names that have no p value are ignored.
    """
    from statsmodels.stats.multitest import multipletests

    found: dict[Key, Corrected] = {}
    for family, method in METHODS.items():
        names = [key for key in p_values if (key in primary) == (family == PRIMARY)]
        if names:
            alone = [p_values[key] for key in names]
            for key, p, before in zip(names, multipletests(alone, method=method)[1], alone, strict=True):
                found[key] = Corrected(float(p), float(before), family)
    return {key: found[key] for key in p_values}
