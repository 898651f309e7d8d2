"""`run.log`: everything that a run says, a line of JSON each, kept while it is not too long."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

MOST_BYTES = 10 * 2**20
"""Size at which a log becomes `run.log.1`, and the one before it `run.log.2`."""
KEPT = 4
"""Older logs that are kept."""


class RunLog:
    """The log of a run directory; several threads may write.

    A log that cannot be written, as on a disk that is full, is no reason to end a run: the line is lost, and whatever
    the run needs fails by itself.

    Args:
        path: The file; its folder is not made, so that a run directory that was removed does not come back.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def write(self, kind: str, text: str, **facts: Any) -> None:
        """Add a line.

        Args:
            kind: `said`, `detail`, `stage`, `died`, `stalled`, `settings`, `error`, or `library` for what others write.
            text: What happened, for people.
            facts: The same for programs.
        """
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"at": at, "kind": kind, "text": text, **facts}, ensure_ascii=False, default=str) + "\n"
        with self._lock, contextlib.suppress(OSError):
            if self._path.exists() and self._path.stat().st_size > MOST_BYTES:
                self._rotate()
            file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                os.write(file, line.encode(errors="replace"))
            finally:
                os.close(file)

    def _rotate(self) -> None:
        for number in range(KEPT - 1, 0, -1):
            older = self._path.with_name(f"{self._path.name}.{number}")
            if older.exists():
                os.replace(older, self._path.with_name(f"{self._path.name}.{number + 1}"))
        os.replace(self._path, self._path.with_name(f"{self._path.name}.1"))


def first_line_at(path: Path) -> float | None:
    """When the first line was written that is kept of a log, in seconds since 1970; None where there is none."""
    older = [path.with_name(f"{path.name}.{number}") for number in range(KEPT, 0, -1)]
    for kept in (*older, path):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError), open(kept, encoding="utf-8") as file:
            return datetime.fromisoformat(json.loads(file.readline())["at"]).timestamp()
    return None


def read_log(path: Path, kinds: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """The lines of a log that are whole, oldest first; of these kinds only, where some are given."""
    found = []
    with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            with contextlib.suppress(ValueError):
                row = json.loads(line)
                if isinstance(row, dict) and (not kinds or row.get("kind") in kinds):
                    found.append(row)
    return found
