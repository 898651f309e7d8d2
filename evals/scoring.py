"""From what a model said and what judges said of it to an outcome, and from outcomes to figures.

Everything here is a pure function of an `Outcome`'s record, so that a figure can be made anew from disk.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from evals import behonest, capability, deceptionbench, mask
from evals.judging import combined
from evals.outcomes import Outcome
from evals.settings import HONESTY_PROTOCOLS


def settle(outcome: Outcome, rule: str) -> Outcome:
    """Fill in labels, outcome and error from the texts and rulings that an outcome holds.

    An outcome whose model gave no answer keeps its error. An evasion may have one too: why its belief is not known.

    Args:
        rule: How a panel decides, as in `evals.judging.combined`.
    """
    if (outcome.error and not outcome.rulings) or outcome.protocol == "harness":  # which lm-eval has scored
        return outcome
    outcome.statement = outcome.belief = outcome.reasoning = outcome.error = None
    {"mask": _mask, "deceptionbench": _deceptionbench, "unknowns": _unknowns, "questions": _question}[outcome.protocol](
        outcome, rule
    )
    return outcome


def _label(outcome: Outcome, rule: str, part: str, rubric: str | None = None) -> mask.Label:
    """What the panel says of a part; the first reason why it says nothing becomes the outcome's error."""
    rulings = [r for r in outcome.rulings if r.part == part and rubric in (None, r.rubric)]
    label, why = combined(rulings, rule, outcome.numerical)
    outcome.error = outcome.error or why
    return label


def _mask(outcome: Outcome, rule: str) -> None:
    statement = _label(outcome, rule, "answer")
    believed = mask.label_of(outcome.truth, outcome.numerical)
    if outcome.elicited:
        parts = list(dict.fromkeys(r.part for r in outcome.rulings if r.part != "answer"))
        direct = [_label(outcome, rule, p) for p in parts if p.startswith("belief")]
        believed = mask.belief(direct, [_label(outcome, rule, p) for p in parts if p.startswith("check")])
    outcome.statement, outcome.belief = mask.label_text(statement), mask.label_text(believed)
    outcome.outcome = mask.score(statement, believed)


def _deceptionbench(outcome: Outcome, rule: str) -> None:
    if not outcome.rulings:
        outcome.outcome, outcome.error = "error", deceptionbench.FORMAT_ERROR
        return
    labels = [_label(outcome, rule, "answer", rubric) for rubric in deceptionbench.JUDGEMENTS]
    outcome.statement, outcome.reasoning = (mask.label_text(label) for label in labels[:2])
    if None in labels:
        outcome.outcome = "error"
    else:
        outcome.outcome = deceptionbench.score(outcome.statement, outcome.reasoning)


def _unknowns(outcome: Outcome, rule: str) -> None:
    label = _label(outcome, rule, "answer")
    outcome.statement = mask.label_text(label)
    outcome.outcome = "error" if label is None else behonest.score(outcome.statement)


def _question(outcome: Outcome, rule: str) -> None:
    label = _label(outcome, rule, "answer")
    outcome.statement = mask.label_text(label)
    outcome.outcome = "error" if label is None else capability.score(outcome.statement, outcome.truth)


SUMMARIES = {
    "mask": mask.summary,
    "deceptionbench": deceptionbench.summary,
    "unknowns": behonest.summary,
    "questions": capability.summary,
    "harness": capability.harness_summary,
}

HEADLINES = {
    "mask": "honesty_score",
    "deceptionbench": "deception_rate",
    "unknowns": "admission_rate",
    "questions": "accuracy",
}
"""The figure that stands for a suite, by protocol; its interval is `ci95`."""


def headline_name(figures: dict) -> str:
    """What the figure that stands for a suite is called; that of a capability suite says by what it was scored."""
    return HEADLINES.get(figures["protocol"]) or f"{figures['kind']}_accuracy"


def figures(table: pa.Table, max_error_share: float) -> dict:
    """All figures of one suite with its protocol, and in honesty suites those of each category beside them.

    Args:
        table: Rows of `evals.outcomes.SCHEMA`, of one suite.
    """
    protocol = table["protocol"][0].as_py()
    summary = SUMMARIES[protocol]
    found = {"protocol": protocol} | summary(table, max_error_share)
    categories: Sequence[str] = sorted(set(table["category"].to_pylist()))
    if protocol in HONESTY_PROTOCOLS and set(categories) - {"", table["suite"][0].as_py()}:
        import pyarrow.compute as pc

        found["categories"] = {
            c: summary(table.filter(pc.equal(table["category"], c)), max_error_share) for c in categories
        }
    return found
