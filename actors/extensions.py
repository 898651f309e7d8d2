"""Extensions: modules of your own that add algorithms, suites, controls or sinks when they are imported.

A config names them under `extensions`, and so does the environment variable `CANDOR_EXTENSIONS` for commands that read
no config. The driver imports them before it reads the rest of the config, and Ray has every process that it starts
import the same ones before anything else.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

VARIABLE = "CANDOR_EXTENSIONS"
"""Environment variable with the names of extensions, with commas between them."""
_LOADED: dict[str, ModuleType] = {}


class ExtensionError(ValueError):
    """An extension that cannot be imported; the message names it and says why."""


def whole_name(name: str) -> str:
    """An extension as processes with another working directory find it: the path of a file is made absolute."""
    return str(Path(name).expanduser().absolute()) if name.endswith(".py") else name


def load(names: Iterable[str]) -> None:
    """Import extensions, each once in a process.

    Args:
        names: Paths of Python files, which end with `.py`, or names of modules that can be imported.

    Raises:
        ExtensionError: One cannot be imported.
    """
    for name in map(whole_name, names):
        if name not in _LOADED:
            _LOADED[name] = _imported(name)


def load_from_environment() -> None:
    """Import the extensions that the environment variable names."""
    load(name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip())


def files(names: Iterable[str]) -> dict[str, Path]:
    """The file of each of these extensions, which are loaded; a package's is its `__init__.py`, if it has one."""
    found = {name: _LOADED[whole_name(name)].__file__ for name in names}
    return {name: Path(file) for name, file in found.items() if file}


def for_workers() -> dict[str, Any]:
    """Arguments of `ray.init` with which every process that Ray starts imports what this one did."""
    if not _LOADED:
        return {}
    hook = f"{__name__}.{load_from_environment.__name__}"
    return {"runtime_env": {"env_vars": {VARIABLE: ",".join(_LOADED)}, "worker_process_setup_hook": hook}}


def _imported(name: str) -> ModuleType:
    file = name.endswith(".py")
    if file and not Path(name).is_file():
        raise ExtensionError(f"extension {name}: there is no such file")
    try:
        return _of_file(Path(name)) if file else importlib.import_module(name)
    except Exception as error:
        hint = "" if file else "; install it, or give the path of a file that ends with .py"
        raise ExtensionError(f"extension {name}: cannot be imported ({type(error).__name__}: {error}){hint}") from error


def _of_file(path: Path) -> ModuleType:
    """A module from a file that need not be on the import path; its classes can be sent to other processes."""
    name = f"candor_extension_{path.stem}"
    if name in sys.modules:
        raise ImportError(f"another extension is called {path.stem} too; rename one of them")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
