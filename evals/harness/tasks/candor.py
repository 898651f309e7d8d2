"""What the task files beside this one are made of: their rows, from local files, and the running of HumanEval's code.

lm-eval calls these functions; `evals.harness` gives the file through the tasks' metadata, as `data`, by task.
"""

from __future__ import annotations

import random
import re
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import datasets

from actors.storage.datafiles import DataFileError, read_rows
from evals.harness.sandbox import Limits, Ran, run_all

_LIMITS = Limits(seconds=8)
"""HumanEval's authors give a program 3 seconds; there are more here, because other programs may run beside it."""

_COIN = r"(?:\\?[$\u00a3\u20ac]\s*)?"
_NUMBER = rf"{_COIN}(?P<sign>[-\u2212]?){_COIN}(?P<n>\d[\d,]*+(?:\.\d++)?+|\.\d++)"
_MARKED = re.compile(
    rf"(?:####|^\W*A:)[\s*_:=]*(?:\\boxed\{{|\\\(|\$\\boxed\{{)?\s*{_NUMBER}(?!\s*/\s*\d)", re.MULTILINE
)
"""A mark and the number behind it, which may be money, bold, or in a box, and is no fraction."""
_ANY = re.compile(_NUMBER)

_FENCED = re.compile(r"^[ \t]*(```+|~~~+)[^\n`]*\n(.*?)(^[ \t]*\1|\Z)", re.DOTALL | re.MULTILINE)
"""A block: its fence, its code, and the fence that ends it, at the head of a line, or nothing."""
_BEGINS_CODE = re.compile(r"^(?:import |from \w|def |class |@)", re.MULTILINE)
_AFTER_CODE = re.compile(r"\n(?:class |def |#|if |print\(|assert |```)")
"""What comes after the end of a function that a text goes on with: another one, or what calls it."""

Docs = dict[str, datasets.Dataset]


class DataError(ValueError):
    """A local file that cannot be used; the message names file, row and field, what was found and what is right."""


def gsm8k(data: Mapping[str, str], **_: Any) -> Docs:
    """Rows with `question` and `answer`; columns beside them are left out."""
    rows = _rows(data["candor_gsm8k"], {"question": str, "answer": str})
    for where, row in rows:
        if not re.search(rf"####\s*{_NUMBER}\s*\Z", row["answer"]):
            raise DataError(f"{where}, answer: found {row['answer'][-40:]!r}; it must end with #### and a number")
    return _docs(rows)


def humaneval(data: Mapping[str, str], **_: Any) -> Docs:
    """Rows with `task_id`, `prompt`, `test` and `entry_point`."""
    return _docs(_rows(data["candor_humaneval"], dict.fromkeys(("task_id", "prompt", "test", "entry_point"), str)))


def mmlu(data: Mapping[str, str], **_: Any) -> Docs:
    """Rows with `question`, `choices`, `answer` and `subject`."""
    rows = _rows(data["candor_mmlu"], {"question": str, "choices": list, "answer": int, "subject": str})
    for where, row in rows:
        if len(row["choices"]) != 4:
            raise DataError(f"{where}, choices: found {len(row['choices'])}; there must be four")
        if row["answer"] not in range(4):
            raise DataError(f"{where}, answer: found {row['answer']}; expected the index of a choice, 0 to 3")
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


def marked_numbers(resps: Sequence[Sequence[str]], docs: Sequence[Mapping[str, str]]) -> list[str]:
    """A filter of lm-eval: the number behind the last mark of each answer, `[invalid]` where there is none."""
    return [_last(_MARKED, answers[0]) for answers in resps]


def last_numbers(resps: Sequence[Sequence[str]], docs: Sequence[Mapping[str, str]]) -> list[str]:
    """A filter of lm-eval: the last number of each answer, likewise."""
    return [_last(_ANY, answers[0]) for answers in resps]


def _last(pattern: re.Pattern[str], text: str) -> str:
    found = list(pattern.finditer(text))
    return f"{'-' if found[-1]['sign'] else ''}{found[-1]['n']}" if found else "[invalid]"


def same_number(doc: Mapping[str, str], results: Sequence[str]) -> dict[str, float]:
    """Whether the number that was found is that of the row, however it is written: 18, 18.00, 1,234."""
    try:
        return {"exact_match": float(_value(results[0]) == _value(_last(_MARKED, doc["answer"])))}
    except InvalidOperation:
        return {"exact_match": 0.0}


def _value(number: str) -> Decimal:
    return Decimal(number.replace(",", ""))


def program(prompt: str, text: str, entry_point: str) -> str:
    """The solution that a text holds: a continuation of the prompt, or, from a model that chats, a function in a block
    of code or between sentences, whole or without its head.

    Of several blocks it is the first that has the function and is Python, else the first.
    """
    continued = text[: end.start() if (end := _AFTER_CODE.search(text)) else None]
    if text.lstrip("\r\n").startswith((" ", "\t")) and _is_python(prompt + continued):
        return prompt + continued
    found = _FENCED.findall(text)
    blocks = [_flush(code if closed else code.partition(fence)[0]) for fence, code, closed in found]
    head = prompt[: prompt.find(f"def {entry_point}(")]
    defines = re.compile(rf"^(?:async )?def {re.escape(entry_point)}\s*\(", re.MULTILINE)
    whole = [code for code in blocks if defines.search(code)]
    if whole:
        return head + next((code for code in whole if _is_python(head + code)), whole[0])
    if blocks:
        return _body(prompt, blocks[0])
    begin = _BEGINS_CODE.search(text)
    if begin and defines.search(text):
        return head + _longest_python(head, text[begin.start() :])
    return prompt + continued


def _flush(code: str) -> str:
    """A block of a list stands further to the right, as a whole; a body without its head does too, and stays so."""
    moved = textwrap.dedent(code)
    return moved if re.match(r"\s*(?:import |from |def |async def |class |@|#)", moved) else code


def _body(prompt: str, code: str) -> str:
    """The prompt with a body, moved to the right where it stands at the edge."""
    as_it_is, moved = prompt + code, prompt + textwrap.indent(code, "    ")
    return moved if not _is_python(as_it_is) and _is_python(moved) else as_it_is


def _longest_python(head: str, text: str) -> str:
    """As many lines of a text as are Python behind its head: what comes after a function between sentences is none."""
    lines = text.split("\n")
    return next((code for n in range(len(lines), 0, -1) if _is_python(head + (code := "\n".join(lines[:n])))), text)


def _is_python(code: str) -> bool:
    with warnings.catch_warnings(action="ignore"):
        try:
            compile(code, "answer", "exec", dont_inherit=True)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return False
    return True


def verdicts(resps: Sequence[Sequence[str]], docs: Sequence[Mapping[str, str]]) -> list[str]:
    """A filter of lm-eval: runs the first answer to each problem with its tests. lm-eval calls it only where running
    code was confirmed.

    Returns:
        For each problem `passed`, `failed: ` with why, or `error: ` with why it was not run.
    """
    programs = [
        (program(doc["prompt"], answers[0], doc["entry_point"]), f"{doc['test']}\ncheck({doc['entry_point']})\n")
        for answers, doc in zip(resps, docs, strict=True)
    ]
    found = run_all(programs, allow_code=True, limits=_LIMITS)
    return [_verdict(ran) if isinstance(ran, Ran) else f"error: {ran}" for ran in found]


def passed(doc: Mapping[str, str], results: Sequence[str]) -> dict[str, float]:
    """pass@1 of one answer: one or zero."""
    return {"pass@1": float(results[0] == "passed")}


def _verdict(ran: Ran) -> str:
    return "passed" if ran.passed else f"failed: {ran.why}"


def _rows(file: str, columns: Mapping[str, type]) -> list[tuple[str, dict[str, Any]]]:
    """Where each row is from, and the wanted columns of it.

    Args:
        file: JSONL, a JSON list, CSV or Parquet; also gzipped.
        columns: What their values are.
    """
    try:
        found = read_rows(Path(file))
    except DataFileError as error:
        raise DataError(str(error)) from None
    if not found:
        raise DataError(f"{file}: there are no rows in it")
    rows = []
    for where, row in found:
        for column, kind in columns.items():
            if column not in row:
                raise DataError(f"{where}: there is no {column}; found {', '.join(map(str, row))}")
            if not isinstance(row[column], kind) or row[column] == "":
                raise DataError(f"{where}, {column}: found {row[column]!r}; expected {kind.__name__}")
        rows.append((where, {c: row[c] for c in columns}))
    return rows


def _docs(rows: Sequence[tuple[str, dict[str, Any]]]) -> Docs:
    return {"test": datasets.Dataset.from_list([row for _, row in rows])}
