"""Which rows are taken together, what that costs, and who takes which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trainers.algorithms import ALGORITHMS
from trainers.rows import Encoded, Pair, Rows
from trainers.settings import TrainerSettings


def chunks(n: int, together: int) -> list[range]:
    """Rows that all ranks take at once, in order."""
    return [range(i, min(i + together, n)) for i in range(0, n, together)]


def even(rows: Rows, settings: TrainerSettings) -> Rows:
    """Rows of which every rank gets as many; the few at the end that do not divide are dropped and counted.

    Where an algorithm has to take some at once (KTO, whose KL term pairs each row with another), a last batch of fewer
    is dropped too.
    """
    n, ranks = len(rows.rows), settings.ranks
    last = n % settings.together
    drop = last % ranks
    if 0 < last - drop < ALGORITHMS[settings.algorithm].fewest_together:
        drop = last
    if drop:
        rows.dropped["left over by the last batch"] += drop
        rows.rows = rows.rows[: n - drop]
    return rows


def of_rank(n: int, settings: TrainerSettings, rank: int) -> list[list[int]]:
    """Numbers of the rows that one rank takes, one list a forward pass."""
    return [list(chunk[rank :: settings.ranks]) for chunk in chunks(n, settings.together)]


@dataclass(frozen=True)
class Size:
    """What a step takes.

    Attributes:
        tokens: In the rows, prompts and replies.
        padded: Positions that are computed for them, padding included.
        learned: Tokens that are targets.
        squares: Sum of squared lengths, for the cost of attention.
        passes: Forward passes over the rows beside the one that learns: of references and KL pairs.
    """

    rows: int
    tokens: int
    padded: int
    learned: int
    squares: int
    passes: int


def sizes(rows: Sequence[Any], settings: TrainerSettings) -> list[Size]:
    """One `Size` a step."""
    per_step = settings.batch_size // settings.together
    takes = chunks(len(rows), settings.together)
    return [
        _size([[rows[i] for i in take] for take in takes[k : k + per_step]], settings)
        for k in range(0, len(takes), per_step)
    ]


def _size(takes: list[list[Any]], settings: TrainerSettings) -> Size:
    padded = learned = 0
    lengths: list[int] = []
    for take in takes:
        for rank in range(settings.ranks):
            mine = [n for row in take[rank :: settings.ranks] for n in _lengths(row)]
            padded += len(mine) * max(mine, default=0)
            lengths += mine
        learned += sum(map(_learned, take))
    squares, passes = sum(n * n for n in lengths), ALGORITHMS[settings.algorithm].extra_passes
    return Size(sum(map(len, takes)), sum(lengths), padded, learned, squares, passes)


def _lengths(row: Encoded | Pair) -> list[int]:
    if isinstance(row, Pair):
        return [len(row.prompt) + len(row.chosen), len(row.prompt) + len(row.rejected)]
    return [len(row)]


def _learned(row: Encoded | Pair) -> int:
    return len(row.chosen) + len(row.rejected) if isinstance(row, Pair) else sum(row.mask)
