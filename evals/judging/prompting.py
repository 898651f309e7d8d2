"""Prompts for judges, kept as files: what a model is asked, and how its answer is read.

A file `<name>.yaml` has a `user` prompt and may have a `system` prompt, in which `{field}` stands for a part of the
case (`evals.judging.showing`); a regular expression `answer` with a group `label`, of whose matches the last one
counts; `labels`, which says what a label means where that is not itself (`nothing`: none of the options, both, or
unclear; `neither`: all of them are denied); and `rules`, texts by category of which the case's own stands for
`{rules}`.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from actors.models.thoughts import without_thoughts
from actors.storage.strict_yaml import YamlFault, read_value
from actors.worlds.base import Message
from evals.judging.labels import NEITHER, NOTHING, label_text, read_bounds, read_interval
from evals.judging.showing import FIELDS, SAME_AS, allowed, fill, named

RUBRICS = ("stated", "interval", "answer_vs_belief", "reasoning_vs_belief", "reasoning_vs_answer", "admits")
"""What can be asked of a text."""
WORDINGS: dict[str, tuple[str, ...]] = {
    "stated": (),
    "belief_direct": ("stated",),
    "belief_consistency": ("stated",),
    "pressure": ("stated",),
    "pressure_disinformation": ("pressure", "stated"),
    "pressure_continuations": ("pressure", "stated"),
    "doubling_down": ("stated",),
    "interval": (),
    "interval_beliefs": ("interval",),
    "answer_vs_belief": (),
    "reasoning_vs_belief": (),
    "reasoning_vs_answer": (),
    "admits": (),
}
"""Names that prompt files have, each with those of more general ones that stand in for it where it is missing."""
PRESSURE = {
    "provided_facts": "pressure",
    "known_facts": "pressure",
    "statistics": "pressure",
    "disinformation": "pressure_disinformation",
    "continuations": "pressure_continuations",
    "doubling_down_known_facts": "doubling_down",
}
"""Which of them is about an answer under pressure, by MASK's archetype; about answers to other items it is `stated`."""
SHIPPED = Path(__file__).parent / "prompts"
_ADDED: dict[str, Path] = {}
_GROUPED = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_KEYS = ("system", "user", "answer", "labels", "rules")


class PromptError(ValueError):
    """A prompt file that cannot be used; the message names file and key."""


class UnreadableError(ValueError):
    """A judge's answer that is not of the form asked for."""


@dataclass(frozen=True)
class JudgePrompt:
    """One prompt and how its answers are read.

    Attributes:
        rubric: What it asks, one of `RUBRICS`.
        labels: What a label means where that is not itself, by the label as the file writes it.
        rules: What stands for `{rules}`, by category.
        sha256: Of the file.
        text: The file, so that a record of an evaluation is whole.
    """

    rubric: str
    system: str
    user: str
    answer: re.Pattern[str]
    labels: dict[str, str]
    rules: dict[str, str]
    sha256: str
    text: str

    def messages(self, fields: dict[str, str], category: str = "") -> list[Message]:
        """The prompt for one case; what is put in is not searched for fields again."""
        known = {**fields, "rules": self.rules.get(category, "").strip()}
        system = [{"role": "system", "content": fill(self.system, known)}] if self.system.strip() else []
        return [*system, {"role": "user", "content": fill(self.user, known)}]

    def answers(self, options: tuple[str, ...]) -> dict[str, str | None] | None:
        """Every label that an answer may give, with what `read` makes of it; None where they are without number.

        Args:
            options: Labels of the options, which the judge knows as A, B, and so on.
        """
        if self.rubric == "interval":
            return None
        own = ("yes", "no") if self.rubric != "stated" else tuple(chr(ord("A") + i) for i in range(len(options)))
        if self.rubric != "stated" and {"yes", "no"} <= set(self.labels.values()):
            own = ()
        written = dict.fromkeys([*(x for x in own if x not in self.labels), *self.labels])
        return {label: self._meaning(label, options) for label in written}

    def read(self, said: str, options: tuple[str, ...]) -> str | None:
        """The label that an answer gives: an option, `NEITHER`, `yes` or `no`, intervals as JSON, or None for none of
        them.

        The last well-formed answer outside of thoughts counts.

        Args:
            said: The judge's answer in full.
            options: Labels of the options, which the judge knows as A, B, and so on.

        Raises:
            UnreadableError: It has no well-formed answer, names an option that there is not, or its thinking has no
                end.
        """
        spoken = without_thoughts(said)
        if spoken is None:
            raise UnreadableError("its <think> has no end")
        found = list(self.answer.finditer(spoken))
        if not found:
            raise UnreadableError(f"it has no answer of the form asked for: {spoken.strip()[-80:]!r}")
        return self._meaning(found[-1]["label"].strip(), options)

    def _meaning(self, label: str, options: tuple[str, ...]) -> str | None:
        meaning = next((m for said, m in self.labels.items() if said.casefold() == label.casefold()), label)
        if meaning == "nothing":
            return None
        if self.rubric == "interval":
            interval = read_bounds(meaning) if meaning.startswith("{") else read_interval(_ungrouped(meaning))
            if interval is None:
                raise UnreadableError(f"{label!r} is no interval")
            return None if interval == NOTHING else label_text(interval)
        if self.rubric == "stated":
            if meaning == NEITHER:
                return NEITHER
            number = ord(meaning.upper()) - ord("A") if len(meaning) == 1 else -1
            if not 0 <= number < len(options):
                raise UnreadableError(f"there is no option {label!r}")
            return options[number]
        if meaning.casefold() not in ("yes", "no"):
            raise UnreadableError(f"{label!r} is neither yes nor no")
        return meaning.casefold()


def _ungrouped(label: str) -> str:
    """An interval without the commas that group digits, as in [12,500, 12,600]."""
    grouped = _GROUPED.sub("", label)
    if grouped != label and ", " not in label and label.count(",") > 1:
        raise UnreadableError(f"{label!r} may be read in several ways; numbers are expected without commas")
    return grouped if ", " in label else label


def wording(rubric: str, part: str, category: str) -> str:
    """The name of the prompt that is written for a case.

    Args:
        rubric: One of `RUBRICS`.
        part: The part of the answer that is meant, as in `evals.outcomes.Said`; `beliefs` for all of them together.
        category: Of the item, an archetype in MASK.
    """
    if rubric == "interval":
        return "interval_beliefs" if part == "beliefs" else "interval"
    if rubric != "stated":
        return rubric
    if part != "answer":
        return "belief_direct" if part.startswith("belief") else "belief_consistency"
    return PRESSURE.get(category, "stated")


def choose(prompts: dict[str, JudgePrompt], rubric: str, part: str, category: str) -> JudgePrompt | None:
    """The prompt of a case: the one that is written for it, else the next more general one; None where there is
    none."""
    name = wording(rubric, part, category)
    return next((prompts[n] for n in (name, *WORDINGS[name]) if n in prompts), None)


def add(rubric: str, fields: tuple[str, ...], file: Path) -> None:
    """Have judges asked one thing more.

    Args:
        rubric: What cases call it (`evals.judging.panel.Case`).
        fields: What its prompt may show: `text`, and of `conversation`, `other`, `proposition` and `options` what it
            needs.
        file: The prompt.
    """
    FIELDS[rubric], WORDINGS[rubric] = fields, ()
    _ADDED[rubric] = file
    load.cache_clear()


@cache
def load(folder: str | None = None) -> dict[str, JudgePrompt]:
    """The prompts in force, by name: those of `folder`, and of the shipped ones those for which it has neither the same
    nor a more general one.

    Raises:
        PromptError: The folder is not there, holds a file of no known name, or one of them is not well formed.
    """
    own: dict[str, Path] = {}
    if folder is not None:
        place = Path(folder).expanduser()
        if not place.is_dir():
            raise PromptError(f"evals.prompts {folder}: there is no such folder")
        own = {p.stem: p for p in place.glob("*.yaml")}
        if not own:
            raise PromptError(f"evals.prompts {folder}: holds no prompt; name files {', '.join(WORDINGS)}, each .yaml")
        if unknown := sorted(set(own) - set(WORDINGS)):
            raise PromptError(f"{own[unknown[0]]}: nothing is asked by that name; known: {', '.join(WORDINGS)}")
    found = {}
    for name, general in WORDINGS.items():
        shipped = _ADDED.get(name, SHIPPED / f"{name}.yaml")
        if name in own or (shipped.exists() and not own.keys() & set(general)):
            found[name] = _read((own.get(name) or shipped).read_text(encoding="utf-8"), name, own.get(name))
    return found


def recorded(texts: dict[str, str]) -> dict[str, JudgePrompt]:
    """Prompts from the texts that a record of an evaluation holds, by name."""
    return {name: _read(text, name, None) for name, text in texts.items()}


def _rubric_of(name: str) -> str:
    return next((n for n in (name, *WORDINGS[name]) if n in RUBRICS), name)


def _read(text: str, name: str, file: Path | None) -> JudgePrompt:
    where = str(file or f"the prompt {name}")
    raw = _parsed(text, where)
    system, rubric = raw.get("system") or "", _rubric_of(name)
    used = named(system + raw["user"])
    if unknown := sorted(f for f in used if not allowed(f, rubric)):
        known = ", ".join((*FIELDS[rubric], "system, question, turn_1, forced_1, option_a, rules"))
        raise PromptError(f"{where}: there is no field {{{unknown[0]}}} here; known: {known}, and so on")
    if "text" not in {SAME_AS.get(f, f) for f in named(raw["user"])}:
        raise PromptError(f"{where}, user: has no {{text}}, so the judge would not see what it is to judge")
    try:
        answer = re.compile(raw["answer"], re.MULTILINE | re.IGNORECASE)
    except re.error as error:
        raise PromptError(f"{where}, answer: no regular expression ({error})") from None
    if "label" not in answer.groupindex:
        raise PromptError(f"{where}, answer: needs a group (?P<label>...) around the label")
    tables = {}
    for key, shape in (("labels", "words in quotes by words in quotes, as {'YES': 'yes'}"), ("rules", "texts by name")):
        tables[key] = raw.get(key) or {}
        if not isinstance(tables[key], dict) or not all(
            isinstance(x, str) for pair in tables[key].items() for x in pair
        ):
            raise PromptError(f"{where}, {key}: needs {shape}")
    return JudgePrompt(
        rubric=rubric,
        system=system,
        user=raw["user"],
        answer=answer,
        labels=tables["labels"],
        rules=tables["rules"],
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        text=text,
    )


def _parsed(text: str, where: str) -> dict[str, Any]:
    try:
        raw: Any = read_value(text)
    except YamlFault as fault:
        raise PromptError(f"{where}: not valid YAML ({fault})") from None
    if not isinstance(raw, dict) or not isinstance(raw.get("user"), str) or not isinstance(raw.get("answer"), str):
        raise PromptError(f"{where}: needs the keys user (the prompt) and answer (a regular expression)")
    if unknown := sorted(set(raw) - set(_KEYS)):
        raise PromptError(f"{where}, {unknown[0]}: no such key; known: {', '.join(_KEYS)}")
    return raw
