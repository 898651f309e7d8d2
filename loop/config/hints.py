"""Did you mean ...? What a mistyped name was probably meant to be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel

from actors.registry import nearest

MOST = 3
"""A hint names at most so many keys; more of them are no hint."""


def unknown_key(loc: Sequence[Any], known: Sequence[str], kind: type[BaseModel]) -> str:
    """How the message about an unknown key goes on: with what was probably meant, or else with what is allowed.

    Args:
        loc: Names and numbers on the way to the key, the key itself last.
        known: Keys that are allowed in its place.
        kind: The settings as a whole, in which a key without its section is looked for.
    """
    *parents, key = loc
    if near := nearest(str(key), known):
        return f"; did you mean {key_path([*parents, near])}?"
    elsewhere = [] if parents else [k for k in dotted_keys(kind) if k.split(".")[-1] == key]
    shortest = [k for k in elsewhere if k.count(".") == min(e.count(".") for e in elsewhere)]
    if 0 < len(shortest) <= MOST:
        return f"; did you mean {' or '.join(shortest)}?"
    return f"; allowed here: {', '.join(known)}" if known else ""


def key_path(loc: Sequence[Any]) -> str:
    """The way to a setting as one writes it: `arms[0].name`."""
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in loc).lstrip(".")


def dotted_keys(kind: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key of some settings and of the settings in them, lists and mappings left out."""
    for name, field in kind.model_fields.items():
        yield prefix + name
        for inner in inner_settings(field.annotation):
            yield from dotted_keys(inner, f"{prefix}{name}.")


def inner_settings(annotation: Any) -> list[type[BaseModel]]:
    """Settings that a value of this type is, or may be among others."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if getattr(annotation, "__origin__", None) in (list, dict):
        return []
    return [m for a in getattr(annotation, "__args__", ()) for m in inner_settings(a)]
