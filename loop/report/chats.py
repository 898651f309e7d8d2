"""Trajectories as chats: what was said and what was said of it, row by row, and files of it for trainers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc

from actors.storage.files import whole_file
from actors.storage.store import StorageError
from actors.storage.trajectory import SCHEMA

NO_VERDICT = "none"
"""What a reply is shown and exported with where the judge found no label that applies."""
EXPORTED = ("trajectory_id", "run", "arm", "round", "policy", "scenario", "persona", "user_kind", "reward", "error")


def turns(table: pa.Table, fields: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
    """For each row the fields of its messages; of the others, such as tokens, nothing is made a Python object."""
    flat = pc.list_flatten(table["messages"])
    each = zip(*(pc.struct_field(flat, f).to_pylist() for f in fields), strict=True)
    for length in pc.list_value_length(table["messages"]).to_pylist():
        yield [dict(zip(fields, values, strict=True)) for values in islice(each, length or 0)]


def chat_rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    """Rows as trainers read them. Strings are never null: loaders take the type of a column from its first rows."""
    rows = table.select(EXPORTED).to_pylist()
    for row, said in zip(rows, turns(table, ("role", "content", "rating", "verdict")), strict=True):
        replies = [t for t in said if t["role"] == "assistant"]
        yield {
            "messages": [{"role": t["role"], "content": t["content"]} for t in said],
            **row,
            "error": row["error"] or "",
            "verdicts": [t["verdict"] or NO_VERDICT for t in replies],
            "ratings": [t["rating"] for t in replies],
        }


def _write_jsonl(tables: Iterable[pa.Table], file: BinaryIO) -> None:
    for table in tables:
        for row in chat_rows(table):
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")


def _write_parquet(tables: Iterable[pa.Table], file: BinaryIO) -> None:
    from pyarrow.parquet import ParquetWriter

    with ParquetWriter(file, SCHEMA) as writer:
        for table in tables:
            writer.write_table(table)


WRITERS = {".jsonl": _write_jsonl, ".parquet": _write_parquet}
HOLDS = {".jsonl": "a chat with its ratings and verdicts on each line", ".parquet": "every column"}
"""What is in such a file."""


def write_file(tables: Iterable[pa.Table], path: Path) -> None:
    """Write all rows to a file that is complete or absent; its suffix is one of `WRITERS`."""
    try:
        with whole_file(path) as file:
            WRITERS[path.suffix](tables, file)
    except OSError as error:
        raise StorageError(f"--export {path}: cannot be written ({error.strerror or error})") from None
