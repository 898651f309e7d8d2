"""Runs Python code that nobody has read, such as a model's solution of a HumanEval problem, and says whether it passed.

A program runs in a process of its own, in an empty folder, with an empty environment, behind as many of these fences as
the machine has:

- `namespaces`: no network, no sight of other processes, and a file system of its own in memory, which holds the
  interpreter (read-only) and nothing else. When the program is over, everything that it started or wrote is gone.
- `user`: where this process is root, the program runs as nobody.
- `filter`: Linux refuses it sockets, signals to others and debugging (seccomp).

Limits on time, memory, processes, file size and output hold in any case. Without namespaces it takes both other fences,
and root never runs a program as itself; otherwise nothing is run.

A solution and its tests run in an interpreter each (`evals/harness/parties.py`). Tests call the solution's functions
through a pipe and see plain data, and only they can say that they passed: a solution that looks for the harness in its
own interpreter finds none.

The fences are put up by `evals/harness/launcher.py`, which `run` starts as a script.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import TYPE_CHECKING, NamedTuple

from evals.harness import launcher
from evals.harness.interpreter import InterpreterError, readable_interpreter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from subprocess import Popen

FENCES = ("namespaces", "user", "filter")
"""All fences, by name."""


class Limits(NamedTuple):
    """What one program may use.

    Attributes:
        seconds: Wall-clock time; a generous limit, because it passes faster for a program on a busy machine.
        cpu_seconds: Processor time of each of its processes.
        memory_bytes: Address space of each of its processes.
        processes: How many it may have, threads included.
        file_bytes: Size of one file.
        disk_bytes: Size of all files together, where it has a file system of its own.
        output_bytes: What it may print.
    """

    seconds: float = 30.0
    cpu_seconds: int = 5
    memory_bytes: int = 512 * 2**20
    processes: int = 8
    file_bytes: int = 2**20
    disk_bytes: int = 2**24
    output_bytes: int = 2**16


class Ran(NamedTuple):
    """What became of a program.

    Attributes:
        passed: Whether it ran to its end without an exception.
        why: `passed`, or what went wrong.
        output: What it printed, cut at the limit.
        fences: Those that held.
    """

    passed: bool
    why: str
    output: str
    fences: tuple[str, ...]


_LIMITS = Limits()


class SandboxError(RuntimeError):
    """A program that is not run, because it may not be or cannot be contained here; the message says what to do."""


def run(
    program: str,
    tests: str = "",
    *,
    allow_code: bool,
    limits: Limits = _LIMITS,
    fences: tuple[str, ...] = FENCES,
    python: str | None = None,
) -> Ran:
    """Run a program to its end, or to the first limit that it meets.

    Args:
        program: Python source. Without tests it passes when it says that it ended without an exception.
        tests: Python source that uses functions, modules and plain values of the program by name; it passes when the
            tests end without an exception, `SystemExit` included.
        allow_code: Nothing is run unless this is true.
        fences: Those that may be used; all, outside tests.
        python: The interpreter; None for the one that runs this.

    Raises:
        SandboxError: It was not run.
    """
    import subprocess
    import tempfile

    if not allow_code:
        raise SandboxError("a task runs code that a model wrote; allow it with allow_code=True")
    script = os.path.abspath(launcher.__file__)
    try:
        interpreter = readable_interpreter(os.path.realpath(python or sys.executable))
    except InterpreterError as error:
        raise SandboxError(str(error)) from None
    with tempfile.TemporaryDirectory(prefix="candor-box-", ignore_cleanup_errors=True) as folder:
        if os.geteuid() == 0:
            os.chown(folder, launcher.NOBODY, launcher.NOBODY)
        (told, telling), (judged, judging) = os.pipe(), os.pipe()
        spec = {**limits._asdict(), "folder": folder, "fences": fences, "telling": telling, "judging": judging}
        process = subprocess.Popen(
            [interpreter.python, "-I", "-S", script, json.dumps(spec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(telling, judging),
            start_new_session=True,
            cwd="/",
            env={"PYTHONDONTWRITEBYTECODE": "1", **interpreter.environment},
        )
        os.close(telling)
        os.close(judging)
        try:
            output, met = _follow(process, json.dumps({"solution": program, "tests": tests}).encode(), limits)
        finally:
            _end(process)
            said, verdict = _read_all(told), _read_all(judged)
    return _ran(said, verdict, met, process.returncode, output)


def run_all(
    programs: Sequence[tuple[str, str]], *, allow_code: bool, limits: Limits = _LIMITS, at_once: int | None = None
) -> list[Ran | SandboxError]:
    """Run programs, each with its tests, some at once (None for as many as there are cores); what became of each, or
    why it was not run."""
    from concurrent.futures import ThreadPoolExecutor

    def one(program: tuple[str, str]) -> Ran | SandboxError:
        try:
            return run(*program, allow_code=allow_code, limits=limits)
        except SandboxError as error:
            return error

    with ThreadPoolExecutor(at_once or len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(one, programs))


def _follow(process: Popen, given: bytes, limits: Limits) -> tuple[bytes, str | None]:
    """Feed a launcher and read what it prints; returns that, cut at the limit, and which limit was met."""
    import selectors
    import time

    deadline, output, sent = time.monotonic() + limits.seconds, b"", 0
    os.set_blocking(process.stdin.fileno(), False)
    with selectors.DefaultSelector() as ready:
        ready.register(process.stdout, selectors.EVENT_READ)
        ready.register(process.stdin, selectors.EVENT_WRITE)
        while process.poll() is None:
            left = deadline - time.monotonic()
            if left <= 0:
                return output, f"took more than {limits.seconds:g} s"
            for key, _ in ready.select(min(left, 0.05)):
                if key.fileobj is process.stdin:
                    try:
                        sent += os.write(key.fd, given[sent : sent + 65536])
                    except BrokenPipeError:
                        sent = len(given)
                    if sent >= len(given):
                        ready.unregister(process.stdin)
                        process.stdin.close()
                    continue
                chunk = os.read(key.fd, 65536)
                if not chunk:
                    ready.unregister(process.stdout)
                output += chunk
                if len(output) > limits.output_bytes:
                    return output[: limits.output_bytes], f"wrote more than {limits.output_bytes} bytes of output"
    os.set_blocking(process.stdout.fileno(), False)
    output += os.read(process.stdout.fileno(), 65536) if _readable(process.stdout.fileno()) else b""
    if len(output) > limits.output_bytes:
        return output[: limits.output_bytes], f"wrote more than {limits.output_bytes} bytes of output"
    return output, None


def _readable(fd: int) -> bool:
    import select

    return bool(select.select([fd], [], [], 0)[0])


def _read_all(fd: int) -> list[str]:
    """The lines that are in a pipe now, without waiting for those who hold its other end; closes it."""
    found = b""
    while _readable(fd) and len(found) < 65536 and (chunk := os.read(fd, 4096)):
        found += chunk
    os.close(fd)
    return [line for line in found.decode(errors="replace").split("\n") if line]


def _end(process: Popen) -> None:
    """Kill a launcher with its group; its namespaces, or what it does when it is told to end, see to the rest."""
    import contextlib
    import subprocess

    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(2)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):
            pipe.close()


def _ran(said: list[str], verdict: list[str], met: str | None, code: int, output: bytes) -> Ran:
    """What became of a program.

    Args:
        said: Lines of the launcher.
        verdict: Lines of the tests' interpreter.
        met: The limit that was met.
        code: The launcher's exit code, which is that of the solution's interpreter where that ended first; over 128 it
            tells the signal that ended it.
    """
    text = output.decode(errors="replace")
    for line in said:
        if line.startswith("refused: "):
            raise SandboxError(line.removeprefix("refused: "))
    if not said or not verdict:
        raise SandboxError(f"a program did not begin ({met or f'exit code {code}'}): {text[-500:]}")
    fences, last = tuple(said[0].removeprefix("held: ").split(", ")), verdict[-1]
    if met is None and last == "began":
        killed = {signal.SIGXCPU: "used up its processor time", signal.SIGKILL: "was killed at a limit"}
        met = killed.get(code - 128, f"ended before its tests did (exit code {code})")
    return Ran(met is None and last == "passed", met or last.removeprefix("failed: "), text, fences)
