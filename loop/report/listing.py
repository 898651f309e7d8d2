"""What `candor data` shows: a list, one trajectory in full, new ones as they come, an export, or what is wrong."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table
from rich.text import Text

from actors.buffer import RoundPlan
from actors.storage.files import shown_size
from loop.config.schema import RunConfig
from loop.report.chats import HOLDS, NO_VERDICT, WRITERS, write_file
from loop.report.filters import BY_REPLY, GROUPS, Query, QueryError, known
from loop.report.query import (
    MEANS,
    SORTS,
    RoundReader,
    Tally,
    arriving,
    at_most,
    best,
    check,
    find,
    first,
    group_figures,
    grouped,
    in_order,
    listed,
    no_more,
    plans,
    progress,
    replies_by,
)
from loop.rundir import RunDir

SHORT_ID = 8
LISTED_ROWS = 20
"""Rows of the table where nobody says how many."""
PIPE_WIDTH = 200
"""Columns of the table where the output is not a terminal."""
ADVICE = (
    "Nothing was moved. `candor run` again on this directory sets damaged files aside and holds their conversations "
    "again in every round that is not trained on yet; rounds that are trained on stay as they are."
)


def clean(text: str | None) -> str:
    """Text without characters that would steer a terminal."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\N{REPLACEMENT CHARACTER}", text or "")


def _outcome(row: dict[str, Any]) -> str:
    """The verdicts of the replies, or why there are none."""
    return clean(" ".join(row["error"].split())[:100] if row["error"] else ", ".join(row["verdicts"]))


def _points(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _print_list(rows: Iterable[dict[str, Any]], console: Console) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in ("arm", "round", "index", "id", "scenario", "user", "rating", "reward"):
        left = heading in ("arm", "id", "scenario", "user")
        table.add_column(heading, no_wrap=True, justify="left" if left else "right")
    table.add_column("verdicts, or error")
    for row in rows:
        place = row["arm"], str(row["round"]), str(row["index"]), row["trajectory_id"][:SHORT_ID]
        figures = _points(row["rating"]), _points(row["reward"])
        table.add_row(*place, row["scenario"], row["user_kind"], *figures, _outcome(row))
    console.print(table)


def _print_groups(rows: list[dict[str, Any]], by: Sequence[str], console: Console) -> None:
    figures = group_figures(by)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in (*by, *figures):
        table.add_column(name.replace("_", " "), justify="left" if name in by else "right")
    for row in rows:
        shown = [str(row[n]) if isinstance(row[n], int) else _points(row[n]) for n in figures]
        table.add_row(*(str(row[name]) for name in by), *shown)
    console.print(table)


def _print_one(row: dict[str, Any], console: Console) -> None:
    """A trajectory in full: who and with what, the assistant's side with ratings and verdicts, the user's side."""
    began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["started"]))
    tokens = f"{row['prompt_tokens']} prompt and {row['completion_tokens']} completion tokens"
    facts = {
        "trajectory": row["trajectory_id"],
        "where": f"run {row['run']}, arm {row['arm']}, round {row['round']}, index {row['index']}",
        "who": f"{row['user_kind']} user {row['persona']}, scenario {row['scenario']}",
        "policy": row["policy"],
        "engine": row["engine"],
        "judge": row["judge"] or "-",
        "validates": f"{_points(row['validates'])}, contradicts {_points(row['contradicts'])}",
        "reward": _points(row["reward"]),
        "trained on": row["trained_on"] or "-",
        "ended": row["ended"] or "-",
        "held": f"{began}, {row['finished'] - row['started']:.1f} s, attempt {row['attempt']}, {tokens}",
    }
    for name, value in (facts | ({"error": row["error"]} if row["error"] else {})).items():
        console.print(Text.assemble((f"{name:<12}", "dim"), clean(value)), soft_wrap=True)
    for title, side in (("The assistant's side", row["messages"]), ("The user's side", row["user_messages"])):
        console.print(Text(f"\n{title}", "bold underline"))
        for message in side:
            console.print(Text.assemble((f"\n{message['role']}", "bold"), (_notes(message), "dim")), soft_wrap=True)
            console.print(Text(clean(message["content"])), soft_wrap=True)
    if row["asked"]:
        console.print(Text("\nAsked beside the conversation", "bold underline"))
    for asked in row["asked"]:
        where = f"  (after {asked['after']} messages of the user's side)" if asked["after"] else ""
        console.print(Text.assemble((f"\n{asked['role']}", "bold"), (where, "dim")), soft_wrap=True)
        for message in asked["messages"]:
            console.print(Text(clean(message["content"])), soft_wrap=True)
        console.print(Text(clean(f"answer: {asked['answer']}")), soft_wrap=True)


def _notes(message: dict[str, Any]) -> str:
    """What is known of a reply beside its text."""
    if message.get("token_ids") is None:
        return ""
    rated = f"rated {_points(message['rating'])}, verdict {clean(message['verdict'] or NO_VERDICT)}"
    return f"  ({rated}, {len(message['token_ids'])} tokens, finish reason {message['finish_reason']})"


def _print_new(tables: Iterable[pa.Table], as_json: bool) -> None:
    """A line for each trajectory as it comes."""
    for table in tables:
        for row in listed(table):
            if as_json:
                print(json.dumps(row), flush=True)
                continue
            place = f"{row['arm']} {row['round']:>2} {row['index']:>5}  {row['trajectory_id'][:SHORT_ID]}"
            user = f"{row['scenario']:<16} {row['user_kind']:<7} {_points(row['reward']):>6}"
            print(f"{place}  {user}  {_outcome(row)}", flush=True)


def _print_checks(readers: Iterable[RoundReader], console: Console, as_json: bool) -> bool:
    """Check each round and say what was found; returns whether nothing is wrong."""
    found: list[dict[str, Any]] = []
    shown = Table("arm", "round", "trajectories", "closed", "state", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    wrong = []
    for reader in readers:
        check(reader)
        plan, problems = reader.plan, reader.problems
        begun = reader.seen.any() or reader.out.plan(plan.arm, plan.round).exists()
        state = f"{len(problems)} problems" if problems else "sound" if begun else "not begun"
        numbers = {"trajectories": int(reader.seen.sum()), "planned": len(reader.seen), "closed": reader.closed()}
        found.append({"arm": plan.arm, "round": plan.round, **numbers, "begun": bool(begun), "problems": problems})
        count = f"{int(reader.seen.sum())} of {len(reader.seen)}"
        shown.add_row(plan.arm, str(plan.round), count, "yes" if reader.closed() else "no", state)
        wrong += [f"{plan.arm} {plan.round}: {p}" for p in problems]
    if as_json:
        print(json.dumps({"rounds": found, "sound": not wrong}))
        return not wrong
    console.print(shown)
    print("\n".join([*wrong, ADVICE] if wrong else ["nothing is wrong"]))
    return not wrong


def _trained_on(out: RunDir, row: dict[str, Any]) -> str | None:
    """As what a trajectory was trained on, and which policy came of it; None where it was not selected."""
    arm, r = row["arm"], row["round"]
    selection = RoundReader(out, RoundPlan(row["run"], arm, r, 0)).selection()
    label = selection.filter(pc.equal(selection["trajectory_id"], row["trajectory_id"]))["label"].to_pylist()
    if not label:
        return None
    made = f"policy {r + 1}" if out.policy(arm, r + 1).exists() else "a policy that is not made yet"
    return f"{'desirable' if label[0] else 'undesirable'}, for {made}"


def check_modes(
    query: Query, sort: str | None, limit: int | None, show: str | None, export: Path | None, **flags: bool
) -> None:
    """`QueryError` where what was asked for does not go together."""
    given = {"--show": show is not None, "--export": export is not None} | {f"--{k}": v for k, v in flags.items()}
    modes = [name for name, wanted in given.items() if wanted]
    if len(modes) > 1 or (modes and sort and not flags["by"]):
        raise QueryError(f"{' and '.join(modes + ['--sort'] * bool(sort))} do not go together")
    if limit and modes and modes[0] in ("--show", "--verify"):
        raise QueryError(f"{modes[0]} and --limit do not go together")
    if sort and not flags["by"]:
        known("--sort", [sort], SORTS)
    if export and export.suffix not in WRITERS:
        raise QueryError(f"--export {export}: give a file that ends in {' or '.join(WRITERS)}")
    if export and export.exists():
        raise QueryError(f"--export {export}: is there already; give another name, or remove it first")
    if flags["follow"] and query.selected:
        raise QueryError("--selected does not go with --follow: a round is selected from when it is complete")
    if flags["verify"] and query != Query(query.arms, query.rounds):
        raise QueryError("--verify reads whole rounds: of the filters only --arm and --round go with it")


def answer(
    out: RunDir,
    config: RunConfig,
    query: Query,
    sort: str | None = None,
    limit: int | None = None,
    show: str | None = None,
    export: Path | None = None,
    follow: bool = False,
    verify: bool = False,
    as_json: bool = False,
    by: Sequence[str] = (),
) -> bool:
    """Do what `candor data` was asked to; returns whether everything that was read is sound.

    Args:
        limit: Most trajectories to list, follow or export; None lists `LISTED_ROWS`, and follows, exports or prints as
            JSON all.
        by: Count them by these instead, keys of `GROUPS`; with `BY_REPLY` among them their replies. `sort` is one of
            `group_figures` then, and a verdict of the query leaves out the rows of others.
        as_json: Print one JSON object, and with `follow` one for each trajectory.

    Raises:
        QueryError: What was asked for does not fit the run, or does not go together.
        BufferError, StorageError: A selection or the storage cannot be read, or the export not be written.
    """
    check_modes(query, sort, limit, show, export, follow=follow, verify=verify, by=bool(by))
    known("--by", by, (*GROUPS, BY_REPLY))
    verdict = query.verdict if by else None
    if verdict:  # shares are of all replies, so only rows are left out
        if BY_REPLY not in by:
            raise QueryError("--by counts conversations; to see the replies with a --verdict, add --by verdict")
        query = replace(query, verdict=None)
    if by and sort:
        figures = group_figures(by)
        names = [*figures, *(short for short, name in MEANS.items() if name in figures)]
        known("--sort", [sort], [sign + name for name in names for sign in ("", "-")])
    console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, markup=False, emoji=False, highlight=False)
    asked = plans(config, query)
    if verify:
        return _print_checks((RoundReader(out, plan) for plan in asked), console, as_json)
    tally, damaged = Tally(), []

    def warn(message: str) -> None:
        damaged.append(message)
        print(f"candor: {message}; it is left out", file=sys.stderr)

    rounds = (RoundReader(out, plan, warn) for plan in asked)
    if follow:
        with suppress(KeyboardInterrupt):
            _print_new(tally.through(at_most(arriving(list(rounds), query, lambda: no_more(out)), limit)), as_json)
        print(tally, file=sys.stderr)
        return not damaged
    looked_at = 0
    with progress(sum(plan.count for plan in asked)) as shown:

        def scanned(count: int) -> None:
            nonlocal looked_at
            looked_at += count
            shown(count)

        found = (table for r in rounds for table in r.matching(query, scanned))
        tables = tally.through(at_most(found, limit) if export else found)
        if show is not None:
            row = find(tables, show)
            row["trained_on"] = _trained_on(out, row)
        elif export:
            write_file(tables, export)
        elif by:
            groups = (replies_by if BY_REPLY in by else grouped)(tables, by)
            groups = in_order([g for g in groups if verdict in (None, g.get(BY_REPLY))], sort)
            rows = groups[:limit]
        else:
            most = limit or (sys.maxsize if as_json else LISTED_ROWS)
            rows = best(tables, most, sort) if sort else first(tables, most)
    counts = {"trajectories": tally.trajectories, "rounds": len(tally.rounds)}
    if show is not None:
        print(json.dumps(row)) if as_json else _print_one(row, console)
    elif export:
        written = {"file": str(export), "bytes": export.stat().st_size, "holds": HOLDS[export.suffix]}
        told = f"exported {tally} to {export}: {written['holds']}, {shown_size(written['bytes'])}"
        print(json.dumps(counts | written) if as_json else told)
    elif as_json:
        print(json.dumps(counts | {"groups" if by else "shown": rows}))
    elif not tally.trajectories:
        print(f"none of {looked_at:,} trajectories matches" if looked_at else "no trajectory is there yet")
    elif by and not groups:
        print(f"none of the replies in {tally} has this verdict")
    elif by:
        _print_groups(rows, by, console)
        print(f"counted {tally}{f'; shown {len(rows)} of {len(groups)} rows' * (len(rows) < len(groups))}")
    else:
        _print_list(rows, console)
        print(f"shown {len(rows)} of {tally}")
    return not damaged
