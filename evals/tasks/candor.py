"""What the task files beside this one are made of: their rows, from local files, and the running of HumanEval's code.

lm-eval calls these functions; `evals.harness` gives the file through the tasks' metadata, as `data`, by task.
"""

from __future__ import annotations

import gzip
import json
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets

from evals.sandbox import Ran, run_all

FENCED = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)

Docs = dict[str, datasets.Dataset]


class DataError(ValueError):
    """A local file that cannot be used; the message names file, row and field, what was found and what is right."""


def gsm8k(data: Mapping[str, str], **_: Any) -> Docs:
    """Rows with `question` and `answer`; columns beside them are left out."""
    rows = _rows(data["candor_gsm8k"], {"question": str, "answer": str})
    for where, row in rows:
        if not re.search(r"####\s*-?\$?[\d,]*\.?\d+\s*\Z", row["answer"]):
            raise DataError(f"{where}, answer: found {row['answer'][-40:]!r}; it ends with #### and a number")
    return _docs(rows)


def humaneval(data: Mapping[str, str], **_: Any) -> Docs:
    """Rows with `task_id`, `prompt`, `test` and `entry_point`."""
    return _docs(_rows(data["candor_humaneval"], dict.fromkeys(("task_id", "prompt", "test", "entry_point"), str)))


def mmlu(data: Mapping[str, str], **_: Any) -> Docs:
    """Rows with `question`, `choices`, `answer` and `subject`."""
    rows = _rows(data["candor_mmlu"], {"question": str, "choices": list, "answer": int, "subject": str})
    for where, row in rows:
        if len(row["choices"]) != 4:
            raise DataError(f"{where}, choices: found {len(row['choices'])}; four are right")
        if row["answer"] not in range(4):
            raise DataError(f"{where}, answer: found {row['answer']}; the index of a choice, 0 to 3, is right")
    return _docs(rows)


def gpqa(data: Mapping[str, str], **_: Any) -> Docs:
    """Rows with `question`, `choices` and `answer`, made from the columns of GPQA."""
    right, wrong = "Correct Answer", [f"Incorrect Answer {n}" for n in (1, 2, 3)]
    made = []
    for where, row in _rows(data["candor_gpqa"], dict.fromkeys(("Question", right, *wrong), str)):
        choices = [row[c].strip() for c in (right, *wrong)]
        order = random.Random(row["Question"]).sample(range(4), 4)
        question = {"question": row["Question"].strip(), "choices": [choices[n] for n in order]}
        made.append((where, {**question, "answer": order.index(0)}))
    return _docs(made)


def program(prompt: str, text: str, entry_point: str) -> str:
    """The solution that a text holds: a continuation of the prompt, or, from a model that chats, a block of code, whole
    or without its head."""
    block = FENCED.search(text)
    if block is None:
        return prompt + text
    code = block[1]
    head = prompt[: prompt.find(f"def {entry_point}(")]
    return head + code if re.search(rf"^def {re.escape(entry_point)}\(", code, re.MULTILINE) else prompt + code


def verdicts(resps: Sequence[Sequence[str]], docs: Sequence[Mapping[str, str]]) -> list[str]:
    """A filter of lm-eval: runs the first answer to each problem with its tests. lm-eval calls it only where running
    code was confirmed.

    Returns:
        For each problem `passed`, `failed: ` with why, or `error: ` with why it was not run.
    """
    programs = [
        f"{program(doc['prompt'], answers[0], doc['entry_point'])}\n{doc['test']}\ncheck({doc['entry_point']})\n"
        for answers, doc in zip(resps, docs, strict=True)
    ]
    found = run_all(programs, allow_code=True)
    return [_verdict(ran) if isinstance(ran, Ran) else f"error: {ran}" for ran in found]


def passed(doc: Mapping[str, str], results: Sequence[str]) -> dict[str, float]:
    """pass@1 of one answer: one or zero."""
    return {"pass@1": float(results[0] == "passed")}


def _verdict(ran: Ran) -> str:
    return "passed" if ran.passed else f"failed: {ran.why}"


def _rows(file: str, columns: Mapping[str, type]) -> list[tuple[str, dict[str, Any]]]:
    """Where each row is from, and the wanted columns of it.

    Args:
        file: JSONL, also gzipped, a JSON list, CSV or Parquet.
        columns: What their values are.
    """
    path = Path(file)
    try:
        found = _read(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    if not found:
        raise DataError(f"{path}: there are no rows in it")
    rows = []
    for n, row in enumerate(found, 1):
        where = f"{path}, row {n}"
        if not isinstance(row, dict):
            raise DataError(f"{where}: found {type(row).__name__}; a row is an object with {', '.join(columns)}")
        for column, kind in columns.items():
            if column not in row:
                raise DataError(f"{where}: there is no {column}; found {', '.join(map(str, row))}")
            if not isinstance(row[column], kind) or row[column] == "":
                raise DataError(f"{where}, {column}: found {row[column]!r}; {kind.__name__} is right")
        rows.append((where, {c: row[c] for c in columns}))
    return rows


def _read(path: Path) -> list[Any]:
    kind = "".join(path.suffixes).removesuffix(".gz")
    if kind.endswith(".parquet"):
        import pyarrow.parquet as pq

        return pq.read_table(path).to_pylist()
    text = (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode()
    if kind.endswith(".jsonl"):
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    if kind.endswith(".csv"):
        import csv
        import io

        return list(csv.DictReader(io.StringIO(text, newline="")))
    if kind.endswith(".json"):
        found = json.loads(text)
        return found if isinstance(found, list) else [found]
    raise ValueError(
        f"its name ends in {path.suffix or 'nothing'}; .jsonl, .jsonl.gz, .json, .csv or .parquet is right"
    )


def _docs(rows: Sequence[tuple[str, dict[str, Any]]]) -> Docs:
    return {"test": datasets.Dataset.from_list([row for _, row in rows])}
