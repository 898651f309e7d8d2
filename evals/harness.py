"""Capability suites through lm-eval (https://github.com/EleutherAI/lm-evaluation-harness), asked of our own engines.

A suite is one of lm-eval's tasks, or this project's task file of the same benchmark over a local file. Every document
becomes one outcome, so that its figures come from rows, like those of every other suite. What a model scores by its
likelihoods and what it scores by its words are two things: a suite is of one kind, and its figure is named after it
(`evals.capability.harness_summary`).
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.api.model import LM
from lm_eval.api.task import Task
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

from evals import sandbox
from evals.capability import GENERATION, LIKELIHOOD, PARTS
from evals.harness_lm import request_key
from evals.outcomes import Outcome, Ruling, Said

PROTOCOL = "harness"
OWN_TASKS = Path(__file__).parent / "tasks"
THEIR_TASKS = Path(lm_eval.__file__).parent / "tasks"


class HarnessError(ValueError):
    """A suite that cannot be run; the message says which, why, and what to do."""


@dataclass(frozen=True)
class Named:
    """A benchmark with a name of its own here.

    Attributes:
        task: lm-eval's task, over the official data in the Hugging Face cache.
        folder: Where its file is, under lm-eval's tasks.
        own: The task of this project, over a local file.
        shots: Worked examples in lm-eval's prompt that published figures mostly have.
        kind: `likelihood` or `generation`.
        metric, score_filter: What of lm-eval's scores says whether an answer is correct.
        own_filter: Likewise for the own task.
    """

    task: str | None
    folder: str
    own: str
    shots: int
    kind: str
    metric: str
    score_filter: str = "none"
    own_filter: str = "none"


NAMED = {
    "mmlu": Named("mmlu", "mmlu/default", "candor_mmlu", 5, LIKELIHOOD, "acc"),
    "gsm8k": Named("gsm8k", "gsm8k", "candor_gsm8k", 5, GENERATION, "exact_match", "strict-match", "strict"),
    # lm-eval's own task fetches its scorer from the network and runs code without a fence.
    "humaneval": Named(None, "", "candor_humaneval", 0, GENERATION, "pass@1", own_filter="run"),
    "gpqa": Named("gpqa_diamond_zeroshot", "gpqa/zeroshot", "candor_gpqa", 0, LIKELIHOOD, "acc"),
}
METRICS = ("acc", "exact_match", "pass@1")
"""Of a task that is not named above, the first of these that it has; its first filter counts."""


@dataclass(frozen=True)
class Options:
    """How suites are put.

    Attributes:
        data: Local files, by suite; a suite without one takes lm-eval's task and the Hugging Face cache.
        task_dir: A folder with further task files of lm-eval's kind.
        shots: Worked examples in the prompt, by suite; otherwise what the suite or task file says.
        limit: Most documents of a suite, a seeded sample spread evenly over its subtasks; None for all.
        max_tokens: Longest answer, in place of the task file's.
        chat: Whether prompts go through the model's chat template.
        allow_code: Whether code that the model wrote may be run, in `evals.sandbox`.
    """

    data: Mapping[str, Path] | None = None
    task_dir: Path | None = None
    shots: Mapping[str, int] | None = None
    limit: int | None = None
    max_tokens: int | None = None
    chat: bool = False
    allow_code: bool = False
    seed: int = 0

    def file(self, suite: str) -> Path | None:
        given = (self.data or {}).get(suite)
        return None if given is None else Path(given).expanduser().resolve()


@dataclass(frozen=True)
class Evaluated:
    """What a suite came to.

    Attributes:
        record: What identifies its items and scores: tasks with versions, shots, metric, filter and hashes.
    """

    outcomes: list[Outcome]
    record: dict[str, Any]


def check(suites: Sequence[str], options: Options) -> None:
    """Say what is wrong with suites before anything runs; asks nothing of the network.

    Raises:
        HarnessError: A suite is unknown, its data is not at hand, it would run code that was not allowed or cannot be
            contained here, or it is of two kinds.
    """
    if options.task_dir is not None and not options.task_dir.is_dir():
        raise HarnessError(f"task_dir {options.task_dir}: there is no such folder")
    for suite in {**(options.data or {}), **(options.shots or {})}:
        if suite not in suites:
            raise HarnessError(f"data or shots: {suite} is none of the suites {', '.join(suites)}")
    for suite in suites:
        _check_one(suite, options)


def _check_one(suite: str, options: Options) -> None:
    manager = _manager(suite, options)
    leaves = list(_leaves(manager, suite, _task_name(suite, options)))
    kinds = {_kind(cfg.get("output_type", "generate_until")) for cfg in leaves}
    if len(kinds) != 1:
        raise HarnessError(f"{suite}: some of its tasks score likelihoods, others words; name those of one kind")
    if any(cfg.get("unsafe_code") for cfg in leaves):
        if not options.allow_code:
            raise HarnessError(f"{suite}: it runs code that the model wrote; allow it with allow_code, or leave it out")
        try:
            sandbox.run("pass", allow_code=True)
        except sandbox.SandboxError as error:
            raise HarnessError(f"{suite}: {error}") from None
    for cfg in leaves:
        if missing := _missing(cfg, suite):
            raise HarnessError(f"{suite}, task {cfg['task']}: {missing}")
    if options.file(suite) is not None and NAMED[suite].kind == LIKELIHOOD and (options.shots or {}).get(suite):
        raise HarnessError(
            f"shots of {suite}: over a local file it has no worked examples; 0 is right, or lm-eval's task"
        )


def _task_name(suite: str, options: Options) -> str:
    """The task behind a suite.

    Raises:
        HarnessError: There is none for want of a local file.
    """
    file = options.file(suite)
    if suite not in NAMED:
        if file is not None:
            raise HarnessError(f"data: {suite} takes no file; those that do are {', '.join(NAMED)}")
        return suite
    named = NAMED[suite]
    if file is not None:
        if not file.is_file():
            raise HarnessError(f"data of {suite}: there is no file {file}")
        return named.own
    if named.task is None:
        raise HarnessError(f"{suite}: its data is not at hand; give a file of its rows, data={{'{suite}': ...}}")
    return named.task


def _manager(suite: str, options: Options) -> TaskManager:
    """The index of tasks that holds a suite; all of lm-eval's 14,000, which take long to read, only where it must."""
    metadata = {"data": {NAMED[s].own: str(options.file(s)) for s in (options.data or {}) if s in NAMED}}
    own = [OWN_TASKS, *([options.task_dir] if options.task_dir else [])]
    if suite in NAMED:
        own += [THEIR_TASKS / NAMED[suite].folder] if NAMED[suite].folder else []
        return TaskManager(include_path=own, include_defaults=False, metadata=metadata)
    near = TaskManager(include_path=own, include_defaults=False, metadata=metadata)
    if suite in near.all_tasks:
        return near
    everything = TaskManager(include_path=own, metadata=metadata)
    if suite not in everything.all_tasks:
        close = difflib.get_close_matches(suite, [*NAMED, *near.all_tasks, *everything.all_tasks], 3)
        meant = f"; did you mean {', '.join(dict.fromkeys(close))}?" if close else ""
        where = f", in {options.task_dir} or" if options.task_dir else ""
        raise HarnessError(
            f"{suite}: there is no such task{where} in lm-eval {lm_eval.__version__}{meant} Suites: {', '.join(NAMED)}"
        )
    return everything


def _leaves(manager: TaskManager, suite: str, name: str) -> Iterator[dict[str, Any]]:
    """The task files of a task, group or tag, as they are written; those that are code are left out."""
    entry = manager.task_index.get(name)
    if entry is None:
        raise HarnessError(f"{suite}: lm-eval {lm_eval.__version__} has no task {name}")
    members = [*sorted(entry.tags)] if entry.kind.name == "TAG" else (entry.cfg or {}).get("task", [])
    if entry.kind.name not in ("TAG", "GROUP"):
        yield {**(entry.cfg or {}), "task": name}
        return
    for member in members if isinstance(members, list) else [members]:
        if isinstance(member, str):
            yield from _leaves(manager, suite, member)
        elif isinstance(member.get("task"), str) and member["task"] in manager.task_index:
            for cfg in _leaves(manager, suite, member["task"]):
                yield {**cfg, **{k: v for k, v in member.items() if k != "task"}}
        else:
            yield member


def _kind(output_type: str) -> str:
    return GENERATION if output_type == "generate_until" else LIKELIHOOD


def _missing(cfg: Mapping[str, Any], suite: str) -> str | None:
    """Why the data of a task file is not at hand; None where it is, or where only its code knows."""
    path, given = cfg.get("dataset_path"), cfg.get("dataset_kwargs") or {}
    if path is None or "custom_dataset" in cfg or Path(path).is_dir():
        return None
    if files := given.get("data_files"):
        names = itertools.chain(*([f] if isinstance(f, str) else f for f in _values(files)))
        absent = [n for n in names if not Path(n).exists()]
        return f"data_files: there is no {', '.join(absent)} on this machine" if absent else None
    if "/" not in path:
        return f"dataset_path {path}: it needs data_files under dataset_kwargs"
    if _in_cache(path):
        return None
    local = f", or give a file of its rows, data={{'{suite}': ...}}" if suite in NAMED else ""
    return (
        f"its data, {path}, is not in this machine's Hugging Face cache; fetch it where there is network with "
        f"`hf download --repo-type dataset {path}`{local}"
    )


def _values(files: Any) -> list[Any]:
    return list(files.values()) if isinstance(files, dict) else [files]


def _in_cache(name: str) -> bool:
    """Whether a data set of the Hub was fetched to this machine, by `huggingface_hub` or by `datasets`."""
    from datasets import config
    from huggingface_hub import constants

    fetched = Path(constants.HF_HUB_CACHE) / f"datasets--{name.replace('/', '--')}" / "snapshots"
    read = Path(config.HF_DATASETS_CACHE) / name.replace("/", "___")
    return any(p.is_dir() and any(p.iterdir()) for p in (fetched, read, Path(str(read).lower())))


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
    name = _task_name(suite, options)
    try:
        loaded = _manager(suite, options).load([name])
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
            f"{suite}, task {task.task_name}: it scores {', '.join(task.aggregation())}; right is a metric that says "
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
    kind = _kind(task.OUTPUT_TYPE)
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
        "kind": _kind(first.OUTPUT_TYPE),
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
