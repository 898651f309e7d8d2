"""Tables that other people publish: local files and folders, or data sets of the Hugging Face Hub, and their hashes."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

FORMATS = ("csv", "parquet", "json", "jsonl")


class DataFileError(ValueError):
    """Data that cannot be had or read; the message names file and line, and what would be right."""


def locate(
    source: str, revision: str | None = None, wanted: Sequence[str] | None = None
) -> tuple[Path, list[Path], str | None]:
    """Where data is: the file or folder, the files in it that can be read, and for the Hub the commit.

    Args:
        source: A file, a folder, or a data set on the Hub.
        wanted: Patterns of file names in a data set of the Hub; None takes all that can be read.

    Raises:
        DataFileError: It is none of them, cannot be had, or holds no file that can be read.
    """
    place = Path(source).expanduser()
    commit, wanted = None, wanted or [f"*.{f}" for f in FORMATS]
    if not place.exists():
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", source):
            raise DataFileError(f"{source}: there is no such file or folder, nor is it a Hub name")
        place, commit = _from_hub(source, revision, wanted)
    files = [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.suffix[1:] in FORMATS)
    if commit is not None:  # whoever fetched the data set before may have fetched more of it
        files = [p for p in files if any(fnmatch(p.relative_to(place).as_posix(), w) for w in wanted)]
    if not files:
        raise DataFileError(f"{source}: holds no file of the kinds {', '.join(FORMATS)}")
    return place, files, commit


def _from_hub(name: str, revision: str | None, wanted: Sequence[str]) -> tuple[Path, str]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=list(wanted))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        told = str(error).strip().splitlines()[0]
        raise DataFileError(
            f"{name}: cannot be had from the Hugging Face Hub ({type(error).__name__}: {told}); a gated data set needs "
            "its terms accepted and HF_TOKEN set; or give a file or folder"
        ) from None
    return Path(folder), Path(folder).name


def content_hash(place: Path, files: Sequence[Path]) -> str:
    """SHA-256 of a file; of several, that of a list of their hashes and names, as `sha256sum` prints it."""
    each = [hashlib.sha256(f.read_bytes()).hexdigest() for f in files]
    if place.is_file():
        return each[0]
    lines = (f"{h}  {f.relative_to(place).as_posix()}\n" for h, f in zip(each, files, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_rows(file: Path) -> list[tuple[str, dict[str, Any]]]:
    """The rows of a file, each with where it is, for messages.

    JSON is a list of rows, or an object that holds one.

    Raises:
        DataFileError: It cannot be read, or a row is no object.
    """
    try:
        found = {"csv": _csv, "parquet": _parquet, "json": _json, "jsonl": _jsonl}[file.suffix[1:]](file)
    except KeyError:
        raise DataFileError(f"{file}: give a file of the kinds {', '.join(FORMATS)}") from None
    except OSError as error:
        raise DataFileError(f"{file}: cannot be read ({error.strerror or error})") from None
    except (csv.Error, ValueError) as error:
        raise DataFileError(f"{file}: cannot be read ({error})") from None
    rows = []
    for n, row in enumerate(found, 1):
        where = f"{file}, row {n}"
        if not isinstance(row, dict):
            raise DataFileError(f"{where}: a row is an object with fields, found {type(row).__name__}")
        rows.append((where, row))
    return rows


def _csv(file: Path) -> list[dict]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    with open(file, encoding="utf-8-sig", newline="") as lines:
        return list(csv.DictReader(lines))


def _parquet(file: Path) -> list[dict]:
    import pyarrow.parquet as pq

    return pq.read_table(file).to_pylist()


def _json(file: Path) -> list[Any]:
    found = json.loads(file.read_text(encoding="utf-8"))
    if isinstance(found, dict):
        lists = [v for v in found.values() if isinstance(v, list)]
        if len(lists) != 1:
            raise ValueError("a list of rows is expected, or an object that holds one")
        return lists[0]
    if not isinstance(found, list):
        raise ValueError(f"a list of rows is expected, found {type(found).__name__}")
    return found


def _jsonl(file: Path) -> list[Any]:
    rows = []
    with open(file, encoding="utf-8") as lines:
        for n, line in enumerate(lines, 1):
            if line.strip():
                try:
                    rows.append(json.loads(line))
                except ValueError as error:
                    raise ValueError(f"line {n} is no JSON: {error}") from None
    return rows
