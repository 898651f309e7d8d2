"""What libraries write while a run is at work, here and in its actors, goes to its log, not to the terminal."""

from __future__ import annotations

import io
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TextIO

JOIN_SECONDS = 1
"""How long one waits for what was written last; whoever still holds the other end is not waited for."""
_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class _Lines(io.TextIOBase):
    """A text stream that hands on each line when it is whole."""

    def __init__(self, hand: Callable[[str], None]) -> None:
        self._hand = hand
        self._begun = ""
        self._lock = threading.Lock()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        with self._lock:
            *whole, self._begun = (self._begun + text).split("\n")
        for line in whole:
            self._hand(line)
        return len(text)

    def close(self) -> None:
        if not self.closed and self._begun:
            self._hand(self._begun)
        super().close()


@contextmanager
def library_output(take: Callable[[str], None]) -> Iterator[TextIO]:
    """While the block runs, hand what is written to `take`, a line at a time and without colours: to standard error by
    this process and those that it starts, also by what is no Python code, and to `sys.stdout`, where Ray prints what
    its actors write. Whoever wants to be seen keeps what `sys.stdout` was before.

    Yields:
        The standard error that was there before.
    """
    sys.stderr.flush()
    before = os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="replace")
    read, write = os.pipe()
    os.dup2(write, 2)
    os.close(write)

    def hand(line: str) -> None:
        if text := _CODES.sub("", line).rstrip():
            take(text)

    def hear() -> None:
        with os.fdopen(read, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                hand(line)

    reader = threading.Thread(target=hear, name="library-output", daemon=True)
    reader.start()
    printed = _Lines(hand)
    try:
        with redirect_stdout(printed):
            yield before
    finally:
        printed.close()
        sys.stderr.flush()
        before.flush()
        os.dup2(before.fileno(), 2)
        before.close()
        reader.join(timeout=JOIN_SECONDS)
