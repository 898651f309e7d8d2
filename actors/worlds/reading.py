"""Reading a world's files, and every problem that keeps them from being one: file, line, field, what was found and
what would be right."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from string import Formatter
from typing import Any

import yaml
from pydantic import ValidationError

from actors.storage.strict_yaml import YamlFault, read_document
from actors.worlds.spec import (
    ASSISTANT_SLOTS,
    NEEDED_KINDS,
    USER_SLOTS,
    KindSpec,
    Parts,
    PersonaSpec,
    Place,
    Problem,
    ReviewSpec,
    ScenarioSpec,
    Spec,
    WorldSpec,
    WrittenSpec,
)


def read_parts(folder: Path, complete: bool = True) -> tuple[Parts, list[Problem]]:
    """Read a world's folder and find whatever keeps it from being used.

    Args:
        complete: Whether it is a problem that personas are missing; it is none while they are still being written.
    """
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
    generated = (folder / "personas.jsonl").exists()
    by_hand = (folder / "personas.yaml").exists() or (complete and not generated)
    if by_hand and (raw := _read_yaml(folder, "personas.yaml", problems)):
        entries, lines = raw
        if not isinstance(entries, list):
            problems.append(Problem("personas.yaml", "", f"found {_shown(entries)}", "a list of personas"))
        else:
            for i, entry in enumerate(entries):
                persona = _validated(PersonaSpec, entry, "personas.yaml", {None: lines[i]}, problems)
                if persona:
                    parts.personas[lines[i]] = persona
    parts.written = read_lines(folder / "personas.jsonl", WrittenSpec, problems)
    parts.reviews = read_lines(folder / "reviews.jsonl", ReviewSpec, problems)
    if parts.world:
        problems += _cross_references(parts, parts.world, complete)
    return parts, problems


def strict_json(text: str | bytes) -> Any:
    """The value of a JSON text; `ValueError` where it is none, gives a key twice, or has a number that JSON lacks."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            keys = [key for key, _ in pairs]
            raise ValueError(f"the key {next(k for k in keys if keys.count(k) > 1)!r} is given twice")
        return value

    def no_number(name: str) -> None:
        raise ValueError(f"{name} is not allowed in JSON")

    return json.loads(text, object_pairs_hook=once, parse_constant=no_number)


def read_lines(file: Path, model: type[Spec], problems: list[Problem]) -> dict[int, Any]:
    """The lines of a file of JSON by their number, and a problem for each that is broken; empty without a file."""
    try:
        raw = file.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        problems.append(Problem(file.name, "", f"cannot be read ({error})", "a text file in UTF-8"))
        return {}
    out = {}
    for number, line in enumerate(raw.removesuffix(b"\n").split(b"\n") if raw else [], 1):
        place = Place(file.name, number)
        try:
            value = strict_json(line.decode())
        except UnicodeDecodeError as error:
            problems.append(Problem(file.name, place.field(), f"no UTF-8 ({error.reason})", "one JSON object"))
        except (ValueError, RecursionError) as error:
            problems.append(Problem(file.name, place.field(), f"not valid JSON: {error}", "one JSON object"))
        else:
            faults: list[Problem] = []
            if (read := _validated(model, value, file.name, {}, faults)) is not None:
                out[number] = read
            problems += [replace(p, field=place.field(p.field)) for p in faults]
    return out


def slots(template: str) -> list[str]:
    """Names in braces that a template asks for; `ValueError` where its braces do not match."""
    return [name for _, name, _, _ in Formatter().parse(template) if name is not None]


def _read_yaml(folder: Path, file: str, problems: list[Problem]) -> tuple[Any, dict[Any, int]] | None:
    """A file's value, and the line of each of its keys or entries; None, and a problem, where it is not YAML."""
    try:
        document = read_document((folder / file).read_text(encoding="utf-8"))
    except FileNotFoundError:
        problems.append(Problem(file, "", "there is no such file", "a world needs one"))
    except YamlFault as fault:
        line = f"line {fault.line}" if fault.line else ""
        problems.append(Problem(file, line, f"not valid YAML: {fault.problem}", "a text with ': ' in it needs quotes"))
    except (OSError, UnicodeDecodeError) as error:
        problems.append(Problem(file, "", f"cannot be read ({error})", "a text file in UTF-8"))
    else:
        if document.node is None:
            problems.append(Problem(file, "", "the file is empty", "see docs/worlds.md for what belongs in it"))
            return None
        for key, count in document.twice:
            where = f"{key.value} (line {key.start_mark.line + 1})"
            problems.append(Problem(file, where, f"given {count} times", "each field once"))
        return document.value, _lines(document.node)
    return None


def _lines(node: yaml.Node) -> dict[Any, int]:
    """Lines of the parts of the outermost node."""
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
    if error["type"] == "literal_error":
        return Problem(file, where, found, error["ctx"]["expected"])
    if error["type"] == "string_unicode":
        return Problem(file, where, "half of a character that takes two", "text in Unicode")
    quotes = "text, in quotes" + (" where YAML reads it as something else" if file.endswith(".yaml") else "")
    right = {"string_type": quotes, "list_type": "a list"}
    return Problem(file, where, found, right.get(error["type"], "a mapping of fields to values"))


def _noun(model: type[Spec]) -> str:
    nouns = {WorldSpec: "world", ScenarioSpec: "scenario", ReviewSpec: "review"}
    return nouns.get(model, "persona" if issubclass(model, PersonaSpec) else "line")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _cross_references(parts: Parts, world: WorldSpec, complete: bool) -> list[Problem]:
    """What is sound in itself and does not fit the rest."""
    out = [
        Problem("world.yaml", "kinds", f"no kind {kind}", f"{' and '.join(NEEDED_KINDS)} at least")
        for kind in NEEDED_KINDS
        if kind not in world.kinds
    ]
    out += _templates(world)
    out += _scenarios(parts, world)
    out += _personas(parts, world)
    return out + (_absent(parts, world) if complete else [])


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
    for word, count in Counter(w.casefold() for w in world.reactions).items():
        if count > 1:
            out.append(Problem("world.yaml", "reactions", f"{word!r} is listed {count} times", "each word once"))
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
    out = []
    for at, persona in parts.placed():
        if persona.scenario not in names | parts.unreadable:
            what = f"no scenario {persona.scenario!r}"
            out.append(Problem(at.file, at.field("scenario"), what, "a scenario of this world"))
        if persona.kind not in world.kinds:
            known = f"known: {', '.join(world.kinds)}"
            out.append(Problem(at.file, at.field("kind"), f"no kind {persona.kind!r}", known))
    return out


def _absent(parts: Parts, world: WorldSpec) -> list[Problem]:
    have = {(p.scenario, p.kind) for p in parts.people()}
    file = "personas.yaml" if parts.personas or not parts.written else "personas.jsonl"
    return [
        Problem(file, "", f"no persona of kind {kind} for scenario {name}", "at least one of every kind")
        for name in sorted({s.name for s in parts.scenarios.values()})
        for kind in world.kinds
        if (name, kind) not in have
    ]
