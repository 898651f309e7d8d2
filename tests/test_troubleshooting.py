"""Every message that docs/troubleshooting.md quotes is one that the code can say."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest

from tests.conftest import ROOT

PAGE = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
OF_OTHERS = ("CUDA out of memory",)
"""What PyTorch says, not we."""


def said() -> list[str]:
    """Quoted messages: code in the first column of tables whose first column is what is said."""
    quoted = []
    for table in re.findall(r"^\| it says .*?\n\n", PAGE + "\n", re.MULTILINE | re.DOTALL):
        for row in table.splitlines()[2:]:
            quoted += [c for c in re.findall(r"`([^`]+)`", row.split(" | ")[0]) if " " in c]
    return [q for q in quoted if q not in OF_OTHERS]


@cache
def messages() -> tuple[str, ...]:
    """Every text of the code; what it fills in is `…`."""

    def text(node: ast.AST) -> str:
        parts = node.values if isinstance(node, ast.JoinedStr) else [node]
        return "".join(str(p.value) if isinstance(p, ast.Constant) else "…" for p in parts)

    found = []
    for path in (p for folder in ("actors", "evals", "loop", "trainers") for p in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr | ast.Constant):
                found.append(text(node))
    return tuple(found)


@pytest.mark.parametrize("quoted", said())
def test_quoted_messages_are_those_of_the_code(quoted):
    parts = [part for part in re.split(r"\s*…\s*", quoted) if part]
    assert any(len(part) > 8 for part in parts), "too little is quoted to be found"
    pattern = re.compile(r".*".join(map(re.escape, parts)), re.DOTALL)
    assert any(pattern.search(m) for m in messages()), quoted


def test_many_messages_are_quoted():
    assert len(said()) > 40
