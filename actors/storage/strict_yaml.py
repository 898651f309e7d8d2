"""YAML that a person wrote, read strictly: whatever is ambiguous, endless or no plain data is a fault with its line."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import yaml

DEEPEST = 50
"""Levels of nesting; settings and worlds have fewer than ten."""
MOST_VALUES = 1_000_000
"""Values in a file, those that anchors repeat counted each time."""
LONGEST_NUMBER = 40
"""Characters of a number."""
_KINDS = ("str", "int", "float", "bool", "null", "map", "seq", "timestamp")
_TAGS = tuple(f"tag:yaml.org,2002:{kind}" for kind in _KINDS)
_MERGE = "tag:yaml.org,2002:merge"
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class YamlFault(ValueError):  # noqa: N818, what is wrong with a text, not with whoever reads it
    """A text that is not read, and why; the message quotes nothing of it, as somebody may have put a key there.

    Attributes:
        line: Where it is, counted from 1; None where no line is to blame.
    """

    def __init__(self, problem: str, mark: Any = None) -> None:
        self.line: int | None = mark.line + 1 if mark else None
        self.column: int | None = mark.column + 1 if mark else None
        self.problem = problem
        super().__init__(f"line {self.line}, column {self.column}: {problem}" if mark else problem)


@dataclass(frozen=True)
class Document:
    """A text that can be read.

    Attributes:
        node: Its outermost node; None for an empty text.
        value: What it says.
        twice: Keys that are given several times in one mapping: the node of the first, and how often.
    """

    node: yaml.Node | None
    value: Any
    twice: list[tuple[yaml.ScalarNode, int]]


def read_document(text: str) -> Document:
    """The one document in a text.

    Raises:
        YamlFault: It is not valid YAML, nests too deeply or endlessly, has a key that is no text, a number that is not
            finite or too long, a date that is none, a tag that stands for no plain data, or a character that no text
            and no path can hold.
    """
    try:
        _not_too_deep(text)
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return Document(None, None, [])
            twice: list[tuple[yaml.ScalarNode, int]] = []
            _size(node, {}, set(), twice)
            return Document(node, _value(loader, node), twice)
        finally:
            loader.dispose()
    except yaml.reader.ReaderError as error:
        raise YamlFault(f"{error.reason} at character {error.position}") from None
    except yaml.YAMLError as error:
        told = getattr(error, "problem", None) or type(error).__name__
        raise YamlFault(told, getattr(error, "problem_mark", None)) from None
    except UnicodeEncodeError as error:
        raise YamlFault(f"a character that is no Unicode ({error.reason})") from None


def read_value(text: str) -> Any:
    """What a text says; `YamlFault` as of `read_document`, and where a key is given twice."""
    document = read_document(text)
    for key, count in document.twice:
        raise YamlFault(f"a key is given {count} times in one mapping", key.start_mark)
    return document.value


def _not_too_deep(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEEPEST:
                raise YamlFault(f"nested more than {DEEPEST} levels deep", event.start_mark)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _size(node: yaml.Node, known: dict[int, int], above: set[int], twice: list[tuple[yaml.ScalarNode, int]]) -> int:
    """How many values a node holds; each node is looked at once, however often an anchor repeats it."""
    if id(node) in above:
        raise YamlFault("an anchor that holds itself", node.start_mark)
    if id(node) in known:
        return known[id(node)]
    if node.tag not in _TAGS:
        raise YamlFault("a tag that stands for no plain data", node.start_mark)
    inner: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        inner = [value for _, value in node.value]
        _check_keys(node, twice)
    elif isinstance(node, yaml.SequenceNode):
        inner = node.value
    above.add(id(node))
    size = 1 + sum(_size(n, known, above, twice) for n in inner)
    above.remove(id(node))
    if size > MOST_VALUES:
        raise YamlFault(f"more than {MOST_VALUES:,} values, with those that anchors repeat", node.start_mark)
    known[id(node)] = size
    return size


def _check_keys(node: yaml.MappingNode, twice: list[tuple[yaml.ScalarNode, int]]) -> None:
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise YamlFault("a list or mapping as a key; a key is text", key.start_mark)
        if key.tag not in (_TAGS[0], _MERGE):
            kind = key.tag.rpartition(":")[2]
            raise YamlFault(f"a key that YAML reads as {kind}; a key is text, so put it in quotes", key.start_mark)
        if "\0" in key.value:
            raise YamlFault("a NUL character", key.start_mark)
    counts = Counter(key.value for key, _ in node.value)
    first = {key.value: key for key, _ in reversed(node.value)}
    twice += [(first[value], count) for value, count in counts.items() if count > 1]


def _value(loader: Any, node: yaml.Node) -> Any:
    for scalar in _scalars(node, set()):
        _check_scalar(loader, scalar)
    return loader.construct_document(node)


def _scalars(node: yaml.Node, seen: set[int]) -> list[yaml.ScalarNode]:
    if id(node) in seen:
        return []
    seen.add(id(node))
    if isinstance(node, yaml.ScalarNode):
        return [node]
    inner = [value for _, value in node.value] if isinstance(node, yaml.MappingNode) else node.value
    return [scalar for n in inner for scalar in _scalars(n, seen)]


def _check_scalar(loader: Any, node: yaml.ScalarNode) -> None:
    kind = node.tag.rpartition(":")[2]
    if kind == "str":
        if "\0" in node.value:
            raise YamlFault("a NUL character", node.start_mark)
        return
    if kind in ("int", "float") and len(node.value) > LONGEST_NUMBER:
        raise YamlFault(f"a number of {len(node.value)} characters", node.start_mark)
    try:
        value = loader.construct_object(node)
    except (ValueError, OverflowError, KeyError, AttributeError, TypeError):  # a tag or a form that promises another
        told = "a date that is none" if kind == "timestamp" else f"what is written here is no {kind}"
        raise YamlFault(told, node.start_mark) from None
    if isinstance(value, float) and not math.isfinite(value):
        raise YamlFault("a number that is not finite", node.start_mark)
