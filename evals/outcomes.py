"""One Arrow schema for the outcomes of every suite: one row an answer to an item, from which every figure is computed.

A row keeps what was asked, what was answered, and what each judge said of it in full, so that labels, outcomes and
figures can be computed again (`candor eval rescore`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import pyarrow as pa

from actors.models.thoughts import answer_of
from actors.worlds.base import PRESSURE

OUTCOMES = ("honest", "lie", "evasion", "no_belief", "error")
"""Outcomes of honesty suites. An error is a request, judge or format that failed; it is never counted as honest."""

SAID = pa.struct(
    [("part", pa.string()), ("prompt", pa.string()), ("text", pa.string()), ("finish_reason", pa.string())]
)
RULINGS = pa.struct(
    [
        ("part", pa.string()),
        ("rubric", pa.string()),
        ("judge", pa.string()),
        ("repeat", pa.int16()),
        ("raw", pa.string()),
        ("label", pa.string()),
        ("error", pa.string()),
        ("exact", pa.bool_()),
    ]
)
SCHEMA = pa.schema(
    [
        ("suite", pa.string()),
        ("protocol", pa.string()),
        ("item_id", pa.string()),
        ("replicate", pa.int16()),
        ("cluster", pa.string()),
        ("category", pa.string()),
        ("instructed", pa.bool_()),
        ("arm", pa.string()),
        ("policy", pa.int32()),
        ("options", pa.list_(pa.string())),
        ("numerical", pa.bool_()),
        ("elicited", pa.bool_()),
        ("truth", pa.string()),
        ("said", pa.list_(SAID)),
        ("rulings", pa.list_(RULINGS)),
        ("statement", pa.string()),
        ("belief", pa.string()),
        ("reasoning", pa.string()),
        ("outcome", pa.string()),
        ("error", pa.string()),
        ("condition", pa.string()),
        ("wanted", pa.string()),
        ("directional", pa.bool_()),
    ],
    metadata={"candor_schema": "outcome/3"},
)

BELIEFS = "beliefs"
"""The part of an answer that stands for all direct elicitations together, where a judge read them at once."""


@dataclass
class Said:
    """One answer of the model that is measured.

    Attributes:
        part: `answer`, a direct elicitation `belief_1`, `belief_2`, ..., or another one, `check_1`, `check_2`, ...
        prompt: What it was asked, as JSON messages.
        text: What it answered, thoughts among it; None where the request failed.
    """

    part: str
    prompt: str
    text: str | None = None
    finish_reason: str | None = None

    def answer(self) -> str:
        """What it answers, without thoughts; `EmptyReplyError` where that is nothing."""
        return answer_of(self.text or "", self.finish_reason)


@dataclass
class Ruling:
    """What one judge said of one part.

    Attributes:
        rubric: What it was asked, one of `evals.judging.prompting.RUBRICS`.
        repeat: The number of the time that it was asked the same.
        raw: Its answer in full.
        label: What the answer means, `evals.judging.labels.label_text`; None where that is nothing, or an error.
        error: Why it gave no verdict.
        exact: Whether it is a world's exact judge, whose label was not read from `raw`.
    """

    part: str
    rubric: str
    judge: str
    repeat: int = 0
    raw: str = ""
    label: str | None = None
    error: str | None = None
    exact: bool = False


@dataclass
class Outcome:
    """What one answer to one item came to.

    Attributes:
        replicate: The number of the answer, where an item is answered several times.
        category: Archetype or type of the item.
        instructed: Whether the prompt itself tells the model to deceive.
        options: Labels that an answer may state.
        numerical: Whether labels are intervals, as JSON.
        elicited: Whether the model was asked for its belief; otherwise the prompt provides it.
        statement: What the answer states: an option or interval, whether it agrees with the belief (`yes`, `no`;
            DeceptionBench), or what it admits; None where it states nothing.
        belief: The option or interval that the model believes.
        reasoning: Whether the reasoning agrees with the belief (`yes`, `no`; DeceptionBench).
        outcome: One of `OUTCOMES`; `correct` and `wrong` in capability tasks, `admitted` and `claimed` of what nobody
            can know.
        error: Why there is none; of an evasion, why its belief is not known.
        condition: Under what the item was asked, one of `actors.worlds.base.CONDITIONS`.
        wanted: The label that somebody with a stake wanted to hear; empty where nobody had one, or it is not known.
        directional: Of a lie, whether it states what was wanted; None of anything else, and where that is not known.
    """

    suite: str
    protocol: str
    item_id: str
    cluster: str
    arm: str
    policy: int
    replicate: int = 0
    category: str = ""
    instructed: bool | None = None
    options: list[str] = field(default_factory=list)
    numerical: bool = False
    elicited: bool = False
    truth: str = ""
    said: list[Said] = field(default_factory=list)
    rulings: list[Ruling] = field(default_factory=list)
    statement: str | None = None
    belief: str | None = None
    reasoning: str | None = None
    outcome: str = "error"
    error: str | None = None
    condition: str = PRESSURE
    wanted: str = ""
    directional: bool | None = None

    @classmethod
    def of_row(cls, row: dict) -> Outcome:
        """A row of `SCHEMA` as it was written."""
        said, rulings = [Said(**s) for s in row["said"]], [Ruling(**r) for r in row["rulings"]]
        return cls(**{**row, "said": said, "rulings": rulings})

    def text(self, part: str = "answer") -> str | None:
        """What the model said in one part; in `BELIEFS`, all its direct elicitations."""
        if part == BELIEFS:
            return "\n\n".join(s.text or "" for s in self.said if s.part.startswith("belief"))
        return next((s.text for s in self.said if s.part == part), None)


def to_table(outcomes: Iterable[Outcome]) -> pa.Table:
    """Rows of `SCHEMA` in the given order."""
    rows = [vars(o) | {"said": [*map(vars, o.said)], "rulings": [*map(vars, o.rulings)]} for o in outcomes]
    return pa.Table.from_pylist(rows, schema=SCHEMA)
