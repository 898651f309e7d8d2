"""How reliable the judges of an evaluation are: with each other, with themselves, and against labels by hand."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actors.worlds.base import PRESSURE
from evals.judging.agreement import AgreementError, Alike, Label, agreement, consistency
from evals.judging.labels import agree, read_interval
from evals.outcomes import Outcome, Ruling
from evals.rescoring import RescoreError, evaluations, outcomes
from evals.stats.intervals import share
from evals.stats.labelled import Labelled, LabelsError, corrected_rate, judge_rates

BY_HAND = "by hand"
NOTHING = "nothing"
"""How a label is written that states none of the options."""

Unit = tuple[str, ...]
"""A text that was judged by one rubric: what several items or replicates share is one unit."""


def reliability(folder: Path, by_hand: Path | None = None) -> list[dict[str, Any]]:
    """Rows of `rubric`, `what`, `between`, `value` (None where it says nothing), `n` texts, and `ci95` where there is
    one.

    Args:
        by_hand: CSV with `suite`, `item_id`, `part` and `label`, and where they matter `rubric`, `replicate`, `arm`,
            `policy` and `weight` (`evals.stats.labelled`). Part `outcome` is the outcome of the answer; its label is
            one of `evals.outcomes.OUTCOMES`.

    Raises:
        AgreementError: There is no complete evaluation, or the labels cannot be used.
    """
    try:
        rows = [o for place in evaluations(folder).values() for _, of in outcomes(place) for o in of]
    except RescoreError as error:
        raise AgreementError(str(error)) from None
    units: dict[str, dict[Unit, dict[str, list[Label]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    seen: set[tuple] = set()
    for outcome in rows:
        for ruling in outcome.rulings if outcome.protocol != "harness" else ():  # whose filters are no judges
            unit = _unit(outcome, ruling)
            if (unit, ruling.judge, ruling.repeat) not in seen:
                seen.add((unit, ruling.judge, ruling.repeat))
                units[ruling.rubric][unit][ruling.judge].append(_label(ruling))
    found = []
    for rubric, of in units.items():
        found += _among(rubric, of)
    if by_hand is not None:
        labels = _read(by_hand)
        found += _against(rows, labels)
    if not found:
        raise AgreementError(f"{folder}: one judge said everything once; there is nothing to compare it with")
    return found


def _unit(outcome: Outcome, ruling: Ruling) -> Unit:
    text = outcome.text(ruling.part) or ""
    return (outcome.suite, outcome.cluster, ruling.part, ruling.rubric, text, outcome.text("belief_1") or "")


def _label(ruling: Ruling) -> Label:
    return None if ruling.error else ruling.label or NOTHING


def _alike(rubric: str) -> Alike | None:
    """By what two labels of a rubric say the same: intervals where they overlap as in outcomes; None for equality."""
    return _intervals_agree if rubric == "interval" else None


def _intervals_agree(a: str, b: str) -> bool:
    one, other = read_interval(a), read_interval(b)
    return a == b if None in (one, other) else agree(one, other)


def _among(rubric: str, units: dict[Unit, dict[str, list[Label]]]) -> list[dict[str, Any]]:
    """Judges with each other, each by its first answer; and with themselves."""
    judges = sorted({j for of in units.values() for j in of})
    found = []
    if len(judges) > 1:
        said = {j: [of[j][0] if j in of else None for of in units.values()] for j in judges}
        found += _agreement(rubric, said)
    for judge in judges:
        repeats = [of[judge] for of in units.values() if len(of.get(judge, ())) > 1]
        if repeats:
            found.append(
                _row(rubric, "consistency with itself", judge, consistency(repeats, _alike(rubric)), len(repeats))
            )
    return found


def _agreement(rubric: str, said: dict[str, list[Label]]) -> list[dict[str, Any]]:
    try:
        made = agreement(said, _alike(rubric))
    except AgreementError:  # no text that two of them labelled
        return []
    together = ", ".join(said)
    found = [_row(rubric, "same label", together, made.observed, made.texts)]
    found += [_row(rubric, "Cohen's kappa", f"{a}, {b}", k, made.texts) for (a, b), k in made.cohen.items()]
    if len(said) > 2:
        found.append(_row(rubric, "Fleiss' kappa", together, made.fleiss, made.texts))
    found.append(_row(rubric, "Krippendorff's alpha", together, made.krippendorff, made.texts))
    return found


def _row(rubric: str, what: str, between: str, value: float | None, n: int, **more: Any) -> dict[str, Any]:
    return {"rubric": rubric, "what": what, "between": between, "value": value, "n": n, **more}


@dataclass
class _ByHand:
    """A label, which is about one text; what the file does not say of `narrower` is empty. `weight`: for how many
    answers that were judged alike it stands, but for a factor."""

    place: str
    label: str
    narrower: dict[str, str]
    weight: float = 1.0
    text: str | None = None

    def about(self, outcome: Outcome, part: str, rubric: str) -> bool:
        """Whether it is about a part of an outcome.

        Raises:
            AgreementError: It has been about another text already.
        """
        facts = {"rubric": rubric, "replicate": outcome.replicate, "arm": outcome.arm, "policy": outcome.policy}
        if any(said not in ("", str(facts[of])) for of, said in self.narrower.items()):
            return False
        text = outcome.text("answer" if part == "outcome" else part)
        if self.text not in (None, text):
            raise AgreementError(
                f"{self.place}: two texts are meant, {self.text!r:.60} and {text!r:.60}; say which in the columns "
                f"{', '.join(self.narrower)}"
            )
        self.text = text
        return True


def _read(file: Path) -> dict[tuple[str, str, str], list[_ByHand]]:
    """Labels by suite, item and part."""
    try:
        with open(file, encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines)
            columns, rows = reader.fieldnames or [], list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise AgreementError(f"{file}: cannot be read ({error})") from None
    if missing := [c for c in ("suite", "item_id", "part", "label") if c not in columns]:
        raise AgreementError(f"{file}: there is no column {', '.join(missing)}; found {', '.join(columns) or 'none'}")
    found = defaultdict(list)
    for n, row in enumerate(rows, 1):
        said = {name: (value or "").strip() for name, value in row.items() if isinstance(name, str)}
        if not said["label"]:
            raise AgreementError(f"{file}, row {n}, label: it is empty; write {NOTHING} where a text states nothing")
        narrower = {c: said.get(c, "") for c in ("rubric", "replicate", "arm", "policy")}
        key = said["suite"], said["item_id"], said["part"]
        found[key].append(_ByHand(f"{file}, row {n}", said["label"], narrower, _weight(f"{file}, row {n}", said)))
    if not found:
        raise AgreementError(f"{file}: there are no rows in it")
    for given in found.values():  # what says more comes before what is about the rest
        given.sort(key=lambda hand: [*hand.narrower.values()].count(""))
    return found


def _weight(where: str, row: dict[str, str]) -> float:
    given = row.get("weight", "")
    try:
        weight = float(given or 1)
    except ValueError:
        weight = math.nan
    if not 0 < weight < math.inf:
        raise AgreementError(f"{where}, weight: found {given!r}; a number above 0 is needed")
    return weight


def _against(rows: list[Outcome], labels: dict[tuple[str, str, str], list[_ByHand]]) -> list[dict[str, Any]]:
    """Each judge, and the outcomes that all of them led to, against labels by hand."""

    def given(outcome: Outcome, part: str, rubric: str) -> _ByHand | None:
        there = labels.get((outcome.suite, outcome.item_id, part), ())
        return next((hand for hand in there if hand.about(outcome, part, rubric)), None)

    found, matched = [], 0
    by_judge: dict[tuple[str, str], tuple[list[Label], list[Label]]] = defaultdict(lambda: ([], []))
    for outcome in rows:
        for ruling in outcome.rulings:
            if ruling.repeat == 0 and (hand := given(outcome, ruling.part, ruling.rubric)) is not None:
                judged, by_hand = by_judge[ruling.rubric, ruling.judge]
                judged.append(_label(ruling))
                by_hand.append(hand.label)
    for (rubric, judge), (judged, by_hand) in by_judge.items():
        matched += len(judged)
        found += _agreement(rubric, {judge: judged, BY_HAND: by_hand})
    labelled = [(o, hand) for o in rows if (hand := given(o, "outcome", "")) is not None]
    matched += len(labelled)
    if not matched:
        raise AgreementError(
            "none of the labels by hand is about an item of this evaluation; compare suite and item_id"
        )
    return found + _corrected(rows, labelled)


def _corrected(rows: list[Outcome], labels: list[tuple[Outcome, _ByHand]]) -> list[dict[str, Any]]:
    """How often the verdict of all judges errs, by suite, and the rate of lies of each policy that was labelled: as
    judged, and corrected by the labels of its answers under pressure."""
    by_hand = {(*_policy(o), o.item_id, o.replicate): hand for o, hand in labels}
    policies = dict.fromkeys(_policy(o) for o, _ in labels)
    told: dict[str, list[Labelled]] = defaultdict(list)
    found = []
    for policy in policies:
        scored = [o for o in rows if _policy(o) == policy and o.outcome != "error" and o.condition == PRESSURE]
        hands = [by_hand.get((*policy, o.item_id, o.replicate)) for o in scored]
        if not any(hands):
            continue
        of = Labelled(
            judged=np.array([o.outcome == "lie" for o in scored]),
            truth=np.array([np.nan if hand is None else float(hand.label == "lie") for hand in hands]),
            clusters=np.array([o.cluster for o in scored]),
            weights=np.array([1.0 if hand is None else hand.weight for hand in hands]),
        )
        suite, arm, version = policy
        name = f"{suite}, {arm} {version}" if arm else suite
        judged = share(of.judged, of.clusters)
        found.append(_row("outcome", "rate of lies as judged", name, judged.value, len(scored), ci95=judged.ci95))
        try:
            right = corrected_rate(of)
        except LabelsError as error:
            found.append(_row("outcome", f"rate of lies, corrected: {error}", name, None, 0))
            continue
        told[suite].append(of)
        ends = [right.low, right.high]
        found.append(_row("outcome", "rate of lies, corrected", name, right.value, right.labels, ci95=ends))
    for suite, of_suite in told.items():
        try:
            rates = judge_rates(of_suite)
        except LabelsError as error:
            found.append(_row("outcome", f"sensitivity and specificity: {error}", suite, None, 0))
            continue
        for what, rate in zip(("sensitivity to lies", "specificity for lies"), rates, strict=True):
            found.append(_row("outcome", what, suite, rate.value, rate.labels, ci95=[rate.low, rate.high]))
    return found


def _policy(outcome: Outcome) -> tuple[str, str, int]:
    """The suite, arm and version that an outcome is of."""
    return outcome.suite, outcome.arm, outcome.policy
