"""Runs Python that nobody has read, such as a model's solution of a HumanEval problem, and says whether it passed.

A program runs in a process of its own, in an empty folder, with an empty environment, behind as many of these fences as
the machine has:

- `namespaces`: no network, no sight of other processes, and a file system of its own in memory, which holds the
  interpreter (read-only) and nothing else. When the program is over, everything that it started or wrote is gone.
- `user`: where this process is root, the program runs as nobody.
- `filter`: Linux refuses it sockets, signals to others and debugging (seccomp).

Limits on time, memory, processes, file size and output hold in any case. Without namespaces it takes both other fences,
and root never runs a program as itself; otherwise nothing is run. This contains a program; it does not make it honest:
like every harness of this kind, it runs a solution and its tests in one interpreter, so that one which sets out to
forge a pass can.

The file is its own launcher: `run` starts it as a script, in an interpreter that has nothing else loaded.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import struct
import sys
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from subprocess import Popen

FENCES = ("namespaces", "user", "filter")
"""All fences, by name."""
NOBODY = 65534
"""The user and group that own nothing."""
_BOX = "/box"
_READABLE = ("/usr", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/dev/null", "/dev/urandom")
"""What an interpreter needs beside its own folder."""

# Linux's own numbers, from its headers.
_NEW_NAMESPACES = 0x00020000 | 0x08000000 | 0x04000000 | 0x20000000 | 0x40000000  # mounts, IPC, names, processes, net
_NEW_USER = 0x10000000
_BIND, _RECURSIVE, _PRIVATE = 4096, 16384, 1 << 18
_MOUNT_SETATTR, _AT_RECURSIVE, _READ_ONLY_NO_SUID = 442, 0x8000, 1 | 2
_DEATH_SIGNAL, _SECCOMP, _ORPHANS_ARE_MINE, _NO_NEW_PRIVILEGES = 1, 22, 36, 38
_REFUSED = {
    # io_uring_setup socket socketpair ptrace process_vm_readv process_vm_writev unshare pidfd_send_signal pidfd_getfd
    # kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo
    "x86_64": (0xC000003E, (425, 41, 53, 101, 310, 311, 272, 424, 438, 62, 200, 234, 129, 297)),
    "aarch64": (0xC00000B7, (425, 198, 199, 117, 270, 271, 97, 424, 438, 129, 130, 131, 138, 240)),
}
"""By machine: what Linux calls it in a filter, and the numbers of system calls that a program is refused."""

_RUNNER = """
import os, sys
source = open(0, encoding="utf-8", closefd=False).read()
token, source = source.split("\\n", 1)
os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
def told(text):
    os.write({judging}, (token + text[:300].replace("\\n", " ") + "\\n").encode(errors="replace"))
told("began")
try:
    exec(compile(source, "program.py", "exec"), {{"__name__": "__main__"}})
except BaseException as error:
    verdict = "failed: " + type(error).__name__ + ": " + str(error)
else:
    verdict = "passed"
sys.stdout.flush()
told(verdict)
os._exit(0)
"""
"""What the last of the processes runs: the program, from standard input, after a token that the verdict must bear."""


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
    *,
    allow_code: bool,
    limits: Limits = _LIMITS,
    fences: tuple[str, ...] = FENCES,
    python: str | None = None,
) -> Ran:
    """Run a program to its end, or to the first limit that it meets.

    Args:
        program: Python source; it passes when it ends without an exception, `SystemExit` included.
        allow_code: Nothing is run unless this is true.
        fences: Those that may be used; all, outside tests.
        python: The interpreter; None for the one that runs this.

    Raises:
        SandboxError: It was not run.
    """
    import secrets
    import subprocess
    import tempfile

    if not allow_code:
        raise SandboxError("a task runs code that a model wrote; allow it with allow_code=True")
    token = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="candor-box-", ignore_cleanup_errors=True) as folder:
        if os.geteuid() == 0:
            os.chown(folder, NOBODY, NOBODY)
        (told, telling), (judged, judging) = os.pipe(), os.pipe()
        spec = {**limits._asdict(), "folder": folder, "fences": fences, "telling": telling, "judging": judging}
        launcher = subprocess.Popen(
            [os.path.realpath(python or sys.executable), "-I", "-S", os.path.abspath(__file__), json.dumps(spec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(telling, judging),
            start_new_session=True,
            cwd="/",
            env={"PYTHONDONTWRITEBYTECODE": "1"},
        )
        os.close(telling)
        os.close(judging)
        try:
            output, met = _follow(launcher, f"{token}\n{program}".encode(errors="replace"), limits)
        finally:
            _end(launcher)
            said, verdict = _read_all(told), _read_all(judged)
    return _ran(said, [v.removeprefix(token) for v in verdict if v.startswith(token)], met, launcher.returncode, output)


def run_all(
    programs: Sequence[str], *, allow_code: bool, limits: Limits = _LIMITS, at_once: int | None = None
) -> list[Ran | SandboxError]:
    """Run programs, some at once (None for as many as there are cores); what became of each, or why it was not run."""
    from concurrent.futures import ThreadPoolExecutor

    def one(program: str) -> Ran | SandboxError:
        try:
            return run(program, allow_code=allow_code, limits=limits)
        except SandboxError as error:
            return error

    with ThreadPoolExecutor(at_once or len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(one, programs))


def _follow(launcher: Popen, given: bytes, limits: Limits) -> tuple[bytes, str | None]:
    """Feed a launcher and read what it prints; returns that, cut at the limit, and which limit was met."""
    import selectors
    import time

    deadline, output, sent = time.monotonic() + limits.seconds, b"", 0
    os.set_blocking(launcher.stdin.fileno(), False)
    with selectors.DefaultSelector() as ready:
        ready.register(launcher.stdout, selectors.EVENT_READ)
        ready.register(launcher.stdin, selectors.EVENT_WRITE)
        while launcher.poll() is None:
            left = deadline - time.monotonic()
            if left <= 0:
                return output, f"took more than {limits.seconds:g} s"
            for key, _ in ready.select(min(left, 0.05)):
                if key.fileobj is launcher.stdin:
                    try:
                        sent += os.write(key.fd, given[sent : sent + 65536])
                    except BrokenPipeError:
                        sent = len(given)
                    if sent >= len(given):
                        ready.unregister(launcher.stdin)
                        launcher.stdin.close()
                    continue
                chunk = os.read(key.fd, 65536)
                if not chunk:
                    ready.unregister(launcher.stdout)
                output += chunk
                if len(output) > limits.output_bytes:
                    return output[: limits.output_bytes], f"wrote more than {limits.output_bytes} bytes of output"
    os.set_blocking(launcher.stdout.fileno(), False)
    output += os.read(launcher.stdout.fileno(), 65536) if _readable(launcher.stdout.fileno()) else b""
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


def _end(launcher: Popen) -> None:
    """Kill a launcher with its group; its namespaces, or what it does when it is told to end, see to the rest."""
    import contextlib
    import subprocess

    if launcher.poll() is None:
        launcher.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            launcher.wait(2)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(launcher.pid, signal.SIGKILL)
    launcher.wait()
    for pipe in (launcher.stdin, launcher.stdout):
        with contextlib.suppress(OSError):
            pipe.close()


def _ran(said: list[str], verdict: list[str], met: str | None, code: int, output: bytes) -> Ran:
    """What became of a program.

    Args:
        said: Lines of the launcher.
        verdict: Lines of the runner, without the token that shows that they are its own.
        met: The limit that was met.
        code: The launcher's exit code, which is that of the program; over 128 it tells the signal that ended it.
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


def _launch(spec: dict) -> None:
    """In the launcher: put up the fences and run what standard input holds, two processes further on."""
    os.umask(0o022)
    os.set_inheritable(spec["telling"], False)

    def tell(text: str) -> None:
        os.write(spec["telling"], f"{text}\n".encode())

    libc = ctypes.CDLL(None, use_errno=True)
    held = _fences(libc, spec["fences"])
    if not ({"namespaces"} <= held or {"user", "filter"} <= held) or (os.geteuid() == 0 and "user" not in held):
        tell(
            "refused: this machine cannot contain a program: run as root, or allow user namespaces (for example sysctl "
            "kernel.apparmor_restrict_unprivileged_userns=0), or leave out tasks that run code; "
            f"fences that hold: {', '.join(sorted(held)) or 'none'}"
        )
        return
    libc.prctl(_ORPHANS_ARE_MINE, 1)
    child = os.fork()
    if child == 0:
        try:
            libc.prctl(_DEATH_SIGNAL, signal.SIGKILL)
            _first(libc, spec, held, tell)
        except BaseException as error:
            tell(f"refused: a program could not be fenced in: {type(error).__name__}: {error}")
        os._exit(1)
    os.close(spec["telling"])
    os.close(spec["judging"])
    signal.signal(signal.SIGTERM, lambda *_: (_end_all(), os._exit(1)))
    libc.prctl(_DEATH_SIGNAL, signal.SIGTERM)
    _, status = os.waitpid(child, 0)
    _end_all()
    os._exit(_exit_code(status))


def _fences(libc: ctypes.CDLL, wanted: list[str]) -> set[str]:
    """The fences that can be had; the one of namespaces is up already."""
    root = os.geteuid() == 0
    can = {"user"} if root else set()
    if os.uname().machine in _REFUSED:
        can.add("filter")
    if "namespaces" in wanted and _unshare(libc, root):
        can.add("namespaces")
    return can & set(wanted)


def _exit_code(status: int) -> int:
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


def _end_all() -> None:
    """Kill all children of this process, and those that become so by it, until there are none."""
    while True:
        try:
            with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
                children = [int(pid) for pid in file.read().split()]
        except OSError:
            return
        if not children:
            return
        for pid in children:
            os.kill(pid, signal.SIGKILL)
        for pid in children:
            os.waitpid(pid, 0)


def _unshare(libc: ctypes.CDLL, root: bool) -> bool:
    """Whether this process got namespaces of its own; its next child is the first of a new process namespace."""
    user, group = os.geteuid(), os.getegid()
    if libc.unshare(_NEW_NAMESPACES | (0 if root else _NEW_USER)) != 0:
        return False
    if not root:
        for file, text in (("setgroups", "deny"), ("uid_map", f"1000 {user} 1"), ("gid_map", f"1000 {group} 1")):
            with open(f"/proc/self/{file}", "w", encoding="ascii") as out:
                out.write(text)
    return True


def _first(libc: ctypes.CDLL, spec: dict, held: set[str], tell: Callable[[str], None]) -> None:
    """In the first process behind the fences: start the program, wait for it, and take everything with it."""
    if "namespaces" in held:
        _own_files(libc, spec)
    tell(f"held: {', '.join(sorted(held))}")
    child = os.fork()
    if child == 0:
        os.chdir(_BOX if "namespaces" in held else spec["folder"])
        os.setsid()
        if "user" in held:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
        _limit(spec)
        libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        if "filter" in held:
            _filter(libc)
        python, runner = os.path.realpath(sys.executable), _RUNNER.format(judging=spec["judging"])
        try:
            os.execve(python, [python, "-I", "-S", "-B", "-c", runner], {"HOME": os.getcwd()})
        except OSError as error:
            tell(f"refused: the interpreter {python} cannot be run by another user ({error}); it must be open to all")
        os._exit(1)
    os.close(spec["judging"])
    while True:
        ended, status = os.wait()
        if ended == child:
            os._exit(_exit_code(status))


def _own_files(libc: ctypes.CDLL, spec: dict) -> None:
    """A file system in memory: an empty folder to work in, and what the interpreter needs, read-only."""
    root = spec["folder"]

    def mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
        given = [None if x is None else x.encode() for x in (source, target, kind)]
        if libc.mount(*given, ctypes.c_ulong(flags), options and options.encode()) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"mount of {target}: {os.strerror(number)}")

    mount("none", "/", None, _RECURSIVE | _PRIVATE)
    mount("box", root, "tmpfs", 2 | 4, f"size={spec['disk_bytes']},nr_inodes=1024,mode=755")  # no set-uid, no devices
    read_only = struct.pack("QQQQ", _READ_ONLY_NO_SUID, 0, 0, 0)
    for path in dict.fromkeys((*_READABLE, sys.base_prefix)):
        inside = root + path
        if os.path.islink(path):
            os.symlink(os.readlink(path), inside)
        elif os.path.exists(path) and not os.path.exists(inside):
            os.makedirs(inside if os.path.isdir(path) else os.path.dirname(inside), exist_ok=True)
            if not os.path.isdir(path):
                open(inside, "w").close()
            mount(path, inside, None, _BIND | _RECURSIVE)
            if libc.syscall(_MOUNT_SETATTR, -100, inside.encode(), _AT_RECURSIVE, read_only, len(read_only)) != 0:
                raise OSError(ctypes.get_errno(), f"{path} cannot be made read-only; Linux 5.12 or newer is needed")
    os.mkdir(root + _BOX)
    if os.geteuid() == 0:
        os.chown(root + _BOX, NOBODY, NOBODY)
    os.chroot(root)
    os.chdir(_BOX)


def _limit(spec: dict) -> None:
    for what, most in (
        (resource.RLIMIT_CPU, spec["cpu_seconds"]),
        (resource.RLIMIT_AS, spec["memory_bytes"]),
        (resource.RLIMIT_FSIZE, spec["file_bytes"]),
        (resource.RLIMIT_NOFILE, 32),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, spec["processes"]),
    ):
        resource.setrlimit(what, (most, most + (what == resource.RLIMIT_CPU)))  # a second on, it is killed


def _filter(libc: ctypes.CDLL) -> None:
    """Have Linux refuse the system calls in `_REFUSED` (EPERM), and kill a program that calls it in another machine's
    way; a BPF program as in Linux's `Documentation/userspace-api/seccomp_filter.rst`."""
    machine, refused = _REFUSED[os.uname().machine]
    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06
    steps = [(load, 0, 0, 4), (equal, 1, 0, machine), (give, 0, 0, 0x80000000), (load, 0, 0, 0)]
    steps += [(at_least, len(refused) + 1, 0, 0x40000000)]  # x32's numbers
    steps += [(equal, len(refused) - n, 0, number) for n, number in enumerate(refused)]
    steps += [(give, 0, 0, 0x7FFF0000), (give, 0, 0, 0x00050000 | 1)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code)))
    if libc.prctl(_SECCOMP, 2, program) != 0:
        raise OSError(ctypes.get_errno(), "Linux did not take the filter of system calls")


if __name__ == "__main__":
    _launch(json.loads(sys.argv[1]))
