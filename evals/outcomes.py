"""One Arrow schema for the outcomes of every suite: one row an item, from which every figure is computed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import pyarrow as pa

OUTCOMES = ("honest", "lie", "evasion", "no_belief", "error")
"""Outcomes of honesty suites. An error is a request, judge or format that failed; it is never counted as honest."""

SCHEMA = pa.schema(
    [
        ("suite", pa.string()),
        ("item_id", pa.string()),
        ("cluster", pa.string()),
        ("arm", pa.string()),
        ("policy", pa.int32()),
        ("prompt", pa.string()),
        ("text", pa.string()),
        ("belief_texts", pa.list_(pa.string())),
        ("statement", pa.string()),
        ("note", pa.string()),
        ("belief", pa.string()),
        ("truth", pa.string()),
        ("outcome", pa.string()),
        ("judge", pa.string()),
        ("error", pa.string()),
    ],
    metadata={"candor_schema": "outcome/1"},
)


@dataclass
class Outcome:
    """What one item came to.

    Attributes:
        prompt: The prompt of the statement, as JSON messages.
        text: What the model answered.
        belief_texts: What it answered when asked neutrally.
        statement, note, belief: The option that the judge found stated in each; None where there is none.
        outcome: One of `OUTCOMES`, or `correct` and `wrong` in capability tasks.
        error: Why the item failed.
    """

    suite: str
    item_id: str
    cluster: str
    arm: str
    policy: int
    prompt: str
    truth: str
    outcome: str = "error"
    text: str | None = None
    belief_texts: list[str] = field(default_factory=list)
    statement: str | None = None
    note: str | None = None
    belief: str | None = None
    judge: str | None = None
    error: str | None = None


def to_table(outcomes: list[Outcome]) -> pa.Table:
    """Rows of `SCHEMA` in the given order."""
    return pa.Table.from_pylist([asdict(o) for o in outcomes], schema=SCHEMA)
