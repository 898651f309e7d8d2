"""The charts of a sweep's report as Vega-Lite; all draw figures of `loop.sweep.analysis`.

A condition has one colour and shape on the whole page. Where there is a dose, the colour is that of its group, which is
what stays the same from dose to dose, and the shape tells the doses apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evals.suites.catalogue import SUITES
from loop.report.charts import ARM_SHAPES, HEIGHT, Chart, chosen, look, named, tips, without_shape
from loop.sweep.analysis import AGAINST, SINCE_BASE
from loop.sweep.rates import Found

RESPONSE = (
    "Small dots are training seeds, large ones their mean with its 95 % interval over seeds. Line and band: the Emax "
    "curve, in which each seed has a level of its own, with its interval."
)
TRAINED = (
    "The same against the share of the conversations trained on whose users were not benign, which is the dose that a "
    "policy really gets."
)
FOREST = (
    "Differences of the last policies, seed by seed (small dots), and their mean with its 95 % interval over seeds and "
    "items. Shaded: the margin within which a difference counts as none."
)
OVER_ROUNDS = "Mean over seeds; bands are 95 % intervals over seeds."
SATISFACTION = (
    "Each policy that talked with users: what they thought of it, and how honest it was. Means over seeds; the numbers "
    "are those of the policies. The last of a condition is missing, since it talked with nobody."
)
Looks = dict[str, tuple[str, str]]
"""Colour and shape by condition."""


def charts(found: Found) -> list[Chart]:
    """Every chart that there are figures for, those of the main suite first."""
    looks, suite = looks_of(found), found["suite"]
    by_suite: dict[str, list[Found]] = {}
    for dose in found["doses"]:
        by_suite.setdefault(dose["suite"], []).append(dose)
    made = []
    for name in sorted(by_suite, key=lambda s: s != suite):
        made.append(_response(by_suite[name], name == suite))
        if name == suite:
            made.append(_trained(by_suite[name]))
    made += [_forest(found, suite, looks), _over_rounds(found, suite, looks), _satisfaction(found, suite, looks)]
    return [chart for chart in made if chart is not None and chart.rows]


def looks_of(found: Found) -> Looks:
    """Colour and shape of every condition."""
    groups = list(dict.fromkeys(dose["group"] for dose in found["doses"]))
    of_doses = {
        point["condition"]: (look(groups.index(dose["group"]))[0], ARM_SHAPES[i % len(ARM_SHAPES)])
        for dose in found["doses"]
        for i, point in enumerate(dose["points"])
    }
    conditions = list(dict.fromkeys(row["condition"] for row in found["rates"]))
    return {c: of_doses.get(c, look(i)) for i, c in enumerate(conditions)}


def _only(what: str) -> list[dict[str, str]]:
    """The rows of a chart that one of its layers draws."""
    return [{"filter": f"datum.what === '{what}'"}]


def _name(dose: Found) -> str:
    return dose["group"] or "all"


def _of_groups(doses: Sequence[Found]) -> dict[str, Any]:
    return named("group", {_name(dose): look(i) for i, dose in enumerate(doses)})


def _axis(field: str, title: str, rows: Sequence[Found], share: bool) -> dict[str, Any]:
    """An axis of doses, with a little room beside them."""
    top = max((row[field] for row in rows), default=1.0)
    low = min((row[field] for row in rows), default=0.0)
    scale = {"domain": [min(low, 0.0) - 0.03 * top, 1.03 * top], "nice": False}
    return {"field": field, "type": "quantitative", "title": title, "scale": scale} | (
        {"axis": {"format": "%", "grid": False}} if share else {"axis": {"grid": False}}
    )


def _free(field: str, title: str) -> dict[str, Any]:
    """An axis of shares that shows what there is, and 0."""
    return {"field": field, "type": "quantitative", "title": title, "axis": {"format": "%", "tickCount": 6}}


def _response(doses: Sequence[Found], wide: bool) -> Chart:
    """Rate over dose: every seed a dot, the mean with its interval over seeds, and the curve with its band."""
    rows: list[Found] = []
    for dose in doses:
        place = {"group": _name(dose)}
        points = dose["points"]
        for p in points:
            at = {**place, "dose": p["dose"], "condition": p["condition"]}
            rows.append({"what": "mean", **at, "rate": p["value"], "low": p["low"], "high": p["high"]})
            rows += [{"what": "seed", **at, "seed": int(s), "rate": v} for s, v in p["by_seed"].items()]
        if curve := dose["emax"]:
            level = _mean([p["value"] - _on_curve(curve["curve"], p["dose"]) for p in points])
            rows += [
                {"what": "curve", **place, "dose": x, "rate": level + mid, "low": level + low, "high": level + high}
                for x, mid, low, high in curve["curve"]
            ]
    first = doses[0]
    groups, title = _of_groups(doses), f"share of {first['of']}"
    line = without_shape(groups)
    y = _free("rate", title)
    encoding = {
        "height": 300 if wide else HEIGHT,
        "encoding": {"x": _axis("dose", first["axis"], rows, _is_share(first["axis"]))},
        "layer": [
            {"transform": _only("curve"), "mark": {"type": "area", "opacity": 0.15},
             "encoding": {"y": _free("low", title), "y2": {"field": "high"}, "color": line["color"]}},
            {"transform": _only("curve"), "params": chosen("group"), "mark": {"type": "line", "strokeWidth": 2},
             "encoding": {"y": y, **line}},
            {"transform": _only("seed"), "mark": {"type": "point", "filled": True, "size": 14, "opacity": 0.4},
             "encoding": {"y": y, "color": line["color"], "tooltip": tips("group", "seed", dose=".2f", rate=".1%")}},
            {"transform": _only("mean"), "mark": {"type": "rule", "strokeWidth": 1.5},
             "encoding": {"y": _free("low", title), "y2": {"field": "high"}, **line}},
            {"transform": _only("mean"), "mark": {"type": "point", "filled": True, "size": 70, "opacity": 1},
             "encoding": {"y": y, **groups,
                          "tooltip": tips("group", "condition", dose=".2f", rate=".1%", low=".1%", high=".1%")}},
        ],
    }  # fmt: skip
    about = SUITES[first["suite"]].title
    return Chart(
        f"dose-{first['suite']}", f"{about}: {first['of']} over {first['axis']}", RESPONSE, rows, encoding, wide
    )


def _is_share(axis: str) -> bool:
    return axis.endswith(("ratio", "share"))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _on_curve(curve: Sequence[Sequence[float]], at: float) -> float:
    import numpy as np

    return float(np.interp(at, [row[0] for row in curve], [row[1] for row in curve]))


def _trained(doses: Sequence[Found]) -> Chart:
    """Rate over the share of what was trained on."""
    rows = [
        {"group": _name(dose), "condition": p["condition"], "trained": p["trained"],
         **{k: p[k] for k in ("low", "high")}, "rate": p["value"]}
        for dose in doses for p in dose["points"] if p["trained"] is not None
    ]  # fmt: skip
    first = doses[0]
    groups, title = _of_groups(doses), f"share of {first['of']}"
    y, line = _free("rate", title), without_shape(groups)
    encoding = {
        "encoding": {"x": _axis("trained", "share of users in training who were not benign", rows, share=True)},
        "layer": [
            {"params": chosen("group"), "mark": {"type": "line", "strokeDash": [3, 3]}, "encoding": {"y": y, **line}},
            {"mark": {"type": "rule", "strokeWidth": 1.5},
             "encoding": {"y": _free("low", title), "y2": {"field": "high"}, **line}},
            {"mark": {"type": "point", "filled": True, "size": 70, "opacity": 1},
             "encoding": {"y": y, **groups,
                          "tooltip": tips("group", "condition", trained=".1%", rate=".1%", low=".1%", high=".1%")}},
        ],
    }  # fmt: skip
    return Chart("dose-trained", "Over what was trained on", TRAINED, rows, encoding)


def _forest(found: Found, suite: str | None, looks: Looks) -> Chart | None:
    """Differences between conditions, the margin shaded."""
    of_kind = {
        k: [r for r in found["contrasts"] if (r["suite"], r["kind"]) == (suite, k)] for k in (AGAINST, SINCE_BASE)
    }
    kind = next((k for k, rows in of_kind.items() if rows), None)
    if kind is None:
        return None
    rows: list[Found] = []
    for r in of_kind[kind]:
        place = {"condition": r["condition"]}
        rows.append(
            {"what": "mean", **place, **{k: r[k] for k in ("low", "high", "p", "seeds")}, "difference": r["value"]}
        )
        rows += [{"what": "seed", **place, "seed": int(s), "difference": v} for s, v in r["by_seed"].items()]
    order = [r["condition"] for r in of_kind[kind]]
    colour = {"field": "condition", "type": "nominal", "legend": None}
    colour |= {"scale": {"domain": order, "range": [looks[c][0] for c in order]}}
    x = {"field": "difference", "type": "quantitative", "title": f"{of_kind[kind][0]['of']}, difference"}
    x |= {"axis": {"format": "+.0%", "tickCount": 6}}
    y = {"field": "condition", "type": "nominal", "sort": order, "title": None, "axis": {"labelLimit": 170}}
    margin = found["margin"]
    encoding = {
        "height": 40 + 26 * len(order),
        "layer": [
            {"data": {"values": [{"from": -margin, "to": margin}]},
             "mark": {"type": "rect", "color": "#888", "opacity": 0.2},
             "encoding": {"x": {**x, "field": "from"}, "x2": {"field": "to"}}},
            {"data": {"values": [{"at": 0}]}, "mark": {"type": "rule", "color": "#888"},
             "encoding": {"x": {**x, "field": "at"}}},
            {"transform": _only("seed"), "mark": {"type": "point", "filled": True, "size": 14, "opacity": 0.45},
             "encoding": {"x": x, "y": y, "color": colour, "tooltip": tips("condition", "seed", difference="+.1%")}},
            {"transform": _only("mean"), "mark": {"type": "rule", "strokeWidth": 2},
             "encoding": {"x": {**x, "field": "low"}, "x2": {"field": "high"}, "y": y, "color": colour}},
            {"transform": _only("mean"), "mark": {"type": "point", "filled": True, "size": 70, "opacity": 1},
             "encoding": {"x": x, "y": y, "color": colour,
                          "tooltip": tips("condition", difference="+.1%", low="+.1%", high="+.1%", p=".3f")}},
        ],
    }  # fmt: skip
    title = f"Against {found['against']}" if kind == AGAINST else "Since policy 0"
    return Chart("forest", f"{SUITES[suite].title}: {title}", FOREST, rows, encoding)


def _over_rounds(found: Found, suite: str | None, looks: Looks) -> Chart | None:
    """Rates of every condition from policy to policy, with bands over seeds."""
    mine = [row for row in found["rates"] if row["suite"] == suite]
    if not mine:
        return None
    rows = [
        {**{k: r[k] for k in ("condition", "policy", "low", "high", "seeds")}, "rate": r["value"]}
        for r in mine
    ]  # fmt: skip
    of, title = named("condition", looks), f"share of {mine[0]['of']}"
    y, line = _free("rate", title), without_shape(of)
    policies = sorted({r["policy"] for r in rows})
    x = {"field": "policy", "type": "quantitative", "axis": {"values": policies, "format": "d", "grid": False}}
    encoding = {
        "encoding": {"x": x},
        "layer": [
            {"params": chosen("condition"), "mark": {"type": "line", "strokeWidth": 2}, "encoding": {"y": y, **line}},
            {"mark": {"type": "area"},
             "encoding": {"y": _free("low", title), "y2": {"field": "high"}, "color": line["color"],
                          "opacity": {"condition": {"param": "chosen", "value": 0.1}, "value": 0.02}}},
            {"mark": {"type": "point", "filled": True, "size": 60},
             "encoding": {"y": y, **of,
                          "tooltip": tips("condition", "policy", rate=".1%", low=".1%", high=".1%", seeds="d")}},
        ],
    }  # fmt: skip
    return Chart("rounds", f"{SUITES[suite].title}: over the rounds", OVER_ROUNDS, rows, encoding)


def _satisfaction(found: Found, suite: str | None, looks: Looks) -> Chart | None:
    """Honesty against satisfaction: a way from policy to policy for each condition."""
    liked = {(r["condition"], r["policy"]): r["value"] for r in found["satisfaction"]}
    rows = [
        {"condition": r["condition"], "policy": r["policy"], "rating": liked[r["condition"], r["policy"]],
         "honest": 1 - r["value"]}
        for r in found["rates"]
        if (r["suite"], r["of"]) == (suite, "lies") and (r["condition"], r["policy"]) in liked
    ]  # fmt: skip
    of = named("condition", looks)
    x = {"field": "rating", "type": "quantitative", "title": "mean rating of a reply by users, 1 to 10"}
    x |= {"scale": {"zero": False, "nice": True, "padding": 20}, "axis": {"tickCount": 5}}
    y = _free("honest", "answers that are no lies")
    encoding = {
        "encoding": {"x": x, "y": {**y, "scale": {"zero": False}}, "order": {"field": "policy"}},
        "layer": [
            {"params": chosen("condition"), "mark": {"type": "line", "strokeWidth": 1.5},
             "encoding": without_shape(of)},
            {"mark": {"type": "point", "filled": True, "size": 60},
             "encoding": {**of, "tooltip": tips("condition", "policy", rating=".2f", honest=".1%")}},
            {"mark": {"type": "text", "dy": -10, "fontSize": 11},
             "encoding": {"text": {"field": "policy"}, "opacity": of["opacity"]}},
        ],
    }  # fmt: skip
    return Chart("satisfaction", "Honesty against satisfaction", SATISFACTION, rows, encoding)
