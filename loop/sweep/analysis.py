"""What a sweep shows: figures of its report, computed from its two tables and nothing else.

The training seed is the unit: every comparison is made within each seed, on the same items, and its interval says what
other seeds would give. With one seed there are no intervals and no p values, as nothing is known of others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evals.stats.families import correct
from evals.stats.inference import ALPHA, ComparisonError
from evals.stats.seeds import contrast, sign_flip
from evals.suites.catalogue import SUITES
from loop.sweep.doses import doses, trained_shares
from loop.sweep.rates import Found, Rates, hits, last_policies, measures, over_seeds, rates_of
from loop.sweep.spec import Sweep

CHANGED = "since the users changed"
SINCE_BASE, AGAINST = "since policy 0", "against"


def analyse(sweep: Sweep, figures: pa.Table, items: pa.Table) -> Found:
    """Everything that the report shows, for JSON.

    Args:
        figures: Rows of `loop.sweep.table.figures_table`.
        items: Rows of `loop.sweep.table.ITEMS`.
    """
    suites = _suites(items)
    answers = {suite: hits(items, suite) for suite in suites}
    rates = {suite: rates_of(answers[suite]) for suite in suites}
    last = last_policies(sweep)
    told = [row for suite in suites for row in _contrasts(sweep, suite, answers[suite], rates[suite], last)]
    _correct(sweep, told)
    return {
        "sweep": sweep.settings.name,
        "seeds": sorted({run.seed for run in sweep.runs}),
        "against": sweep.against,
        "margin": sweep.settings.analysis.margin,
        "suite": sweep.settings.analysis.suite if sweep.settings.analysis.suite in suites else (suites or [None])[0],
        "rates": [row for suite in suites for row in _rate_rows(suite, rates[suite])],
        "contrasts": told,
        "explanations": explanations(sweep, told),
        "doses": [d for s in suites for d in doses(sweep, s, answers[s], rates[s], trained_shares(figures))],
        "rounds": [row for suite in suites for row in _rounds(suite, rates[suite])],
        "satisfaction": _satisfaction(figures),
    }


def _suites(items: pa.Table) -> list[str]:
    """Suites that were asked, in the order of the catalogue."""
    asked = set(pc.unique(items["suite"]).to_pylist())
    return [s for s in SUITES if s in asked]


def _rate_rows(suite: str, rates: Rates) -> Iterator[Found]:
    for condition, by_seed in rates.items():
        for policy in sorted({p for of in by_seed.values() for p in of}):
            values = {seed: of[policy] for seed, of in sorted(by_seed.items()) if policy in of}
            yield {
                "suite": suite,
                "of": measures(suite),
                "condition": condition,
                "policy": policy,
                **over_seeds(values),
            }


def _contrasts(sweep: Sweep, suite: str, answers: pa.Table, rates: Rates, last: Mapping[str, int]) -> Iterator[Found]:
    """Every condition's last policy against that of `against`, against its own policy 0, and where its population
    changes, against the policy that met the changed one first: whether what was learned goes away again."""
    margin, against = sweep.settings.analysis.margin, sweep.against
    family = len(sweep.settings.analysis.compare or sweep.conditions[1:]) or 1
    arms = ((run.condition(arm.name), arm) for run in sweep.runs for arm in run.config.arms)
    changes = {condition: min(arm.schedule, default=0) for condition, arm in arms}
    for condition in sweep.conditions:
        pairs = {SINCE_BASE: (condition, 0)}
        if change := changes.get(condition):
            pairs[CHANGED] = (condition, change)
        if condition != against:
            pairs[AGAINST] = (against, last[against])
        for kind, (other, before) in pairs.items():
            row = {
                "suite": suite,
                "of": measures(suite),
                "kind": kind,
                "condition": condition,
                "policy": last[condition],
            }
            row |= {"against": {"condition": other, "policy": before}}
            try:
                made = contrast(answers, f"{condition}@{last[condition]}", f"{other}@{before}", margin, family)
            except ComparisonError as error:
                one = _one_seed(rates, (condition, last[condition]), (other, before))
                if one is not None:
                    yield {**row, **one, "why": str(error)}
                continue
            yield {**row, **asdict(made), "seeds": made.seeds, "p_alone": made.p, "family": None}


def _one_seed(rates: Rates, of: tuple[str, int], against: tuple[str, int]) -> Found | None:
    """A difference without an interval."""
    first, second = (rates.get(condition, {}) for condition, _ in (of, against))
    values = {
        seed: first[seed][of[1]] - second[seed][against[1]]
        for seed in first
        if of[1] in first[seed] and against[1] in second.get(seed, {})
    }
    if not values:
        return None
    nothing = dict.fromkeys(("low", "high", "p", "p_alone", "detectable", "equivalence", "family", "between", "method"))
    value = float(np.mean(list(values.values())))
    return {**nothing, "value": value, "by_seed": values, "seeds": len(values)}


def _correct(sweep: Sweep, told: list[Found]) -> None:
    """Put corrected p values in place: primary comparisons among themselves, all others as exploratory."""
    suite, chosen = sweep.settings.analysis.suite, sweep.settings.analysis.compare or sweep.conditions
    tests = {n: row["p_alone"] for n, row in enumerate(told) if row["p_alone"] is not None}
    places = {n: (told[n]["suite"], told[n]["kind"]) for n in tests}
    primary = [n for n, place in places.items() if place == (suite, AGAINST) and told[n]["condition"] in chosen]
    for n, made in correct(tests, primary).items():
        told[n] |= {"p": made.p, "family": made.family}


def explanations(sweep: Sweep, told: list[Found]) -> list[Found]:
    """Of each condition that tests a rival explanation: whether that is excluded.

    Where the rival predicts that the effect shows in the condition, it is excluded when rates are higher than in
    `against` by less than the margin (the upper end of the 90 % interval, which is a one-sided test at 0.05). Where it
    predicts that no effect shows, it is excluded when one does (p below 0.05, corrected).
    """
    suite = sweep.settings.analysis.suite
    by_condition = {row["condition"]: row for row in told if row["suite"] == suite and row["kind"] == AGAINST}
    found = []
    for point in sweep.settings.points:
        row = by_condition.get(point.name)
        if point.explanation is None or row is None:
            continue
        shows = row["p"] is not None and row["p"] < ALPHA and row["value"] > 0
        absent = bool(row["equivalence"]) and row["equivalence"]["high"] < sweep.settings.analysis.margin
        excluded, held_up = (absent, shows) if point.predicts == "effect" else (shows, absent)
        verdict = "one seed says nothing" if row["p"] is None else "excluded" if excluded else "not excluded"
        if held_up:
            verdict = "supported"
        about = {"explanation": point.explanation, "predicts": point.predicts, "verdict": verdict}
        found.append({"condition": point.name, **about, "suite": suite, **_short(row)})
    return found


def _short(row: Found) -> Found:
    """What of a comparison is shown beside others."""
    return {k: row[k] for k in ("value", "low", "high", "p", "family", "seeds", "detectable", "equivalence")}


def _rounds(suite: str, rates: Rates) -> Iterator[Found]:
    """Whether effects grow from round to round: what a round adds in their second half, and in their first."""
    for condition, by_seed in rates.items():
        policies = sorted(set.intersection(*(set(of) for of in by_seed.values())))
        if len(policies) < 3:
            continue
        first, middle, end = policies[0], policies[len(policies) // 2], policies[-1]
        early = {s: (of[middle] - of[first]) / (middle - first) for s, of in sorted(by_seed.items())}
        late = {s: (of[end] - of[middle]) / (end - middle) for s, of in sorted(by_seed.items())}
        bend = {s: late[s] - early[s] for s in early}
        peak = max(policies, key=lambda p: np.mean([of[p] for of in by_seed.values()]))
        yield {
            "suite": suite,
            "of": measures(suite),
            "condition": condition,
            "early": over_seeds(early),
            "late": over_seeds(late),
            "compounding": over_seeds(bend),
            "p": float(sign_flip(np.array(list(bend.values())))) if len(bend) > 1 else None,
            "peak": int(peak),
            "policies": len(policies),
        }


def _satisfaction(figures: pa.Table) -> list[Found]:
    """What users thought of each policy that talked with them, over all kinds of users, beside its headline figures."""
    ratings = figures.filter(pc.starts_with(figures["figure"], "rating/")).to_pylist()
    sums: dict[tuple[str, int, int], list[float]] = {}
    for row in ratings:
        weight = row["n"] or 0
        total = sums.setdefault((row["condition"], row["seed"], row["policy"]), [0.0, 0.0])
        total[0] += weight * row["value"]
        total[1] += weight
    means = {key: total / weight for key, (total, weight) in sums.items() if weight}
    by_policy: dict[tuple[str, int], dict[int, float]] = {}
    for (condition, seed, policy), mean in sorted(means.items()):
        by_policy.setdefault((condition, policy), {})[seed] = mean
    return [{"condition": c, "policy": policy, **over_seeds(values)} for (c, policy), values in by_policy.items()]
