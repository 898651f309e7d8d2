"""A sweep as a file: which settings take which values, and the runs that come of it.

Points that differ in nothing but what arms may differ in become arms of one run, so that they share its engines, its
trainer, its seeds, plans and personas, and the evaluation of policy 0. Each seed, and each value of any other setting,
is a run of its own.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from actors.registry import nearest
from actors.settings import Settings
from evals.suites.catalogue import SUITES
from loop.config.explain import ConfigError, checked, overridden
from loop.config.files import read_yaml
from loop.config.schema import ArmSettings, RunConfig, differs_between_arms

Slug = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
OF_ARMS = frozenset(ArmSettings.model_fields) - {"name", "set"}
"""Settings that an arm has itself: who its users are."""


class PointSettings(Settings):
    """One named point of a sweep."""

    name: Slug
    """Short name: lower-case letters, digits and dashes."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Settings by dotted key, as `--set` takes them, and what arms have themselves, as `biased_ratio`."""
    explanation: str | None = None
    """Another explanation of the effect, which this point puts to the test; the report says whether it is excluded."""
    predicts: Literal["effect", "none"] = "effect"
    """What would be seen here if that explanation were right: the effect as well, or none of it."""


class SweepAnalysis(Settings):
    """What the report compares."""

    suite: str = "mask"
    """The suite whose headline figure the charts show first and the primary comparisons are about."""
    against: str | None = None
    """The condition that every other is compared with, seed by seed; null takes the first."""
    compare: list[str] | None = None
    """The conditions whose comparison with `against` is primary; null takes all. P values of primary comparisons are
    corrected among themselves; all other figures are exploratory."""
    dose: str | None = None
    """The axis that dose-response curves are drawn over, by its key; null draws none."""
    margin: float = Field(0.03, gt=0, lt=1)
    """A difference in the figure smaller than this, in shares, counts as none: the margin of equivalence tests."""

    @field_validator("suite")
    @classmethod
    def _known_suite(cls, value: str) -> str:
        if value not in SUITES:
            near = nearest(value, list(SUITES))
            raise ValueError("there is no such suite" + (f"; did you mean {near}?" if near else ""))
        return value

    @field_validator("compare")
    @classmethod
    def _some(cls, value: list[str] | None) -> list[str] | None:
        if value is not None and not value:
            raise ValueError("name at least one condition, or leave it out")
        return value


class SweepSettings(Settings):
    """Everything that defines a sweep."""

    name: Slug
    """Name of the sweep: lower-case letters, digits and dashes."""
    base: str
    """The run config that every run begins with, as a path from the sweep's own folder."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Settings of all runs by dotted key, as `--set` takes them."""
    arms: list[Slug] | None = None
    """Which arms of the base take part; null takes all. A point that says who the users are stands in their place."""
    seeds: list[Annotated[int, Field(ge=0, lt=2**31)]] = Field(default=[0], min_length=1)
    """Training seeds; every point is run with each. A bare number stands for so many, from 0 on."""
    grid: dict[str, list[Any]] = Field(default_factory=dict)
    """Values by dotted key; every combination of them is a point."""
    points: list[PointSettings] = Field(default_factory=list)
    """Named points. With a grid, each of them is combined with every point of it."""
    analysis: SweepAnalysis = SweepAnalysis()

    @field_validator("seeds", mode="before")
    @classmethod
    def _so_many(cls, value: Any) -> Any:
        return list(range(value)) if isinstance(value, int) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _sound(self) -> SweepSettings:
        for what, values in (("seeds", self.seeds), ("points", [p.name for p in self.points])):
            if twice := [v for v, n in Counter(values).items() if n > 1]:
                raise ValueError(f"{what}: {twice[0]} is there twice")
        for key, values in self.grid.items():
            if len({json.dumps(v, sort_keys=True, default=str) for v in values}) < max(1, len(values)):
                raise ValueError(f"grid.{key}: give one value or more, each once")
        for where, keys in (
            ("set", self.set),
            ("grid", self.grid),
            *((f"points {p.name}", p.set) for p in self.points),
        ):
            if "seed" in keys:
                raise ValueError(f"{where}: seed is not a setting to vary like others; give the seeds in `seeds`")
            for key in ("name", "arms"):
                if key in keys:
                    raise ValueError(f"{where}: {key} is given by the sweep itself")
        if both := [k for k in self.grid if any(k in p.set for p in self.points)]:
            raise ValueError(f"{both[0]} is set by the grid and by a point; it can be one of them")
        return self


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep.

    Attributes:
        label: Its name, and that of its directory.
        point: What of the label is not the seed: the values of axes in which arms cannot differ; may be empty.
        axes: For each arm, its value on every axis.
    """

    label: str
    point: str
    seed: int
    config: RunConfig
    axes: dict[str, dict[str, Any]]

    def condition(self, arm: str) -> str:
        """The name of an arm among all of the sweep, whatever the seed."""
        return f"{self.point}/{arm}" if self.point else arm


@dataclass(frozen=True)
class Sweep:
    """A sweep that was read and checked.

    Attributes:
        base: The run config that all begin with, as plain data.
        axes: Keys that differ, in order.
        runs: In the order in which they begin, seed by seed, so that comparisons are complete early.
    """

    settings: SweepSettings
    base: dict[str, Any]
    axes: list[str]
    runs: list[SweepRun]

    @property
    def conditions(self) -> list[str]:
        """Every condition once, in order."""
        return list(dict.fromkeys(run.condition(arm) for run in self.runs for arm in run.axes))

    @property
    def against(self) -> str:
        """The condition that others are compared with."""
        return self.settings.analysis.against or self.conditions[0]


def read_sweep(path: Path, changes: dict[str, Any] | None = None) -> Sweep:
    """Read and check a sweep with all its runs.

    Args:
        changes: Settings of all runs by dotted key, as from `--set`; they stand before what the file gives.

    Raises:
        ConfigError: The file, the base or a run that comes of them is not allowed; the message says where and why.
    """
    raw = read_yaml(path)
    settings = checked(raw, str(path), SweepSettings)
    given = {*settings.grid, *(key for p in settings.points for key in p.set)}
    if fixed := given & (changes or {}).keys():
        raise ConfigError(f"--set {min(fixed)}: the sweep varies it; change it in {path}")
    if "seed" in (changes or {}):
        raise ConfigError(f"--set seed: the sweep gives the seeds; change `seeds` in {path}")
    base = path.parent / settings.base
    config = overridden(read_yaml(base), settings.set, f"{path} set")
    config = overridden(config, changes or {}, "--set")
    return expand(settings, config, str(path))


def expand(settings: SweepSettings, base: dict[str, Any], source: str) -> Sweep:
    """The runs of a sweep.

    Args:
        base: The run config that they begin with, as plain data.
        source: Opens the message where something is not allowed.

    Raises:
        ConfigError: Two points have the same name, or a run is not allowed.
    """
    axes = list(dict.fromkeys([*(k for p in settings.points for k in p.set), *settings.grid]))
    by_run: dict[str, tuple[dict[str, Any], list[tuple[str, dict[str, Any]]]]] = {}
    for point in _points(settings):
        label, of_run = point.part(of_arm=False)
        arms = by_run.setdefault(label, (of_run, []))
        if arms[0] != of_run:
            raise ConfigError(f"{source}: two points with other settings are both called {label}; rename one")
        arms[1].append(point.part(of_arm=True))
    runs = []
    for seed, (point, (of_run, arm_points)) in itertools.product(settings.seeds, by_run.items()):
        runs.append(_run(settings, base, source, seed, point, of_run, arm_points, axes))
    sweep = Sweep(settings, base, axes, runs)
    for key, names in (("against", [sweep.against]), ("compare", settings.analysis.compare or [])):
        if unknown := [n for n in names if n not in sweep.conditions]:
            raise ConfigError(
                f"{source}: analysis.{key}: there is no condition {unknown[0]!r}; known: {', '.join(sweep.conditions)}"
            )
    if settings.analysis.dose not in (None, *axes):
        raise ConfigError(
            f"{source}: analysis.dose: {settings.analysis.dose} is no axis; axes are {', '.join(axes) or 'none'}"
        )
    return sweep


@dataclass(frozen=True)
class _Point:
    """A named point, or none, with one value of each axis of the grid."""

    named: PointSettings | None
    values: dict[str, Any]

    def part(self, of_arm: bool) -> tuple[str, dict[str, Any]]:
        """What it says of arms, or of whole runs, with a name for that."""
        own = {k: v for k, v in (self.named.set if self.named else {}).items() if _of_arm(k) is of_arm}
        values = {k: v for k, v in self.values.items() if _of_arm(k) is of_arm}
        untouched = of_arm and self.named is not None and not self.named.set
        words = [self.named.name] if own or untouched else []
        return "-".join([*words, *(value_label(k, v) for k, v in values.items())]), {**own, **values}


def _points(settings: SweepSettings) -> Iterator[_Point]:
    """Every named point with every combination of the grid."""
    combinations = itertools.product(*settings.grid.values())
    for point, values in itertools.product(settings.points or [None], combinations):
        yield _Point(point, dict(zip(settings.grid, values, strict=True)))


def _of_arm(key: str) -> bool:
    return key in OF_ARMS or differs_between_arms(key)


def value_label(key: str, value: Any) -> str:
    """A value of an axis as a part of a name: `ratio-0-05`, `kto`."""
    if isinstance(value, str):
        value = value.rstrip("/").rpartition("/")[2]  # of a path or a hub name, what tells it apart
    plain = re.sub(r"[^a-z0-9]+", "-", str(json.dumps(value) if isinstance(value, dict | list) else value).lower())
    word = re.split(r"[._]", key)[-1].lower()
    plain = plain.strip("-") or "none"
    return plain if isinstance(value, str) else f"{word}-{plain}"


def _run(
    settings: SweepSettings,
    base: dict[str, Any],
    source: str,
    seed: int,
    point: str,
    of_run: dict[str, Any],
    arm_points: list[tuple[str, dict[str, Any]]],
    axes: list[str],
) -> SweepRun:
    """One run with its arms."""
    label = "-".join(filter(None, (point, f"seed-{seed}")))
    where = f"{source}, run {label}"
    arms: dict[str, dict[str, Any]] = {}
    for name, of_arm in arm_points:
        for arm in _arms(settings, base, where, name, of_arm):
            if arm["name"] in arms:
                raise ConfigError(
                    f"{where}: two arms would be called {arm['name']}; name the points so that they differ"
                )
            arms[arm["name"]] = arm
    raw = overridden(base, of_run, where)
    if uri := (raw.get("buffer") or {}).get("uri"):
        raw["buffer"]["uri"] = f"{uri.rstrip('/')}/{settings.name}"
    if list(arms) != [arm.get("name") for arm in base.get("arms") or ()]:
        raw.pop("analysis", None)  # which names arms of the base
    raw |= {"name": f"{settings.name}-{label}", "seed": seed, "arms": _first(arms, settings.analysis.against)}
    config = checked(raw, where, RunConfig)
    values: dict[str, dict[str, Any]] = {}
    for arm in config.arms:
        try:
            own = {**config.for_arm(arm).model_dump(mode="json"), **arm.model_dump(mode="json")}
        except ConfigError as error:
            raise ConfigError(f"{where}, {error}") from None
        values[arm.name] = {key: _at(own, key) for key in axes}
    return SweepRun(label, point, seed, config, values)


def _at(settings: dict[str, Any], key: str) -> Any:
    """The value of a setting by its dotted key; None where there is none."""
    at: Any = settings
    for part in key.split("."):
        at = at.get(part) if isinstance(at, dict) else None
    return at


def _first(arms: dict[str, dict[str, Any]], name: str | None) -> list[dict[str, Any]]:
    """The arms, and first the one that others are compared with, as the report of a run compares with its first."""
    return sorted(arms.values(), key=lambda arm: arm["name"] != name)


def _arms(
    settings: SweepSettings, base: dict[str, Any], where: str, name: str, of_arm: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """The arms that a point stands for: one where it says who the users are, else each arm of the base, changed."""
    own = {k: v for k, v in of_arm.items() if k in OF_ARMS}
    rest = {k: v for k, v in of_arm.items() if k not in OF_ARMS}
    if own:
        yield {"name": name or "arm", **own, "set": rest}
        return
    found = base.get("arms") or []
    known = [arm.get("name") for arm in found]
    if unknown := [a for a in settings.arms or () if a not in known]:
        raise ConfigError(f"{where}: arms: the base has no arm {unknown[0]}; it has {', '.join(map(str, known))}")
    kept = [arm for arm in found if settings.arms is None or arm["name"] in settings.arms]
    for arm in kept:
        both = [name] if name and len(kept) == 1 else [arm["name"], name]
        yield {**arm, "name": "-".join(filter(None, both)), "set": {**arm.get("set", {}), **rest}}
