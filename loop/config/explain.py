"""Checking plain data against settings, and what a message says when something in it is not allowed."""

from __future__ import annotations

import re
from typing import Any, TypeVar

from pydantic import ValidationError

from actors.settings import (
    Settings,
)
from loop.config.hints import key_path, unknown_key


class ConfigError(ValueError):
    """A config that cannot be run; the message names the file, the key, what was found and what is allowed."""


AnyConfig = TypeVar("AnyConfig", bound=Settings)


def checked(
    raw: dict[str, Any], source: str, kind: type[AnyConfig], changes: dict[str, Any] | None = None
) -> AnyConfig:
    """The settings of a kind from a mapping.

    Args:
        source: Opens the message when something in it is wrong.
        changes: Values by dotted key, as from `--set`, which are put in place first; what is wrong with one of them is
            said of `--set`.

    Raises:
        ConfigError: Something is not allowed; a line for each mistake.
    """
    changes = changes or {}
    try:
        return kind.model_validate(overridden(raw, changes, "--set"))
    except ValidationError as error:
        lines = [_explain(_blamed(e["loc"], source, raw, changes), e, kind) for e in error.errors()]
        raise ConfigError("\n".join(lines)) from None
    except OSError as error:  # a name that no file can have
        raise ConfigError(f"{source}: {error.strerror or error}: {_short(str(error.filename))}") from None


def _blamed(loc: tuple[Any, ...], source: str, raw: dict[str, Any], changes: dict[str, Any]) -> str:
    """How a message about this place begins: with the file, with `--set`, or with both where either may be wrong."""
    at = [str(p) for p in _path(loc)]
    keys = [key.split(".") for key in changes]
    if any(at[: len(k)] == k for k in keys):
        return "--set "
    beneath = [".".join(k) for k in keys if k[: len(at)] == at]
    if not beneath:
        return f"{source}: "
    there: Any = raw
    for part in at:
        there = there.get(part) if isinstance(there, dict) else None
    return "--set " if there is None else f"{source} with --set {', '.join(beneath)}: "


def _path(loc: tuple[Any, ...]) -> list[Any]:
    """Where an error is, without the kind of a model, which is not a key."""
    return [p for i, p in enumerate(loc) if not (loc[0] == "models" and i == 2)]


def _unshared(value: Any) -> Any:
    """A copy of plain data in which what an anchor repeats is there as often, so that a change reaches one place."""
    if isinstance(value, dict):
        return {key: _unshared(v) for key, v in value.items()}
    return [_unshared(v) for v in value] if isinstance(value, list | tuple) else value


def overridden(raw: dict[str, Any], overrides: dict[str, Any], source: str) -> dict[str, Any]:
    out = _unshared(raw)
    for key, value in overrides.items():
        *parents, last = key.split(".")
        at = out
        for parent in parents:
            if at.get(parent) is None:
                at[parent] = {}
            at = at[parent]
            if not isinstance(at, dict):
                raise ConfigError(f"{source} {key}: {parent} is {at!r} and has no keys under it")
        at[last] = value
    return out


def _explain(source: str, error: dict[str, Any], kind: type[Settings]) -> str:
    """One line: file or option, key path, what was found, what is allowed."""
    loc = _path(error["loc"])
    key = key_path(loc)
    found = error.get("input")
    if error["type"].startswith("union_tag"):
        return f"{source}{key}.kind: expected endpoint or engine"
    if error["type"] == "extra_forbidden":
        return f"{source}{key}: unknown key" + unknown_key(loc, _known_keys(error["loc"], kind), kind)
    if error["type"] == "missing":
        return f"{source}{key}: this key is needed and was not given"
    message = error["msg"].removeprefix("Value error, ")
    pasted = isinstance(found, str) and (
        loc[:1] == ["models"] or loc[-1] == "key_env"
    )  # where somebody may have put a key
    if isinstance(found, dict | list) or pasted:
        return f"{source}{key + ': ' if key else ''}{message}"
    if isinstance(found, str):
        found = re.sub(r"(://)[^@/]*@|([?]).*", r"\1\2***", found)  # no key reaches a log
    return f"{source}{key}: found {_short(repr(found))}; {message[0].lower()}{message[1:]}"


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}..."


def _known_keys(loc: tuple[Any, ...], kind: type[Settings]) -> list[str]:
    """Keys that the settings model around an unknown key allows."""
    models: list[Any] = [kind]
    for part in loc[:-1]:
        if isinstance(part, int):
            continue
        field = models[0].model_fields.get(part) if len(models) == 1 else None
        if field is not None:
            models = [a for a in _arguments(field.annotation) if hasattr(a, "model_fields")]
            continue
        # a name in a mapping of models, or the kind that tells which of several it is
        models = [m for m in models if part in _kinds_of(m)] or models
    return list(models[0].model_fields) if len(models) == 1 else []


def _kinds_of(model: Any) -> tuple[Any, ...]:
    field = model.model_fields.get("kind")
    return field.annotation.__args__ if field else ()


def _arguments(annotation: Any) -> list[Any]:
    inner = getattr(annotation, "__args__", ())
    return [annotation, *(a for i in inner for a in _arguments(i))]
