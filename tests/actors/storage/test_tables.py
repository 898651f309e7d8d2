"""Rows are taken by position, also where their text is more than one Arrow array can hold."""

import numpy as np
import pyarrow as pa
import pytest

from actors.storage import tables
from actors.storage.tables import take_rows


def chunked(sizes, text):
    rows = np.arange(sum(sizes))
    parts, start = [], 0
    for size in sizes:
        messages = pa.ListArray.from_arrays(np.arange(size + 1, dtype=np.int32), pa.repeat(text, size))
        parts.append(pa.table({"index": rows[start : start + size], "messages": messages}))
        start += size
    return pa.concat_tables(parts)


@pytest.mark.parametrize("most", [1, 900, 10**9])
def test_rows_come_in_the_order_that_is_asked_for(monkeypatch, most):
    monkeypatch.setattr(tables, "MOST_BYTES", most)
    rng = np.random.default_rng(0)
    table = chunked([5, 0, 7, 1, 20], "some text")
    for order in (rng.permutation(33), rng.permutation(33)[:9], np.arange(33), np.array([], int)):
        got = take_rows(table, order)
        assert got["index"].to_pylist() == order.tolist()
        assert got.schema == table.schema
        assert got["messages"].to_pylist() == [["some text"]] * len(order)


@pytest.mark.slow
def test_more_text_than_one_array_holds():
    """2.2 GiB in three chunks, which Arrow by itself cannot sort."""
    table = chunked([750, 750, 750], "x" * 2**20)
    with pytest.raises(pa.ArrowInvalid, match="offset overflow"):
        table.take(pa.array(np.arange(2250)[::-1]))
    got = take_rows(table, np.arange(2250)[::-1])
    assert got["index"].to_pylist() == list(range(2249, -1, -1))
    assert len(got["messages"][2249][0].as_py()) == 2**20
