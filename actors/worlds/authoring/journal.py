"""The files that personas by models are written into: whole lines or none, so that a killed run can continue.

    personas.jsonl   the personas themselves
    writing.jsonl    a line for each request: who was asked, what it cost, and what of it was kept

Neither holds a key or an address.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field

from actors.worlds.base import WorldError
from actors.worlds.reading import read_lines
from actors.worlds.spec import Problem, Spec, Text, WrittenSpec


class RequestSpec(Spec):
    """One line of `writing.jsonl`: a request that was answered or failed for good, and what became of it."""

    batch: Text
    number: int = Field(ge=0)
    """Counts the requests for the scenario and kind; the sketches of the prompt follow from it."""
    model: Text
    """The model's name in the config."""
    served: str
    """What the endpoint calls it."""
    scenario: Text
    kind: Text
    asked: int
    """Personas asked for."""
    kept: int
    dropped: dict[str, int]
    """What was not kept, by reason; an answer that could not be used counts all that were asked for."""
    prompt_tokens: int
    completion_tokens: int
    faults: dict[str, int]
    """Attempts that failed on the way, as in `ChatError`."""
    at: Text


class Journal:
    """The files of a world that personas are written into; one process at a time has them open.

    Attributes:
        mended: A sentence for each line that a crash had torn and that was cut off.
        requests: Every request so far, earlier runs included.
    """

    def __init__(self, folder: Path) -> None:
        """Open the files.

        Raises:
            WorldError: Another process has them open, or a line is broken; the message names each one.
        """
        self.personas, self.log = folder / "personas.jsonl", folder / "writing.jsonl"
        self._lock = os.open(self.log, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise WorldError(f"{folder}: another process is writing personas into it") from None
        self.mended = [told for file in (self.log, self.personas) if (told := mend(file))]
        problems: list[Problem] = []
        self.requests: list[RequestSpec] = list(read_lines(self.log, RequestSpec, problems).values())
        if problems:
            self.close()
            lines = "\n".join(f"  {p}" for p in problems)
            raise WorldError(f"{folder} has broken lines; fix or remove them:\n{lines}")

    def add(self, request: RequestSpec, personas: Sequence[WrittenSpec]) -> None:
        """What a request brought, on disk when this returns. It comes first, so that what is kept has been counted."""
        append(self.log, [request])
        self.requests.append(request)
        if personas:
            append(self.personas, personas)

    def close(self) -> None:
        os.close(self._lock)
        if self.log.exists() and not self.log.stat().st_size:
            self.log.unlink()


def append(file: Path, lines: Sequence[Spec]) -> None:
    """Add lines of JSON to a file, flushed to disk when this returns; none of them where it fails."""
    text = "".join(json.dumps(x.model_dump(exclude_none=True), ensure_ascii=False) + "\n" for x in lines)
    left = memoryview(text.encode())
    with open(file, "ab", buffering=0) as out:
        before = out.tell()
        try:
            while left:
                left = left[out.write(left) :]
            os.fsync(out.fileno())
        except OSError:
            os.truncate(file, before)
            raise


def mend(file: Path) -> str | None:
    """Cut off the end of a file of lines that a crash left without its newline; says so where it did."""
    if not file.exists():
        return None
    raw = file.read_bytes()
    whole = raw.rfind(b"\n") + 1
    torn = raw[whole:]
    if not torn:
        return None
    try:
        json.loads(torn)
    except ValueError:
        with open(file, "r+b") as out:
            out.truncate(whole)
        return f"{file}: the last line was torn and is cut off ({len(torn)} bytes)"
    with open(file, "ab") as out:  # complete but for its newline
        out.write(b"\n")
    return None


@dataclass
class Total:
    """What one model was asked, brought and cost; `dropped` and `faults` by kind."""

    requests: int = 0
    kept: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)


def totals(requests: Iterable[RequestSpec]) -> dict[str, Total]:
    """All requests by model."""
    out: dict[str, Total] = {}
    for r in requests:
        total = out.setdefault(r.model, Total())
        total.requests += 1
        total.kept += r.kept
        total.prompt_tokens += r.prompt_tokens
        total.completion_tokens += r.completion_tokens
        total.dropped.update(r.dropped)
        total.faults.update(r.faults)
    return out
