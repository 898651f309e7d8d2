"""Modules of a person's own are imported once, in every process, and what keeps one from it is said."""

import sys
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import TypeAdapter, ValidationError

from actors import extensions
from actors.extensions import VARIABLE, ExtensionError, for_workers, load, load_from_environment
from actors.registry import OneOf
from loop.cli.app import main


@pytest.fixture(autouse=True)
def _nothing_stays(monkeypatch, tmp_path):
    monkeypatch.setattr(extensions, "_LOADED", {})
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("candor_extension_"):
            del sys.modules[name]


def write(name: str, text: str) -> str:
    Path(name).write_text(text)
    return name


def test_an_extension_is_imported_once_whatever_its_path_is_called(tmp_path):
    name = write("mine.py", "from pathlib import Path\nPath('times').open('a').write('x')\n")
    load([name])
    load([name, str(tmp_path / name), "json"])
    assert Path("times").read_text() == "x"
    assert extensions.files([name]) == {name: tmp_path / "mine.py"}


def test_processes_of_ray_import_what_this_one_did(tmp_path):
    assert for_workers() == {}, "a run without extensions asks Ray for nothing"
    load([write("mine.py", "")])
    environment = for_workers()["runtime_env"]
    assert environment["env_vars"] == {VARIABLE: str(tmp_path / "mine.py")}
    module, _, function = environment["worker_process_setup_hook"].rpartition(".")
    assert getattr(sys.modules[module], function) is load_from_environment


def test_the_environment_names_extensions_for_commands_that_read_no_config(monkeypatch, capsys):
    monkeypatch.setenv(VARIABLE, f"{write('mine.py', '')}, json")
    load_from_environment()
    assert [Path(n).name for n in extensions._LOADED] == ["mine.py", "json"]
    monkeypatch.setenv(VARIABLE, "nowhere.py")
    monkeypatch.setattr(sys, "argv", ["candor", "eval", "rescore", "."])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "nowhere.py: there is no such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("nowhere.py", None, r"extension .*nowhere\.py: there is no such file"),
        (
            "no.such.module",
            None,
            r"no\.such\.module: cannot be imported \(ModuleNotFound.*; install it, or give",
        ),
        ("broken.py", "1 / 0", r"extension .*broken\.py: cannot be imported \(ZeroDivisionError: division by zero\)$"),
        ("wrong.py", "def", r"extension .*wrong\.py: cannot be imported \(SyntaxError: "),
    ],
)
def test_what_keeps_an_extension_from_being_imported_is_said(name, text, message):
    if text is not None:
        write(name, text)
    with pytest.raises(ExtensionError, match=message):
        load([name])
    assert f"candor_extension_{Path(name).stem}" not in sys.modules, "half of a module stays"


def test_two_files_of_one_name_are_refused(tmp_path):
    (tmp_path / "other").mkdir()
    load([write("mine.py", "")])
    with pytest.raises(ExtensionError, match="another extension is called mine too; rename one of them"):
        load([write("other/mine.py", "")])


def test_a_name_is_looked_up_when_it_is_read_and_a_mistyped_one_is_known_again():
    registry = {"kto": 1}
    names = TypeAdapter(Annotated[str, OneOf(registry)])
    with pytest.raises(ValidationError, match="did you mean kto\\? known: kto; others come with the modules that"):
        names.validate_python("ktoo")
    registry["apo"] = 2
    assert names.validate_python("apo") == "apo"
    assert names.json_schema() == {"type": "string", "enum": ["kto", "apo"]}
