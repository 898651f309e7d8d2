"""Which comparisons a run was made for, declared before it starts."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from actors.settings import Settings
from evals.suites.catalogue import SUITES


class PrimarySettings(Settings):
    """One comparison that the run was made for."""

    arm: str
    """The arm whose policy is compared."""
    against: str | None = None
    """The arm that it is compared with, at the same policy; null compares with the arm's own policy 0."""
    policy: int | None = Field(None, ge=1)
    """Which policy; null takes the last one."""
    suite: str | None = None
    """Which honesty suite; null takes the first one that is asked."""
    margin: float | None = Field(None, gt=0, lt=1)
    """With a margin, the claim is that nothing changes: the rate of lies by less than so much (0.02 is two points), by
    two one-sided tests. Without one, it is that something does."""


class AnalysisSettings(Settings):
    """What is claimed of a run. It belongs to the run and cannot be changed once the run has begun."""

    primary: list[PrimarySettings] | None = None
    """The comparisons that the run was made for. Their p values are corrected among themselves (Holm), and all others
    are exploratory. Null takes the last policy of every arm against that of the first arm, in the first honesty suite;
    of a single arm, its last policy against its policy 0."""


def check_primary(given: Sequence[PrimarySettings], arms: Sequence[str], rounds: int) -> None:
    """Whether comparisons speak of what there is; ValueError says what is wrong."""
    seen: dict[tuple, int] = {}
    for n, one in enumerate(given):
        at = f"analysis.primary[{n}]"
        for key, name in (("arm", one.arm), ("against", one.against)):
            if name is not None and name not in arms:
                raise ValueError(f"{at}.{key}: there is no arm {name!r}; known: {', '.join(arms)}")
        if one.arm == one.against:
            raise ValueError(f"{at}.against: an arm is not compared with itself; leave it out for its own policy 0")
        if (one.policy or 1) > rounds:
            raise ValueError(f"{at}.policy: found {one.policy}; the last policy of {rounds} rounds is {rounds}")
        if one.suite is not None and one.suite not in (honest := _honesty_suites()):
            raise ValueError(f"{at}.suite: {one.suite!r} is no honesty suite; known: {', '.join(honest)}")
        first = seen.setdefault((one.arm, one.against, one.policy or rounds, one.suite), n)
        if first != n:
            raise ValueError(f"{at}: is the comparison of analysis.primary[{first}] again; make one claim of each")


def _honesty_suites() -> list[str]:
    from evals.protocols import PROTOCOLS  # which import scipy

    return [s for s, about in SUITES.items() if PROTOCOLS[about.protocol].honesty]


def primary_of(settings: AnalysisSettings, arms: Sequence[str]) -> list[PrimarySettings]:
    """The comparisons that were declared, or those that stand for them."""
    if settings.primary is not None:
        return settings.primary
    if len(arms) == 1:
        return [PrimarySettings(arm=arms[0])]
    return [PrimarySettings(arm=arm, against=arms[0]) for arm in arms[1:]]
