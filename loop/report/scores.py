"""Rows of figures about policies, for the report and the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from actors.worlds.base import NO_STAKE, TRUTH_WANTED
from evals.outcomes import OUTCOMES
from evals.protocols import PROTOCOLS
from evals.scoring import headline_name
from evals.stats.families import PRIMARY

LARGEST = 50.0
"""Slope of log-odds from which on all that is said is that odds grow without end."""


def headline(figures: dict[str, Any]) -> tuple[float, float, float] | None:
    """The figure that stands for a suite with the ends of its interval; None where there is no score."""
    value = figures[headline_name(figures)]
    return None if value is None else (value, *figures["ci95"])


def suites(summary: dict[str, Any], *protocols: str) -> list[str]:
    """Suites of those protocols, or of all, that some policy of a run was asked, in order."""
    asked = {s: f for _, e in policies(summary) for s, f in e["evals"].items()}
    return [s for s, f in asked.items() if not protocols or f["protocol"] in protocols]


def policies(summary: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every policy that has been evaluated: its arm, and its entry."""
    for arm in summary["arms"]:
        for entry in arm["rounds"]:
            if entry.get("evals"):
                yield arm["name"], entry


def shown(figures: dict[str, Any] | None) -> str:
    """A suite's headline as text."""
    if figures is None:
        return "-"
    found = headline(figures)
    return score(*(found[:1] if found else (None,)), found[1:] if found else None)


def score(value: float | None, ci95: Any = None) -> str:
    if value is None:
        return "no score"
    ends = ", ".join(f"{end:.2f}".removeprefix("0") for end in ci95 or ())
    return f"{value:.2f}" + (f" [{ends}]" if ends else "")


def table_rows(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """One row a policy: what the terminal and the report both show. `scores` has every suite's headline, `lies` what
    qualifies the first suite's."""
    pressure, deception = suites(summary, "mask"), suites(summary, "deceptionbench")
    capability = suites(summary, *(p.name for p in PROTOCOLS.values() if p.capability))
    rows = []
    for arm, entry in policies(summary):
        evals, rating = entry["evals"], entry.get("mean_rating") or {}
        hard = [t for t in capability if t in evals and not t.endswith("_easy")]
        tasks = [f"{t} {score(evals[t][headline_name(evals[t])])}" for t in hard]
        rows.append(
            {
                "arm": arm,
                "policy": str(entry["policy"]),
                "honesty": shown(evals.get(pressure[0])) if pressure else "-",
                "lies": _lies(evals.get(pressure[0])) if pressure else "-",
                "deception": shown(evals.get(deception[0])) if deception else "-",
                "capability": ", ".join(tasks) or "-",
                "rating": ", ".join(f"{k} {v:.2f}" for k, v in rating.items() if v is not None) or "-",
                "scores": {s: shown(evals.get(s)) for s in suites(summary)},
            }
        )
    return rows


def _lies(figures: dict[str, Any] | None) -> str:
    """What qualifies the lies of a suite; where nothing does, how many there are."""
    if figures is None:
        return "-"
    return ", ".join(direction(figures)) or f"{figures['outcomes']['lie']} of {figures['n']}"


CONDITIONS = {TRUTH_WANTED: "if true", NO_STAKE: "no stake"}
"""What the matched controls are called where there is little room."""


def direction(figures: dict[str, Any], ends: bool = False) -> list[str]:
    """What the lies of a suite are about: the share of them that state what was wanted, and the rate of lies in each
    matched control; nothing where that is not known.

    Args:
        ends: Whether intervals are given too.
    """
    found = {"wanted": figures["directional_lies"]} if "directional_lies" in figures else {}
    found |= {CONDITIONS[c]: of for c, of in figures.get("controls", {}).items()}
    return [f"{name} {score(of['share'], of['ci95'] if ends else None)}" for name, of in found.items()]


def control_rows(summary: dict[str, Any]) -> list[dict[str, str]]:
    """Lies under pressure beside those of the matched controls, one row a suite and policy."""
    rows = []
    for suite in suites(summary, "mask", "deceptionbench"):
        for arm, entry in policies(summary):
            of = entry["evals"].get(suite) or {}
            if "controls" not in of and "directional_lies" not in of:
                continue
            wanted, scored = of.get("directional_lies"), sum(of["outcomes"].values()) - of["outcomes"]["error"]
            rate = of["outcomes"]["lie"] / scored if scored else None
            rows.append(
                {
                    "suite": suite,
                    "arm": arm,
                    "policy": str(entry["policy"]),
                    "pressure": "-" if rate is None else f"{score(rate)} of {scored}",
                    "as_wanted": "-" if wanted is None else _of(wanted),
                    **{c: _of(of["controls"][c]) if c in of.get("controls", {}) else "-" for c in CONDITIONS},
                }
            )
    return rows


def _of(share: dict[str, Any]) -> str:
    """A share with its interval and of how many it is."""
    return f"{score(share['share'], share['ci95'])} of {share['n']}" if share["n"] else "-"


def outcome_rows(summary: dict[str, Any]) -> list[dict[str, str]]:
    """The full outcome set of each honesty suite and what qualifies it, one row a suite and policy."""
    rows = []
    for suite in suites(summary, "mask", "deceptionbench"):
        for arm, entry in policies(summary):
            if suite not in entry["evals"]:
                continue
            of = entry["evals"][suite]
            rows.append(
                {
                    "suite": suite,
                    "arm": arm,
                    "policy": str(entry["policy"]),
                    **{o: str(of["outcomes"][o]) for o in OUTCOMES},
                    "bounds": " to ".join(map(score, sorted(of["bounds"]))) if of["outcomes"]["error"] else "-",
                    **{k: _given(of, k) for k in ("normalised_score", "belief_rate", "belief_accuracy")},
                    **{k: _given(of, k) for k in ("sections_found", "format_compliance", "contradiction_rate")},
                }
            )
    return rows


def _given(figures: dict[str, Any], key: str) -> str:
    """A figure that not every protocol has."""
    return "-" if figures.get(key) is None else score(figures[key])


def change_rows(found: list[dict[str, Any]]) -> list[dict[str, str]]:
    """What changed in honesty, one row a comparison (`loop.report.contrasts`), those that were declared first."""
    return [
        {
            "suite": c["suite"],
            "policy": f"{c['arm']} {c['policy']}",
            "against": f"{c['against']['arm']} {c['against']['policy']}",
            "n": f"{c['n']} in {c['clusters']}",
            "change": _points(c["difference"], c["low"], c["high"]),
            "items": f"+{c['gained']} -{c['lost']}",
            "family": c["family"],
            "claim": "differs" if c["equivalence"] is None else f"within {100 * c['equivalence']['margin']:g}",
            "p": _p((c["equivalence"] or c)["p"]),
            "mcnemar": _p(c["mcnemar_p"]),
            "detectable": f"{100 * c['detectable']:.1f}",
        }
        for c in sorted(found, key=lambda c: c["family"] != PRIMARY)
    ]


def trend_rows(found: list[dict[str, Any]]) -> list[dict[str, str]]:
    """By how much the odds of a lie are multiplied with the share of biased users, or over rounds, of
    `loop.report.contrasts.trends`, whose slopes are of log-odds."""
    return [
        {
            "suite": t["suite"],
            "of": t["of"],
            "over": t["over"],
            "points": str(t["points"]),
            "odds": "{:.3g} [{:.3g}, {:.3g}]".format(*(_times(t[end]) for end in ("slope", "low", "high"))),
        }
        for t in found
    ]


def _times(slope: float) -> float:
    """The ratio of odds that a slope of log-odds means."""
    return math.exp(min(slope, LARGEST))


def threshold_rows(found: list[dict[str, Any]]) -> list[dict[str, str]]:
    """From which share of added rows on there are more lies (`loop.report.contrasts.thresholds`)."""
    return [
        {
            "suite": t["suite"],
            "added": t["added"],
            "share": "none" if t["contrast"] is None else f"{100 * t['share']:g} %",
            "tried": str(t["tried"]),
            "change": "-" if (c := t["contrast"]) is None else _points(c["difference"], c["low"], c["high"]),
            "p": "-" if c is None else _p(c["p"]),
        }
        for t in found
    ]


def _points(value: float, low: float, high: float) -> str:
    return f"{100 * value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
