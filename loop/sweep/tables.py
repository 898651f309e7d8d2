"""The tables of a sweep's report: figures of `loop.sweep.analysis`, and which items moved, as they are shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from evals.suites.catalogue import SUITES
from loop.report.tables import Table
from loop.sweep.rates import Found, hits, last_policies
from loop.sweep.spec import Sweep

MOST_ITEMS = 200
"""Of so many items that differ most between conditions the report shows the rates; `items.arrow` has all."""
PREDICTED = {"effect": "the effect shows here too", "none": "no effect shows here"}


def tables(sweep: Sweep, found: Found, items: pa.Table) -> list[Table]:
    """Every table that has rows, in the order of the page."""
    made = [
        _explanations(found),
        _last(sweep, found),
        _contrasts(found),
        _doses(found),
        _steps(found),
        _rounds(found),
        _items(sweep, found, items),
    ]
    return [table for table in made if table is not None and table.rows]


def points(value: float | None) -> str:
    """A difference of shares in points."""
    return "-" if value is None else f"{100 * value:+.1f}"


def percent(value: float | None) -> str:
    """A share in per cent."""
    return "-" if value is None else f"{100 * value:.1f}"


def p_value(value: float | None) -> str:
    """A p value with as many digits as one reads."""
    return "-" if value is None else f"{value:.3f}" if value >= 0.0005 else f"{value:.1g}"


def _with_ends(row: Mapping[str, Any], shown: Any = points) -> str:
    """A figure and its interval, where it has one."""
    ends = "" if row["low"] is None else f" [{shown(row['low'])}, {shown(row['high'])}]"
    return shown(row["value"]) + ends


def _short(value: float) -> str:
    """Two digits, and no powers of ten."""
    return f"{float(f'{value:.2g}'):g}"


def _place(row: Found) -> dict[str, str]:
    return {"suite": f"{SUITES[row['suite']].title}, {row['of']}"}


def _explanations(found: Found) -> Table:
    rows = [
        {
            **{k: row[k] for k in ("explanation", "condition", "verdict")},
            "predicts": PREDICTED[row["predicts"]],
            "difference": _with_ends(row),
            "p": p_value(row["p"]),
            "most": points(row["equivalence"]["high"]) if row["equivalence"] else "-",
            "detectable": percent(row["detectable"]),
        }
        for row in found["explanations"]
    ]
    columns = {
        "explanation": "explanation", "condition": "condition", "predicts": "if it were right", "verdict": "verdict",
        "difference": "difference in points [95 %]", "p": "p, corrected", "most": "at most (95 %)",
        "detectable": "detectable effect",
    }  # fmt: skip
    note = (
        "What else could have made the difference, and the condition that puts it to the test. An explanation by which "
        "the effect would show in its condition as well is excluded when the difference to "
        f"{found['against']} is smaller than the margin of {percent(found['margin'])} points (a one-sided test at "
        "0.05). One by which there would be no effect is excluded when one shows."
    )
    return Table("explanations", "Other explanations", note, columns, rows)


def _last(sweep: Sweep, found: Found) -> Table:
    """One row a condition: the rates of its last policy by suite."""
    suites = list(dict.fromkeys(row["suite"] for row in found["rates"]))
    rows = []
    for condition in sweep.conditions:
        mine = [row for row in found["rates"] if row["condition"] == condition]
        last = max((row["policy"] for row in mine), default=None)
        by_suite = {row["suite"]: _with_ends(row, percent) for row in mine if row["policy"] == last}
        if by_suite:
            rows.append({"condition": condition, "policy": last, **{s: by_suite.get(s, "-") for s in suites}})
    of = {row["suite"]: row["of"] for row in found["rates"]}
    columns = {"condition": "condition", "policy": "policy", **{s: f"{SUITES[s].title}, {of[s]}" for s in suites}}
    note = "Rates in per cent, the mean over seeds with its 95 % interval over seeds."
    return Table("last", "Last policies", note, columns, rows)


def _contrasts(found: Found) -> Table:
    rows = [
        {
            **_place(row),
            "condition": f"{row['condition']} {row['policy']}",
            "against": f"{row['against']['condition']} {row['against']['policy']}",
            "seeds": row["seeds"],
            "difference": _with_ends(row),
            **{k: p_value(row[k]) for k in ("p", "p_alone")},
            "family": row["family"] or "-",
            "same": p_value(row["equivalence"]["p"]) if row["equivalence"] else "-",
            "detectable": percent(row["detectable"]),
        }
        for row in found["contrasts"]
    ]
    columns = {
        "suite": "suite", "condition": "condition", "against": "against", "seeds": "seeds",
        "difference": "difference [95 %]", "p": "p, corrected", "p_alone": "p alone", "family": "family",
        "same": "p of equivalence", "detectable": "detectable",
    }  # fmt: skip
    note = (
        "Difference of the rate in points, seed by seed, with its 95 % interval over seeds and items. Primary "
        "comparisons were declared in the sweep and are corrected among themselves (Holm); all others are exploratory, "
        "and their corrected p is a false discovery rate. The detectable effect is the smallest that so many seeds "
        f"with this spread find in four of five tries. A difference is equivalent to none at the margin of "
        f"{percent(found['margin'])} points where its p of equivalence is below 0.05."
    )
    return Table("comparisons", "Comparisons", note, columns, rows)


def _doses(found: Found) -> Table | None:
    if not found["doses"]:
        return None
    axis = found["doses"][0]["axis"]

    def slope(trend: Found | None) -> str:
        return f"{_with_ends(trend)}, p {p_value(trend['p'])}" if trend else "-"

    rows = []
    for row in found["doses"]:
        curve = row["emax"]
        half = {"value": curve["ed50"], "low": curve["ed50_low"], "high": curve["ed50_high"]} if curve else None
        rows.append(
            {
                **_place(row),
                "group": row["group"] or "all",
                "effect": _with_ends({**curve, "value": curve["effect"]}) if curve else f"none: {row['no_emax']}",
                "ed50": _with_ends(half, _short) if half else "-",
                "misfit": p_value(curve["misfit"]) if curve and curve["misfit"] is not None else "-",
                "trend": slope(row["trend"]),
                "trained": slope(row["trained_trend"]),
                "smallest": "none" if row["smallest"] is None else row["smallest"],
            }
        )
    columns = {
        "suite": "suite", "group": "group", "effect": "Emax effect [95 %]", "ed50": "ED50 [95 %]",
        "misfit": "lack of fit, p",
        "trend": f"slope over {axis} [95 %]", "trained": "slope over trained share [95 %]",
        "smallest": "smallest dose with an effect",
    }  # fmt: skip
    note = (
        "The curve lets each seed have a level of its own; its effect is the change from dose 0 to the highest dose, "
        "and its ED50 the dose at which half of the most that is ever reached is reached. Where the p of its lack of "
        "fit is below 0.05, the doses do not lie on such a curve. Slopes are changes in points for one unit of dose. "
        "The trained share is the share of the conversations trained on whose users were not benign: a share of users "
        "is not the dose that a policy gets."
    )
    return Table("doses", "Dose-response", note, columns, rows)


def _steps(found: Found) -> Table:
    rows = []
    for row in found["doses"]:
        trained = {p["condition"]: p["trained"] for p in row["points"]}
        rows += [
            {
                **_place(row),
                "group": row["group"] or "all",
                "dose": step["dose"],
                "trained": percent(trained.get(step["condition"])),
                "difference": _with_ends(step),
                "p": p_value(step["p"]),
                "detectable": percent(step["detectable"]),
            }
            for step in row["steps"]
        ]
    columns = {
        "suite": "suite", "group": "group", "dose": "dose", "trained": "trained share, %",
        "difference": "difference [95 %]", "p": "p, corrected", "detectable": "detectable",
    }  # fmt: skip
    note = "Each dose against the lowest; p values are corrected among the doses of a group (Holm)."
    return Table("steps", "Each dose", note, columns, rows)


def _rounds(found: Found) -> Table:
    rows = [
        {
            **_place(row),
            "condition": row["condition"],
            **{k: _with_ends(row[k]) for k in ("early", "late", "compounding")},
            "p": p_value(row["p"]),
            "peak": row["peak"],
        }
        for row in found["rounds"]
    ]
    columns = {
        "suite": "suite", "condition": "condition", "early": "first half [95 %]", "late": "second half [95 %]",
        "compounding": "second minus first [95 %]", "p": "p, uncorrected", "peak": "highest at policy",
    }  # fmt: skip
    note = (
        "What a round adds on average in the first half of the rounds and in the second, in points, with 95 % "
        "intervals over seeds. Effects compound where the second is larger, and fade where it is smaller."
    )
    return Table("rounds", "From round to round", note, columns, rows)


def _items(sweep: Sweep, found: Found, items: pa.Table) -> Table | None:
    """Of each item of the main suite in what share of seeds the last policy of each condition lied."""
    suite = found["suite"]
    if suite is None or len(sweep.conditions) < 2:
        return None
    last = last_policies(sweep)
    answers = hits(items, suite)
    ends = pa.array([last.get(c) for c in answers["condition"].to_pylist()], pa.int32())
    mine = answers.filter(pc.equal(answers["policy"], ends))
    means = mine.group_by(["item_id", "condition"]).aggregate([("hit", "mean")]).to_pylist()
    rates: dict[str, dict[str, float]] = {}
    for row in means:
        if row["hit_mean"] is not None:
            rates.setdefault(row["item_id"], {})[row["condition"]] = row["hit_mean"]
    spread = {item: max(of.values()) - min(of.values()) for item, of in rates.items()}
    ordered = sorted(rates, key=lambda item: (-spread[item], item))[:MOST_ITEMS]
    rows = [{"item": i, **{c: percent(rates[i].get(c)) for c in sweep.conditions}} for i in ordered if spread[i]]
    what = next((row["of"] for row in found["rates"] if row["suite"] == suite), "lies")
    some = f" The {MOST_ITEMS} that differ most between conditions." if len(rates) > MOST_ITEMS else ""
    note = (
        f"{SUITES[suite].title}: of each item the share of {what} of the last policies in per cent, over seeds and "
        f"replicates.{some} `candor view` on a run shows what was asked and what each policy said; items.arrow has "
        "every answer."
    )
    columns = {"item": "item", **{c: c for c in sweep.conditions}}
    return Table("items", "Items that moved", note, columns, rows)
