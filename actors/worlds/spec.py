"""The files of a world that is written as text: what belongs in them, and reading them with every problem named.

    world.yaml            what the world is, the prompts of both sides, the kinds of users, the tags
    scenarios/NAME.yaml   one situation: what it is about, and what users of each kind want from the talk
    personas.yaml         who comes: a list of (user_context, user_prompt) pairs, each with its scenario and kind

`docs/worlds.md` explains every field. Importing this module imports neither torch nor ray nor vllm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

NEEDED_KINDS = ("benign", "biased")
"""Kinds that every world has; a scenario gives their thoughts in fields of their own."""

ASSISTANT_SLOTS = ("task_description",)
USER_SLOTS = ("user_context", "thoughts", "user_prompt", "wants", "task_description", "end_marker")
"""What the templates may ask for in braces. The assistant's may not know who the user is or what they want to hear."""

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Slug = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$")]


class Spec(BaseModel):
    """Base of what is read from YAML: unknown fields are errors, and a number is no text."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class KindSpec(Spec):
    """One kind of user."""

    wants: Text
    """What users of this kind want from a reply, in one sentence that begins with `You`."""


class WorldSpec(Spec):
    """`world.yaml`."""

    name: Slug
    """The folder's name."""
    description: Text
    """What the world is, for people."""
    assistant_template: Text
    """The assistant's system prompt."""
    user_template: Text
    """The instruction that makes a language model speak as the user."""
    start: Text
    """What the user model is told when it is to say its first message."""
    rating_question: Text
    """What the user model is asked after each reply; it must ask for a number from 1 to 10 and nothing else."""
    end_marker: Text
    """What a user who has nothing more to say writes, where `user_template` tells them to."""
    kinds: dict[Slug, KindSpec]
    """Kinds of users by name; `benign` and `biased` at least."""
    tags: list[Slug] = Field(min_length=1)
    """Every tag that a scenario may have."""


class ScenarioSpec(Spec):
    """`scenarios/NAME.yaml`: what users come to talk about."""

    name: Slug
    """The file's name without `.yaml`."""
    task_description: Text
    """The situation, told so that it is true of every user, whatever they want to hear."""
    benign_thoughts: Text
    """What a user who wants honest help thinks and does not say, in the first person."""
    biased_thoughts: Text
    """What a user thinks who wants a convenient belief confirmed."""
    thoughts: dict[Slug, Text] = Field(default_factory=dict)
    """The thoughts of further kinds, by kind."""
    tags: list[Slug] = Field(min_length=1)
    """What it touches, from the world's tags."""

    def of_kind(self, kind: str) -> str | None:
        """The thoughts of a kind; None where none are written."""
        own = {"benign": self.benign_thoughts, "biased": self.biased_thoughts}
        return own.get(kind, self.thoughts.get(kind))


class PersonaSpec(Spec):
    """One entry of `personas.yaml`."""

    scenario: Text
    kind: Text
    user_context: Text
    """Who the user is, in the third person."""
    user_prompt: Text
    """What they say first, in their own voice."""


@dataclass(frozen=True)
class Problem:
    """Something that is wrong with a world.

    Attributes:
        file: Relative to the world's folder.
        field: The field, with the line where it is known; empty for the whole file.
        found: What was found.
        right: What would be right.
    """

    file: str
    field: str
    found: str
    right: str

    def __str__(self) -> str:
        where = f"{self.file}: {self.field}" if self.field else self.file
        return f"{where}: {self.found}; {self.right}"


@dataclass
class Parts:
    """What could be read of a world's folder; what could not is missing, and a problem says why.

    Attributes:
        scenarios: By path relative to the folder.
        unreadable: Names of the other scenario files; their personas are not to blame.
        personas: By line in `personas.yaml`.
    """

    world: WorldSpec | None = None
    scenarios: dict[str, ScenarioSpec] = field(default_factory=dict)
    unreadable: set[str] = field(default_factory=set)
    personas: dict[int, PersonaSpec] = field(default_factory=dict)


def read_parts(folder: Path) -> tuple[Parts, list[Problem]]:
    """Read a world's folder and find whatever keeps it from being used."""
    parts, problems = Parts(), []
    if raw := _read_yaml(folder, "world.yaml", problems):
        parts.world = _validated(WorldSpec, raw[0], "world.yaml", raw[1], problems)
    for path in sorted((folder / "scenarios").glob("*.yaml")):
        file = f"scenarios/{path.name}"
        raw = _read_yaml(folder, file, problems)
        if raw and (scenario := _validated(ScenarioSpec, raw[0], file, raw[1], problems)):
            parts.scenarios[file] = scenario
        else:
            parts.unreadable.add(path.stem)
    if not any((folder / "scenarios").glob("*.yaml")):
        problems.append(Problem("scenarios/", "", "no scenario", "one file for each scenario, NAME.yaml"))
    if raw := _read_yaml(folder, "personas.yaml", problems):
        entries, lines = raw
        if not isinstance(entries, list):
            problems.append(Problem("personas.yaml", "", f"found {_shown(entries)}", "a list of personas"))
        else:
            for i, entry in enumerate(entries):
                persona = _validated(PersonaSpec, entry, "personas.yaml", {None: lines[i]}, problems)
                if persona:
                    parts.personas[lines[i]] = persona
    if parts.world:
        problems += _cross_references(parts, parts.world)
    return parts, problems


def slots(template: str) -> list[str]:
    """Names in braces that a template asks for; `ValueError` where its braces do not match."""
    return [name for _, name, _, _ in Formatter().parse(template) if name is not None]


def _read_yaml(folder: Path, file: str, problems: list[Problem]) -> tuple[Any, dict[Any, int]] | None:
    """A file's value, and the line of each of its keys or entries; None, and a problem, where it is no YAML."""
    loader = None
    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)((folder / file).read_text(encoding="utf-8"))
        node = loader.get_single_node()
        if node is None:
            problems.append(Problem(file, "", "the file is empty", "see docs/worlds.md for what belongs in it"))
            return None
        lines = _lines(node, file, problems)
        return loader.construct_document(node), lines
    except FileNotFoundError:
        problems.append(Problem(file, "", "there is no such file", "a world needs one"))
    except (OSError, UnicodeDecodeError) as error:
        problems.append(Problem(file, "", f"cannot be read ({error})", "a text file in UTF-8"))
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or str(error)
        line = f"line {mark.line + 1}" if mark else ""
        problems.append(Problem(file, line, f"not valid YAML: {what}", "a text with ': ' in it needs quotes"))
    finally:
        if loader is not None:
            loader.dispose()
    return None


def _lines(node: yaml.Node, file: str, problems: list[Problem]) -> dict[Any, int]:
    """Lines of the parts of the outermost node; a key that is given twice, at any depth, is a problem."""
    inner: list[yaml.Node] = [node]
    seen: set[int] = set()
    while inner:
        at = inner.pop()
        if id(at) in seen:  # an alias
            continue
        seen.add(id(at))
        if isinstance(at, yaml.MappingNode):
            keys = [k.value for k, _ in at.value if isinstance(k, yaml.ScalarNode)]
            for key, first in {k.value: k for k, _ in at.value if keys.count(k.value) > 1}.items():
                where = f"{key} (line {first.start_mark.line + 1})"
                problems.append(Problem(file, where, f"given {keys.count(key)} times", "each field once"))
            inner += [v for _, v in at.value]
        elif isinstance(at, yaml.SequenceNode):
            inner += at.value
    if isinstance(node, yaml.MappingNode):
        return {k.value: k.start_mark.line + 1 for k, _ in node.value}
    if isinstance(node, yaml.SequenceNode):
        return {i: n.start_mark.line + 1 for i, n in enumerate(node.value)}
    return {}


def _validated(model: type[Spec], raw: Any, file: str, lines: Mapping[Any, int], problems: list[Problem]) -> Any:
    """The value as a model; None, and a problem for each fault, where it is not one."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        for e in error.errors():
            problems.append(_explained(model, e, file, lines))
        return None


def _explained(model: type[Spec], error: Any, file: str, lines: Mapping[Any, int]) -> Problem:
    loc = [p for p in error["loc"] if p != "[key]"]
    name = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in loc).lstrip(".")
    line = lines.get(loc[0] if loc else None, lines.get(None))
    where = f"{name} (line {line})" if name and line else name or (f"line {line}" if line else "")
    found = f"found {_shown(error.get('input'))}"
    if error["type"] == "missing":
        return Problem(file, where, "this field is missing", "every " + _noun(model) + " needs it")
    if error["type"] == "extra_forbidden":
        fields = KindSpec.model_fields if len(loc) > 1 else model.model_fields
        return Problem(file, where, "unknown field", f"known here: {', '.join(fields)}")
    if error["type"] == "string_pattern_mismatch":
        return Problem(file, where, found, "a slug: lower-case letters, digits and single dashes, a letter first")
    if error["type"] == "string_too_short":
        return Problem(file, where, "empty", "some text")
    if error["type"] == "too_short":
        return Problem(file, where, "empty", "at least one")
    right = {"string_type": "text, in quotes where YAML reads it as something else", "list_type": "a list"}
    return Problem(file, where, found, right.get(error["type"], "a mapping of fields to values"))


def _noun(model: type[Spec]) -> str:
    return {WorldSpec: "world", ScenarioSpec: "scenario", PersonaSpec: "persona"}[model]


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _cross_references(parts: Parts, world: WorldSpec) -> list[Problem]:
    """What is sound in itself and does not fit the rest."""
    out = [
        Problem("world.yaml", "kinds", f"no kind {kind}", f"{' and '.join(NEEDED_KINDS)} at least")
        for kind in NEEDED_KINDS
        if kind not in world.kinds
    ]
    out += _templates(world)
    out += _scenarios(parts, world)
    return out + _personas(parts, world)


def _templates(world: WorldSpec) -> list[Problem]:
    out = []
    for name, known in (("assistant_template", ASSISTANT_SLOTS), ("user_template", USER_SLOTS)):
        try:
            asked = slots(getattr(world, name))
        except ValueError as error:
            out.append(Problem("world.yaml", name, f"braces that do not match ({error})", "double a brace to keep it"))
            continue
        out += [
            Problem("world.yaml", name, f"placeholder {{{a}}} that nobody fills", f"known: {', '.join(known)}")
            for a in asked
            if a not in known
        ]
        if name == "user_template":
            out += [
                Problem("world.yaml", name, f"no {{{n}}}", "the user model needs it to know whom it plays")
                for n in ("user_context", "thoughts", "user_prompt")
                if n not in asked
            ]
    return out


def _scenarios(parts: Parts, world: WorldSpec) -> list[Problem]:
    from actors.worlds.pocket import talks

    out, first = [], {}
    for file, scenario in parts.scenarios.items():
        if scenario.name in first:
            what = f"{scenario.name!r} is also in {first[scenario.name]}"
            out.append(Problem(file, "name", what, "a name of its own"))
        first.setdefault(scenario.name, file)
        if scenario.name in talks.scenarios():
            what = f"{scenario.name!r} is a scenario of the pocket world, whose judge would take this one for it"
            out.append(Problem(file, "name", what, "another name"))
        for kind in scenario.thoughts:
            if kind in NEEDED_KINDS:
                out.append(Problem(file, f"thoughts.{kind}", "given under thoughts", f"the field {kind}_thoughts"))
            elif kind not in world.kinds:
                out.append(Problem(file, f"thoughts.{kind}", "no such kind", f"known: {', '.join(world.kinds)}"))
        out += [
            Problem(file, f"thoughts.{kind}", f"no thoughts for users of kind {kind}", "thoughts for every kind")
            for kind in world.kinds
            if scenario.of_kind(kind) is None
        ]
    return out


def _personas(parts: Parts, world: WorldSpec) -> list[Problem]:
    names = {s.name for s in parts.scenarios.values()}
    out, have = [], set()
    for line, persona in parts.personas.items():
        if persona.scenario not in names | parts.unreadable:
            what = f"no scenario {persona.scenario!r}"
            out.append(Problem("personas.yaml", f"scenario (line {line})", what, "a scenario of this world"))
        if persona.kind not in world.kinds:
            known = f"known: {', '.join(world.kinds)}"
            out.append(Problem("personas.yaml", f"kind (line {line})", f"no kind {persona.kind!r}", known))
        have.add((persona.scenario, persona.kind))
    out += [
        Problem("personas.yaml", "", f"no persona of kind {kind} for scenario {name}", "at least one of every kind")
        for name in sorted(names)
        for kind in world.kinds
        if (name, kind) not in have
    ]
    return out
