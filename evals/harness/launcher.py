"""The first process of a program in the sandbox (`evals.harness.sandbox`): puts up the fences, and runs the program.

It is started as a script, in an interpreter that has nothing else loaded, so it imports nothing of this project.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import struct
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

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

_PARTIES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "parties.py")
"""The code of the two interpreters behind the fences: of the solution, and of its tests."""
_SOLUTION_ENDED = 3
"""Exit code of the tests' interpreter that wrote no verdict, because the solution's had ended."""


def _launch(spec: dict) -> None:
    """In the launcher: put up the fences and run what standard input holds, two processes further on."""
    os.umask(0o022)
    os.set_inheritable(spec["telling"], False)

    def tell(text: str) -> None:
        os.write(spec["telling"], f"{text}\n".encode())

    libc = ctypes.CDLL(None, use_errno=True)
    with open(_PARTIES, encoding="utf-8") as file:
        spec["parties"] = file.read()
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
    (calls, calling), (answers, answering) = os.pipe(), os.pipe()
    solver = _start(libc, spec, held, tell, f"solve({calls}, {answering})", (calls, answering))
    tester = _start(
        libc,
        spec,
        held,
        tell,
        f"judge({answers}, {calling}, {spec['judging']})",
        (answers, calling, spec["judging"]),
        0,
    )
    for end in (calls, calling, answers, answering, spec["judging"]):
        os.close(end)
    ended: dict[int, int] = {}
    while True:
        pid, status = os.wait()
        ended[pid] = _exit_code(status)
        if tester not in ended or (ended[tester] == _SOLUTION_ENDED and solver not in ended):
            continue
        os._exit(ended[solver] if ended[tester] == _SOLUTION_ENDED else ended[tester])


def _start(
    libc: ctypes.CDLL,
    spec: dict,
    held: set[str],
    tell: Callable[[str], None],
    what: str,
    ends: tuple[int, ...],
    stdin: int | None = None,
) -> int:
    """Start one of the two interpreters; returns its process number.

    Args:
        what: The call of a function of `parties.py` that it runs.
        ends: File numbers that it gets beside the standard ones.
        stdin: Its standard input; None for nothing.
    """
    child = os.fork()
    if child:
        return child
    os.chdir(_BOX if "namespaces" in held else spec["folder"])
    os.setsid()
    if stdin is None:
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    if "user" in held:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    _limit(spec)
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    if "filter" in held:
        _filter(libc)
    for end in (spec["judging"], *ends):
        os.set_inheritable(end, end in ends)
    python, given = os.path.realpath(sys.executable), {"HOME": os.getcwd()}
    if found := os.environ.get("LD_LIBRARY_PATH"):
        given["LD_LIBRARY_PATH"] = found
    try:
        os.execve(python, [python, "-I", "-S", "-B", "-c", f"{spec['parties']}\n{what}\nimport os; os._exit(0)"], given)
    except OSError as error:
        tell(f"refused: the interpreter {python} cannot be run by another user ({error}); it must be open to all")
    os._exit(1)


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
