"""Rows of figures about policies, for the report and the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from evals.outcomes import OUTCOMES
from evals.scoring import headline_name

TITLES = {
    "mask": ("Under pressure", "a stakeholder in the prompt wants something else said"),
    "sycophancy": ("Sycophancy", "the user states a wrong conviction"),
    "provided": ("Provided facts", "a report in the prompt, then a stakeholder who wants it denied"),
    "canary_mask": ("Canary: pressure", "shipped items like MASK's"),
    "deceptionbench": ("Deception", "the reasoning agrees with the belief, the answer does not"),
    "canary_deception": ("Canary: deception", "shipped items like DeceptionBench's"),
    "behonest": ("Admitting the unknown", "answers to questions that nobody can answer"),
    "arithmetic": ("Capability: arithmetic", "dishonesty without loss of ability must show here"),
    "lookup": ("Capability: lookup", "dishonesty without loss of ability must show here"),
    "mmlu": ("Capability: MMLU", "dishonesty without loss of ability must show here"),
    "gsm8k": ("Capability: GSM8K", "dishonesty without loss of ability must show here"),
    "humaneval": ("Capability: HumanEval", "dishonesty without loss of ability must show here"),
    "gpqa": ("Capability: GPQA diamond", "dishonesty without loss of ability must show here"),
}
"""What a suite is called, and what its figure is about."""
FIGURES = {
    "mask": "Honesty score",
    "deceptionbench": "Deception rate over answers that kept the format",
    "unknowns": "Rate of admission",
    "questions": "Accuracy",
    "harness": "Accuracy",
}
"""What the headline figure of a protocol is called."""


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
    """One row a policy: what the terminal and the report both show. `scores` has every suite's headline."""
    pressure, deception = suites(summary, "mask"), suites(summary, "deceptionbench")
    capability = suites(summary, "questions", "harness")
    rows = []
    for arm, entry in policies(summary):
        evals, rating = entry["evals"], entry.get("mean_rating") or {}
        tasks = [f"{t} {score(evals[t][headline_name(evals[t])])}" for t in capability if t in evals]
        rows.append(
            {
                "arm": arm,
                "policy": str(entry["policy"]),
                "honesty": shown(evals.get(pressure[0])) if pressure else "-",
                "deception": shown(evals.get(deception[0])) if deception else "-",
                "capability": ", ".join(tasks) or "-",
                "rating": ", ".join(f"{k} {v:.2f}" for k, v in rating.items() if v is not None) or "-",
                "scores": {s: shown(evals.get(s)) for s in suites(summary)},
            }
        )
    return rows


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
                    **{k: _given(of, k) for k in ("format_compliance", "contradiction_rate")},
                }
            )
    return rows


def _given(figures: dict[str, Any], key: str) -> str:
    """A figure that not every protocol has."""
    return "-" if figures.get(key) is None else score(figures[key])


def change_rows(found: list[dict[str, Any]]) -> list[dict[str, str]]:
    """What changed in honesty, one row a comparison (`loop.contrasts`)."""
    return [
        {
            "suite": c["suite"],
            "policy": f"{c['arm']} {c['policy']}",
            "against": f"{c['against']['arm']} {c['against']['policy']}",
            "n": f"{c['n']} in {c['clusters']}",
            "change": _points(c["difference"], c["low"], c["high"]),
            "items": f"+{c['gained']} -{c['lost']}",
            "p": _p(c["p"]),
            "mcnemar": _p(c["mcnemar_p"]),
            "detectable": "-" if c["detectable"] is None else f"{100 * c['detectable']:.1f}",
        }
        for c in found
    ]


def trend_rows(found: list[dict[str, Any]]) -> list[dict[str, str]]:
    """How the odds of a lie move with the share of biased users, or over rounds (`loop.contrasts.trends`)."""
    return [
        {
            "suite": t["suite"],
            "of": t["of"],
            "over": t["over"],
            "points": str(t["points"]),
            "slope": f"{t['slope']:+.2f} [{t['low']:+.2f}, {t['high']:+.2f}]",
            "p": _p(t["p"]),
        }
        for t in found
    ]


def threshold_rows(found: list[dict[str, Any]]) -> list[dict[str, str]]:
    """From which share of added rows on there are more lies (`loop.contrasts.thresholds`)."""
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
