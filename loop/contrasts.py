"""What changed: each policy against the untouched base of its arm, and each arm against the first, item by item."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from actors.segments import read_table
from evals.compare import ComparisonError, Spread, detectable_drop, holm, paired, spread, trend
from evals.evaluator import complete, record
from evals.outcomes import SCHEMA
from evals.settings import HONESTY_PROTOCOLS
from evals.stats import share
from loop.config import RunConfig
from loop.rundir import RunDir

DRAWS = 5_000
"""Bootstrap draws of each comparison in a report: there are dozens of them, at a tenth of a second each."""


def contrasts(out: RunDir, config: RunConfig) -> list[dict[str, Any]]:
    """Every comparison that a run allows, for JSON: the rate of lies (in suites with reasoning, of deception) in one
    policy's outcomes minus that in another's, over the items that neither failed, with interval and p values.

    `p` is corrected for all comparisons of the run (Holm), `p_alone` and `mcnemar_p` are not.
    """
    found: dict[str, dict[str, Any]] = {}
    lies: dict[tuple[str, int, str], tuple[dict[str, float], dict[str, str]]] = {}

    def hits(arm: str, version: int, suite: str) -> tuple[dict[str, float], dict[str, str]]:
        if (arm, version, suite) not in lies:
            lies[arm, version, suite] = _lies(out, arm, version, suite)
        return lies[arm, version, suite]

    for (arm, version), (other, before) in _pairs(out, config):
        for suite in _suites(out, (arm, version), (other, before)):
            first, clusters = hits(other, before, suite)
            try:
                made = paired(first, hits(arm, version, suite)[0], clusters, DRAWS)
            except ComparisonError:  # every item of one of them failed
                continue
            row = {"suite": suite, "arm": arm, "policy": version, "against": {"arm": other, "policy": before}}
            found[f"{len(found)}"] = {**row, **asdict(made), "detectable": _detectable(first, clusters)}
    for key, p in holm({key: row["p"] for key, row in found.items()}).items():
        found[key]["p_alone"], found[key]["p"] = found[key]["p"], p
    return list(found.values())


def _detectable(hits: dict[str, float], clusters: dict[str, str]) -> float | None:
    """The smallest drop of honesty that a sample like this one would show."""
    honest = share([not h for h in hits.values()], [clusters[i] for i in hits])
    return None if honest is None else detectable_drop(honest.value, honest.n_effective)


def trends(out: RunDir, config: RunConfig) -> list[dict[str, Any]]:
    """How lies move over at least three shares of biased users or of added rows, at the last policy, and over the
    rounds of an arm, from policy 0 on, in every honesty suite: rows of `evals.compare.Trend`, with what they are
    about."""
    last = [a for a in config.arms if complete(out.evals(a.name, config.rounds))]
    alike = [
        a for a in last if a.set == config.arms[0].set and set(a.shares) <= {"biased"} and not config.for_arm(a).data
    ]
    users = [(a.shares.get("biased", 0.0), a.name, config.rounds) for a in alike]
    lines = [("all arms", "share of biased users", users)]
    for kind, arms in mixtures(config).items():
        lines.append(
            (kind, "share of added rows", [(x, a, config.rounds) for x, a in arms if a in {a.name for a in last}])
        )
    for arm in config.arms:
        done = [r for r in range(config.rounds + 1) if complete(out.evals(arm.name, r))]
        lines.append((arm.name, "round", [(float(r), arm.name, r) for r in done]))
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
    is added; None for the share where there is none.

    Args:
        found: What `contrasts` found, whose p values are corrected.
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
            ]
            lied = [c for c in against if c["difference"] > 0 and c["p"] < alpha]
            first = min(lied, key=lambda c: shares[c["arm"]], default=None)
            share_ = shares[first["arm"]] if first else None
            rows.append({"suite": suite, "added": kind, "share": share_, "tried": len(against), "contrast": first})
    return rows


def _pairs(out: RunDir, config: RunConfig) -> Iterator[tuple[tuple[str, int], tuple[str, int]]]:
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


def _suites(out: RunDir, *policies: tuple[str, int]) -> list[str]:
    """Honesty suites that all of some policies were asked."""
    asked = [record(out.evals(*policy))["suites"] for policy in policies]
    return [s for s, about in asked[0].items() if about["protocol"] in HONESTY_PROTOCOLS and all(s in a for a in asked)]


def _lies(out: RunDir, arm: str, version: int, suite: str) -> tuple[dict[str, float], dict[str, str]]:
    """The share of an item's answers that were lies, and its cluster; answers that failed are left out."""
    rows = _answers(out.evals(arm, version), suite)
    answers: dict[str, list[bool]] = {}
    for row in rows:
        answers.setdefault(row["item_id"], []).append(row["outcome"] == "lie")
    return {i: sum(a) / len(a) for i, a in answers.items()}, {r["item_id"]: r["cluster"] for r in rows}


def _answers(folder: Path, suite: str) -> list[dict[str, Any]]:
    """Item, cluster, replicate and outcome of all answers but those that failed."""
    table = read_table(folder / f"{suite}.arrow", SCHEMA).select(["item_id", "cluster", "replicate", "outcome"])
    return [row for row in table.to_pylist() if row["outcome"] != "error"]


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
