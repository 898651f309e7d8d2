"""Malformed configs and worlds of every kind: one message that names the file, never a traceback or a silent yes."""

import random
import shutil
import time
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from actors.worlds import TEXT_WORLDS
from actors.worlds.authoring.check import check
from loop.cli.app import app
from loop.config.explain import ConfigError
from loop.config.files import load, parse_overrides
from tests.conftest import ROOT
from tests.loop.config.test_config import SMALL

CONFIGS = ("pocket.yaml", "gpu.yaml", "therapist.yaml", "pocket-controls.yaml", "mixture.yaml")
SECONDS = 10  # of processor time
"""Longest time for a yes or a no; a machine with six programs on two cores takes five for what takes half of one."""

BAD_VALUES = {
    "infinity": ".inf",
    "minus infinity": "-.inf",
    "no number": ".nan",
    "5,000 digits": "1" * 5000,
    "a date that is none": "2024-02-31",
    "a month that is none": "2024-13-01 10:00:00",
    "deep nesting": "[" * 3000 + "]" * 3000,
    "deep mappings": "{a: " * 300 + "1" + "}" * 300,
    "an anchor in itself": "&again [*again]",
    "an anchor in itself in a mapping": "&again {a: *again}",
    "NUL": '"/tmp/a\\0b"',
    "half a character": '"\\ud83d"',
    "a list as a key": "{[a, b]: 1}",
    "a number as a key": "{1: 2}",
    "a key twice": "{a: 1, a: 2}",
    "a tag of Python": "!!python/name:os.system",
    "bytes": "!!binary aGFsbG8=",
    "a set": "!!set {a, b}",
    "no end": "[1, 2",
}
"""By kind, what is put in the place of one value of a sound file; none may pass, wherever it stands."""


def spots(text: str) -> list[tuple[int, int]]:
    """Where the scalar values of a YAML text begin and end."""
    found: list[tuple[int, int]] = []

    def walk(node: yaml.Node) -> None:
        if isinstance(node, yaml.ScalarNode):
            found.append((node.start_mark.index, node.end_mark.index))
        for inner in node.value if not isinstance(node, yaml.ScalarNode) else ():
            for value in inner[1:] if isinstance(inner, tuple) else (inner,):
                walk(value)

    walk(yaml.compose(text, Loader=yaml.SafeLoader))
    return found


def refused(path: Path) -> str:
    """The message with which a config is refused; whatever else is raised fails the test."""
    began = time.thread_time()
    with pytest.raises(ConfigError) as error:
        load(path)
    assert time.thread_time() - began < SECONDS
    return str(error.value)


@pytest.mark.parametrize("kind", BAD_VALUES)
def test_a_config_with_a_bad_value_anywhere_is_refused_in_a_few_words(kind, tmp_path):
    rng = random.Random(kind)
    path = tmp_path / "run.yaml"
    for name in CONFIGS:
        text = (ROOT / "configs" / name).read_text(encoding="utf-8")
        for begin, end in rng.sample(spots(text), 6):
            path.write_text(text[:begin] + BAD_VALUES[kind] + text[end:], encoding="utf-8")
            told = refused(path)
            assert told.startswith(f"{path}: ")
            assert len(told) < 2000


@pytest.mark.parametrize("kind", BAD_VALUES)
def test_a_bad_value_on_the_command_line_is_refused(kind):
    with pytest.raises(ConfigError, match=r"--set trainer\.learning_rate: the value is not valid YAML"):
        parse_overrides([f"trainer.learning_rate={BAD_VALUES[kind]}"])


@pytest.mark.parametrize("kind", BAD_VALUES)
def test_a_world_with_a_bad_value_anywhere_is_a_list_of_problems(kind, tmp_path):
    rng = random.Random(kind)
    world = Path(shutil.copytree(TEXT_WORLDS["support"], tmp_path / "support"))
    for file in [world / "world.yaml", world / "personas.yaml", *sorted((world / "scenarios").glob("*.yaml"))[:2]]:
        text = file.read_text(encoding="utf-8")
        begin, end = rng.choice(spots(text))
        file.write_text(text[:begin] + BAD_VALUES[kind] + text[end:], encoding="utf-8")
        problems = [str(p) for p in check(world).problems]
        assert any(p.startswith(str(file.relative_to(world))) for p in problems), problems[:3]
        assert all(len(p) < 500 for p in problems)
        file.write_text(text, encoding="utf-8")


def test_random_damage_to_configs_gives_a_config_or_one_message(tmp_path):
    """Bytes cut out, doubled, swapped or replaced: it is read or refused, in short time, and nothing else happens."""
    rng = random.Random(0)
    path = tmp_path / "run.yaml"
    sound = [yaml.safe_dump(SMALL).encode(), *((ROOT / "configs" / name).read_bytes() for name in CONFIGS)]
    read, told = 0, []
    for _ in range(250):
        content = bytearray(rng.choice(sound))
        for _ in range(rng.randint(1, 3)):
            at, length = rng.randrange(len(content)), rng.randint(1, 40)
            what = rng.choice(["cut", "double", "noise", "indent", "syntax"])
            if what == "cut":
                del content[at : at + length]
            elif what == "double":
                content[at:at] = content[at : at + length]
            elif what == "noise":
                content[at : at + 3] = rng.randbytes(3)
            else:
                content[at:at] = rng.choice([b"  ", b"\n", b"- ", b": ", b"{", b"]", b"&a ", b"*a", b"!", b"%", b"'"])
            content = content or bytearray(b"a")
        path.write_bytes(content)
        began = time.thread_time()
        try:
            load(path)
            read += 1
        except ConfigError as error:
            told.append(str(error))
        assert time.thread_time() - began < SECONDS, content
    assert read > 20
    assert len(told) > 20
    assert [t for t in told if not t.startswith((f"{path}", "arm "))] == []


VALUES = (None, True, 0, -1, 1e300, 10**20, "", "x" * 5000, [], {}, [[]], {"a": None}, "~/\n", "../..", ["a", 1], 0.5)


def leaves(value, at=()):
    if isinstance(value, dict):
        return [p for k, v in value.items() for p in leaves(v, (*at, k))] + [at]
    if isinstance(value, list):
        return [p for i, v in enumerate(value) for p in leaves(v, (*at, i))] + [at]
    return [at]


def test_values_of_every_other_kind_give_a_config_or_one_message(tmp_path):
    from loop.config.files import build

    rng = random.Random(1)
    whole = build(SMALL, "test").model_dump(mode="json")
    path = tmp_path / "run.yaml"
    read, told = 0, []
    for at in rng.sample(leaves(whole), 160):
        broken = yaml.safe_load(yaml.safe_dump(whole))
        here = broken
        for part in at[:-1]:
            here = here[part]
        if not at:
            continue
        here[at[-1]] = rng.choice(VALUES)
        path.write_text(yaml.safe_dump(broken))
        began = time.thread_time()
        try:
            load(path)
            read += 1
        except ConfigError as error:
            told.append(str(error))
        assert time.thread_time() - began < SECONDS, at
    assert read > 5
    assert [t[:500] for t in told if len(t) > 3000] == []


def test_a_change_reaches_no_other_place_that_an_anchor_repeats(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(SMALL) + "models:\n  a: &a {kind: endpoint, model: x}\n  b: *a\n")
    config = load(path, {"models.a.model": "y"})
    assert (config.models["a"].model, config.models["b"].model) == ("y", "x")


@pytest.mark.parametrize("command", ["run", "config check"])
def test_the_command_ends_with_2_and_no_traceback(command, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(SMALL) + "rounds: 1\nrounds: 2\n")
    result = CliRunner().invoke(app, [*command.split(), str(path)])
    assert result.exit_code == 2
    assert "a key is given" in result.output
    assert "Traceback" not in result.output
