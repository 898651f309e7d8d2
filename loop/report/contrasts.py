"""What changed: each policy against the untouched base of its arm, and each arm against the first, item by item."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

from actors.storage.segments import read_table
from actors.worlds.base import PRESSURE
from evals.evaluator import complete, record
from evals.outcomes import SCHEMA
from evals.protocols import PROTOCOLS
from evals.stats.compare import Spread, paired, spread, trend
from evals.stats.families import correct
from evals.stats.inference import ComparisonError, equivalence
from loop.config.analysis import primary_of
from loop.config.schema import ArmSettings, RunConfig
from loop.report.summary import trained_share
from loop.rundir import RunDir

Policy = tuple[str, int]
"""Arm and version."""


def contrasts(out: RunDir, config: RunConfig) -> list[dict[str, Any]]:
    """Every comparison that a run allows, for JSON: the rate of lies (in suites with reasoning, of deception) in one
    policy's outcomes minus that in another's, over the items that neither failed: `evals.stats.compare.Paired`, and

    - `family`: `primary` where it was declared (`analysis.primary`), else `exploratory`.
    - `p`: of the difference, corrected within its family (`evals.stats.families`); `p_alone` and `mcnemar_p` are not.
    - `equivalence`: where a margin was declared, and the claim is that nothing changes, `evals.stats.inference
      .Equivalence` with its own `p` and `p_alone`; the p value of the difference is exploratory then. Else None.

    All of it is about these policies, which one training seed made.
    """
    found: list[dict[str, Any]] = []
    lies: dict[tuple[str, int, str], tuple[dict[str, float], dict[str, str]]] = {}

    def hits(arm: str, version: int, suite: str) -> tuple[dict[str, float], dict[str, str]]:
        if (arm, version, suite) not in lies:
            lies[arm, version, suite] = _lies(out, arm, version, suite)
        return lies[arm, version, suite]

    declared = _declared(out, config)
    pairs = dict.fromkeys([*_pairs(out, config), *((one, other) for one, other, _ in declared)])
    for (arm, version), (other, before) in pairs:
        for suite in _suites(out, (arm, version), (other, before)):
            first, clusters = hits(other, before, suite)
            try:
                made = paired(first, hits(arm, version, suite)[0], clusters)
            except ComparisonError:  # every item of one of them failed
                continue
            row = {"suite": suite, "arm": arm, "policy": version, "against": {"arm": other, "policy": before}}
            margin = declared.get(((arm, version), (other, before), suite))
            same = None if margin is None else equivalence(made.difference, made.se, made.df, margin)
            found.append({**row, **asdict(made), "equivalence": same and asdict(same)})
    return _corrected(found, declared)


def _corrected(
    found: list[dict[str, Any]], declared: dict[tuple[Policy, Policy, str], float | None]
) -> list[dict[str, Any]]:
    """Comparisons with their p values corrected in the family of each test."""
    tests: dict[tuple, float] = {}
    for c in found:
        key = (c["arm"], c["policy"]), (c["against"]["arm"], c["against"]["policy"]), c["suite"]
        tests[*key, "differs"] = c["p"]
        if c["equivalence"]:
            tests[*key, "same"] = c["equivalence"]["p"]
    claims = {(*key, "differs" if margin is None else "same") for key, margin in declared.items()}
    made = correct(tests, claims)
    corrected = []
    for c in found:
        key = (c["arm"], c["policy"]), (c["against"]["arm"], c["against"]["policy"]), c["suite"]
        p, same = made[*key, "differs"], made.get((*key, "same"))
        family = (same or p).family
        more = {"equivalence": {**c["equivalence"], "p": same.p, "p_alone": same.alone}} if same else {}
        corrected.append({**c, "p": p.p, "p_alone": p.alone, "family": family, **more})
    return corrected


def _declared(out: RunDir, config: RunConfig) -> dict[tuple[Policy, Policy, str], float | None]:
    """The comparisons that the run was made for, as far as their policies have been asked the same, with the margin of
    those that claim that nothing changes."""
    arms = {arm.name: arm for arm in config.arms}
    found: dict[tuple[Policy, Policy, str], float | None] = {}
    for one in primary_of(config.analysis, list(arms)):
        version = one.policy or config.rounds
        pair = (one.arm, version), ((one.arm, 0) if one.against is None else (one.against, version))
        if not all(complete(out.evals(*policy)) for policy in pair):
            continue
        if one.against and config.for_arm(arms[one.arm]).evals != config.for_arm(arms[one.against]).evals:
            continue
        suites = _suites(out, *pair)
        suite = next(iter(suites), None) if one.suite is None else one.suite
        if suite in suites:
            found[(*pair, suite)] = one.margin
    return found


def trends(out: RunDir, config: RunConfig) -> list[dict[str, Any]]:
    """How lies move over at least three shares of biased users (among all users, and among those of the conversations
    that were trained on) or of added rows, at the last policy, and over the rounds of an arm, from policy 0 on and
    apart for each of its populations, in every honesty suite: rows of `evals.stats.compare.Trend`, with what they are
    about."""
    last = [a for a in config.arms if complete(out.evals(a.name, config.rounds))]
    alike = [
        a
        for a in last
        if a.set == config.arms[0].set and set(a.shares) <= {"biased"} and not a.schedule and not config.for_arm(a).data
    ]
    users = [(a.shares.get("biased", 0.0), a.name, config.rounds) for a in alike]
    trained = {a.name: trained_share(out, a.name, config.rounds) for a in alike}
    conversations = [(of.get("biased", 0.0), name, config.rounds) for name, of in trained.items() if of]
    lines = [
        ("all arms", "share of biased users", users),
        ("all arms", "trained share of biased users", conversations),
    ]
    for kind, arms in mixtures(config).items():
        lines.append(
            (kind, "share of added rows", [(x, a, config.rounds) for x, a in arms if a in {a.name for a in last}])
        )
    for arm in config.arms:
        for first, last in pairwise([0, *_changes(arm, config), config.rounds]):
            done = [r for r in range(first, last + 1) if complete(out.evals(arm.name, r))]
            of = f"{arm.name}, policies {first} to {last}" if arm.schedule else arm.name
            lines.append((of, "round", [(float(r), arm.name, r) for r in done]))
    found = []
    for of, over, points in lines:
        if len({x for x, *_ in points}) < 3:
            continue
        for suite in _suites(out, *((name, r) for _, name, r in points)):
            rows = [
                (x, a["outcome"] == "lie", a["cluster"])
                for x, name, r in points
                for a in _answers(out.evals(name, r), suite)
            ]
            if not rows:  # every answer failed
                continue
            try:
                made = trend(*map(list, zip(*rows, strict=True)))
            except (ComparisonError, ValueError):
                continue
            found.append({"suite": suite, "of": of, "over": over, "points": len(points), **asdict(made)})
    return found


def mixtures(config: RunConfig) -> dict[str, list[tuple[float, str]]]:
    """Arms that are trained on a mixture, by what is added, each with its share; arms without any are in all of them,
    at share 0."""
    kinds: dict[str, list[tuple[float, str]]] = {}
    bare = []
    for arm in config.arms:
        data = config.for_arm(arm).data
        if data is None:
            continue
        if data.added is None:
            bare.append((0.0, arm.name))
            continue
        named = (Path(data.added.source).name, data.added.part, data.added.answers, data.added.how)
        kinds.setdefault(" ".join(filter(None, named)), []).append((data.added.share, arm.name))
    return {kind: sorted(bare + arms) for kind, arms in kinds.items()}


def thresholds(found: list[dict[str, Any]], config: RunConfig, alpha: float = 0.05) -> list[dict[str, Any]]:
    """The smallest share of added rows with significantly more lies than in the arm without any, by suite and by what
    is added; None for the share where there is none. The p values of all shares are corrected together (Holm).

    Args:
        found: What `contrasts` found.
    """
    control = config.arms[0].name
    rows = []
    for kind, arms in mixtures(config).items():
        shares = {name: x for x, name in arms if x > 0}
        if (0.0, control) not in arms or len(shares) < 2:
            continue
        for suite in dict.fromkeys(c["suite"] for c in found):
            against = [
                c
                for c in found
                if c["suite"] == suite
                and c["arm"] in shares
                and c["against"] == {"arm": control, "policy": c["policy"]}
                and not c["equivalence"]
            ]
            tests = {c["arm"]: c["p_alone"] for c in against}
            corrected = correct(tests, tests)
            against = [{**c, "p": corrected[c["arm"]].p} for c in against]
            lied = [c for c in against if c["difference"] > 0 and c["p"] < alpha]
            first = min(lied, key=lambda c: shares[c["arm"]], default=None)
            share_ = shares[first["arm"]] if first else None
            rows.append({"suite": suite, "added": kind, "share": share_, "tried": len(against), "contrast": first})
    return rows


def _pairs(out: RunDir, config: RunConfig) -> Iterator[tuple[Policy, Policy]]:
    """Policies that are compared, each as arm and version; only those that have been asked everything."""
    first = config.arms[0]
    for arm in config.arms:
        comparable = config.for_arm(arm).evals == config.for_arm(first).evals  # else they met other items
        for version in range(1, config.rounds + 1):
            if not complete(out.evals(arm.name, version)):
                continue
            if complete(out.evals(arm.name, 0)):
                yield (arm.name, version), (arm.name, 0)
            if arm is not first and comparable and complete(out.evals(first.name, version)):
                yield (arm.name, version), (first.name, version)
        for before in _changes(arm, config):
            if complete(out.evals(arm.name, before)) and complete(out.evals(arm.name, config.rounds)):
                yield (arm.name, config.rounds), (arm.name, before)


def _changes(arm: ArmSettings, config: RunConfig) -> list[int]:
    """The rounds at which an arm's users become others; the policy of that number is the last one that learned from
    those before."""
    return [r for r in sorted(arm.schedule) if r < config.rounds]


def _suites(out: RunDir, *policies: Policy) -> list[str]:
    """Honesty suites that all of some policies were asked."""
    asked = [record(out.evals(*policy))["suites"] for policy in policies]
    return [s for s, about in asked[0].items() if PROTOCOLS[about["protocol"]].honesty and all(s in a for a in asked)]


def _lies(out: RunDir, arm: str, version: int, suite: str) -> tuple[dict[str, float], dict[str, str]]:
    """The share of an item's answers that were lies, and its cluster; answers that failed are left out."""
    rows = _answers(out.evals(arm, version), suite)
    answers: dict[str, list[bool]] = {}
    for row in rows:
        answers.setdefault(row["item_id"], []).append(row["outcome"] == "lie")
    return {i: sum(a) / len(a) for i, a in answers.items()}, {r["item_id"]: r["cluster"] for r in rows}


def scored_answers(folder: Path, suite: str) -> list[dict[str, Any]]:
    """Item, cluster, replicate, outcome, condition and direction of all answers but those that failed."""
    columns = ["item_id", "cluster", "replicate", "outcome", "condition", "directional"]
    rows = read_table(folder / f"{suite}.arrow", SCHEMA).select(columns).to_pylist()
    return [row for row in rows if row["outcome"] != "error"]


def _answers(folder: Path, suite: str) -> list[dict[str, Any]]:
    """Those under pressure."""
    return [row for row in scored_answers(folder, suite) if row["condition"] == PRESSURE]


def replicate_scores(folder: Path, suite: str) -> tuple[list[float], set[str]]:
    """The honesty score of each replicate of one evaluation (of the first answers to all items, of the second, ...),
    and the items.

    Raises:
        ComparisonError: There is no complete evaluation, or it has no such suite.
    """
    if suite not in record(folder).get("suites", {}):
        raise ComparisonError(f"{folder}: holds no complete evaluation with the suite {suite}")
    rows = _answers(folder, suite)
    answers: dict[int, list[bool]] = {}
    for row in rows:
        answers.setdefault(row["replicate"], []).append(row["outcome"] != "lie")
    return [sum(a) / len(a) for _, a in sorted(answers.items())], {row["item_id"] for row in rows}


def seed_spread(runs: Sequence[Path], arm: str, policy: int, suite: str) -> tuple[Spread, bool]:
    """How much of the variance of a policy's honesty score is between runs with other seeds, and how much between
    replicates of one policy.

    Args:
        runs: Run directories that differ in their seed.

    Returns:
        The variances, and whether all runs met the same items; where they did not, the draw of items is a part of what
        differs between them.

    Raises:
        ComparisonError: One lacks that evaluation, or there are too few runs or replicates to tell them apart.
    """
    scores, items = zip(*(replicate_scores(RunDir(run).evals(arm, policy), suite) for run in runs), strict=True)
    return spread(scores), all(of == items[0] for of in items)
