"""What all commands share: how they end, with an exit code and the one line that says why, and how help is shown."""

from __future__ import annotations

import sys
from typing import Literal

import typer

DONE, FAILED, USAGE, STOPPED = 0, 1, 2, 130
MARKUP: Literal["markdown"] = "markdown"
"""How help texts are read: lines of a paragraph are joined and wrapped to the terminal."""


def fail(message: str, code: int = USAGE) -> typer.Exit:
    """Say why a command ends; raise what comes back."""
    print(f"candor: {message}", file=sys.stderr)
    return typer.Exit(code)
