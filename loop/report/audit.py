"""Rows about what the rounds of a run did: how users were played, what was trained on, and what it all cost."""

from __future__ import annotations

from collections import Counter
from typing import Any

from actors.conduct import FLAGS
from actors.models.usage import UsageTotals
from actors.settings import Prices

CONDUCT = (*FLAGS, "ended_early", "rating_mass", "validates", "contradicts")


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
                        "left_out": _counted({"bad": of.get("dropped", 0), "twice": of.get("duplicates", 0)}),
                        **_trained(entry.get("trained") if part == "base" else None),
                        "bad": of.get("dropped_rows", []),
                        "bad_count": of.get("dropped", 0),
                    }
                )
    return rows


def _trained(of: dict[str, Any] | None) -> dict[str, str]:
    """How many rows of an arm were trained on, and how many were left out then."""
    return {"trained": str(of["rows"]) if of else "-", "untrained": _counted(of["dropped"]) if of else "-"}


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{n} {why}" for why, n in counts.items() if n) or "-"


def cost_rows(summary: dict[str, Any]) -> list[dict[str, str]]:
    """Requests, tokens, failed requests and money by arm, role and model, all rounds together."""
    rows = []
    for arm in summary["arms"]:
        totals = UsageTotals()
        for entry in arm["rounds"]:
            totals.add(entry.get("usage", ()))
            totals.add(entry.get("evals_usage", ()))
            for f in entry.get("faults", ()):
                totals.entries.setdefault((f["role"], f["model"]), Counter())["faults"] += f["count"]
        for (role, model), line in totals.entries.items():
            price = summary["prices"].get(model)
            figures = {k: f"{line[k]:,}" for k in ("requests", "faults", "prompt_tokens", "completion_tokens")}
            cost = price and Prices(**price).of(line["prompt_tokens"], line["completion_tokens"])
            money = "-" if cost is None else f"{cost:,.4f}"
            rows.append({"arm": arm["name"], "role": role, "model": model, **figures, "cost": money})
    return rows


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"
