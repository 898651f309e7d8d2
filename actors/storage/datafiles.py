"""Tables that other people publish: local files and folders, or data sets of the Hugging Face Hub, and their hashes."""

from __future__ import annotations

import codecs
import csv
import gzip
import hashlib
import io
import json
import math
import re
import sys
import zlib
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

FORMATS = ("csv", "parquet", "json", "jsonl")
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Byte order marks, which some programs write at the head of a text; that of UTF-32 begins with one of UTF-16."""


class DataFileError(ValueError):
    """Data that cannot be found or read; the message names file and line, and what would be right."""


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
    files = [place] if place.is_file() else sorted(p for p in place.rglob("*") if _is_data(p.relative_to(place)))
    if commit is not None:  # whoever fetched the data set before may have fetched more of it
        files = [p for p in files if any(fnmatch(p.relative_to(place).as_posix(), w) for w in wanted)]
    if not files:
        raise DataFileError(f"{source}: contains no file of the kinds {', '.join(FORMATS)}")
    return place, files, commit


def _is_data(path: Path) -> bool:
    """Whether a file can be read and is not hidden, as what editors and downloads leave beside data is."""
    return _format(path) in FORMATS and not any(part.startswith(".") for part in path.parts)


def _format(path: Path) -> str:
    """The last part of a file's name, or the one before it where that says that the file is compressed."""
    return Path(path.name.lower().removesuffix(".gz")).suffix[1:]


def _text(file: Path) -> str:
    content = file.read_bytes()
    return decode(gzip.decompress(content) if file.name.lower().endswith(".gz") else content)


def _from_hub(name: str, revision: str | None, wanted: Sequence[str]) -> tuple[Path, str]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=list(wanted))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        told = str(error).strip().splitlines()[0]
        raise DataFileError(
            f"{name}: cannot be downloaded from the Hugging Face Hub ({type(error).__name__}: {told}); a gated data "
            "set needs its terms accepted and HF_TOKEN set; or give a file or folder"
        ) from None
    return Path(folder), Path(folder).name


def content_hash(place: Path, files: Sequence[Path]) -> str:
    """SHA-256 of a file; of several, that of a list of their hashes and names, as `sha256sum` prints it."""
    each = [hashlib.sha256(f.read_bytes()).hexdigest() for f in files]
    if place.is_file():
        return each[0]
    lines = (f"{h}  {f.relative_to(place).as_posix()}\n" for h, f in zip(each, files, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def decode(content: bytes) -> str:
    """Text in UTF-8, or in the encoding that its byte order mark says; the mark is no part of the text."""
    return content.decode(next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8"))


def read_rows(file: Path, bad: list[str] | None = None) -> list[tuple[str, dict[str, Any]]]:
    """The rows of a file, each with where it is, for messages.

    JSON is a list of rows, or an object that holds one; JSON lines have a row in each. Either may be in a file that is
    named after the other, and files whose names end in `.gz` are decompressed. What is no number is no value: tables
    have NaN where a cell is empty.

    Args:
        bad: Where to note rows that cannot be read, which are left out; None makes the first of them an error.

    Raises:
        DataFileError: It cannot be read, or a row is not an object.
    """
    try:
        found = {"csv": _csv, "parquet": _parquet, "json": _json, "jsonl": _json}[_format(file)](file)
    except KeyError:
        raise DataFileError(f"{file}: give a file of the kinds {', '.join(FORMATS)}") from None
    except OSError as error:
        raise DataFileError(f"{file}: cannot be read ({error.strerror or error})") from None
    except (csv.Error, ValueError, EOFError, zlib.error) as error:
        raise DataFileError(f"{file}: cannot be read ({error})") from None
    rows = []
    for n, row in enumerate(found, 1):
        where = f"{file}, row {n}"
        if not isinstance(row, dict):
            fault = f"{where}: a row is an object with fields, found {type(row).__name__}"
            if isinstance(row, _BrokenLine):
                fault = f"{file}: cannot be read ({row})"
            if bad is None:
                raise DataFileError(fault)
            bad.append(fault)
            continue
        rows.append((where, {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}))
    return rows


def _csv(file: Path) -> list[dict]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    return list(csv.DictReader(io.StringIO(_text(file), newline="")))


def _parquet(file: Path) -> list[dict]:
    import pyarrow.parquet as pq

    return pq.read_table(file).to_pylist()


def _json(file: Path) -> list[Any]:
    text, by_line = _text(file), _format(file) == "jsonl"
    lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    try:
        found = json.loads(text)
    except ValueError:
        if by_line or (len(lines) > 1 and _is_json(lines[0][1])):
            return [_line(n, line) for n, line in lines]
        raise
    if by_line and not (isinstance(found, list) and found and all(isinstance(row, dict) for row in found)):
        return [found]
    if isinstance(found, dict):
        lists = [v for v in found.values() if isinstance(v, list)]
        if len(lists) != 1:
            raise ValueError("a list of rows is expected, or an object that holds one")
        return lists[0]
    if not isinstance(found, list):
        raise ValueError(f"a list of rows is expected, found {type(found).__name__}")
    return found


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


class _BrokenLine(str):
    """What stands for a line that is not valid JSON: why it is none."""


def _line(number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        return _BrokenLine(f"line {number} is not valid JSON: {error}")
