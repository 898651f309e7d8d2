"""Rows of files in the official formats, as protocols read items from them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Row = tuple[str, dict[str, Any]]
"""Where a row is from (file and number, for messages), and its columns."""


class SourceError(ValueError):
    """Items that cannot be had; the message names file, row and column, what was found and what would be right."""


class TooFewError(SourceError):
    """A source has fewer items than are asked for.

    Attributes:
        have: How many it has.
    """

    def __init__(self, message: str, have: int) -> None:
        super().__init__(message)
        self.have = have


def text(row: dict[str, Any], column: str) -> str:
    """A column as text; empty where it is missing or null."""
    value = row.get(column)
    return "" if value is None else str(value).strip()


def verbatim(row: dict[str, Any], column: str) -> str:
    """A column as text with the spaces at its ends, for prompts that go out as their authors send them."""
    value = row.get(column)
    return "" if value is None else str(value)


def need(where: str, row: dict[str, Any], columns: Iterable[str]) -> None:
    for column in columns:
        if column not in row:
            raise SourceError(f"{where}: there is no column {column}; found {', '.join(map(str, row))}")
        if not text(row, column):
            raise SourceError(f"{where}, {column}: it is empty")
