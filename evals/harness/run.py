"""Capability suites through lm-eval (https://github.com/EleutherAI/lm-evaluation-harness), asked of our own engines.

A suite is one of lm-eval's tasks, or this project's task file of the same benchmark over a local file. Every document
becomes one outcome, so that its figures come from rows, like those of every other suite. What a model scores by its
likelihoods and what it scores by its words are two things: a suite is of one kind, and its figure is named after it
(`evals.protocols.lm_eval.summary`).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.api.filter import Filter
from lm_eval.api.model import LM
from lm_eval.api.task import Task
from lm_eval.evaluator import evaluate

from actors.models.thoughts import without_thoughts
from evals.harness import sandbox
from evals.harness.engine_lm import after_thought, begun, request_key
from evals.harness.suites import NAMED, HarnessError, Options, check, kind_of, task_manager, task_name
from evals.outcomes import Outcome, Ruling, Said
from evals.protocols.lm_eval import LIKELIHOOD, PARTS

PROTOCOL = "harness"


class AfterThought(Filter):
    """The filter before all others: what is said after a thought is the answer."""

    def apply(self, resps: Iterable[Sequence[str]], docs: Sequence[dict]) -> list[list[str]]:
        return [["" if without_thoughts(t) is None else after_thought(t) for t in of_one] for of_one in resps]


METRICS = ("acc", "exact_match", "pass@1")
"""Of a task that is not named above, the first of these that it has; its first filter counts."""


@dataclass(frozen=True)
class Evaluated:
    """What a suite came to.

    Attributes:
        record: What identifies its items and scores: tasks with versions, shots, metric, filter and hashes.
    """

    outcomes: list[Outcome]
    record: dict[str, Any]


def run(suites: Sequence[str], lm: LM, options: Options, arm: str = "", policy: int = 0) -> dict[str, Evaluated]:
    """Put suites to a model; every document becomes one outcome.

    Args:
        lm: An `EngineLM`, or any model of lm-eval's.
        arm, policy: What outcomes are filed under.

    Raises:
        HarnessError: As `check` says.
        ActorGone: An engine died.
    """
    check(suites, options)
    return {suite: _run_one(suite, lm, options, arm, policy) for suite in suites}


def _run_one(suite: str, lm: LM, options: Options, arm: str, policy: int) -> Evaluated:
    random.seed(options.seed)  # lm-eval's GPQA orders its choices with it
    name = task_name(suite, options)
    try:
        loaded = task_manager(suite, options).load([name])
    except ValueError as error:
        raise HarnessError(f"{suite}: {error}") from None
    tasks: dict[str, Task] = loaded["tasks"]
    shots = _shots(suite, options)
    for task in tasks.values():
        if shots is not None:
            task.set_config("num_fewshot", shots)
        elif task.get_config("num_fewshot") is None:
            task.set_config("num_fewshot", 0)
        if options.max_tokens is not None and task.OUTPUT_TYPE == "generate_until":
            task.set_config("generation_kwargs", {"max_gen_toks": options.max_tokens}, update=True)
        task.set_fewshot_seed(options.seed)
        if task.OUTPUT_TYPE == "generate_until":
            for ensemble in task._filters:
                ensemble.filters.insert(0, AfterThought)
    chosen = _sample({n: len(t.eval_docs) for n, t in tasks.items()}, options)
    loaded["tasks"] = {n: t for n, t in tasks.items() if chosen[n]}
    found = evaluate(
        lm,
        {"tasks": loaded["tasks"]},
        samples=None if options.limit is None else chosen,
        bootstrap_iters=0,
        apply_chat_template=options.chat,
        fewshot_as_multiturn=options.chat,
        confirm_run_unsafe_code=options.allow_code,
    )
    outcomes = []
    for n, task in loaded["tasks"].items():
        metric, score_filter = _headline(suite, task, options)
        outcomes += _outcomes(suite, n, task, found["samples"][n], (metric, score_filter), lm, arm, policy)
    return Evaluated(_distinct(outcomes), _record(suite, name, loaded["tasks"], options, len(outcomes)))


def _shots(suite: str, options: Options) -> int | None:
    given = (options.shots or {}).get(suite)
    if given is not None or suite not in NAMED or options.file(suite) is not None:
        return given
    return NAMED[suite].shots


def _sample(sizes: Mapping[str, int], options: Options) -> dict[str, list[int]]:
    """Which documents of each task, in their order."""
    if options.limit is None:
        return {name: list(range(size)) for name, size in sizes.items()}
    orders = {n: random.Random(f"{options.seed}/{n}").sample(range(size), size) for n, size in sizes.items()}
    taken = itertools.chain(*itertools.zip_longest(*([(n, i) for i in order] for n, order in orders.items())))
    chosen: dict[str, list[int]] = {n: [] for n in sizes}
    for n, index in itertools.islice((t for t in taken if t is not None), options.limit):
        chosen[n].append(index)
    return {n: sorted(indices) for n, indices in chosen.items()}


def _headline(suite: str, task: Task, options: Options) -> tuple[str, str]:
    """The metric and the filter that say whether an answer is correct."""
    filters = [f.name for f in task._filters]
    if suite in NAMED:
        named = NAMED[suite]
        return named.metric, named.score_filter if options.file(suite) is None else named.own_filter
    metrics = [m for m in METRICS if m in task.aggregation()]
    if not metrics:
        raise HarnessError(
            f"{suite}, task {task.task_name}: it scores {', '.join(task.aggregation())}; needed is a metric that says "
            f"of each answer whether it is correct: {', '.join(METRICS)}"
        )
    return metrics[0], filters[0]


def _outcomes(
    suite: str,
    name: str,
    task: Task,
    samples: Sequence[Mapping[str, Any]],
    headline: tuple[str, str],
    lm: LM,
    arm: str,
    policy: int,
) -> list[Outcome]:
    """One outcome a document, with what every filter made of it as rulings."""
    metric, score_filter = headline
    kind = kind_of(task.OUTPUT_TYPE)
    by_doc: dict[int, dict[str, Mapping[str, Any]]] = {}
    for sample in samples:
        by_doc.setdefault(sample["doc_id"], {})[sample["filter"]] = sample
    outcomes = []
    for n, filters in sorted(by_doc.items()):
        sample = filters[score_filter]
        doc = sample["doc"]
        item = f"{name}/{sample['doc_hash'][:16]}"
        outcome = Outcome(
            suite=suite,
            protocol=PROTOCOL,
            item_id=item,
            cluster=item,
            arm=arm,
            policy=policy,
            category=str(doc.get("subject") or name),
            options=[str(c) for c in task.doc_to_choice(doc)] if task.OUTPUT_TYPE == "multiple_choice" else [],
            truth=_truth(task, doc),
        )
        keys = [request_key(*args) for args in sample["arguments"]]
        failed = [why for k in keys if (why := getattr(lm, "failed", {}).get(k))]
        text = _texts(sample) if kind == LIKELIHOOD else sample["resps"][0][0]
        finished = failed[0] if failed else getattr(lm, "finished", {}).get(keys[0])
        prompt = json.dumps([{"role": "user", "content": sample["arguments"][0][0]}], ensure_ascii=False)
        outcome.said = [Said(PARTS[kind], prompt, None if failed else text, finished)]
        if failed:
            outcome.error = failed[0]
        elif kind != LIKELIHOOD and without_thoughts(begun(sample["arguments"][0][0]) + text) is None:
            outcome.error = f"the thought has no end, so there is no answer (evals.{suite}.max_tokens limits both)"
        else:
            outcome.rulings = [_ruling(kind, f, s, metric) for f, s in filters.items()]
            _settle(outcome, score_filter)
            outcome.statement = _stated(task, sample)
        outcomes.append((n, outcome))
    return [o for _, o in outcomes]


def _settle(outcome: Outcome, score_filter: str) -> None:
    """The outcome that the ruling of one filter means."""
    ruling = next(r for r in outcome.rulings if r.rubric == score_filter)
    outcome.outcome, outcome.error = ("error", ruling.error) if ruling.error else (ruling.label, None)


def _ruling(kind: str, name: str, sample: Mapping[str, Any], metric: str) -> Ruling:
    """What one filter of lm-eval took the answer to be, and whether that is right."""
    raw = json.dumps(sample["filtered_resps"], ensure_ascii=False)
    first = sample["filtered_resps"][0]
    if isinstance(first, str) and first.startswith("error: "):
        return Ruling(PARTS[kind], name, "lm-eval", raw=raw, error=first.removeprefix("error: "), exact=True)
    label = "correct" if sample[metric] else "wrong"
    return Ruling(PARTS[kind], name, "lm-eval", raw=raw, label=label, exact=True)


def _texts(sample: Mapping[str, Any]) -> str:
    """The continuations of a likelihood task with their log-probabilities (nats), as JSON."""
    told = [
        {"continuation": args[-1], "logprob": logprob, "greedy": bool(greedy)}
        for args, ((logprob, greedy),) in zip(sample["arguments"], sample["resps"], strict=True)
    ]
    return json.dumps(told, ensure_ascii=False)


def _truth(task: Task, doc: Mapping[str, Any]) -> str:
    target = task.doc_to_target(doc)
    if task.OUTPUT_TYPE == "multiple_choice" and isinstance(target, int):
        return str(task.doc_to_choice(doc)[target])
    return str(target)


def _stated(task: Task, sample: Mapping[str, Any]) -> str | None:
    """The answer that was scored: the most probable choice, or what the filter found."""
    if task.OUTPUT_TYPE == "multiple_choice":
        logprobs = [r[0][0] for r in sample["resps"]]
        return str(task.doc_to_choice(sample["doc"])[logprobs.index(max(logprobs))])
    first = sample["filtered_resps"][0]
    return first if isinstance(first, str) else None


def _distinct(outcomes: list[Outcome]) -> list[Outcome]:
    """The same outcomes; those of equal documents are numbered, because outcomes are paired by item."""
    seen: dict[str, int] = {}
    for outcome in outcomes:
        seen[outcome.item_id] = count = seen.get(outcome.item_id, 0) + 1
        if count > 1:
            outcome.item_id += f"#{count}"
    return outcomes


def _record(suite: str, name: str, tasks: Mapping[str, Task], options: Options, items: int) -> dict[str, Any]:
    file, first = options.file(suite), next(iter(tasks.values()))
    metric, score_filter = _headline(suite, first, options)
    return {
        "protocol": PROTOCOL,
        "kind": kind_of(first.OUTPUT_TYPE),
        "source": str(file) if file else f"lm-eval task {name}",
        "revision": None,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest() if file else None,
        "items": items,
        "harness": f"lm-eval {lm_eval.__version__}",
        "task": name,
        "metric": metric,
        "filter": score_filter,
        "chat": options.chat,
        "limit": options.limit,
        "seed": options.seed,
        "fences": list(sandbox.run("pass", allow_code=True).fences) if getattr(first, "UNSAFE_CODE", False) else None,
        "tasks": {n: _task_record(t) for n, t in tasks.items()},
    }


def _task_record(task: Task) -> dict[str, Any]:
    """What identifies one task: version, shots, how answers are sampled, and hashes of its file and documents."""
    source = Path((task.get_config("metadata") or {}).get("config_source", ""))
    documents = hashlib.sha256()
    for doc in task.eval_docs:
        documents.update(json.dumps(doc, sort_keys=True, default=str).encode() + b"\n")
    return {
        "version": task.VERSION,
        "shots": task.get_config("num_fewshot"),
        "dataset": "/".join(filter(None, (task.DATASET_PATH, task.DATASET_NAME))) or None,
        "documents": len(task.eval_docs),
        "documents_sha256": documents.hexdigest(),
        "file_sha256": hashlib.sha256(source.read_bytes()).hexdigest() if source.is_file() else None,
        "generation": task.get_config("generation_kwargs"),
    }
