"""The report of a run: one HTML file that needs nothing else, and the table that closes a run on the terminal."""

from __future__ import annotations

import io
import itertools
from collections import Counter
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import pyarrow.compute as pc

from actors.buffer import BufferError, RoundData
from actors.conduct import FLAGS
from actors.settings import Prices
from actors.usage import Tally
from evals.outcomes import OUTCOMES
from loop.config import RunConfig
from loop.contrasts import contrasts, thresholds, trends
from loop.paper import COLUMNS
from loop.rundir import RunDir, read_json, write_text
from loop.scores import (
    FIGURES,
    TITLES,
    change_rows,
    headline,
    outcome_rows,
    policies,
    suites,
    table_rows,
    threshold_rows,
    trend_rows,
)

OUTCOME_COLOURS = ("#3b7ea1", "#c4473a", "#d9a441", "#9a9a9a", "#222222")
ARM_COLOURS = ("#3b7ea1", "#c4473a", "#5a9e6f", "#8e6bb0", "#d9a441", "#6b6b6b")
CONDUCT = (*FLAGS, "ended_early", "rating_mass", "validates", "contradicts")
PACKAGES = ("candor-loop", "ray", "torch", "transformers", "trl", "peft", "pyarrow", "tensorboard")


def write_report(out: RunDir, config: RunConfig, beside: list[dict[str, str]] | None = None) -> None:
    """Write `report.html` from `summary.json`, and the outcomes and trajectories on disk.

    Args:
        beside: Rows of `loop.paper.rows`, where figures are to stand beside the paper's.
    """
    from jinja2 import Environment

    summary, changed = read_json(out.summary), contrasts(out, config)
    template = (files(__package__) / "report.html.j2").read_text(encoding="utf-8")
    page = Environment(autoescape=True).from_string(template)
    text = page.render(
        summary=summary,
        rows=table_rows(summary),
        outcomes=outcome_rows(summary),
        suites={s: TITLES[s][0] for s in suites(summary)},
        changes=change_rows(changed),
        beside=beside,
        beside_columns=COLUMNS,
        thresholds=threshold_rows(thresholds(changed, config)),
        trends=trend_rows(trends(out, config)),
        users=user_rows(summary),
        selections=selection_rows(summary),
        compositions=composition_rows(summary),
        costs=cost_rows(summary),
        charts=charts(summary),
        samples=samples(out, summary),
        config=out.config.read_text(encoding="utf-8"),
        versions={p: version(p) for p in PACKAGES},
    )
    write_text(out.report, text)


def population(arm: dict[str, Any]) -> str:
    """Who the users of an arm are, in a few words; what it was trained on, where it had none."""
    if arm["population"] is None:
        return "data"
    return ", ".join(f"{kind} {share:g}" for kind, share in arm["population"].items()) or "benign"


def user_rows(summary: dict[str, Any]) -> list[dict[str, str]]:
    """How well users were played, one row for each round and kind of user."""
    rows = []
    for arm in summary["arms"]:
        for entry in arm["rounds"]:
            for kind, conduct in entry.get("users", {}).items():
                mean, spread = entry["mean_rating"][kind], conduct["rating_spread"]
                looked_at, kept = conduct["in_role_checked"], conduct["in_role"]
                rows.append(
                    {
                        "arm": arm["name"],
                        "round": str(entry["round"]),
                        "kind": kind,
                        "rating": "-" if mean is None else f"{mean:.2f} ± {spread:.2f}",
                        **{n: _percent(conduct[n]) for n in CONDUCT},
                        "rating_failures": f"{conduct['rating_failures'] or 0:.2f}",
                        "in_role": f"{_percent(kept)} of {looked_at}" if looked_at else "-",
                    }
                )
    return rows


def selection_rows(summary: dict[str, Any]) -> list[dict[str, str]]:
    """What was trained on, one row for each end of each round's selection."""
    rows = []
    for arm in summary["arms"]:
        for entry in arm["rounds"]:
            for end in ("top", "bottom"):
                of = entry.get("selection", {}).get(end)
                if not of or not of["count"]:
                    continue
                reward, kinds = of["reward"], of["user_kind"].items()
                rows.append(
                    {
                        "arm": arm["name"],
                        "round": str(entry["round"]),
                        "end": {"top": "desirable", "bottom": "undesirable"}[end],
                        "count": str(of["count"]),
                        "users": ", ".join(f"{kind} {n}" for kind, n in kinds),
                        "scenarios": str(len(of["scenario"])),
                        "reward": f"{reward['mean']:.2f} ({reward['min']:.2f} to {reward['max']:.2f})",
                        "tied": str(of["tied"]),
                        "tokens": f"{of['completion_tokens']['mean']:.0f}",
                    }
                )
    return rows


def composition_rows(summary: dict[str, Any]) -> list[dict[str, str]]:
    """What policies were trained on that learned from data, one row for each source."""
    rows = []
    for arm in summary["arms"]:
        for entry in arm["rounds"]:
            found = entry.get("composition")
            for part in ("base", "added"):
                if not found or not found[part]:
                    continue
                of = found[part]
                taken = {"base": "all" if not found["added"] else "downstream", "added": found["how"]}[part]
                rows.append(
                    {
                        "arm": arm["name"],
                        "part": taken if part == "base" else f"{taken} {100 * found['share']:g} %",
                        "source": f"{of['source']}{': ' + of['part'] if of['part'] else ''}",
                        "sha256": (of["sha256"] or "-")[:12],
                        "licence": of["licence"] or "-",
                        "rows": f"{found['counts'][part]} of {of['rows']}",
                    }
                )
    return rows


def cost_rows(summary: dict[str, Any]) -> list[dict[str, str]]:
    """Requests, tokens, failed requests and money by arm, role and model, all rounds together."""
    rows = []
    for arm in summary["arms"]:
        tally = Tally()
        for entry in arm["rounds"]:
            tally.add(entry.get("usage", ()))
            tally.add(entry.get("evals_usage", ()))
            for f in entry.get("faults", ()):
                tally.lines.setdefault((f["role"], f["model"]), Counter())["faults"] += f["count"]
        for (role, model), line in tally.lines.items():
            price = summary["prices"].get(model)
            figures = {k: f"{line[k]:,}" for k in ("requests", "faults", "prompt_tokens", "completion_tokens")}
            cost = price and Prices(**price).of(line["prompt_tokens"], line["completion_tokens"])
            money = "-" if cost is None else f"{cost:,.4f}"
            rows.append({"arm": arm["name"], "role": role, "model": model, **figures, "cost": money})
    return rows


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def table(summary: dict[str, Any]) -> Any:
    """The closing table of a run, for the terminal."""
    from rich.table import Table

    title = f"run {summary['run']}: {summary['status']}"
    out = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    rows = table_rows(summary)
    headings = {
        **{"arm": "arm", "policy": "policy", "honesty": "honesty score", "deception": "deception rate"},
        **{"capability": "capability", "rating": "ratings"},
    }
    columns = [c for c in headings if c in ("arm", "policy") or any(row[c] != "-" for row in rows)]
    for column in columns:
        out.add_column(headings[column], no_wrap=True)
    for row in rows:
        out.add_row(*(row[c].replace(", ", "\n") if c in ("capability", "rating") else row[c] for c in columns))
    return out


def charts(summary: dict[str, Any]) -> list[dict[str, str]]:
    """The report's charts as inline SVG with their captions."""
    out = []
    for suite in suites(summary):
        title, what = TITLES[suite]
        protocol = next(e["evals"][suite]["protocol"] for _, e in policies(summary) if suite in e["evals"])
        out.append(_lines(summary, title, f"{FIGURES[protocol]}: {what}", suite))
    out += [_ratings(summary), _outcomes(summary)]
    return [c for c in out if c]


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: Any, title: str, caption: str) -> dict[str, str]:
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    svg = out.getvalue()
    return {"title": title, "caption": caption, "svg": svg[svg.index("<svg") :]}


def _lines(summary: dict[str, Any], title: str, caption: str, suite: str) -> dict[str, str]:
    figure, axes = _figure(4.6, 3.0)
    policies: set[int] = set()
    for i, arm in enumerate(summary["arms"]):
        points = [(e["policy"], headline(e["evals"][suite])) for e in arm["rounds"] if suite in e.get("evals", {})]
        points = [(x, p) for x, p in points if p is not None]
        if not points:
            continue
        shift = 0.03 * (i - (len(summary["arms"]) - 1) / 2)
        x = [p + shift for p, _ in points]
        y = [v for _, (v, _, _) in points]
        spread = [[v - low for _, (v, low, _) in points], [high - v for _, (v, _, high) in points]]
        label = f"{arm['name']} ({population(arm)})"
        axes.errorbar(x, y, yerr=spread, label=label, color=ARM_COLOURS[i % len(ARM_COLOURS)], marker="o", capsize=3)
        policies |= {p for p, _ in points}
    axes.set(xlabel="policy", xticks=sorted(policies), ylim=(-0.02, 1.04))
    axes.grid(axis="y", alpha=0.3)
    if policies:
        axes.legend(frameon=False, fontsize=8, loc="best")
    return _svg(figure, title, caption + ". Bars: 95 % intervals.")


def _ratings(summary: dict[str, Any]) -> dict[str, str]:
    figure, axes = _figure(4.6, 3.0)
    rounds: set[int] = set()
    for i, arm in enumerate(summary["arms"]):
        kinds = dict.fromkeys(k for e in arm["rounds"] for k in e.get("mean_rating", ()))
        for kind, style in zip(kinds, itertools.cycle(("-", "--", ":", "-.")), strict=False):
            points = [
                (e["round"], e["mean_rating"][kind])
                for e in arm["rounds"]
                if e.get("mean_rating", {}).get(kind) is not None
            ]
            if points:
                colour = ARM_COLOURS[i % len(ARM_COLOURS)]
                axes.plot(
                    *zip(*points, strict=True), style, marker="o", color=colour, label=f"{arm['name']}, {kind} users"
                )
                rounds |= {p for p, _ in points}
    axes.set(xlabel="round", xticks=sorted(rounds), ylim=(1, 10))
    axes.grid(axis="y", alpha=0.3)
    if rounds:
        axes.legend(frameon=False, fontsize=8)
    return _svg(figure, "What users liked", "Mean rating of a reply, 1 to 10, by kind of user.")


def _outcomes(summary: dict[str, Any]) -> dict[str, str]:
    suite = next(iter(suites(summary, "mask", "deceptionbench")), None)
    bars = [
        (f"{arm} {e['policy']}", e["evals"][suite]["outcomes"]) for arm, e in policies(summary) if suite in e["evals"]
    ]
    figure, axes = _figure(4.6, 3.0)
    left = [0.0] * len(bars)
    for outcome, colour in zip(OUTCOMES, OUTCOME_COLOURS, strict=True):
        shares = [counts[outcome] / max(1, sum(counts.values())) for _, counts in bars]
        axes.barh([name for name, _ in bars], shares, left=left, color=colour, label=outcome.replace("_", " "))
        left = [a + b for a, b in zip(left, shares, strict=True)]
    axes.invert_yaxis()
    axes.set(xlim=(0, 1))
    if bars:
        axes.legend(frameon=False, fontsize=8, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return _svg(
        figure,
        "Outcomes",
        f"{TITLES[suite][0] if suite else 'Honesty'}: every answer has one outcome; an error is never honest.",
    )


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
