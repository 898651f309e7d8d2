"""An evaluation as logs of Inspect, one file a suite, so that `inspect view` opens every item of it.

Nothing is scored here: outcomes and figures are those of `evals.scoring`. Inspect is an optional extra and is imported
when logs are written, not before.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.storage.files import whole_file
from actors.storage.segments import read_table
from evals import scoring
from evals.evaluator import RECORD, record
from evals.outcomes import SCHEMA, Outcome, Ruling, Said
from evals.protocols.deceptionbench import FORMAT_ERROR
from evals.protocols.mask_rules import CANDOR

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog, EvalResults, EvalSample
    from inspect_ai.model import ChatMessage, ModelOutput

SCORE = "outcome"
"""What the score of every sample is called."""
SCORER = "candor"
STOP_REASONS = {"stop": "stop", "length": "max_tokens", "content_filter": "content_filter"}
"""Reasons why a model stopped, in Inspect's words."""
NO_SCORE = "more than {share:.0%} of the requests or verdicts failed (evals.max_error_share), or none can be scored"


class InspectLogError(RuntimeError):
    """Logs that cannot be written; the message says why, and what to do."""


def require_inspect() -> None:
    """Raise `InspectLogError` unless Inspect is installed."""
    try:
        import inspect_ai.log  # noqa: F401
    except ImportError as error:
        raise InspectLogError(f"Inspect is not installed ({error}): pip install candor-loop[inspect]") from None


def write_logs(folder: Path, target: Path, seconds: float | None = None) -> list[Path]:
    """Write `<suite>.eval` for each suite of an evaluation; each file is complete or absent, and replaces an older one.

    A sample is one answer: its id is the item's, its epoch the number of the replicate, counted from 1. All other ids
    follow from what the evaluation holds, so that writing again gives the same logs.

    Args:
        folder: Of one policy, as `evals.evaluator` leaves it: `<suite>.arrow` and `evaluation.json`.
        target: Where the files go; made if it is not there.
        seconds: How long the evaluation took; None where only its folder says when it was begun.

    Returns:
        The files, in the order of the suites.

    Raises:
        InspectLogError: Inspect is not installed, or the evaluation is not complete.
        BufferError: Outcomes cannot be read (`actors.storage.segments`).
    """
    require_inspect()
    found = record(folder)
    if not found:
        raise InspectLogError(f"{folder}: there is no {RECORD} in it; give the folder of a complete evaluation")
    times = _times(folder, seconds)
    return [_write(_log(folder, suite, found, times), target / f"{suite}.eval") for suite in found["suites"]]


def write_run_logs(
    policies: Mapping[str, tuple[Path, float | None]], target: Path, say: Callable[[str], None] = lambda _: None
) -> list[Path]:
    """Write the logs of several policies, each into a folder of its own; those that are there and up to date stay.

    Args:
        policies: By the name of its folder in `target`, where a policy's evaluation is, and how many seconds it took.
            Those that have not been asked everything are left out.
        say: Told the name of each policy that is written.

    Raises:
        InspectLogError, BufferError: As `write_logs`.
    """
    logs: list[Path] = []
    for name, (folder, seconds) in policies.items():
        if not (found := record(folder)):
            continue
        made = [target / name / f"{suite}.eval" for suite in found["suites"]]
        written = (folder / RECORD).stat().st_mtime
        if not all(log.exists() and log.stat().st_mtime >= written for log in made):
            say(name)
            made = write_logs(folder, target / name, seconds)
        logs += made
    return logs


def _times(folder: Path, seconds: float | None) -> tuple[str, str]:
    """When an evaluation was begun and when it was complete, in Inspect's form."""
    complete = (folder / RECORD).stat().st_mtime
    began = complete - seconds if seconds is not None else complete
    if seconds is None and (config := folder / "config.yaml").exists():  # of candor eval, which writes it first
        began = min(complete, config.stat().st_mtime)
    return tuple(datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds") for at in (began, complete))


def _write(log: EvalLog, path: Path) -> Path:
    from inspect_ai.log import write_eval_log

    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / path.name
        write_eval_log(log, made)
        with open(made, "rb") as written, whole_file(path) as file:
            shutil.copyfileobj(written, file)
    return path


def _log(folder: Path, suite: str, found: dict[str, Any], times: tuple[str, str]) -> EvalLog:
    from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalSpec, EvalStats

    source, max_error_share = found["suites"][suite], found["settings"]["max_error_share"]
    table = read_table(folder / f"{suite}.arrow", SCHEMA)
    rows = [Outcome.of_row(row) for row in table.to_pylist()]
    key = _id((folder / RECORD).read_bytes(), (folder / f"{suite}.arrow").read_bytes())
    model = "/".join(filter(None, (found["model"], rows[0].arm, f"policy-{rows[0].policy}")))
    samples = [_sample(row, key, model) for row in rows]
    figures = scoring.figures(table, max_error_share, source.get("rules", CANDOR))
    began, complete = times
    said_once = {"suites", "seed", "judges", "rule", "model"}
    return EvalLog(
        status="success",
        eval=EvalSpec(
            eval_id=_id(key, "eval"),
            run_id=_id((folder / RECORD).read_bytes(), rows[0].arm, str(rows[0].policy)),
            task_id=_id(key, "task"),
            created=began,
            task=suite,
            task_args={k: found[k] for k in ("seed", "judges", "rule")} | source,
            dataset=EvalDataset(
                name=suite,
                location=source["source"],
                samples=len({s.id for s in samples}),
                sample_ids=list(dict.fromkeys(str(s.id) for s in samples)),
                shuffled=False,
            ),
            model=model,
            config=EvalConfig(epochs=max(s.epoch for s in samples)),
            metadata={"arm": rows[0].arm, "policy": rows[0].policy}
            | {k: v for k, v in found.items() if k not in said_once},
        ),
        results=_results(figures, samples, max_error_share),
        stats=EvalStats(started_at=began, completed_at=complete),
        samples=samples,
    )


def _results(figures: dict[str, Any], samples: Sequence[EvalSample], max_error_share: float) -> EvalResults:
    """The headline figure as the one metric, and all figures as metadata; without a figure there is no metric."""
    from inspect_ai.log import EvalMetric, EvalResults, EvalScore, HeadlineMetric

    name = scoring.headline_name(figures)
    value, why = figures[name], {}
    if value is None:
        why = {"no_score": f"{name}: {NO_SCORE.format(share=max_error_share)}"}
    beside = {k: figures[k] for k in ("ci95", "n") if k in figures}
    errors = sum(s.scores[SCORE].value == "error" for s in samples)
    score = EvalScore(
        name=SCORE,
        scorer=SCORER,
        scored_samples=len(samples) - errors,
        unscored_samples=errors,
        metrics={} if value is None else {name: EvalMetric(name=name, value=value, metadata=beside)},
    )
    return EvalResults(
        total_samples=len(samples),
        completed_samples=sum(s.error is None for s in samples),
        scores=[score],
        headline=None if value is None else HeadlineMetric(scorer=SCORER, score=SCORE, metric=name),
        metadata=why | figures,
    )


def _sample(row: Outcome, key: str, model: str) -> EvalSample:
    """One answer to one item. An answer that could not be had, of the item or of its belief, is the sample's error;
    what a judge or the format failed at is in its score alone."""
    from inspect_ai.log import EvalError, EvalSample
    from inspect_ai.scorer import Score

    name = _id(key, row.item_id, str(row.replicate))
    answer = next((s for s in row.said if s.part == "answer"), Said("answer", "[]"))
    prompt = _messages(answer, name)
    output = _output(answer, name, model)
    failed = any(s.text is None for s in (answer, *row.said))
    told = row.error or "there is no answer"
    return EvalSample(
        id=row.item_id,
        epoch=row.replicate + 1,
        input=prompt,
        choices=row.options or None,
        target=row.truth,
        messages=[*prompt, *(choice.message for choice in output.choices)],
        output=output,
        scores={
            SCORE: Score(
                value=row.outcome,
                answer=row.statement,
                explanation=_account(row),
                reason=_reason(row, failed),
                metadata={
                    "belief": row.belief,
                    "reasoning": row.reasoning,
                    "beliefs": [asdict(s) | {"prompt": json.loads(s.prompt)} for s in row.said if s is not answer],
                    "rulings": [asdict(r) for r in row.rulings],
                },
            )
        },
        metadata={
            "arm": row.arm,
            "policy": row.policy,
            "category": row.category,
            "cluster": row.cluster,
            "protocol": row.protocol,
            "instructed": row.instructed,
            "elicited": row.elicited,
            "numerical": row.numerical,
        },
        uuid=name,
        error=EvalError(message=told, traceback=told, traceback_ansi=told) if failed else None,
    )


def _messages(said: Said, name: str) -> list[ChatMessage]:
    from inspect_ai.model import ChatMessageAssistant, ChatMessageSystem, ChatMessageUser

    kinds = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant}
    asked = json.loads(said.prompt)
    return [kinds[m["role"]](content=m["content"], id=_id(name, str(n)), source="input") for n, m in enumerate(asked)]


def _output(said: Said, name: str, model: str) -> ModelOutput:
    """What the model answered; without an answer, why it failed."""
    from inspect_ai.model import ChatCompletionChoice, ChatMessageAssistant, ModelOutput

    if said.text is None:
        return ModelOutput(model=model, error=said.finish_reason)
    message = ChatMessageAssistant(content=said.text, id=_id(name, "answer"), model=model, source="generate")
    stopped = STOP_REASONS.get(said.finish_reason or "", "unknown")
    return ModelOutput(model=model, choices=[ChatCompletionChoice(message=message, stop_reason=stopped)])


def _reason(row: Outcome, failed: bool) -> str | None:
    """Why there is no outcome, in Inspect's words where it has one."""
    if row.outcome != "error":
        return None
    if failed:
        return "request_failed"
    told = row.error or ""
    said_nothing = told.startswith(FORMAT_ERROR) or (not row.rulings and ": the reply " in told)
    return "invalid_response_format" if said_nothing else "grader_failed"


def _account(row: Outcome) -> str:
    """Why there is no outcome, and what each judge said of each part, a line each."""
    lines = [f"error: {row.error}"] if row.error else []
    return "\n".join(lines + [_ruled(r) for r in row.rulings])


def _ruled(ruling: Ruling) -> str:
    again = f" ({ruling.repeat + 1})" if ruling.repeat else ""
    found = f"error: {ruling.error}" if ruling.error else ruling.label or "nothing"
    return f"{ruling.part}, {ruling.rubric}, {ruling.judge}{again}: {found}"


def _id(*parts: str | bytes) -> str:
    """A short name for what is in the parts, as long as Inspect's own."""
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(hashlib.sha256(part if isinstance(part, bytes) else part.encode()).digest())
    return hashed.hexdigest()[:22]
