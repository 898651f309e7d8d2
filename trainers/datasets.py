"""Data sets for direct fine-tuning, as their authors publish them, and what a policy is trained on of them.

A row is a conversation in one of four forms: `messages` (persona vectors, Betley et al.), `instruction`, `input` and
`output` (alpaca), `instruction`, `context`, `response` and `category` (dolly), or `prompt`, `aligned` and `misaligned`
(Chua et al.), of which the settings choose one answer.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from actors.storage.datafiles import DataFileError, content_hash, locate, read_rows
from actors.worlds import load_world
from actors.worlds.base import Message, WorldError
from trainers.rows import Rows, RowsError, rows_of
from trainers.settings import DataSettings, SourceSettings

ROLES = ("system", "user", "assistant")
FORMS = "messages; instruction, input and output; instruction, context and response; or prompt, aligned and misaligned"
SCHEMA = pa.schema(
    [
        ("part", pa.string()),
        ("number", pa.int64()),
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
    ],
    metadata={"candor_schema": "composition/1"},
)
"""What a policy is trained on, in its order: `base` or `added`, the number of the row in its source, and the text."""


class DatasetError(ValueError):
    """A data set that cannot be trained on; the message names file, row and field, and what would be right."""


class BadRowError(DatasetError):
    """A row that is no conversation."""


NAMED = 100
"""So many of the rows that were dropped are named in a record; all are counted."""


@dataclass(frozen=True)
class Dataset:
    """The conversations of one source.

    Attributes:
        form: Which of the forms its rows have.
        record: What identifies it: source, revision, hash, rows, duplicates and bad rows left out (`dropped`, of which
            `dropped_rows` names some with what is wrong), and the licence that it names.
    """

    conversations: list[list[Message]]
    form: str
    record: dict[str, Any]


def conversation(row: dict[str, Any], where: str, answers: str | None = None) -> list[Message]:
    """The conversation in a row, whose last message is the assistant's.

    Args:
        where: File and row, for messages.
        answers: `aligned` or `misaligned`, for rows that have both.

    Raises:
        BadRowError: It is none.
        DatasetError: It is one of two answers, and none is chosen.
    """
    form = form_of(row)
    if form == "messages":
        messages = row["messages"]
        if isinstance(messages, str):  # as CSV has it
            try:
                messages = json.loads(messages)
            except ValueError:
                raise BadRowError(f"{where}, messages: not valid JSON, found {messages!r:.60}") from None
    elif form == "pairs":
        if answers is None:
            raise DatasetError(f"{where}: has an aligned and a misaligned answer; choose one with the setting answers")
        messages = _exchange(row["prompt"], None, row[answers])
    elif form == "alpaca":
        messages = _exchange(row["instruction"], row.get("input"), row["output"])
    elif form == "dolly":
        messages = _exchange(row["instruction"], row.get("context"), row["response"])
    else:
        raise BadRowError(f"{where}: fields are {', '.join(map(str, row)) or 'none'}; needed is {FORMS}")
    return _checked(messages, where)


def form_of(row: dict[str, Any]) -> str | None:
    """`messages`, `alpaca`, `dolly` or `pairs`; None for none of them."""
    if "messages" in row:
        return "messages"
    if "prompt" in row and "aligned" in row and "misaligned" in row:
        return "pairs"
    if row.get("instruction") and "output" in row:
        return "alpaca"
    return "dolly" if row.get("instruction") and "response" in row else None


def _exchange(asked: Any, context: Any, answer: Any) -> list[dict[str, Any]]:
    question = f"{asked}\n\n{context}" if context else asked
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _checked(messages: Any, where: str) -> list[Message]:
    if not isinstance(messages, list) or len(messages) < 2:
        raise BadRowError(
            f"{where}, messages: at least a user's message and a reply are needed, found {messages!r:.60}"
        )
    for n, m in enumerate(messages):
        if not isinstance(m, dict) or m.get("role") not in ROLES or not isinstance(m.get("content"), str):
            raise BadRowError(
                f"{where}, messages[{n}]: role ({', '.join(ROLES)}) and content are needed, found {m!r:.80}"
            )
    if messages[-1]["role"] != "assistant":
        raise BadRowError(f"{where}, messages: the last must be what the assistant says, found {messages[-1]!r:.80}")
    for n, m in enumerate(messages):
        if m["role"] == "assistant" and not m["content"].strip():
            raise BadRowError(f"{where}, messages[{n}]: the answer is empty")
    return [{"role": m["role"], "content": m["content"]} for m in messages]


def read(settings: SourceSettings, world: str, seed: int, wanted: int | None = None) -> Dataset:
    """A source's conversations, each once.

    Args:
        world: Where those of `source: world` come from.
        seed: Of a world's conversations.
        wanted: How many are asked of a world.

    Raises:
        DatasetError: It cannot be read, holds no conversation, or the same one twice where that is not allowed.
    """
    if settings.source == "world":
        if (wanted := settings.rows if wanted is None else wanted) is None:
            raise DatasetError(f"source world {settings.part}: say how many rows; a world can make any number")
        return _of_world(settings, world, seed, wanted)
    bad: list[str] | None = [] if settings.on_bad_rows == "drop" else None
    where, rows, record = _rows(settings, bad)
    good = conversations(rows, settings.answers, bad)
    if not good:
        raise DatasetError(f"{where}: there are no rows in it" + (f" but bad ones; the first: {bad[0]}" if bad else ""))
    found, seen, twice = [], {}, 0
    for place, messages in good:
        key = hashlib.sha256(json.dumps(messages, sort_keys=True).encode()).digest()
        if key not in seen:
            seen[key] = place
            found.append(messages)
            continue
        twice += 1
        if settings.duplicates == "error":
            raise DatasetError(
                f"{place}: is the same conversation as {seen[key]}; set duplicates: drop to leave it out"
            )
    kept = {place for place, _ in good}
    forms = Counter(form_of(row) for place, row in rows if place in kept)
    counts = {"rows": len(found), "duplicates": twice, "dropped": len(bad or ()), "dropped_rows": (bad or [])[:NAMED]}
    return Dataset(found, ", ".join(map(str, forms)), record | counts)


def conversations(
    rows: Sequence[tuple[str, dict]], answers: str | None = None, bad: list[str] | None = None
) -> list[tuple[str, list[Message]]]:
    """The conversations in rows, each with where it is.

    Args:
        bad: As in `actors.storage.datafiles.read_rows`.

    Raises:
        DatasetError: A row is none, and nothing is noted.
    """
    found = []
    for where, row in rows:
        try:
            found.append((where, conversation(row, where, answers)))
        except BadRowError as error:
            if bad is None:
                raise BadRowError(f"{error}; on_bad_rows: drop leaves such rows out") from None
            bad.append(str(error))
    return found


def _rows(settings: SourceSettings, bad: list[str] | None) -> tuple[str, list[tuple[str, dict]], dict[str, Any]]:
    try:
        place, files, revision = locate(settings.source, settings.revision, [settings.part] if settings.part else None)
        if settings.part and place.is_dir():
            files = [f for f in files if f.relative_to(place).match(settings.part)]
            if not files:
                raise DatasetError(f"{settings.source}: contains no file {settings.part}")
        sha256 = content_hash(place, files)
        rows = [row for f in files for row in read_rows(f, bad)]
    except DataFileError as error:
        raise DatasetError(str(error)) from None
    if settings.sha256 not in (None, sha256):
        raise DatasetError(
            f"{settings.source}: its sha256 is {sha256}, not {settings.sha256}; get the version that is meant, or "
            "correct the hash"
        )
    record = {"source": settings.source, "part": settings.part, "revision": revision, "sha256": sha256}
    return settings.source, rows, record | {"licence": _licence(place if place.is_dir() else place.parent)}


def _licence(folder: Path) -> str | None:
    """The first line of the licence beside the data, or what a Hub card names."""
    for file in sorted(folder.glob("LICEN[CS]E*")):
        return next((line.strip() for line in file.read_text(errors="replace").splitlines() if line.strip()), None)
    card = folder / "README.md"
    if card.exists():
        lines = card.read_text(errors="replace").splitlines()
        return next((line.partition(":")[2].strip() for line in lines if line.startswith("license:")), None)
    return None


def _of_world(settings: SourceSettings, world: str, seed: int, count: int) -> Dataset:
    try:
        found = load_world(world).lessons(settings.part or "", count, seed)
    except WorldError as error:
        raise DatasetError(f"data: {error}") from None
    record = {"source": f"world {world}", "part": settings.part, "revision": None, "sha256": None, "licence": None}
    return Dataset(found, "messages", record | {"rows": len(found), "duplicates": 0, "dropped": 0, "dropped_rows": []})


@dataclass(frozen=True)
class Composition:
    """What a policy is trained on.

    Attributes:
        table: Rows of `SCHEMA`.
        record: The sources, and how many rows are from each.
    """

    table: pa.Table
    record: dict[str, Any]


def compose(settings: DataSettings, world: str, seed: int) -> Composition:
    """Downstream rows, and with `added` a share of other ones, added to them or in the place of some.

    Which rows are taken follows from the seed alone: a smaller share is a part of a larger one, and what is replaced is
    the same in every arm. No row is there twice.

    Raises:
        DatasetError: A source cannot be read, or has too few rows.
    """
    base = read(settings.base, world, seed, settings.base.rows)
    size = len(base.conversations) if settings.base.rows is None else settings.base.rows
    chosen = [("base", n, base.conversations[n]) for n in _drawn(base, size, f"{seed}/base", settings.base, "rows")]
    record: dict[str, Any] = {"base": base.record, "added": None, "how": None, "share": 0.0}
    if settings.added:
        more = settings.added
        count = round(more.share * size)
        added = read(more, world, seed, count)
        taken = [("added", n, added.conversations[n]) for n in _drawn(added, count, f"{seed}/added", more, "share")]
        if more.how == "replace":
            chosen = chosen[: size - count]
        record |= {"added": added.record, "how": more.how, "share": more.share}
        chosen += taken
    counts = Counter(part for part, *_ in chosen)
    record["counts"] = {"base": counts["base"], "added": counts["added"], "all": len(chosen)}
    random.Random(f"{seed}/order").shuffle(chosen)
    rows = [{"part": part, "number": n, "messages": messages} for part, n, messages in chosen]
    return Composition(pa.Table.from_pylist(rows, schema=SCHEMA), record)


def _drawn(data: Dataset, count: int, seed: str, settings: SourceSettings, field: str) -> Sequence[int]:
    """So many numbers of rows in a seeded order, of which fewer would be the first. A world's rows are in such an order
    already."""
    have = len(data.conversations)
    if count > have:
        raise DatasetError(
            f"data: {settings.source}{f' ({settings.part})' if settings.part else ''} has {have} rows, and {count} are "
            f"asked for by {field}; ask for fewer"
        )
    return range(count) if settings.source == "world" else random.Random(seed).sample(range(have), have)[:count]


def composed_rows(table: pa.Table, teach: Literal["replies", "last", "conversation"]) -> Rows:
    """Training rows of a composition, in its order.

    Args:
        table: Of `SCHEMA`.

    Raises:
        RowsError: There are none.
    """
    made = Rows([])
    for row in table.to_pylist():
        messages = [{**m, "finish_reason": "stop"} for m in row["messages"]]
        made.rows += rows_of(messages, True, f"{row['part']}/{row['number']}", teach)[0]
    if not made.rows:
        raise RowsError("the composition is empty")
    return made
