"""An interpreter that another user can run, for the sandbox: the one at hand, or a copy of it."""

from __future__ import annotations

import os
import stat
import sys
from functools import lru_cache
from typing import NamedTuple

_LEFT_OUT = ("site-packages", "test", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "__pycache__")


class InterpreterError(RuntimeError):
    """An interpreter that nobody else can run, and that cannot be copied."""


class Interpreter(NamedTuple):
    """Path of an interpreter, and what must be in its environment."""

    python: str
    environment: dict[str, str]


@lru_cache(maxsize=4)
def readable_interpreter(python: str) -> Interpreter:
    """The interpreter itself where everybody may run it or this process is not root, which runs programs as itself;
    else a copy of it without its packages, as with pyenv below a home that is closed to others. The copy is removed
    when this process ends.

    Raises:
        InterpreterError: It can neither be run by others nor copied.
    """
    if os.geteuid() != 0 or os.path.realpath(sys.executable) != python or _is_open(python):
        return Interpreter(python, {})
    import atexit
    import shutil
    import tempfile

    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    source = os.path.join(sys.base_prefix, "lib", version)
    target = tempfile.mkdtemp(prefix="candor-python-")
    atexit.register(shutil.rmtree, target, ignore_errors=True)
    try:
        os.makedirs(os.path.join(target, "bin"))
        copied = shutil.copy(python, os.path.join(target, "bin", version))
        shutil.copytree(source, os.path.join(target, "lib", version), ignore=shutil.ignore_patterns(*_LEFT_OUT))
        libraries = [f for f in os.listdir(os.path.join(sys.base_prefix, "lib")) if f.startswith("libpython")]
        for name in libraries:
            shutil.copy(os.path.join(sys.base_prefix, "lib", name), os.path.join(target, "lib", name))
        for folder, _, files in os.walk(target):
            os.chmod(folder, 0o755)
            for name in files:
                path = os.path.join(folder, name)
                os.chmod(path, 0o755 if os.access(path, os.X_OK) else 0o644)
    except (OSError, shutil.Error) as error:
        raise InterpreterError(
            f"the interpreter {python} is closed to the user that runs programs, and no copy of it could be made "
            f"({error}); make its folder and those above it open to all (chmod o+rx), or use another interpreter"
        ) from None
    return Interpreter(copied, {"LD_LIBRARY_PATH": os.path.join(target, "lib")} if libraries else {})


def _is_open(python: str) -> bool:
    """Whether every user can run an interpreter and read its library."""
    library = os.path.join(sys.base_prefix, "lib", f"python{sys.version_info.major}.{sys.version_info.minor}", "os.py")
    for path in (python, os.path.realpath(library)):
        if not os.stat(path).st_mode & stat.S_IROTH:
            return False
        while (path := os.path.dirname(path)) != "/":
            if not os.stat(path).st_mode & stat.S_IXOTH:
                return False
    return True
