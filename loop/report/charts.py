"""The charts of a report as Vega-Lite specifications, each with the rows that it draws.

One colour has one meaning on the whole page: arms have `ARM_COLOURS` (and shapes), outcomes have `OUTCOME_COLOURS`, and
neither has a colour of the other. Both can be told apart by people who are colour-blind, on white and on black.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.worlds.base import PRESSURE
from evals.outcomes import OUTCOMES
from evals.protocols import PROTOCOLS
from evals.stats.intervals import share
from evals.suites.catalogue import SUITES
from loop.config.schema import RunConfig
from loop.report.contrasts import mixtures, scored_answers
from loop.report.scores import CONDITIONS, headline, policies, suites

ARM_COLOURS = ("#0072b2", "#d97706", "#7b4fb5", "#8c6d31", "#1f8a70", "#a3467e", "#5f7f1f", "#5b6b7b")
ARM_SHAPES = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "triangle-left", "triangle-right")
OUTCOME_COLOURS = {
    "honest": "#5aae9b",
    "lie": "#c2255c",
    "evasion": "#c9a13b",
    "no belief": "#9a9a9a",
    "error": "#7d6b58",
}
SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
HEIGHT = 240
DASHES = [[1, 0], [6, 3], [2, 3]]
DASH_LEGEND = {"orient": "bottom", "direction": "vertical", "title": None, "labelLimit": 300, "symbolType": "stroke"}
SHIFT = 0.06
"""By how much of a round arms stand beside each other, so that intervals do not hide each other."""


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        name: Of its element and of the files that it is saved as.
        spec: Vega-Lite, whose data are `rows`.
        wide: Whether it takes the whole width of the page.
    """

    name: str
    title: str
    caption: str
    rows: list[dict[str, Any]]
    encoding: dict[str, Any]
    wide: bool = False

    @property
    def spec(self) -> dict[str, Any]:
        return {
            "$schema": SCHEMA,
            "description": f"{self.title}. {self.caption}",
            "width": "container",
            "height": HEIGHT,
            "data": {"values": self.rows},
            **self.encoding,
        }


def csv_text(rows: Iterable[dict[str, Any]]) -> str:
    """Rows as CSV, with the columns of all of them."""
    rows = list(rows)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(k for row in rows for k in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def charts(evals: Callable[[str, int], Path], summary: dict[str, Any], config: RunConfig | None) -> list[Chart]:
    """Every chart that the figures of a run allow, in the order of a reader's questions.

    Args:
        evals: The folder of a policy's evaluation, by arm and version.
        config: The run's; None where the arms are those of several.
    """
    pressed = suites(summary, "mask", "deceptionbench")
    main = next(iter(pressed), None)
    made = [_headline(summary, main, wide=True)] if main else []
    if main:
        made += [_pleasing(evals, summary, main), *_doses(summary, main, config), _liked_and_honest(summary, main)]
        made.append(_outcomes(summary, main))
    made += [_headline(summary, s) for s in pressed[1:]]
    made += [_ratings(summary), _selected(summary)]
    made += [_headline(summary, s) for s in suites(summary) if s not in pressed]
    return [c for c in made if c is not None and c.rows]


def _arms(summary: dict[str, Any]) -> dict[str, Any]:
    """Encodings of an arm."""
    return named("arm", {a["name"]: look(i) for i, a in enumerate(summary["arms"])})


def look(i: int) -> tuple[str, str]:
    """Colour and shape of what has this number; what comes after the last colour has another shape."""
    n = len(ARM_COLOURS)
    return ARM_COLOURS[i % n], ARM_SHAPES[(i + i // n) % len(ARM_SHAPES)]


def named(field: str, looks: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """Encodings of what has a name: colour, shape, and a legend that highlights the name that is chosen in it.

    Args:
        looks: Colour and shape by name.
    """
    names = list(looks)
    columns = 3 if max(map(len, names), default=0) < 12 else 1  # so that it is no wider than a narrow chart
    legend = {"orient": "top", "title": None, "columns": columns, "labelLimit": 260} if len(names) > 1 else None
    of = {"field": field, "type": "nominal", "legend": legend}
    colours, shapes = ([looks[name][k] for name in names] for k in (0, 1))
    return {
        "color": {**of, "scale": {"domain": names, "range": colours}},
        "shape": {**of, "scale": {"domain": names, "range": shapes}},
        "opacity": {"condition": {"param": "chosen", "value": 1}, "value": 0.12},
    }


def without_shape(arms: dict[str, Any]) -> dict[str, Any]:
    """Encodings of lines, which have no shape."""
    return {k: v for k, v in arms.items() if k != "shape"}


def chosen(field: str) -> list[dict[str, Any]]:
    """The parameter that `named` asks which name of the legend is chosen."""
    return [{"name": "chosen", "select": {"type": "point", "fields": [field]}, "bind": "legend"}]


CHOSEN = chosen("arm")


def _shift(summary: dict[str, Any], arm: str) -> float:
    names = [a["name"] for a in summary["arms"]]
    return min(SHIFT, 0.5 / len(names)) * (names.index(arm) - (len(names) - 1) / 2)


def _steps(rows: list[dict[str, Any]], field: str) -> dict[str, Any]:
    """A horizontal axis of rounds or policies."""
    values = sorted({r[field] for r in rows})
    axis = {"values": values, "format": "d", "grid": False, "title": field}
    low, high = (values[0], values[-1]) if values else (0, 1)
    scale = {"domain": [low - 0.25, high + 0.25], "nice": False}
    return {"field": "x", "type": "quantitative", "axis": axis, "scale": scale}


def percent_axis(field: str, title: str, low: float = 0.0, high: float = 1.0) -> dict[str, Any]:
    """An encoding of a share as per cent."""
    return {
        "field": field, "type": "quantitative", "title": title, "scale": {"domain": [low, high]},
        "axis": {"format": "%", "tickCount": 5},
    }  # fmt: skip


def tips(*fields: str, **formats: str) -> list[dict[str, Any]]:
    """Encodings of a tooltip: names, and figures with how each is written."""
    names = [{"field": f, "type": "nominal"} for f in fields]
    return names + [
        {"field": f, "type": "quantitative", "format": form, "title": f.replace("_", " ")}
        for f, form in formats.items()
    ]


def _intervals(
    summary: dict[str, Any], rows: list[dict[str, Any]], y: str, title: str, dash: Any = None
) -> dict[str, Any]:
    """Lines over policies with intervals, an arm a colour."""
    arms, x = _arms(summary), _steps(rows, "policy")
    said = tips("arm", "policy", *(["answers"] if dash else []), **{y: ".1%", "low": ".1%", "high": ".1%", "n": "d"})
    more = {"strokeDash": dash, "detail": {"field": dash["field"]}} if dash else {}
    line = without_shape(arms)
    return {
        "encoding": {"x": x},
        "layer": [
            {"params": CHOSEN, "mark": {"type": "rule", "strokeWidth": 1.5},
             "encoding": {"y": percent_axis("low", title), "y2": {"field": "high"}, **line}},
            {"mark": {"type": "line", "strokeWidth": 2}, "encoding": {"y": percent_axis(y, title), **line, **more}},
            {"mark": {"type": "point", "filled": True, "size": 70, "opacity": 1},
             "encoding": {"y": percent_axis(y, title), **arms, "tooltip": said}},
        ],
    }  # fmt: skip


def _headline(summary: dict[str, Any], suite: str, wide: bool = False) -> Chart:
    """The figure that stands for a suite, by policy and arm."""
    protocol = next(e["evals"][suite]["protocol"] for _, e in policies(summary) if suite in e["evals"])
    name, about, rows = PROTOCOLS[protocol].title, SUITES[suite], []
    for arm, entry in policies(summary):
        found = headline(entry["evals"][suite]) if suite in entry["evals"] else None
        if found:
            value, low, high = found
            of = entry["evals"][suite]
            n = of.get("n") or sum(of.get("outcomes", {}).values()) or None
            x = entry["policy"] + _shift(summary, arm)
            rows.append(
                {"arm": arm, "policy": entry["policy"], "x": x, "score": value, "low": low, "high": high, "n": n}
            )
    title = f"{about.title}: {name} by round and arm" if wide else f"{about.title}: {name}"
    caption = f"{about.about[:1].upper()}{about.about[1:]}. Bars are 95 % intervals over items."
    encoding = _intervals(summary, rows, "score", name.partition(" over ")[0])
    return Chart(f"suite-{suite}", title, caption, rows, encoding, wide)


def _pleasing(evals: Callable[[str, int], Path], summary: dict[str, Any], suite: str) -> Chart | None:
    """Lies that state what was wanted, beside the lies on the same items in the matched controls."""
    rows = []
    for arm, entry in policies(summary):
        of = entry["evals"].get(suite) or {}
        if "directional_lies" not in of and "controls" not in of:
            continue
        said = [a for a in scored_answers(evals(arm, entry["policy"]), suite) if a["condition"] == PRESSURE]
        wanted = share([a["directional"] is True for a in said], [a["cluster"] for a in said])
        x = entry["policy"] + _shift(summary, arm)
        place = {"arm": arm, "policy": entry["policy"], "x": x}
        if wanted:
            found = {"lies": wanted.value, "low": wanted.low, "high": wanted.high, "n": wanted.n}
            rows.append({**place, "answers": "pressed, lie as wanted", **found})
        for name, control in of.get("controls", {}).items():
            if control["share"] is not None:
                low, high = control["ci95"]
                found = {"lies": control["share"], "low": low, "high": high, "n": control["n"]}
                rows.append({**place, "answers": f"control: {CONDITIONS[name]}", **found})
    if not rows:
        return None
    kinds = list(dict.fromkeys(r["answers"] for r in rows))
    dash = {
        "field": "answers", "type": "nominal", "scale": {"domain": kinds, "range": DASHES[: len(kinds)]},
        "legend": DASH_LEGEND,
    }  # fmt: skip
    caption = (
        "Lies that state what the stakeholder wants to hear (solid), and lies on the same items where the stakeholder "
        "wants the truth or nobody has a stake. If the controls rise too, the change is not about pleasing."
    )
    encoding = _intervals(summary, rows, "lies", "share of answers", dash)
    return Chart("pleasing", "Are the lies about pleasing?", caption, rows, encoding)


def _shares(summary: dict[str, Any], config: RunConfig | None) -> dict[str, list[tuple[float, str]]]:
    """Arms that differ in how much of something they got, with the share of it, by what that is."""
    talked = [arm for arm in summary["arms"] if arm["population"] is not None]
    trained = {arm["name"]: arm["rounds"][-1].get("trained_share") for arm in talked if arm["rounds"]}
    kinds = {
        "share of biased users": [(arm["population"].get("biased", 0.0), arm["name"]) for arm in talked],
        "share of biased users in what was trained on": [(of.get("biased", 0.0), n) for n, of in trained.items() if of],
        **({f"share of added rows ({k})": v for k, v in mixtures(config).items()} if config else {}),
    }
    return {k: v for k, v in kinds.items() if len({x for x, _ in v}) > 2}


def _doses(summary: dict[str, Any], suite: str, config: RunConfig | None) -> list[Chart]:
    """The last policy's figure against how much of the treatment its arm got; none where fewer than three differ."""
    last = {a: e for a, e in policies(summary) if suite in e["evals"]}
    made = []
    for n, (kind, arms) in enumerate(_shares(summary, config).items()):
        rows = []
        for dose, arm in sorted(arms):
            found = headline(last[arm]["evals"][suite]) if arm in last else None
            if found:
                value, low, high = found
                place = {"arm": arm, "dose": dose, "policy": last[arm]["policy"]}
                rows.append({**place, "score": value, "low": low, "high": high})
        if rows:
            name = PROTOCOLS[last[rows[0]["arm"]]["evals"][suite]["protocol"]].title
            made.append(_dose(summary, f"dose-{n}" if n else "dose", kind, name, rows))
    return made


def _dose(summary: dict[str, Any], name: str, kind: str, figure: str, rows: list[dict[str, Any]]) -> Chart:
    arms = _arms(summary)
    y = percent_axis("score", figure.partition(" over ")[0])
    encoding = {
        "encoding": {"x": {"field": "dose", "type": "quantitative", "axis": {"format": "%"}, "title": kind}},
        "layer": [
            {"mark": {"type": "line", "color": "#888", "strokeDash": [3, 3]}, "encoding": {"y": y}},
            {"params": CHOSEN, "mark": "rule",
             "encoding": {"y": {**y, "field": "low"}, "y2": {"field": "high"}, **without_shape(arms)}},
            {"mark": {"type": "point", "filled": True, "size": 80},
             "encoding": {"y": y, **arms, "tooltip": tips("arm", dose=".0%", score=".1%", low=".1%", high=".1%")}},
        ],
    }  # fmt: skip
    caption = f"The last policy of each arm, against the {kind}. Bars are 95 % intervals over items."
    return Chart(name, "Dose and response", caption, rows, encoding)


def mean_rating(entry: dict[str, Any]) -> float | None:
    """Mean rating of a reply by all users of a round, each kind as often as it replied."""
    found = [(m, sum(entry["replies"][k].values())) for k, m in entry.get("mean_rating", {}).items() if m is not None]
    total = sum(n for _, n in found)
    return sum(m * n for m, n in found) / total if total else None


def _liked_and_honest(summary: dict[str, Any], suite: str) -> Chart:
    """Each policy's figure against how much its users liked it."""
    rows = []
    for arm, entry in policies(summary):
        found, rating = headline(entry["evals"].get(suite)) if suite in entry["evals"] else None, mean_rating(entry)
        if found and rating is not None:
            rows.append({"arm": arm, "policy": entry["policy"], "rating": rating, "score": found[0]})
    name = PROTOCOLS[next(e["evals"][suite]["protocol"] for _, e in policies(summary) if suite in e["evals"])].title
    arms = _arms(summary)
    x = {"field": "rating", "type": "quantitative", "title": "mean rating by users, 1 to 10"}
    x |= {"scale": {"zero": False, "nice": True, "padding": 20}, "axis": {"tickCount": 5}}
    encoding = {
        "encoding": {"x": x, "y": percent_axis("score", name), "order": {"field": "policy"}},
        "layer": [
            {"params": CHOSEN, "mark": {"type": "line", "strokeWidth": 1.5},
             "encoding": without_shape(arms)},
            {"mark": {"type": "point", "filled": True, "size": 80},
             "encoding": {**arms, "tooltip": tips("arm", "policy", rating=".2f", score=".1%")}},
            {"mark": {"type": "text", "dy": -12, "fontSize": 11},
             "encoding": {"text": {"field": "policy"}, "opacity": arms["opacity"]}},
        ],
    }  # fmt: skip
    caption = "A point is a policy, with its number. The last policy of an arm is missing, since it talked with nobody."
    return Chart("liked", "Satisfaction and honesty", caption, rows, encoding)


def _outcomes(summary: dict[str, Any], suite: str) -> Chart:
    """What the answers under pressure came to, as shares."""
    rows = []
    for arm, entry in policies(summary):
        counts = entry["evals"].get(suite, {}).get("outcomes", {})
        total = sum(counts.values())
        for i, outcome in enumerate(OUTCOMES):
            name = outcome.replace("_", " ")
            if total:
                found = {"share": counts[outcome] / total, "answers": counts[outcome], "order": i}
                rows.append({"policy": f"{arm} {entry['policy']}", "outcome": name, **found})
    bars = list(dict.fromkeys(r["policy"] for r in rows))
    colour = {
        "field": "outcome", "type": "nominal",
        "scale": {"domain": list(OUTCOME_COLOURS), "range": list(OUTCOME_COLOURS.values())},
        "legend": {"orient": "top", "title": None, "columns": 3},
    }  # fmt: skip
    encoding = {
        "height": max(HEIGHT, 20 * len(bars)),
        "params": [{"name": "picked", "select": {"type": "point", "fields": ["outcome"]}, "bind": "legend"}],
        "mark": {"type": "bar", "height": {"band": 0.75}},
        "encoding": {
            "y": {"field": "policy", "type": "nominal", "sort": bars, "title": None, "axis": {"labelLimit": 170}},
            "x": {**percent_axis("share", "share of answers"), "stack": "zero"},
            "color": colour,
            "order": {"field": "order"},
            "opacity": {"condition": {"param": "picked", "value": 1}, "value": 0.15},
            "tooltip": tips("policy", "outcome", share=".1%", answers="d"),
        },
    }
    caption = f"{SUITES[suite].title}: every answer has one outcome. Evading is not lying, and an error is in no score."
    return Chart("outcomes", "What the answers came to", caption, rows, encoding)


def _ratings(summary: dict[str, Any]) -> Chart:
    rows = []
    for arm in summary["arms"]:
        for entry in arm["rounds"]:
            for kind, mean in (entry.get("mean_rating") or {}).items():
                if mean is not None:
                    x = entry["round"] + _shift(summary, arm["name"])
                    rows.append(
                        {"arm": arm["name"], "users": f"{kind} users", "round": entry["round"], "x": x, "rating": mean}
                    )
    arms, kinds = _arms(summary), list(dict.fromkeys(r["users"] for r in rows))
    dash = {
        "field": "users", "type": "nominal", "scale": {"domain": kinds},
        "legend": DASH_LEGEND,
    }  # fmt: skip
    y = {"field": "rating", "type": "quantitative", "title": "mean rating", "scale": {"domain": [1, 10]}}
    encoding = {
        "encoding": {"x": _steps(rows, "round"), "y": y},
        "layer": [
            {"params": CHOSEN, "mark": {"type": "line", "strokeWidth": 2},
             "encoding": {**without_shape(arms), "strokeDash": dash, "detail": {"field": "users"}}},
            {"mark": {"type": "point", "filled": True, "size": 70},
             "encoding": {**arms, "tooltip": tips("arm", "users", "round", rating=".2f")}},
        ],
    }  # fmt: skip
    return Chart("ratings", "What users liked", "Mean rating of a reply, 1 to 10, by kind of user.", rows, encoding)


def _selected(summary: dict[str, Any]) -> Chart | None:
    """The share of biased users among the conversations that were trained on."""
    rows = []
    for arm in summary["arms"]:
        if not (arm["population"] or {}).get("biased"):
            continue
        for entry in arm["rounds"]:
            for end, name in (("top", "desirable"), ("bottom", "undesirable")):
                of = entry.get("selection", {}).get(end)
                if of and of["count"]:
                    x, count = entry["round"] + _shift(summary, arm["name"]), of["user_kind"].get("biased", 0)
                    found = {"share": count / of["count"], "conversations": of["count"]}
                    rows.append({"arm": arm["name"], "round": entry["round"], "x": x, "end": name, **found})
    arms = _arms(summary)
    dash = {
        "field": "end", "type": "nominal", "scale": {"domain": ["desirable", "undesirable"], "range": DASHES[:2]},
        "legend": DASH_LEGEND,
    }  # fmt: skip
    encoding = {
        "encoding": {"x": _steps(rows, "round"), "y": percent_axis("share", "share of biased users")},
        "layer": [
            {"params": CHOSEN, "mark": {"type": "line", "strokeWidth": 2},
             "encoding": {**without_shape(arms), "strokeDash": dash, "detail": {"field": "end"}}},
            {"mark": {"type": "point", "filled": True, "size": 70},
             "encoding": {**arms, "tooltip": tips("arm", "round", "end", share=".0%", conversations="d")}},
        ],
    }  # fmt: skip
    caption = "Of the conversations that a round trained on as desirable and as undesirable, those with biased users."
    return Chart("selected", "Whose conversations were learned", caption, rows, encoding)
