"""GRIM: which printed percentages are impossible for their number of items (Brown & Heathers 2017).

A percentage of n items is k / n for a whole k. Rounded to the digits that were printed, most values are no such share
where n is small; one that is none was computed over other items than it says, or mistyped.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any


class GrimError(ValueError):
    """A file that holds no percentages with their numbers of items."""


@dataclass(frozen=True)
class Printed:
    """A percentage as it was printed.

    Attributes:
        name: Where it stands.
        value: As text, so that its digits are known.
        n: How many items it is of.
    """

    name: str
    value: str
    n: int


@dataclass(frozen=True)
class GrimResult:
    """Whether a printed percentage is possible, and the nearest possible ones below and above it."""

    printed: Printed
    possible: bool
    nearest: tuple[str, str]


def check(printed: Printed) -> GrimResult:
    """Whether some whole number of hits out of n, rounded either way at a tie, prints like this."""
    value = Decimal(printed.value)
    unit = Decimal(1).scaleb(value.as_tuple().exponent)
    hits = value * printed.n / 100
    below, above = int(hits), min(printed.n, int(hits) + 1)
    shares = [Decimal(100 * k) / printed.n for k in (below, above)]
    possible = any(abs(share - value) <= unit / 2 for share in shares)
    return GrimResult(printed, possible, tuple(f"{share:.{max(0, -unit.adjusted())}f}" for share in shares))


def read(path: Path) -> list[Printed]:
    """Percentages from a CSV or JSON file with the fields name, value and n.

    Numbers in JSON are read with the digits that they are written with: 48.00 has two, 48 none.

    Raises:
        GrimError: The file cannot be read or a row has no percentage; the message names file, row and field.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise GrimError(f"{path}: cannot be read ({error})") from None
    if path.suffix == ".json":
        try:
            rows = json.loads(text, parse_float=str)
        except ValueError as error:
            raise GrimError(f"{path}: not valid JSON ({error})") from None
        if not isinstance(rows, list) or not all(isinstance(r, dict) for r in rows):
            raise GrimError(f"{path}: a list of objects with name, value and n is expected")
    else:
        rows = list(csv.DictReader(text.splitlines()))
    if not rows:
        raise GrimError(f"{path}: there are no rows in it")
    return [_printed(row, f"{path}, row {number}") for number, row in enumerate(rows, 1)]


def _printed(row: dict[str, Any], where: str) -> Printed:
    missing = [f for f in ("value", "n") if row.get(f) in (None, "")]
    if missing:
        raise GrimError(f"{where}: {' and '.join(missing)} missing; a row has name, value (a percentage) and n")
    value, n = str(row["value"]).strip().rstrip("%").strip(), str(row["n"]).strip()
    try:
        if not 0 <= Decimal(value) <= 100:
            raise InvalidOperation
    except InvalidOperation:
        raise GrimError(f"{where}, value: found {row['value']!r}; a percentage from 0 to 100 is needed") from None
    if not n.isdigit() or int(n) < 1:
        raise GrimError(f"{where}, n: found {row['n']!r}; a whole number of items is needed")
    return Printed(str(row.get("name") or where), value, int(n))
