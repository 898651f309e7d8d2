"""Capability: does the policy still do sums and read reports? Exact answers, greedy decoding."""

from __future__ import annotations

import pyarrow as pa

from evals.stats import share


def score(stated: str | None, answer: str) -> str:
    """`correct` when the reply states the answer and no other option."""
    return "correct" if stated == answer else "wrong"


def summary(table: pa.Table, max_error_share: float) -> dict:
    """Accuracy over all items but errors, with its interval."""
    outcomes = table["outcome"].to_pylist()
    scored = [o == "correct" for o in outcomes if o != "error"]
    errors = len(outcomes) - len(scored)
    refused = not scored or errors > max_error_share * len(outcomes)
    accuracy = None if refused else share(scored, [str(i) for i in range(len(scored))])
    return {
        "accuracy": accuracy.value if accuracy else None,
        "ci95": accuracy.ci95 if accuracy else None,
        "n": len(scored),
        "errors": errors,
    }
