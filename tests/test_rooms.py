"""The rooms know each other in one direction only, nothing goes round in circles, and tests mirror the rooms."""

import ast
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import ROOT

ROOMS = ("actors", "evals", "loop", "trainers")
KNOWS = {"actors": {"actors"}, "evals": {"evals", "actors"}, "trainers": {"trainers", "actors"}, "loop": set(ROOMS)}
MODULES = {
    ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p
    for room in ROOMS
    for p in sorted((ROOT / room).rglob("*.py"))
    if p.parent.name != "tasks"  # which lm-eval loads by path
}


@cache
def imported(module: str, at_import: bool = False) -> frozenset[str]:
    """The project's modules that a module imports: anywhere, or when it is imported itself."""
    tree, found = ast.parse(MODULES[module].read_text(encoding="utf-8")), set()
    for node in tree.body if at_import else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        if isinstance(node, ast.ImportFrom):
            inner = {f"{node.module}.{a.name}" for a in node.names}
            found |= {i if i in MODULES else node.module for i in inner}
    return frozenset(found & MODULES.keys())


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_knows_only_those_below_it(room):
    for module in MODULES:
        if module.split(".")[0] == room:
            strange = {i for i in imported(module) if i.split(".")[0] not in KNOWS[room]}
            assert not strange, f"{module} imports {', '.join(sorted(strange))}"


def test_no_imports_go_round_in_circles():
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join((*way[way.index(module) :], module))
        if module not in done:
            for other in sorted(imported(module, at_import=True)):
                visit(other, (*way, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


def test_tests_lie_where_what_they_test_lies():
    folders = {str(Path(m.parent).relative_to(ROOT)) for m in MODULES.values()}
    for test in (ROOT / "tests").rglob("test_*.py"):
        folder = str(test.parent.relative_to(ROOT / "tests"))
        if folder.split("/")[0] in ROOMS:
            assert folder in folders, f"{test.relative_to(ROOT)}: there is no folder {folder}"
