"""The two interpreters of a program in the sandbox: one runs the solution that nobody has read, the other its tests.

`evals.harness.launcher` hands this file's text to each of them, so it imports nothing of this project. They share no
memory. A call of the tests goes to the solution as plain data through a pipe, and so does what comes back: whatever the
solution's interpreter says is an answer to a call, and only the tests' interpreter can write the verdict.
"""

from __future__ import annotations

import builtins
import json
import os
import sys
import types
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

_NOT_DUMPABLE = 4
_PLAIN = (type(None), bool, str)
_LISTED = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
_TOLD = {"bytes": bytes, "bytearray": bytearray, "complex": complex, "decimal": Decimal, "fraction": Fraction}


def encode(value: object) -> object:
    """A value as JSON, with its kind where JSON has none; a value of a derived class as one of the base.

    Raises:
        TypeError: It is no plain data.
    """
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return {"int": hex(int(value))}  # decimal digits have a limit
    if isinstance(value, float):
        return {"float": float.__repr__(value)}
    for name, kind in _LISTED.items():
        if isinstance(value, kind):
            return {name: [encode(v) for v in value]}
    if isinstance(value, dict):
        return {"dict": [[encode(k), encode(v)] for k, v in value.items()]}
    if isinstance(value, range):
        return {"range": [value.start, value.stop, value.step]}
    if isinstance(value, (bytes, bytearray)):
        return {"bytearray" if isinstance(value, bytearray) else "bytes": list(value)}
    if isinstance(value, (complex, Decimal, Fraction)):
        return {type(value).__name__.lower(): str(value)}
    if hasattr(value, "__next__"):
        return {"iterator": [encode(v) for v in value]}
    raise TypeError(f"{type(value).__name__} is no plain data, which is all that tests can see")


def decode(told: object) -> object:
    """The value that was encoded.

    Raises:
        ValueError: It is none.
    """
    if isinstance(told, _PLAIN):
        return told
    ((name, of),) = told.items()
    if name in _LISTED:
        return _LISTED[name](decode(v) for v in of)
    if name in ("int", "float"):
        return int(of, 16) if name == "int" else float(of)
    if name == "dict":
        return {decode(k): decode(v) for k, v in of}
    if name == "range":
        return range(*of)
    if name == "iterator":
        return iter([decode(v) for v in of])
    return _TOLD[name](of)


class Line:
    """A connection that carries lines of JSON; lines that are none are left out."""

    def __init__(self, receiving: int, sending: int, when_gone: Callable[[], NoReturn]) -> None:
        """`when_gone` is called where the other end is gone; it ends this process, so that no code of a solution or its
        tests can take that for an error of its own."""
        self._when_gone = when_gone
        self._in = open(receiving, encoding="utf-8", errors="replace", newline="\n")  # noqa: SIM115, as long as the process
        self._out = sending

    def send(self, value: object) -> None:
        data = (json.dumps(value) + "\n").encode()
        while data:
            try:
                data = data[os.write(self._out, data) :]
            except BrokenPipeError:
                self._when_gone()

    def receive(self) -> dict:
        """The next line."""
        while True:
            text = self._in.readline()
            if not text:
                self._when_gone()
            try:
                value = json.loads(text)
            except ValueError:
                continue
            if isinstance(value, dict):
                return value


def solve(receiving: int, sending: int) -> None:
    """Run the solution, then answer calls of its functions until nobody asks any more."""

    def end() -> NoReturn:
        os._exit(0)

    line = Line(receiving, sending, end)
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    names = {"__name__": "__main__"}
    try:
        exec(compile(line.receive()["solution"], "program.py", "exec", dont_inherit=True), names)
    except BaseException as error:
        line.send({"raised": _shown(error)})
        return
    finally:
        sys.stdout.flush()
    line.send({"names": {name: _kind(value) for name, value in list(names.items()) if not name.startswith("__")}})
    while True:
        asked = line.receive()
        given = [decode(value) for value in asked["args"]]
        named = {name: decode(value) for name, value in asked["named"].items()}
        try:
            found = {"returned": encode(names[asked["call"]](*given, **named))}
            found["args"] = [encode(value) if isinstance(value, (list, dict, set)) else None for value in given]
        except BaseException as error:
            found = {"raised": _shown(error)}
        sys.stdout.flush()
        line.send(found)


def _shown(error: BaseException) -> list[str]:
    return [type(error).__name__, str(error)[:300]]


def _kind(value: object) -> dict:
    """What a name of the solution is for tests: a function, a module, a value, or nothing that they can use."""
    if isinstance(value, types.ModuleType):
        return {"module": value.__name__}
    if callable(value):
        return {"function": True}
    try:
        return {"value": encode(value)}
    except Exception:
        return {}


def judge(receiving: int, sending: int, judging: int) -> None:
    """Send the solution on its way, run the tests, and write the verdict; none where the solution's interpreter ended,
    of which its exit code tells."""
    import ctypes

    ctypes.CDLL(None).prctl(_NOT_DUMPABLE, 0)  # so that nobody of the same user can look into this process's memory

    def told(text: str) -> None:
        os.write(judging, (text[:300].replace("\n", " ") + "\n").encode(errors="replace"))

    with open(0, encoding="utf-8", closefd=False) as file:
        work = json.loads(file.read())
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    told("began")

    def end() -> NoReturn:
        os._exit(3)  # `_SOLUTION_ENDED` of the launcher

    line = Line(receiving, sending, end)
    try:
        line.send({"solution": work["solution"]})
        loaded = line.receive()
        if "raised" in loaded:
            name, text = loaded["raised"]
            told(f"failed: {name}: {text}")
            return
        names = {"__name__": "__main__"} | _names(line, loaded["names"])
        exec(compile(work["tests"], "tests.py", "exec", dont_inherit=True), names)
    except BaseException as error:
        told(f"failed: {type(error).__name__}: {error}")
        return
    sys.stdout.flush()
    told("passed")
    os._exit(0)


def _names(line: Line, said: dict) -> dict[str, object]:
    """What tests know of the solution. It cannot put anything in the place of what Python itself has."""
    known: dict[str, object] = {}
    for name, kind in said.items():
        if hasattr(builtins, name) or not isinstance(kind, dict):
            continue
        if "function" in kind:
            known[name] = _function(line, name)
        elif kind.get("module") in sys.stdlib_module_names:
            known[name] = __import__(kind["module"])
        elif "value" in kind:
            known[name] = decode(kind["value"])
    return known


def _function(line: Line, name: str) -> types.FunctionType:
    def call(*args: object, **named: object) -> object:
        line.send({"call": name, "args": [encode(a) for a in args], "named": {n: encode(v) for n, v in named.items()}})
        found = line.receive()
        if "raised" in found:
            kind, text = found["raised"]
            known = getattr(builtins, str(kind), None)
            fits = isinstance(known, type) and issubclass(known, Exception)
            raise (known if fits else RuntimeError)(text if fits else f"{kind}: {text}")
        for mine, theirs in zip(args, found["args"], strict=True):
            if theirs is not None:
                _follow(mine, decode(theirs))
        return decode(found["returned"])

    return call


def _follow(mine: object, theirs: object) -> None:
    """Let an argument become what the solution made of it."""
    if type(mine) is type(theirs) and mine != theirs:
        if isinstance(mine, list):
            mine[:] = theirs
        else:
            mine.clear()
            mine.update(theirs)
