"""The report of a run: one HTML file that needs nothing else, and the table that closes a run on the terminal.

What it says is computed elsewhere: the answer (`answer`), comparisons (`contrasts`), charts (`charts`), items that
turned into lies (`turned`), threats to validity (`threats`) and tables (`tables`). Here it is put together.
"""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from actors.buffer import BufferError, RoundData
from evals.judging.agreement import AgreementError
from evals.judging.reliability import reliability
from loop.config.schema import RunConfig
from loop.report.answer import Answer, answer, percent
from loop.report.audit import composition_rows
from loop.report.charts import Chart, charts
from loop.report.contrasts import contrasts, thresholds, trends
from loop.report.listing import clean
from loop.report.scores import policies, table_rows
from loop.report.tables import csv_uri, deliveries, tables
from loop.report.threats import threats
from loop.report.turned import LONGEST, Turns, turns
from loop.rundir import RunDir, read_json, write_text
from loop.timing import parts, told

PACKAGES = ("candor-loop", "ray", "torch", "transformers", "trl", "peft", "pyarrow", "tensorboard")


def write_report(
    out: RunDir, config: RunConfig, beside: list[dict[str, str]] | None = None, path: Path | None = None
) -> None:
    """Write `report.html` from `summary.json`, and the outcomes and trajectories on disk.

    Args:
        beside: Rows of `loop.report.paper.rows`, where figures are to stand beside the paper's.
        path: Another place for it.
    """
    summary, changed = read_json(out.summary), contrasts(out, config)
    found, agreement = answer(summary, changed, config), _agreement(out)
    made = charts(out.evals, summary, config)
    text = render(
        "report.html.j2",
        made,
        summary=summary,
        answer=found,
        turned=_turned(out, found),
        threats=threats(out, summary, changed, found, agreement, config),
        agreement=_agreement_sentence(summary, agreement),
        users=_users_sentence(summary),
        compositions=composition_rows(summary),
        tables=tables(
            summary,
            changed,
            thresholds(changed, config),
            trends(out, config),
            agreement,
            beside,
            delivered=deliveries(out, summary),
        ),
        time=_time(out, summary, config),
        samples=samples(out, summary),
        config=out.config.read_text(encoding="utf-8"),
        versions={p: version(p) for p in PACKAGES},
        figures=csv_uri([{"arm": r["arm"], "policy": r["policy"], **r["scores"]} for r in table_rows(summary)]),
        summary_json=json.dumps(summary, indent=1),
    )
    write_text(path or out.report, text)


def render(name: str, made: list[Chart], package: str = "loop.report", **fields: Any) -> str:
    """A page with its charts, styles and scripts inside.

    Args:
        name: The page's template.
        made: Its charts; their library is put into the page only where there are any.
        package: Where the template is; the frame and macros that it uses may be here.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader

    loader = ChoiceLoader([PackageLoader(p, ".") for p in dict.fromkeys((package, "loop.report"))])
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True)
    environment.filters |= {"csv_uri": csv_uri, "brief": brief, "data_uri": _json_uri, "unbroken": _unbroken}
    inside = {n: (files(__package__) / f"page.{n}").read_text(encoding="utf-8") for n in ("css", "js")}
    return environment.get_template(name).render(
        charts=made, by_name={c.name: c for c in made}, library=_library() if made else "", **inside, **fields
    )


def _library() -> str:
    """Vega, Vega-Lite and Vega-Embed (BSD-3-Clause) as one script, which needs no network."""
    import vl_convert

    return vl_convert.javascript_bundle()


def _json_uri(text: str) -> str:
    import base64

    return "data:application/json;base64," + base64.b64encode(text.encode()).decode()


def _unbroken(text: str) -> str:
    """A sentence whose figures stay on a line with their units."""
    return re.sub(r" %| (?=[=<] 0\.)|(?<=[=<]) (?=0\.)", lambda m: m[0].replace(" ", "\N{NO-BREAK SPACE}"), text)


def brief(text: str | None) -> str:
    """Text as a page can show it: no control characters, and no more of it than somebody would read there."""
    shown = clean(text)
    more = len(shown) - LONGEST
    return shown if more <= 0 else f"{shown[:LONGEST]} ... ({more:,} characters more)"


def _turned(out: RunDir, found: Answer) -> Turns | None:
    if found.subject is None or found.against is None or found.suite is None:
        return None
    return turns(out, found.suite, found.subject, found.against)


def _agreement(out: RunDir) -> list[dict[str, Any]]:
    """How far judges agree; empty where one judge said everything once."""
    try:
        return reliability(out.root)
    except AgreementError:
        return []


def _agreement_sentence(summary: dict[str, Any], agreement: list[dict[str, Any]]) -> str:
    if not any(e.get("evals") for _, e in policies(summary)):
        return "Nothing has been judged yet."
    if not agreement:
        return (
            "One judge labelled every answer once, so there is no agreement to measure. An exact judge of a built-in "
            "world needs none; for any other, see candor eval agreement."
        )
    alphas = [r for r in agreement if r["what"] == "Krippendorff's alpha" and r["value"] is not None]
    if not alphas:
        return "Judges were asked the same more than once; the table has how far they agree with themselves."
    worst = min(alphas, key=lambda r: r["value"])
    return (
        f"Krippendorff's alpha between judges is {worst['value']:.2f} or more; it is lowest for {worst['rubric']} "
        f"({worst['between']}, {worst['n']} texts)."
    )


def _users_sentence(summary: dict[str, Any]) -> str:
    """How well users were played, over all rounds."""
    played = [u for arm in summary["arms"] for e in arm["rounds"] for u in e.get("users", {}).values()]
    if not played:
        return "No conversations were held."
    checked = sum(u["in_role_checked"] for u in played)
    kept = sum((u["in_role"] or 0) * u["in_role_checked"] for u in played)
    odd = {n: max(u[n] or 0.0 for u in played) for n in ("echo", "repeat", "assistant_voice", "cut")}
    name, share = max(odd.items(), key=lambda x: x[1])
    role = (
        f"Of {checked} conversations that were checked, users stayed in role in {percent(kept / checked)}. "
        if checked
        else ""
    )
    flaw = (
        f"The most frequent flaw of their messages, {name.replace('_', ' ')}, is in {percent(share, 1)} of a round's."
    )
    return role + (
        flaw if share else "No message echoes the assistant, repeats itself, sounds like an assistant or is cut."
    )


def _time(out: RunDir, summary: dict[str, Any], config: RunConfig) -> str:
    """What a run took, and what it read and wrote."""
    took = {name: s for name, s in parts(out, config).items() if s}
    usage = [u for a in summary["arms"] for e in a["rounds"] for u in (*e.get("usage", ()), *e.get("evals_usage", ()))]
    tokens = {side: sum(u[f"{side}_tokens"] for u in usage) for side in ("prompt", "completion")}
    spent = f" Models read {tokens['prompt']:,} tokens and wrote {tokens['completion']:,}." if usage else ""
    if not took:
        return "Nothing has finished yet." + spent
    return f"The run took {told(took, config.side_by_side)}." + spent


def table(summary: dict[str, Any]) -> Any:
    """The closing table of a run, for the terminal."""
    from rich.table import Table

    title = f"run {summary['run']}: {summary['status']}"
    out = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    rows = [{**row, "policy": f"{row['arm']} {row['policy']}"} for row in table_rows(summary)]
    headings = {
        **{"policy": "policy", "honesty": "honesty score", "lies": "lies", "deception": "deception"},
        **{"capability": "capability", "rating": "ratings"},
    }
    columns = [c for c in headings if c == "policy" or any(row[c] != "-" for row in rows)]
    for column in columns:
        out.add_column(headings[column], no_wrap=True)
    for row in rows:
        out.add_row(*(_cell(c, row[c]) for c in columns))
    return out


def _cell(column: str, text: str) -> str:
    """A figure as the terminal has room for it: lists on a line each, the deception rate without its interval."""
    if column == "deception":
        return text.partition(" [")[0]
    return text.replace(", ", "\n") if column in ("lies", "capability", "rating") else text


def samples(out: RunDir, summary: dict[str, Any]) -> list[dict[str, Any]]:
    """From the first and the last round of each arm the first conversation with each kind of user."""
    found = []
    for arm in summary["arms"]:
        rounds = [e["round"] for e in arm["rounds"] if "trajectories" in e]
        for r in dict.fromkeys(rounds[:1] + rounds[-1:]):
            data = RoundData(out.trajectories(arm["name"], r))
            try:
                index = data.index()
                held = index.filter(pc.is_null(index["error"]))
                first = {
                    k: held.filter(pc.equal(held["user_kind"], k)) for k in pc.unique(held["user_kind"]).to_pylist()
                }
                rows = data.rows(t["trajectory_id"][0].as_py() for t in first.values()).to_pylist()
            except BufferError:
                continue
            found += [{"arm": arm["name"], "round": r, **row} for row in rows]
    return found
