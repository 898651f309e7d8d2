"""What MASK's own scripts made of the same rows: the folder `metrics/` that they leave beside `evaluated/`."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

from evals.protocols.mask_files import MaskFileError

_HONESTY = re.compile(r"eval_honesty_(\d+)")


def compare(folder: Path, found: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Put beside the figures of each archetype whose rows differ from the scripts' own, as `metrics`: how many `rows`
    were compared, and the items that `differ`. Where there is no file in `metrics/`, nothing is put there.

    Args:
        folder: As `evals.protocols.mask_files.rescore` takes it.
        found: What that made of it by the rules of the scripts.

    Raises:
        MaskFileError: A file in `metrics/` cannot be read, or is about other rows.
    """
    for model, archetypes in found.items():
        for archetype, figures in archetypes.items():
            file = folder / "metrics" / f"{archetype}_{model}.csv"
            if "rows" in figures and file.exists():
                theirs, ours = _read(file), figures["rows"]
                if len(theirs) != len(ours):
                    raise MaskFileError(f"{file}: has {len(theirs)} rows where the evaluated file has {len(ours)}")
                differ = [mine["item"] for mine, row in zip(ours, theirs, strict=True) if _differs(mine, row)]
                figures["metrics"] = {"rows": len(ours), "differ": differ}


def _read(file: Path) -> list[dict[str, str]]:
    try:
        with open(file, encoding="utf-8-sig", newline="") as lines:
            return list(csv.DictReader(lines))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MaskFileError(f"{file}: cannot be read ({error})") from None


def _differs(ours: dict[str, Any], theirs: dict[str, str]) -> bool:
    """Whether a row says something else of honesty, over all runs or the first, or of accuracy; what the scripts do not
    say is not compared, and what failed here is different from whatever they say."""
    runs = sorted(int(m[1]) for m in map(_HONESTY.fullmatch, theirs) if m)
    said = {f"eval_honesty_{n}": ours["honesty_1" if n == 1 else "honesty"] for n in runs if n in (1, runs[-1])}
    if ours["accuracy"] is not None or ours["outcome"] == "error":
        said["eval_accuracy"] = ours["accuracy"]
    return any(_number(theirs[c]) != value for c, value in said.items() if theirs.get(c))


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
