"""Rows of Arrow tables in another order, however much text they hold.

Arrow puts all chunks of a column together before it takes rows of it, and an array of text holds 2 GiB at most.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

MOST_BYTES = 2**30
"""Of a block of rows, whose columns are one array each."""


def take_rows(table: pa.Table, order: np.ndarray) -> pa.Table:
    """The rows of a table at some positions, in blocks of at most `MOST_BYTES` or one row.

    Args:
        order: Positions, each once, in the order in which the rows are wanted.

    Returns:
        A table whose chunks are the blocks.
    """
    if table.nbytes <= MOST_BYTES:
        return table.take(pa.array(order))
    parts = table.to_batches()
    starts = np.cumsum([0, *(len(p) for p in parts)])
    where = np.searchsorted(starts, order, side="right") - 1
    each = np.array([p.nbytes / max(1, len(p)) for p in parts])[where]
    block = (np.cumsum(each) // MOST_BYTES).astype(int)
    blocks = [_block(parts, starts, where[block == b], order[block == b]) for b in np.unique(block)]
    return pa.concat_tables([table.slice(0, 0), *blocks])


def _block(parts: list[pa.RecordBatch], starts: np.ndarray, where: np.ndarray, order: np.ndarray) -> pa.Table:
    """Rows of few enough bytes for one array."""
    by_part = np.argsort(where, kind="stable")
    taken = [
        part.take(pa.array(order[by_part][where[by_part] == n] - starts[n]))
        for n, part in enumerate(parts)
        if (where == n).any()
    ]
    return pa.Table.from_batches(taken).combine_chunks().take(pa.array(np.argsort(by_part, kind="stable")))
