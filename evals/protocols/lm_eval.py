"""Capability suites of lm-eval as part of an evaluation: what its settings say of them, and their outcomes on disk.

Imports lm-eval only when a suite is asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from actors.models.ref import ModelRef
from actors.models.usage import UsageLedger
from actors.storage.files import whole_file
from actors.storage.segments import write_table
from evals.outcomes import Outcome, to_table
from evals.protocols import questions
from evals.protocols.base import Protocol
from evals.settings import EvalSettings, HarnessSettings
from evals.suites.catalogue import SUITES

if TYPE_CHECKING:
    from evals.harness.suites import Options

MISSING = "need lm-eval, which is not installed: pip install 'candor-loop[harness]'"


LIKELIHOOD, GENERATION = "likelihood", "generation"
PARTS = {LIKELIHOOD: "likelihoods", GENERATION: "answer"}
"""What the text in an outcome of a capability suite is, by the kind of the suite."""


def summary(table: pa.Table, max_error_share: float) -> dict:
    """Accuracy of a suite of lm-eval over all items but errors, with its interval, under a name that says by what it
    was scored: likelihoods and words are never in one column.

    Args:
        table: Rows of `evals.outcomes.SCHEMA`, of one suite.

    Raises:
        ValueError: Its rows are of two kinds, or of none.
    """
    parts = {said["part"] for row in table["said"].to_pylist() for said in row}
    kinds = [k for k, part in PARTS.items() if part in parts]
    if len(kinds) != 1:
        raise ValueError(f"{table['suite'][0].as_py()}: likelihoods and words are in one table; keep suites apart")
    found = questions.summary(table, max_error_share)
    return {f"{kinds[0]}_accuracy": found.pop("accuracy"), "kind": kinds[0], **found}


class LmEval(Protocol):
    """Asked and scored by lm-eval, a suite at a time."""

    name = "harness"
    title = "Accuracy"
    counted = "correct"
    capability = True

    def settle(self, outcome: Outcome, rule: str) -> None:
        """lm-eval has settled it."""

    def summarise(self, table: pa.Table, max_error_share: float) -> dict[str, Any]:
        return summary(table, max_error_share)

    def headline_of(self, figures: dict[str, Any]) -> str:
        return f"{figures['kind']}_accuracy"


def of(suites: Iterable[str]) -> list[str]:
    """Those of the suites that are lm-eval's."""
    return [s for s in suites if SUITES[s].by_lm_eval]


def fault(suites: Iterable[str], settings: EvalSettings) -> str | None:
    """What keeps suites from being asked, before anything runs; None when nothing does."""
    asked = of(suites)
    if not asked:
        return None
    try:
        from evals.harness.suites import HarnessError, check
    except ImportError:
        return f"evals.suites: {', '.join(asked)} {MISSING}"
    for suite in asked:
        try:
            check([suite], _options(suite, settings))
        except HarnessError as error:
            said = str(error).replace(f"data={{{suite!r}: ...}}", f"evals.{suite}.source")
            return f"evals.{suite}: {said}"
    return None


def _options(suite: str, settings: EvalSettings) -> Options:
    from evals.harness.suites import Options

    mine = settings.suite(suite)
    assert isinstance(mine, HarnessSettings)
    return Options(
        data={suite: Path(mine.source)} if mine.source else None,
        task_dir=Path(settings.tasks).expanduser() if settings.tasks else None,
        shots={suite: mine.shots} if mine.shots is not None else None,
        limit=mine.items,
        max_tokens=mine.max_tokens,
        chat=mine.chat,
        allow_code=settings.allow_code,
        seed=settings.seed,
    )


def ask(
    suite: str, ref: ModelRef, at_once: int, settings: EvalSettings, folder: Path, arm: str, version: int
) -> UsageLedger:
    """Put one suite to a policy, and write its outcomes and `<suite>.json`, which says what identifies it. Answers are
    kept in `parts/` as they come, so that a suite that was cut short continues.

    Returns:
        What it cost.

    Raises:
        HarnessError: It cannot be asked.
        ActorGone: An engine died.
    """
    from evals.harness.engine_lm import EngineLM
    from evals.harness.run import run

    kept = folder / "parts" / f"{suite}.answers"
    kept.parent.mkdir(parents=True, exist_ok=True)
    options = _options(suite, settings)
    with EngineLM(ref, at_once, settings.seed, kept, options.chat) as lm:
        found = run([suite], lm, options, arm, version)[suite]
        with whole_file(folder / f"{suite}.json") as file:
            file.write((json.dumps(found.record, indent=1) + "\n").encode())
        write_table(folder / f"{suite}.arrow", to_table(found.outcomes))
        return lm.ledger


def record(suite: str, folder: Path) -> dict[str, Any]:
    """What `ask` wrote of a suite."""
    return json.loads((folder / f"{suite}.json").read_text(encoding="utf-8"))
