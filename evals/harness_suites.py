"""Capability suites of lm-eval as part of an evaluation: what its settings say of them, and their outcomes on disk.

Imports lm-eval only when a suite is asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.files import whole_file
from actors.roles import Door
from actors.segments import write_table
from actors.usage import Bill
from evals.outcomes import to_table
from evals.settings import PROTOCOLS, EvalSettings, HarnessSettings

if TYPE_CHECKING:
    from evals.harness import Options

MISSING = "need lm-eval, which is not installed: pip install 'candor-loop[harness]'"


def of(suites: Iterable[str]) -> list[str]:
    """Those of the suites that are lm-eval's."""
    return [s for s in suites if PROTOCOLS[s] == "harness"]


def fault(suites: Iterable[str], settings: EvalSettings, seed: int) -> str | None:
    """What keeps suites from being asked, before anything runs; None when nothing does."""
    asked = of(suites)
    if not asked:
        return None
    try:
        from evals.harness import HarnessError, check
    except ImportError:
        return f"evals.suites: {', '.join(asked)} {MISSING}"
    for suite in asked:
        try:
            check([suite], _options(suite, settings, seed))
        except HarnessError as error:
            said = str(error).replace(f"data={{{suite!r}: ...}}", f"evals.{suite}.source")
            return f"evals.{suite}: {said}"
    return None


def _options(suite: str, settings: EvalSettings, seed: int) -> Options:
    from evals.harness import Options

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
        seed=seed,
    )


def ask(
    suite: str, door: Door, at_once: int, settings: EvalSettings, seed: int, folder: Path, arm: str, version: int
) -> Bill:
    """Put one suite to a policy, and write its outcomes and `<suite>.json`, which says what identifies it. Answers are
    kept in `parts/` as they come, so that a suite that was cut short goes on.

    Returns:
        What it cost.

    Raises:
        HarnessError: It cannot be asked.
        ActorGone: An engine died.
    """
    from evals.harness import run
    from evals.harness_lm import EngineLM

    kept = folder / "parts" / f"{suite}.answers"
    kept.parent.mkdir(parents=True, exist_ok=True)
    with EngineLM(door, at_once, seed, kept) as lm:
        found = run([suite], lm, _options(suite, settings, seed), arm, version)[suite]
        with whole_file(folder / f"{suite}.json") as file:
            file.write((json.dumps(found.record, indent=1) + "\n").encode())
        write_table(folder / f"{suite}.arrow", to_table(found.outcomes))
        return lm.bill


def record(suite: str, folder: Path) -> dict[str, Any]:
    """What `ask` wrote of a suite."""
    return json.loads((folder / f"{suite}.json").read_text(encoding="utf-8"))
