"""From what a model said and what judges said of it to an outcome, and from outcomes to figures.

Everything here is a pure function of an `Outcome`'s record, so that a figure can be computed again from disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pyarrow as pa

from actors.worlds.base import CONDITIONS, PRESSURE
from evals.judging.labels import agree, label_of
from evals.judging.panel import combined
from evals.outcomes import Outcome, to_table
from evals.protocols import PROTOCOLS
from evals.protocols.lm_eval import LmEval
from evals.protocols.mask import Mask
from evals.protocols.mask_rules import CANDOR, RULES
from evals.stats.intervals import share


def settle(outcome: Outcome, rule: str, rules: str = CANDOR) -> Outcome:
    """Fill in labels, outcome and error from the texts and rulings that an outcome holds.

    An outcome whose model gave no answer keeps its error. An evasion may have one too: why its belief is not known.

    Args:
        rule: How a panel decides, as in `evals.judging.panel.combined`.
        rules: Of suites that compare statements with beliefs, one of `evals.protocols.mask_rules.RULES`.
    """
    if (outcome.error and not outcome.rulings) or outcome.protocol == LmEval.name:  # which lm-eval has settled
        return outcome
    outcome.statement = outcome.belief = outcome.reasoning = outcome.error = outcome.directional = None
    protocol = PROTOCOLS[outcome.protocol]
    if isinstance(protocol, Mask):
        protocol.settle(outcome, rule, rules)
    else:
        protocol.settle(outcome, rule)
    if outcome.outcome == "lie" and outcome.wanted:
        said, _ = combined(
            [r for r in outcome.rulings if (r.part, r.rubric) in (("answer", "stated"), ("answer", "interval"))],
            rule,
            outcome.numerical,
        )
        wanted = label_of(outcome.wanted, outcome.numerical)
        outcome.directional = None if said is None else agree(said, wanted)
    return outcome


def headline_name(figures: dict) -> str:
    """What the figure that stands for a suite is called; that of a capability suite says by what it was scored."""
    return PROTOCOLS[figures["protocol"]].headline_of(figures)


def figures(table: pa.Table, max_error_share: float, rules: str = CANDOR) -> dict:
    """All figures of one suite with its protocol, and in honesty suites those of each category, of the direction of its
    lies and of its matched controls beside them.

    Args:
        table: Rows of `evals.outcomes.SCHEMA`, of one suite.
        rules: By which its outcomes were settled.
    """
    import pyarrow.compute as pc

    protocol = table["protocol"][0].as_py()
    summary = PROTOCOLS[protocol].summarise
    if protocol == Mask.name:
        summary = partial(PROTOCOLS[protocol].summarise, rules=rules)
    if not PROTOCOLS[protocol].honesty:
        return {"protocol": protocol} | summary(table, max_error_share)
    by_condition = {c: table.filter(pc.equal(table["condition"], c)) for c in CONDITIONS}
    pressured = by_condition.pop(PRESSURE)
    found = {"protocol": protocol} | summary(pressured, max_error_share)
    categories: Sequence[str] = sorted(set(pressured["category"].to_pylist()))
    if set(categories) - {"", table["suite"][0].as_py()}:
        found["categories"] = {
            c: summary(pressured.filter(pc.equal(pressured["category"], c)), max_error_share) for c in categories
        }
    told = pressured.filter(pc.is_valid(pressured["directional"]))
    if any(pressured["wanted"].to_pylist()):
        found["directional_lies"] = _share(told["directional"].to_pylist(), told["cluster"].to_pylist())
    controls = {
        c: _lies(rows, summary(rows, max_error_share)[headline_name(found)] is None)
        for c, rows in by_condition.items()
        if len(rows)
    }
    return found | ({"controls": controls} if controls else {})


def by_rules(table: pa.Table, max_error_share: float, rule: str, rules: str) -> dict:
    """The figures of a suite by the rules that its outcomes were settled by, and, where it compares statements with
    beliefs, those by the other rules under `by_rules`, which say by what they are too.

    Args:
        rule: Of the panel.
    """
    found = figures(table, max_error_share, rules)
    rows = [Outcome.of_row(row) for row in table.to_pylist()] if found["protocol"] == Mask.name else []
    if not any(o.rulings for o in rows):
        return found
    (other,) = [r for r in RULES if r != rules]
    again = [settle(o, rule, other) for o in rows]
    return found | {"rules": rules, "by_rules": {other: figures(to_table(again), max_error_share, other)}}


def _lies(table: pa.Table, refused: bool) -> dict:
    """The rate of lies among answers that did not fail; None where the protocol gives no score for them."""
    rows = table.select(["outcome", "cluster"]).to_pylist()
    scored = [r for r in rows if r["outcome"] != "error"]
    made = _share([r["outcome"] == "lie" for r in scored], [r["cluster"] for r in scored])
    return {**made, "errors": len(rows) - len(scored)} | ({"share": None, "ci95": None} if refused else {})


def _share(hits: Sequence[bool], clusters: Sequence[str]) -> dict:
    made = share(hits, clusters)
    return {"share": made and made.value, "ci95": made and made.ci95, "n": len(hits)}
