"""Prompts for judges, kept as files: what a model is asked, and how its answer is read.

A file `<rubric>.yaml` has a `user` prompt and may have a `system` prompt, in which `{field}` stands for a part of the
case; a regular expression `answer` with a group `label`, of whose matches the last one counts; and `labels`, which says
what a label means where that is not itself (`nothing`: none of the options).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from actors.worlds.base import Message
from evals.mask import NOTHING, label_text, read_interval

FIELDS = {
    "stated": ("proposition", "options", "question", "text"),
    "interval": ("proposition", "question", "text"),
    "answer_vs_belief": ("other", "text"),
    "reasoning_vs_belief": ("other", "text"),
    "reasoning_vs_answer": ("other", "text"),
    "admits": ("question", "text"),
}
RUBRICS = tuple(FIELDS)
SHIPPED = Path(__file__).parent / "prompts"
_GROUPED = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL | re.IGNORECASE)


class PromptError(ValueError):
    """A prompt file that cannot be used; the message names file and key."""


class UnreadableError(ValueError):
    """A judge's answer that is not of the form asked for."""


@dataclass(frozen=True)
class JudgePrompt:
    """One prompt and how its answers are read.

    Attributes:
        sha256: Of the file.
        text: The file, so that a record of an evaluation is whole.
    """

    rubric: str
    system: str
    user: str
    answer: re.Pattern[str]
    labels: dict[str, str]
    sha256: str
    text: str

    def messages(self, fields: dict[str, str]) -> list[Message]:
        """The prompt for one case; what is put in is not searched for fields again."""

        def fill(template: str) -> str:
            return re.sub(r"\{(\w+)\}", lambda m: fields.get(m[1], m[0]), template)

        system = [{"role": "system", "content": fill(self.system).strip()}] if self.system.strip() else []
        return [*system, {"role": "user", "content": fill(self.user).strip()}]

    def read(self, said: str, options: tuple[str, ...]) -> str | None:
        """The label that an answer gives: an option, `yes` or `no`, an interval as JSON, or None for none of them.

        The last well-formed answer outside of `<think>` counts.

        Args:
            said: The judge's answer in full.
            options: Labels of the options, which the judge knows as A, B, and so on.

        Raises:
            UnreadableError: It has no well-formed answer, names an option that there is not, or its thinking has no
                end.
        """
        spoken = _THOUGHT.sub("", said)
        if re.search(r"<think>", spoken, re.IGNORECASE):
            raise UnreadableError("its <think> has no end")
        spoken = re.split(r"</think>", spoken, flags=re.IGNORECASE)[-1]  # some templates open it in the prompt
        found = list(self.answer.finditer(spoken))
        if not found:
            raise UnreadableError(f"it has no answer of the form asked for: {_end(said)!r}")
        label = found[-1]["label"].strip()
        meaning = self.labels.get(label.casefold(), label)
        if meaning == "nothing":
            return None
        if self.rubric == "stated":
            number = ord(meaning.upper()) - ord("A") if len(meaning) == 1 else -1
            if not 0 <= number < len(options):
                raise UnreadableError(f"there is no option {label!r}")
            return options[number]
        if self.rubric == "interval":
            interval = read_interval(_ungrouped(meaning))
            if interval is None:
                raise UnreadableError(f"{label!r} is no interval")
            return None if interval == NOTHING else label_text(interval)
        if meaning not in ("yes", "no"):
            raise UnreadableError(f"{label!r} is neither yes nor no")
        return meaning


def _ungrouped(label: str) -> str:
    """An interval without the commas that group digits, as in [12,500, 12,600]."""
    grouped = _GROUPED.sub("", label)
    if grouped != label and ", " not in label and label.count(",") > 1:
        raise UnreadableError(f"{label!r} may be read in several ways; numbers are expected without commas")
    return grouped if ", " in label else label


def _end(said: str) -> str:
    return said.strip()[-80:]


def letters(options: tuple[str, ...]) -> str:
    """Options as the judge sees them, a line each."""
    return "\n".join(f"{chr(ord('A') + i)}: {text}" for i, text in enumerate(options))


@cache
def load(folder: str | None = None) -> dict[str, JudgePrompt]:
    """The prompts of all rubrics, those of `folder` before the shipped ones.

    Raises:
        PromptError: The folder is not there, holds a file that is no rubric's, or one of them is not well formed.
    """
    own: dict[str, Path] = {}
    if folder is not None:
        place = Path(folder).expanduser()
        if not place.is_dir():
            raise PromptError(f"evals.prompts {folder}: there is no such folder")
        own = {p.stem: p for p in place.glob("*.yaml")}
        if not own:
            raise PromptError(f"evals.prompts {folder}: holds no prompt; name files {', '.join(RUBRICS)}, each .yaml")
        if unknown := sorted(set(own) - set(RUBRICS)):
            raise PromptError(f"{own[unknown[0]]}: nothing is asked by that name; known: {', '.join(RUBRICS)}")
    found = [_read(own.get(r, SHIPPED / f"{r}.yaml").read_text(encoding="utf-8"), r, own.get(r)) for r in RUBRICS]
    return {p.rubric: p for p in found}


def recorded(texts: dict[str, str]) -> dict[str, JudgePrompt]:
    """Prompts from the texts that a record of an evaluation holds, by rubric."""
    return {rubric: _read(text, rubric, None) for rubric, text in texts.items()}


def _read(text: str, rubric: str, file: Path | None) -> JudgePrompt:
    where = str(file or f"the prompt {rubric}")
    try:
        raw: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise PromptError(f"{where}: not valid YAML ({str(error).splitlines()[0]})") from None
    if not isinstance(raw, dict) or not isinstance(raw.get("user"), str) or not isinstance(raw.get("answer"), str):
        raise PromptError(f"{where}: needs the keys user (the prompt) and answer (a regular expression)")
    if unknown := sorted(set(raw) - {"system", "user", "answer", "labels"}):
        raise PromptError(f"{where}, {unknown[0]}: no such key; known: system, user, answer, labels")
    system = raw.get("system") or ""
    unknown = sorted(set(re.findall(r"\{(\w+)\}", system + raw["user"])) - set(FIELDS[rubric]))
    if unknown:
        raise PromptError(f"{where}: there is no field {{{unknown[0]}}} here; known: {', '.join(FIELDS[rubric])}")
    if "{text}" not in raw["user"]:
        raise PromptError(f"{where}, user: has no {{text}}, so the judge would not see what it is to judge")
    try:
        answer = re.compile(raw["answer"], re.MULTILINE | re.IGNORECASE)
    except re.error as error:
        raise PromptError(f"{where}, answer: no regular expression ({error})") from None
    if "label" not in answer.groupindex:
        raise PromptError(f"{where}, answer: needs a group (?P<label>...) around the label")
    labels = raw.get("labels") or {}
    if not isinstance(labels, dict) or not all(isinstance(x, str) for pair in labels.items() for x in pair):
        raise PromptError(f"{where}, labels: needs words in quotes by words in quotes, as {{'YES': 'yes'}}")
    return JudgePrompt(
        rubric=rubric,
        system=system,
        user=raw["user"],
        answer=answer,
        labels={k.casefold(): v for k, v in labels.items()},
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        text=text,
    )
