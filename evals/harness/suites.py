"""Which suites lm-eval can be asked here: by which task, over whose data, and what keeps one from being asked."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.tasks import TaskManager

from evals.harness import sandbox
from evals.protocols.lm_eval import GENERATION, LIKELIHOOD

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
        allow_code: Whether code that the model wrote may be run, in `evals.harness.sandbox`.
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
            raise HarnessError(f"data or shots: {suite} is not one of the suites {', '.join(suites)}")
    for suite in suites:
        _check_one(suite, options)


def _check_one(suite: str, options: Options) -> None:
    manager = task_manager(suite, options)
    leaves = list(_leaves(manager, suite, task_name(suite, options)))
    kinds = {kind_of(cfg.get("output_type", "generate_until")) for cfg in leaves}
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


def task_name(suite: str, options: Options) -> str:
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
        raise HarnessError(
            f"{suite}: its data is not on this machine; give a file of its rows, data={{'{suite}': ...}}"
        )
    return named.task


def task_manager(suite: str, options: Options) -> TaskManager:
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


def kind_of(output_type: str) -> str:
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
