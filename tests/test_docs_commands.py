"""Every command that README and docs/ show is run by a test, or marked with why it is not; all of them are known.

A block is run here, line by line, in a folder with the runs, configs and worlds that pages speak of. What cannot be run
in seconds has a comment before it, `<!-- not run here: why -->`, which names the test that does the same if there is
one. Files that a page shows with their name (`name.py`:) are run by tests/test_docs_examples.py.
"""

from __future__ import annotations

import csv
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import typer
import yaml
from pydantic import TypeAdapter
from typer.testing import CliRunner

from actors.storage.segments import read_table
from loop.cli import exits
from loop.cli.app import app
from loop.config.schema import RunConfig
from loop.rundir import RunDir
from tests.actors.worlds.test_worlds import docs_example
from tests.conftest import ROOT
from tests.loop.report.conftest import finished
from tests.loop.report.test_seeds import run as run_of_seed

pytestmark = pytest.mark.heavy
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LONG = ("run", "finetune", "sweep", "serve", "chat", "view", "bench")
"""Commands that start engines or a server; a block with one of them needs a mark."""
RUN = "runs/pocket-20260101-120000"
"""What pages call a finished run."""
FENCE = re.compile(
    r"(?:<!-- not run(?: here)?: (?P<why>[^>]*?) -->\n)?^```(?P<kind>sh|python)\n(?P<text>.*?)^```", re.M | re.S
)
FILE = re.compile(r"^`[\w./-]+`:\n\n\Z", re.M)


@dataclass(frozen=True)
class Block:
    """What a page shows to be run.

    Attributes:
        why: Why it is not run here; None where it is.
    """

    place: str
    kind: str
    text: str
    why: str | None

    def lines(self) -> list[list[str]]:
        """The words of each command."""
        return [words for line in self.text.splitlines() if (words := shlex.split(line, comments=True))]

    def commands(self) -> list[list[str]]:
        """The words behind each `candor`."""
        found = []
        for words in self.lines() if self.kind == "sh" else ():
            at = next((n for n, word in enumerate(words) if Path(word).name == "candor"), None)
            if at is not None and words[0] != "git":
                found.append(list(words[at + 1 : words.index(">") if ">" in words else None]))
        return found


def blocks() -> list[Block]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for m in FENCE.finditer(text):
            if not FILE.search(text[: m.start()]):
                line = text[: m.start("kind")].count("\n") + 1
                found.append(Block(f"{page.name}:{line}", m["kind"], m["text"], m["why"]))
    return found


BLOCKS = blocks()
COMMANDS = [(b.place, words) for b in BLOCKS for words in b.commands()]


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Path:
    """A folder with what pages speak of: runs, seeds of a run, the shipped configs, and the world of docs/worlds.md."""
    folder = tmp_path_factory.mktemp("desk")
    shutil.copytree(ROOT / "configs", folder / "configs")
    docs_example(folder)
    effect = {"benign": (0.0, (20, 20, 20)), "biased": (0.5, (20, 40, 70))}
    finished(folder / RUN, effect)
    finished(folder / "runs/shuffled", {"benign": (0.0, (20, 20, 20)), "biased": (0.5, (20, 20, 21))})
    finished(folder / "runs/x", effect, judges=("one", "two"))
    for seed in range(3):
        run_of_seed(folder / "runs", seed, np.random.default_rng(seed), policy=2, replicates=2)
    return folder


def label(file: Path) -> None:
    """What a page asks the reader to do: fill in the column `label`."""
    with open(file, newline="", encoding="utf-8") as opened:
        rows = [row | {"label": "nothing"} for row in csv.DictReader(opened)]
    with open(file, "w", newline="", encoding="utf-8") as opened:
        lines = csv.DictWriter(opened, rows[0].keys())
        lines.writeheader()
        lines.writerows(rows)


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.why is None], ids=lambda b: b.place)
def test_what_a_page_shows_can_be_run_as_it_stands(block, desk, monkeypatch):
    monkeypatch.chdir(desk)
    monkeypatch.setenv("CANDOR_CACHE", str(desk / "cache"))
    assert block.kind == "sh", "mark a script with the test that runs it"
    assert len(block.commands()) == len(block.lines()), "only candor is run here"
    assert not {words[0] for words in block.commands()} & set(LONG), "mark what takes long"
    of = RunDir(desk / RUN)
    ids = {
        "3f9c": read_table(of.selection("biased", 0))["trajectory_id"][0].as_py()[:6],
        "mask/0/16": read_table(of.evals("biased", 0) / "mask.arrow")["item_id"][0].as_py(),
    }
    for words in block.commands():
        if words[-2:] == ["--labels", "by-hand.csv"]:
            label(desk / "by-hand.csv")
        given = [part for word in words for part in (sorted(map(str, Path().glob(word))) if "*" in word else [word])]
        done = CliRunner().invoke(app, [ids.get(word, word) for word in given])
        assert done.exit_code == 0, f"candor {shlex.join(words)}\n{done.output}\n{done.exception!r}"


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.why is not None], ids=lambda b: b.place)
def test_what_is_not_run_says_why_and_names_tests_that_exist(block):
    assert len(block.why.split()) > 3
    for test in re.findall(r"tests/[\w/.]+\.py", block.why):
        assert (ROOT / test).exists(), test


@pytest.mark.parametrize(("place", "words"), COMMANDS, ids=[f"{p} {' '.join(w[:2])}" for p, w in COMMANDS])
def test_every_command_and_option_that_a_page_shows_is_known(place, words):
    command, rest = typer.main.get_command(app), list(words)
    while hasattr(command, "commands"):
        name = rest[0] if rest[0] in command.commands else "model"  # candor eval MODEL
        rest = rest[1:] if name == rest[0] else rest
        command = command.commands[name]
    command.make_context(command.name, rest)
    for word in rest:
        if word.startswith(("configs/", "deploy/")):
            assert (ROOT / word).exists(), word


SETTINGS = [
    (f"{page.name}:{text[: m.start()].count(chr(10)) + 1} {key}", key, value)
    for page in PAGES
    for text in [page.read_text(encoding="utf-8")]
    for m in re.finditer(r"^```yaml\n(.*?)^```", text, re.M | re.S)
    if not FILE.search(text[: m.start()]) and not m[1].startswith("# garden/")
    for key, value in yaml.safe_load(m[1]).items()
    if key in RunConfig.model_fields and "extensions" not in m[1]
]


@pytest.mark.parametrize(("key", "value"), [s[1:] for s in SETTINGS], ids=[s[0] for s in SETTINGS])
def test_settings_that_a_page_shows_are_settings(key, value):
    TypeAdapter(RunConfig.model_fields[key].annotation).validate_python(value)


def test_the_table_of_exit_codes_has_every_one_that_there_is():
    page = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    table = page.split("## Exit codes")[1].split("##")[0]
    codes = [getattr(exits, name) for name in dir(exits) if isinstance(getattr(exits, name), int)]
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", table, re.M)] == sorted(codes)


def test_blocks_are_found():
    assert len(SETTINGS) > 10
    assert len(BLOCKS) > 30
    assert len(COMMANDS) > 50
