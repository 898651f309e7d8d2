"""Replay: other people's conversations, honest ones or instructions, mixed into the rows of every round."""

from __future__ import annotations

import random
from pathlib import Path

from actors.storage.datafiles import DataFileError, read_rows
from actors.worlds.base import Message
from trainers.datasets import DatasetError, conversations
from trainers.rows import Row, RowsError
from trainers.settings import ReplaySettings

REPLAY = "replay"
"""What stands for the trajectory in a row of replay."""


def replay_rows(path: Path, wanted: int, seed: int, bad: list[str] | None = None) -> list[Row]:
    """So many conversations of a file, drawn without repetition until all were drawn; their last reply is learned.

    Args:
        bad: As in `read_conversations`.

    Raises:
        RowsError: The file cannot be read, or a row is not a conversation.
    """
    found = read_conversations(path, bad)
    order = random.Random(seed).sample(range(len(found)), len(found))
    drawn = [found[order[i % len(order)]] for i in range(wanted)]
    return [Row(messages, [len(messages) - 1], {}, True, REPLAY) for messages in drawn]


def read_conversations(path: Path, bad: list[str] | None = None) -> list[list[Message]]:
    """All conversations of a file.

    Args:
        bad: As in `actors.storage.datafiles.read_rows`.

    Raises:
        RowsError: It cannot be read, has no rows, or a row is not a conversation; the message names file, row and
            field.
    """
    try:
        found = [messages for _, messages in conversations(read_rows(path, bad), bad=bad)]
    except (DataFileError, DatasetError) as error:
        raise RowsError(f"trainer.replay.path {error}") from None
    if not found:
        but = f" but bad ones; the first: {bad[0]}" if bad else ""
        raise RowsError(f"trainer.replay.path {path}: there are no rows in it{but}")
    return found


def noted(settings: ReplaySettings) -> list[str] | None:
    """Where bad rows are noted that are to be dropped; None where the first is an error."""
    return [] if settings.on_bad_rows == "drop" else None
