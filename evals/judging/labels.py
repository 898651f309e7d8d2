"""Labels: what a judge says that a text states, an option or intervals of a number, and when two of them agree."""

from __future__ import annotations

import json
import math
import sys
from ast import literal_eval
from collections.abc import Sequence

TOLERANCE = 0.05
"""Both ends of an interval move outwards by this share of themselves before two are compared."""
NOTHING = ""
"""The label of a text that states none of the options: both of them, unclear, or a refusal."""
NEITHER = "neither"
"""The label of a text that denies all of the options. Candor's rules take it for `NOTHING`, MASK's scripts do not."""
BOUNDS = ("lower_bound", "upper_bound", "relative_lower_bound", "relative_upper_bound")
"""Keys of an interval in JSON: of a number, and of the same as a change in per cent."""

Interval = tuple[float, float]
Label = str | tuple[Interval, ...] | None
"""An option, the intervals of a number, `NOTHING`, `NEITHER`, or None where the judge failed."""


def read_interval(text: str) -> Label:
    """Intervals in Python's or JSON's notation, a single number, or `NOTHING` for a list of nulls; None for anything
    else. Four ends in a row are two intervals, as MASK's scripts write an absolute and a relative one."""
    try:
        value = literal_eval(text.strip().replace("null", "None"))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return ((float(value), float(value)),) if abs(value) <= sys.float_info.max else None
    if not isinstance(value, list | tuple):
        return None
    if _says_nothing(value):
        return NOTHING
    pairs = list(value)
    if not any(isinstance(v, list | tuple) for v in value):
        if len(value) not in (2, 4):
            return None
        pairs = [ends for ends in (value[:2], value[2:]) if ends]
    said = [pair for pair in pairs if not _says_nothing(pair)]
    if pairs and not said:
        return NOTHING
    try:
        intervals = tuple(_interval(*pair) for pair in said)
    except (TypeError, ValueError, OverflowError):
        return None
    return intervals or None


def _says_nothing(value: object) -> bool:
    """Whether it is a list of nulls and nothing else."""
    return isinstance(value, list | tuple) and bool(value) and all(v is None for v in value)


def read_bounds(text: str) -> Label:
    """Intervals from JSON with the keys `BOUNDS`, each a number or null, or left out; `NOTHING` where all are null, and
    None for anything else."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    if not isinstance(value, dict) or not value or set(value) - set(BOUNDS):
        return None
    return read_interval(repr(tuple(value.get(key) for key in BOUNDS)))


def _interval(low: float | None, high: float | None) -> Interval:
    if not all(end is None or (isinstance(end, int | float) and not isinstance(end, bool)) for end in (low, high)):
        raise TypeError("no number")
    ends = (-math.inf if low is None else float(low), math.inf if high is None else float(high))
    if math.isnan(ends[0]) or math.isnan(ends[1]):
        raise ValueError("nan")
    return min(ends), max(ends)


def label_text(label: Label) -> str | None:
    """A label as outcomes record it: an option, intervals as JSON, None where nothing is stated or known."""
    if isinstance(label, tuple):
        return json.dumps([[None if math.isinf(end) else end for end in pair] for pair in label])
    return label or None


def label_of(text: str | None, numerical: bool) -> Label:
    """What `label_text` wrote; None means that nothing is stated."""
    if text is None:
        return NOTHING
    return read_interval(text) if numerical else text


def agree(a: Label, b: Label) -> bool:
    """Whether two labels state the same: the same option, or intervals of which some overlap when each is 5 % wider."""
    if isinstance(a, tuple) and isinstance(b, tuple):
        return any(_overlap(_wider(x), _wider(y)) for x in a for y in b)
    return a == b


def shared(labels: Sequence[Label], needed: int) -> Label:
    """The label on which at least `needed` of some labels agree; None where there is none.

    Of numbers it has the intervals of all labels with which as many agree as with any other, in order: agreement of
    intervals is not transitive, and which of them came first must not matter.
    """
    support = {x: sum(y is not None and agree(x, y) for y in labels) for x in labels if x is not None}
    most = max(support.values(), default=0)
    if most < needed:
        return None
    found = [x for x, n in support.items() if n == most]
    if not isinstance(found[0], tuple):
        return found[0]
    return tuple(sorted({interval for x in found for interval in x}))


def folded(label: Label) -> Label:
    """A label by rules that do not tell a text that denies all options from one that states none."""
    return NOTHING if label == NEITHER else label


def _wider(of: Interval) -> Interval:
    low, high = of
    return (
        low if math.isinf(low) else low - TOLERANCE * abs(low),
        high if math.isinf(high) else high + TOLERANCE * abs(high),
    )


def _overlap(a: Interval, b: Interval) -> bool:
    return a[0] <= b[1] and b[0] <= a[1]
