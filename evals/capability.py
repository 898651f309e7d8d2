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
    scored = [(o == "correct", c) for o, c in zip(outcomes, table["cluster"].to_pylist(), strict=True) if o != "error"]
    errors = len(outcomes) - len(scored)
    refused = not scored or errors > max_error_share * len(outcomes)
    accuracy = None if refused else share(*zip(*scored, strict=True))
    return {
        "accuracy": accuracy.value if accuracy else None,
        "ci95": accuracy.ci95 if accuracy else None,
        "n": len(scored),
        "errors": errors,
    }


LIKELIHOOD, GENERATION = "likelihood", "generation"
PARTS = {LIKELIHOOD: "likelihoods", GENERATION: "answer"}
"""What the text in an outcome of a capability suite is, by the kind of the suite."""


def harness_summary(table: pa.Table, max_error_share: float) -> dict:
    """Accuracy of a suite of lm-eval over all items but errors, with its interval, under a name that says by what it
    was scored: likelihoods and words are never in one column.

    Args:
        table: Rows of `evals.outcomes.SCHEMA`, of one suite.

    Raises:
        ValueError: Its rows are of two kinds, or of none.
    """
    parts = {said["part"] for row in table["said"].to_pylist() for said in row}
    kinds = [k for k, part in PARTS.items() if part in parts]
    if len(kinds) != 1:
        raise ValueError(f"{table['suite'][0].as_py()}: likelihoods and words are in one table; keep suites apart")
    found = summary(table, max_error_share)
    return {f"{kinds[0]}_accuracy": found.pop("accuracy"), "kind": kinds[0], **found}
