"""Labels, outcomes and figures computed again from what is on disk, without asking anybody."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from actors.storage.segments import BufferError, read_table
from evals import scoring
from evals.evaluator import record
from evals.judging import likelihood, prompting, words
from evals.judging.panel import CUT
from evals.judging.prompting import WORDINGS, JudgePrompt, UnreadableError, choose
from evals.outcomes import SCHEMA, Outcome, Ruling, to_table
from evals.protocols.mask_rules import CANDOR, RULES


class RescoreError(ValueError):
    """There is nothing to score; the message names the folder."""


@dataclass(frozen=True)
class Rescored:
    """One evaluation.

    Attributes:
        figures: By suite, as `evals.scoring.figures` gives them.
        rows: How many answers there are.
        changed: Answers whose label or outcome is another one than on disk, as `suite/item/replicate: before -> after`.
    """

    figures: dict[str, dict]
    rows: int
    changed: list[str]


def evaluations(folder: Path) -> dict[str, Path]:
    """Complete evaluations by name: the folder itself, or those of a run as `arm/policy`.

    Raises:
        RescoreError: There are none.
    """
    if record(folder):
        return {folder.name: folder}
    found = sorted(p.parent for p in folder.glob("evals/*/*/evaluation.json"))
    if not found:
        raise RescoreError(f"{folder}: holds no complete evaluation; give an evaluation folder or a run directory")
    return {f"{p.parent.name}/{p.name}": p for p in found}


def outcomes(folder: Path) -> Iterator[tuple[str, list[Outcome]]]:
    """Every suite of a complete evaluation with its outcomes.

    Raises:
        RescoreError: A file is missing or damaged.
    """
    for suite in record(folder)["suites"]:
        try:
            rows = read_table(folder / f"{suite}.arrow", SCHEMA).to_pylist()
        except (OSError, BufferError) as error:
            raise RescoreError(f"{folder / suite}.arrow: cannot be read ({error})") from None
        yield suite, [Outcome.of_row(row) for row in rows]


def rescore(
    folder: Path, prompts: str | None, rule: str | None, max_error_share: float, rules: str | None = None
) -> dict[str, Rescored]:
    """Score every evaluation in a folder again.

    Args:
        prompts: A folder with prompts by which judges' answers are read; None takes those that were recorded.
        rule: Of the panel; None takes the one recorded.
        rules: Of suites that compare statements with beliefs; None takes those recorded.

    Raises:
        RescoreError, PromptError: There is nothing to score, or the prompts or the rule cannot be used.
    """
    if rule not in (None, "majority", "unanimous"):
        raise RescoreError(f"--rule {rule}: majority or unanimous")
    if rules not in (None, *RULES):
        raise RescoreError(f"--rules {rules}: {' or '.join(RULES)}")
    found = {}
    for name, place in evaluations(folder).items():
        about = record(place)
        by = (
            prompting.load(prompts)
            if prompts
            else prompting.recorded({r: p["text"] for r, p in about["prompts"].items()})
        )
        figures, rows, changed = {}, 0, []
        for suite, before in outcomes(place):
            of_suite = rules or about["suites"][suite].get("rules", CANDOR)
            after = [_anew(o, by, rule or about["rule"], of_suite) for o in before]
            rows += len(after)
            changed += [c for b, a in zip(before, after, strict=True) if (c := _change(b, a))]
            figures[suite] = scoring.figures(to_table(after), max_error_share, of_suite)
        found[name] = Rescored(figures, rows, changed)
    return found


def _anew(outcome: Outcome, prompts: dict[str, JudgePrompt], rule: str, rules: str) -> Outcome:
    made = copy.deepcopy(outcome)
    for ruling in made.rulings:
        _read(ruling, prompts, tuple(made.options), made.category)
    return scoring.settle(made, rule, rules)


def _read(ruling: Ruling, prompts: dict[str, JudgePrompt], options: tuple[str, ...], category: str) -> None:
    """Read what a model wrote again; other judges, and a request that failed, wrote nothing to read."""
    if ruling.exact or not ruling.raw or ruling.raw.startswith((words.MARK, likelihood.MARK)):
        return
    if ruling.rubric not in WORDINGS or CUT in (ruling.error or ""):
        return
    prompt = choose(prompts, ruling.rubric, ruling.part, category)
    if prompt is None:
        return
    try:
        ruling.label, ruling.error = prompt.read(ruling.raw, options), None
    except UnreadableError as error:
        ruling.label, ruling.error = None, f"the judge's answer cannot be read: {error}"


def _change(before: Outcome, after: Outcome) -> str | None:
    if all(getattr(before, k) == getattr(after, k) for k in ("outcome", "statement", "belief", "reasoning")):
        return None
    return f"{before.suite}/{before.item_id}/{before.replicate}: {before.outcome} -> {after.outcome}"
