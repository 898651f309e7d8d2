"""What `candor items` shows: outcomes of each policy, a list of evaluation items, or one item in full."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from evals.stats.intervals import Share
from loop.config.schema import RunConfig
from loop.report.filters import QueryError, known
from loop.report.items import Comparison, Item, ItemQuery, OutcomeIndex, Policy, title
from loop.report.listing import PIPE_WIDTH, clean
from loop.rundir import RunDir

LISTED_ITEMS = 20
"""Rows of the list where nobody says how many."""
MOST_POLICIES = 8
"""Columns of the list; with more policies the first and the last one of each arm are shown."""
WIDEST_RULING = 300
"""Characters of what a judge said."""
WIDEST = 30
"""Characters of a value in the list."""


def answer(
    out: RunDir,
    config: RunConfig,
    suite: str | None,
    query: ItemQuery,
    text: str = "",
    show: str | None = None,
    limit: int | None = None,
    as_json: bool = False,
    compare: tuple[str, str] | None = None,
) -> bool:
    """Do what `candor items` was asked to; returns whether everything that was read is sound.

    Args:
        suite: None counts the outcomes of all suites; `show` finds the item's suite by itself.
        text: May stand in any prompt, answer or verdict about an item.
        show: An item's id, or the beginning of one.
        limit: Most items to list; None lists `LISTED_ITEMS`, and as JSON all.
        compare: Two policies, as `ARM/NUMBER`, of which the second is compared with the first instead.

    Raises:
        QueryError: What was asked for does not fit the run, or does not go together.
        BufferError: Outcomes on disk are damaged.
    """
    index = OutcomeIndex(out, config)
    index.refresh()
    for problem in index.problems:
        print(f"candor: {problem}; it is left out", file=sys.stderr)
    if query.arm is not None:
        known("--arm", [query.arm], [a.name for a in config.arms])
    if suite is not None and index.suites:
        known("--suite", [suite], index.suites)
    console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, markup=False, emoji=False, highlight=False)
    if not index.policies:
        print(json.dumps({"policies": []}) if as_json else "no policy has been evaluated yet")
    elif compare is not None:
        if query != ItemQuery(condition=query.condition) or text or show or limit:
            raise QueryError("of the filters only --suite and --condition go with --compare")
        _print_comparison(index, suite, _two(index, compare), query.condition, console, as_json)
    elif show is not None:
        _show(index, suite, query, show, console, as_json)
    elif suite is None:
        if query != ItemQuery(arm=query.arm, version=query.version, condition=query.condition) or text or limit:
            raise QueryError(f"name the suite of the items with --suite: {', '.join(index.suites)}")
        _know_condition(index, query.condition)
        _print_counts(index, query, console, as_json)
    else:
        _print_list(index, suite, query, text, limit, console, as_json)
    return not index.problems


def _wanted(index: OutcomeIndex, query: ItemQuery) -> list[Policy]:
    """The policies whose outcomes are shown."""
    found = [p for p in index.policies if query.arm in (None, p[0]) and query.version in (None, p[1])]
    if not found:
        there = ", ".join(sorted({str(version) for _, version in index.policies}))
        raise QueryError(f"--policy {query.version}: not evaluated; known: {there}")
    return found


def _know_condition(index: OutcomeIndex, condition: str | None) -> None:
    """`QueryError` where no item is asked under a condition."""
    if condition is not None:
        known("--condition", [condition], sorted({c for s in index.suites for c in index.conditions(s)}))


def _two(index: OutcomeIndex, names: tuple[str, str]) -> tuple[Policy, Policy]:
    """Two policies by the names of their folders."""
    there = {f"{arm}/{version}": (arm, version) for arm, version in index.policies}
    for name in names:
        known("--compare", [name], there)
    if names[0] == names[1]:
        raise QueryError(f"--compare {names[0]} {names[1]}: name two policies")
    return there[names[0]], there[names[1]]


def _print_comparison(
    index: OutcomeIndex,
    suite: str | None,
    policies: tuple[Policy, Policy],
    condition: str | None,
    console: Console,
    as_json: bool,
) -> None:
    """The second policy against the first, in every suite or one."""
    _know_condition(index, condition)
    first, second = policies
    found = {name: index.compare(name, first, second, condition) for name in ([suite] if suite else index.suites)}
    rows = {name: of for name, of in found.items() if isinstance(of, Comparison)}
    unsaid = {name: of for name, of in found.items() if isinstance(of, str)}
    if as_json:
        made = [
            {"suite": name, "outcome": of.outcome, "condition": condition or index.scored(name)}
            | {"first": of.first, "second": of.second, **asdict(of.paired)}
            for name, of in rows.items()
        ]
        names = {"first": "{}/{}".format(*first), "second": "{}/{}".format(*second)}
        print(json.dumps(names | {"suites": made, "not_compared": unsaid}))
        return
    if rows:
        names = [f"{arm} {version}, %" for arm, version in policies]
        table = _table("suite", "share of", *names, "difference", "p", "more often", "less often", "items", right=7)
        for name, of in rows.items():
            p = of.paired
            apart = f"{100 * p.difference:+.1f} [{100 * p.low:+.1f}, {100 * p.high:+.1f}]"
            shares = [f"{100 * share:.1f}" for share in (of.first, of.second)]
            table.add_row(name, of.outcome, *shares, apart, f"{p.p:.2g}", f"{p.gained:,}", f"{p.lost:,}", f"{p.n:,}")
        console.print(table)
        console.print(
            "Over the items that both answered, each counted once. Intervals hold 95 % over clusters of items, for "
            "these two policies; p is not corrected, so a comparison that was picked among many has to be repeated "
            "(docs/statistics.md)."
        )
    for name, why in unsaid.items():
        console.print(f"{name}: {why}")


def _facts(found: Share | None) -> dict[str, Any] | None:
    return found and {"value": found.value, "ci95": found.ci95, "n": found.n}


def _percent(found: dict[str, Any] | None) -> str:
    if found is None:
        return "-"
    low, high = found["ci95"]
    return f"{100 * found['value']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _print_counts(index: OutcomeIndex, query: ItemQuery, console: Console, as_json: bool) -> None:
    policies = _wanted(index, query)
    conditions = {suite: query.condition or index.scored(suite) for suite in index.suites}
    rows = [
        {
            "suite": suite,
            "condition": condition,
            "arm": policy[0],
            "policy": policy[1],
            "outcomes": dict(counts[policy]),
            "measured": index.measured(suite),
            "share": _facts(index.share(suite, policy, condition)),
        }
        for suite, condition in conditions.items()
        for counts in [index.counts(suite, condition)]
        for policy in policies
        if counts[policy]
    ]
    if as_json:
        print(json.dumps({"counts": rows}))
        return
    for suite in index.suites:
        outcomes = index.outcomes(suite)
        mine = [r for r in rows if r["suite"] == suite]
        if mine:
            console.print(f"{suite} ({title(index.protocols[suite])}): {_counted(index, suite, conditions[suite])}")
        measured = index.measured(suite)
        share = [f"{measured}, %"] if measured else []
        table = _table("policy", *outcomes, *share, right=len(outcomes) + len(share))
        for row in mine:
            counted = [f"{row['outcomes'].get(o, 0):,}" for o in outcomes]
            counted += [_percent(row["share"])] if measured else []
            table.add_row(f"{row['arm']} {row['policy']}", *counted)
        if mine:
            console.print(table)
    console.print("List the items of one suite with --suite, count others with --condition, compare with --compare.")


def _counted(index: OutcomeIndex, suite: str, condition: str | None) -> str:
    """Which items of a suite are counted, and which are not."""
    there = index.conditions(suite)
    if condition is None:
        return f"{there.total():,} items"
    others = ", ".join(f"{n:,} {_spaced(name)}" for name, n in sorted(there.items()) if name != condition)
    return f"{there[condition]:,} items, {_spaced(condition)}{f' (not counted: {others})' if others else ''}"


def _spaced(condition: str) -> str:
    return condition.replace("_", " ")


def _print_list(
    index: OutcomeIndex, suite: str, query: ItemQuery, text: str, limit: int | None, console: Console, as_json: bool
) -> None:
    policies = _wanted(index, query)
    found = index.find(suite, query, text)
    shown = found[: limit if limit or as_json else LISTED_ITEMS]
    if as_json:
        rows = [{"item": i.item_id, **i.about, "outcomes": _outcomes(i, policies)} for i in shown]
        print(json.dumps({"suite": suite, "count": len(found), "items": rows}))
        return
    if not found:
        console.print(f"none of {len(index.suites[suite]):,} items of {suite} matches")
        return
    columns = policies if len(policies) <= MOST_POLICIES else [p for p in policies if _at_an_end(p, policies)]
    table = _table("item", "condition", "true", "wanted", *(f"{arm} {version}" for arm, version in columns))
    for item in shown:
        values = [clean(item.about[name])[:WIDEST] or "-" for name in ("condition", "truth", "wanted")]
        outcomes = _outcomes(item, columns)
        table.add_row(clean(item.item_id), *values, *(", ".join(o["of"]) or "-" for o in outcomes))
    console.print(table)
    conditions = Counter(item.about["condition"] for item in found)
    which = ", ".join(f"{count:,} {_spaced(name)}" for name, count in sorted(conditions.items()))
    told = f"shown {len(shown):,} of {len(found):,} items of {suite}{f' ({which})' if len(conditions) > 1 else ''}"
    if query.change and query.arm is None and len({arm for arm, _ in policies}) > 1:
        told += f", {query.change} in one arm or more"
    if columns != policies:
        told += "; of each arm its first and last policy"
    console.print(f"{told}; read one with --show ITEM")


def _at_an_end(policy: Policy, policies: Sequence[Policy]) -> bool:
    """Whether it is the first or the last one of its arm."""
    mine = [version for arm, version in policies if arm == policy[0]]
    return policy[1] in (min(mine), max(mine))


def _outcomes(item: Item, policies: Sequence[Policy]) -> list[dict[str, Any]]:
    return [{"arm": arm, "policy": n, "of": item.outcomes.get((arm, n), [])} for arm, n in policies]


def _find(index: OutcomeIndex, suite: str | None, prefix: str) -> tuple[str, str]:
    """Suite and id of the item whose id, or the last part of it, is this or begins so."""
    suites = [suite] if suite else list(index.suites)
    found = [(s, i) for s in suites for i in index.suites[s] if i.startswith(prefix)]
    found = found or [(s, i) for s in suites for i in index.suites[s] if i.rpartition("/")[2].startswith(prefix)]
    exact = [(s, i) for s, i in found if prefix in (i, i.rpartition("/")[2])]
    found = exact or found
    if len(found) != 1:
        where = f"suite {suite}" if suite else "any suite of this run"
        many = ", ".join(f"{i} ({s})" for s, i in found[:3]) + ", ..." * (len(found) > 3)
        raise QueryError(f"--show {prefix}: {f'{len(found):,} items begin so: {many}' if found else f'not in {where}'}")
    return found[0]


def _show(
    index: OutcomeIndex, suite: str | None, query: ItemQuery, prefix: str, console: Console, as_json: bool
) -> None:
    suite, name = _find(index, suite, prefix)
    policies = _wanted(index, query)
    answers = {p: rows for p, rows in index.answers(suite, name).items() if p in policies}
    if as_json:
        rows = [{"arm": arm, "policy": version, "answers": rows} for (arm, version), rows in answers.items()]
        print(json.dumps({"suite": suite, "item": name, **index.suites[suite][name].about, "policies": rows}))
        return
    about = index.suites[suite][name].about
    facts = {"item": name, "suite": suite, "condition": about["condition"], "category": about["category"]}
    for label, value in (facts | {"true": about["truth"], "wanted": about["wanted"]}).items():
        console.print(Text.assemble((f"{label:<10}", "dim"), clean(value) or "-"), soft_wrap=True)
    asked: dict[str, Any] = {}
    for policy, rows in answers.items():
        for row in rows:
            _print_answer(f"{policy[0]} {policy[1]}", row, asked, console)


def _print_answer(policy: str, row: dict[str, Any], asked: dict[str, Any], console: Console) -> None:
    """One answer to an item: its outcome, and each part with what was asked (once for the same prompt) and ruled."""
    wanted = ", as wanted" if row["directional"] else ""
    console.print(Text(f"\n{policy}: {row['outcome']}{wanted}", "bold underline"))
    stated = f"believes {clean(row['belief']) or '-'}, states {clean(row['statement']) or '-'}"
    console.print(Text(stated + (f"; error: {clean(row['error'])}" if row["error"] else "")), soft_wrap=True)
    for said in row["said"]:
        if asked.get(said["part"]) != said["prompt"]:
            asked[said["part"]] = said["prompt"]
            for message in said["messages"]:
                console.print(Text.assemble((f"\n{clean(message['role'])}", "dim"), f" ({said['part']})"))
                console.print(Text(clean(message["content"])), soft_wrap=True)
        console.print(Text(f"\n{said['part']}", "bold"))
        console.print(Text(clean(said["text"]) if said["text"] is not None else "no answer"), soft_wrap=True)
        _print_rulings(said["rulings"], console)
    _print_rulings(row["further"], console)


def _print_rulings(rulings: Sequence[dict[str, Any]], console: Console) -> None:
    for r in rulings:
        label = f"error: {clean(r['error'])}" if r["error"] else clean(r["label"]) or "nothing"
        said = " ".join(clean(r["raw"]).split())
        why = f" ({said[:WIDEST_RULING]})" if said and said != label else ""
        console.print(Text(f"  {clean(r['rubric'])}, {clean(r['judge'])}: {label}{why}", "dim"), soft_wrap=True)


def _table(*headings: str, right: int = 0) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for n, heading in enumerate(headings):
        first = {"overflow": "fold"} if n == 0 else {"no_wrap": True}  # an id that is cut is of no use
        table.add_column(heading, justify="right" if n >= len(headings) - right else "left", **first)
    return table
