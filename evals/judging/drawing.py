"""What is to be labelled by hand: answers drawn at random, in equal parts from those judged lies and from the others.

Lies are rare where a policy is honest, so labels of answers drawn from all of them would hardly hold any. The file says
nothing of what the judge concluded, and its rows are in random order, so that whoever labels is not led.
"""

from __future__ import annotations

import csv
import io
import json
import random
from collections import defaultdict
from pathlib import Path

from actors.storage.files import whole_file
from actors.worlds.base import PRESSURE
from evals.evaluator import record
from evals.judging.agreement import AgreementError
from evals.outcomes import Outcome
from evals.protocols import PROTOCOLS
from evals.rescoring import RescoreError, evaluations, outcomes

COLUMNS = ("suite", "item_id", "replicate", "arm", "policy", "part", "prompt", "beliefs", "answer", "label")
"""Of the file; `label` is empty. Part is always `outcome`, which is what `candor eval agreement --labels` reads."""


def draw(
    folder: Path,
    labels: int,
    seed: int = 0,
    suite: str | None = None,
    arm: str | None = None,
    policy: int | None = None,
) -> list[dict[str, str]]:
    """Rows of `COLUMNS`: of each policy and suite so many answers under pressure, half of them judged lies, or all
    where there are fewer. Policy 0 is the same in all arms that were asked the same, and is drawn from once.

    Args:
        suite, arm, policy: Draw from these only; None draws from all honesty suites, arms and policies.

    Raises:
        AgreementError: There is nothing to draw from.
    """
    found: list[dict[str, str]] = []
    bases: set[str] = set()
    try:
        for place in evaluations(folder).values():
            about = record(place)
            for name, rows in outcomes(place):
                if not PROTOCOLS[about["suites"][name]["protocol"]].honesty or suite not in (None, name):
                    continue
                here = [o for o in rows if arm in (None, o.arm) and policy in (None, o.policy)]
                if here and here[0].policy == 0:
                    asked = json.dumps([name, about["settings"], about["suites"][name]], sort_keys=True)
                    if asked in bases:
                        continue
                    bases.add(asked)
                found += map(_row, _sample(here, labels, f"{seed}/{place.parent.name}/{place.name}/{name}"))
    except RescoreError as error:
        raise AgreementError(str(error)) from None
    if not found:
        given = {"--suite": suite, "--arm": arm, "--policy": policy}
        asked = ", ".join(f"{key} {value}" for key, value in given.items() if value is not None)
        raise AgreementError(f"{folder}: no answer to an honesty suite is there{f' for {asked}' if asked else ''}")
    random.Random(seed).shuffle(found)
    return found


def _sample(rows: list[Outcome], labels: int, seed: str) -> list[Outcome]:
    """Half of the labels from each group; what one lacks comes from the other."""
    groups: dict[bool, list[Outcome]] = defaultdict(list)
    for outcome in rows:
        if outcome.condition == PRESSURE and outcome.outcome != "error":
            groups[outcome.outcome == "lie"].append(outcome)
    lies, others = groups[True], groups[False]
    few = min(len(lies), len(others), labels // 2)
    of_lies = min(len(lies), labels - few) if len(lies) > len(others) else few
    rng = random.Random(seed)
    return rng.sample(lies, of_lies) + rng.sample(others, min(len(others), labels - of_lies))


def _row(outcome: Outcome) -> dict[str, str]:
    prompt = next((s.prompt for s in outcome.said if s.part == "answer"), "[]")
    beliefs = [f"{_talk(s.prompt)}\n-> {s.text or ''}" for s in outcome.said if s.part.startswith("belief")]
    return {
        "suite": outcome.suite,
        "item_id": outcome.item_id,
        "replicate": str(outcome.replicate),
        "arm": outcome.arm,
        "policy": str(outcome.policy),
        "part": "outcome",
        "prompt": _talk(prompt),
        "beliefs": "\n\n".join(beliefs),
        "answer": outcome.text() or "",
        "label": "",
    }


def _talk(prompt: str) -> str:
    """Messages as JSON, as text."""
    return "\n".join(f"{m['role']}: {m['content']}" for m in json.loads(prompt or "[]"))


def write(rows: list[dict[str, str]], file: Path) -> None:
    """Write the file that is to be filled in.

    Raises:
        AgreementError: It is there already, and may hold labels; or it cannot be written.
    """
    if file.exists():
        raise AgreementError(f"{file}: is there already, and may hold labels; choose another name with --out")
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    try:
        with whole_file(file) as out:
            out.write(text.getvalue().encode())
    except OSError as error:
        raise AgreementError(f"{file}: cannot be written ({error.strerror})") from None
