"""Replay: other people's conversations, honest ones or instructions, mixed into the rows of every round."""

from __future__ import annotations

import random
from pathlib import Path

from actors.datafiles import DataFileError, read_rows
from actors.worlds.base import Message
from trainers.datasets import DatasetError, conversation
from trainers.rows import Row, RowsError

REPLAY = "replay"
"""What stands for the trajectory in a row of replay."""


def replay_rows(path: Path, wanted: int, seed: int) -> list[Row]:
    """So many conversations of a file, drawn without repetition until all were drawn; their last reply is learned.

    Raises:
        RowsError: The file cannot be read, or a row is no conversation.
    """
    conversations = read_conversations(path)
    order = random.Random(seed).sample(range(len(conversations)), len(conversations))
    drawn = [conversations[order[i % len(order)]] for i in range(wanted)]
    return [Row(messages, [len(messages) - 1], {}, True, REPLAY) for messages in drawn]


def read_conversations(path: Path) -> list[list[Message]]:
    """All conversations of a file.

    Raises:
        RowsError: It cannot be read, has no rows, or a row is no conversation; the message names file, row and field.
    """
    try:
        rows = read_rows(path)
        if not rows:
            raise RowsError(f"trainer.replay.path {path}: there are no rows in it")
        return [conversation(row, where) for where, row in rows]
    except (DataFileError, DatasetError) as error:
        raise RowsError(f"trainer.replay.path {error}") from None
