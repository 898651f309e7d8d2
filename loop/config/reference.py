"""The settings as documents: a page for people (`docs/configuration.md`) and a JSON schema for editors."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from actors.registry import OneOf
from evals.settings import SHORT, HarnessSettings, SuiteSettings
from loop.config.schema import RunConfig

INTRODUCTION = """# Every setting

<!-- Written by `candor config docs`; change the settings' own documentation in the code, then write it again. -->

A run is one YAML file. Every key that it may hold is here, with its type, its default, the values that are allowed, and
what it does. A key that is left out has its default; only `name` and `arms` are required.

- `candor config check CONFIG` checks a file and shows what it would run, without starting anything.
- `--set trainer.lora.rank=8` changes one setting on the command line, by its dotted key.
- `candor config schema > candor.schema.json` writes a JSON schema. Editors that speak YAML then complete keys and mark
  mistakes; for VS Code and Neovim, begin the file with `# yaml-language-server: $schema=candor.schema.json`.
- Each section below is one class in the code; its name is given so that it can be found.
"""
EVALUATION = """## Evaluating without a run

`candor eval MODEL --config FILE` takes a file of its own kind, with the keys below. The command's options set most of
them too, and come before the file.
"""
WORDS = {
    int: "whole number",
    float: "number",
    bool: "true or false",
    str: "text",
    types.NoneType: "null",
    Any: "any value",
}


@dataclass
class Section:
    """One class of settings, and the keys under which it is used."""

    kind: type[BaseModel]
    keys: list[str] = field(default_factory=list)

    @property
    def variant(self) -> str:
        """The value of `kind` that tells these settings from others under the same key; empty where there are none."""
        kind = self.kind.model_fields.get("kind")
        return get_args(kind.annotation)[0] if kind else ""

    @property
    def heading(self) -> str:
        if not self.keys[0]:
            return "The run"
        return f"`{self.keys[0]}`" + (f" with `kind: {self.variant}`" if self.variant else "")

    @property
    def anchor(self) -> str:
        """What GitHub makes of the heading."""
        return "".join(c for c in self.heading.lower().replace(" ", "-") if c.isalnum() or c in "-_")


def sections(kind: type[BaseModel], key: str = "") -> list[Section]:
    """A class of settings and all classes within it, each once, in the order in which their keys come."""
    found: dict[type[BaseModel], Section] = {}
    for inner, at in _uses(kind, key):
        section = found.setdefault(inner, Section(inner))
        section.keys = list(dict.fromkeys([*section.keys, at]))
    return list(found.values())


def _uses(kind: type[BaseModel], key: str) -> Iterator[tuple[type[BaseModel], str]]:
    yield kind, key
    for name, of in kind.model_fields.items():
        for inner, below in _settings_in(of.annotation):
            yield from _uses(inner, f"{key}.{name}{below}".lstrip("."))


def _settings_in(annotation: Any, below: str = "") -> Iterator[tuple[type[BaseModel], str]]:
    """Settings in a type, each with how its key goes on: `[]` in a list, `.NAME` in a mapping."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation, below
        return
    step = {list: "[]", dict: ".NAME"}.get(get_origin(annotation), "")
    for inner in get_args(annotation):
        if not isinstance(inner, FieldInfo):
            yield from _settings_in(inner, below + step)


def markdown() -> str:
    """The page with every setting of a run, and of `candor eval --config`."""
    from loop.standalone import EvaluationConfig

    of_run = sections(RunConfig)
    places = {s.kind: s for s in of_run}
    evaluation = Section(EvaluationConfig, ["Evaluating without a run"])
    pages = [INTRODUCTION, *(_section(s, places) for s in of_run), EVALUATION + "\n" + _table(evaluation, places)]
    return "\n".join(page.rstrip() + "\n" for page in pages)


def _section(section: Section, places: dict[type[BaseModel], Section]) -> str:
    same = f" The same keys are under {_listed([f'`{k}`' for k in section.keys[1:]])}." if section.keys[1:] else ""
    about = " ".join((section.kind.__doc__ or "").split())
    return f"## {section.heading}\n\n{about} (`{section.kind.__name__}`){same}\n\n{_table(section, places)}"


def _table(section: Section, places: dict[type[BaseModel], Section]) -> str:
    rows = ["| key | type | default | allowed | what it is |", "| --- | --- | --- | --- | --- |"]
    for name, of in section.kind.model_fields.items():
        cells = (
            f"`{name}`",
            _names(of) or _type(of.annotation, places),
            _default(of),
            _range(of.metadata),
            _documentation(of, places),
        )
        rows.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")
    return "\n".join(rows) + "\n"


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _documentation(of: FieldInfo, places: dict[type[BaseModel], Section]) -> str:
    """The string under the field; where there is none, that of the settings in it."""
    if of.description:
        return " ".join(of.description.split())
    inner = [kind for kind, _ in _settings_in(of.annotation)]
    return " ".join((inner[0].__doc__ or "").split()).split(". ")[0].rstrip(".") + "." if inner else ""


def _names(of: FieldInfo) -> str:
    """The names that a registry has without extensions; empty where the value is not such a name."""
    found = [name for limit in of.metadata if isinstance(limit, OneOf) for name in limit.registry]
    return _either([*(f"`{name}`" for name in found), "one of an extension"]) if found else ""


def _type(annotation: Any, places: dict[type[BaseModel], Section]) -> str:
    """A type in words, with a link to the section of settings."""
    return _either(list(dict.fromkeys(_alternatives(annotation, places))))


def _alternatives(annotation: Any, places: dict[type[BaseModel], Section]) -> list[str]:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        place = places[annotation]
        bare = " or a whole number" if annotation in _suite_kinds() else ""
        return [f"[{place.variant or 'settings'}](#{place.anchor}){bare}"]
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return [f"`{_plain(value)}`" for value in inner]
    if origin in (Union, types.UnionType):
        return [word for a in inner for word in _alternatives(a, places)]
    if origin is list:
        return [f"list of {_type(inner[0], places)}"]
    if origin is dict:
        return [f"mapping of names to {_type(inner[1], places)}"]
    if hasattr(annotation, "__metadata__"):
        allowed = _range(_constraints(annotation.__metadata__))
        return [_type(annotation.__origin__, places) + (f" ({allowed})" if allowed else "")]
    return [WORDS[annotation]]


def _either(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _constraints(metadata: tuple[Any, ...]) -> list[Any]:
    return [c for m in metadata for c in (m.metadata if isinstance(m, FieldInfo) else [m])]


def _default(of: FieldInfo) -> str:
    if of.is_required():
        return "required"
    value = of.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, BaseModel):
        return "its defaults" if value == type(value)() else f"`{_plain(value.model_dump(exclude_unset=True))}`"
    return f"`{_plain(value)}`"


def _plain(value: Any) -> str:
    """A value as it stands in YAML."""
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n").removesuffix("\n...")


def _range(metadata: list[Any]) -> str:
    """The values that are allowed, in words."""
    low, high, others = "", "", []
    for limit in metadata:
        match limit:
            case Ge(ge=bound):
                low = f"{bound:g} or more"
            case Gt(gt=bound):
                low = f"above {bound:g}"
            case Le(le=bound):
                high = f"at most {bound:g}"
            case Lt(lt=bound):
                high = f"below {_power(bound)}"
            case MinLen(min_length=1):
                others.append("not empty")
            case MinLen(min_length=bound):
                others.append(f"{bound} or more of them")
            case MaxLen(max_length=bound):
                others.append(f"at most {bound} of them")
            case _ if pattern := getattr(limit, "pattern", None):
                others.append(f"`{pattern}`")
    if low.endswith(" or more") and high.startswith("at most "):
        low, high = low.removesuffix(" or more") + " to " + high.removeprefix("at most "), ""
    return ", ".join(filter(None, [low, high, *others]))


def _suite_kinds() -> tuple[type[BaseModel], ...]:
    """Settings of suites, for which a bare number may stand."""
    return (SuiteSettings, HarnessSettings, *SuiteSettings.__subclasses__())


def _power(bound: float) -> str:
    """A power of two above a thousand as one."""
    whole = int(bound)
    return f"2^{whole.bit_length() - 1}" if whole > 1000 and whole & (whole - 1) == 0 else f"{bound:g}"


def schema() -> dict[str, Any]:
    """The JSON schema of a run config, as it may be written: with bare numbers in the place of a suite's settings, and
    with names that stand for several suites."""
    found = RunConfig.model_json_schema()
    definitions = found["$defs"]
    for kind in _suite_kinds():
        whole = definitions[kind.__name__]
        number = {"type": "integer", "minimum": 1, "description": "How many items."}
        definitions[kind.__name__] = {"anyOf": [whole, number], "description": whole.pop("description")}
    of_suites = definitions["EvalSettings"]["properties"]
    of_suites["capability"] = {
        "$ref": f"#/$defs/{SuiteSettings.__name__}",
        "description": f"The settings of {', '.join(SHORT['capability'])} at once.",
    }
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Candor run config"}
    return head | {k: v for k, v in _tidy(found).items() if k != "title"}


def _tidy(value: Any) -> Any:
    """Texts of the schema on one line each."""
    if isinstance(value, dict):
        return {
            k: " ".join(v.split()) if k == "description" and isinstance(v, str) else _tidy(v) for k, v in value.items()
        }
    return [_tidy(v) for v in value] if isinstance(value, list) else value
