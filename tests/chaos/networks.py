"""Machines with addresses of their own, on one machine: network namespaces that a bridge connects, a raylet in each."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

RAY = Path(sys.executable).parent / "ray"
NETWORK = "10.77.0"
PORT = 6379
OWN = f"cndr{os.getpid()}"
"""Name of the bridge, and what those of machines and their cables begin with."""
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
"""Environment of everything that takes part."""
SOON = {"RAY_health_check_period_ms": "500", "RAY_health_check_timeout_ms": "1000"}
"""Environment of the head, which then takes five seconds to give up a machine and not half a minute."""


def ip(*words: str, check: bool = True) -> str:
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=check).stdout


def why_not() -> str | None:
    """Why this machine cannot have network namespaces; None where it can."""
    try:
        ip("netns", "add", OWN)
        ip("link", "add", OWN, "type", "bridge")
    except FileNotFoundError:
        return "needs `ip`, of the package iproute2"
    except subprocess.CalledProcessError as error:
        return f"network namespaces need root: {error.stderr.strip()}"
    finally:
        subprocess.run(["ip", "link", "del", OWN], capture_output=True, check=False)
        subprocess.run(["ip", "netns", "del", OWN], capture_output=True, check=False)
    return None


@dataclass
class Machines:
    """A cluster whose first machine is the head; it has room for no actor.

    Attributes:
        folder: For what the raylets print.
    """

    folder: Path
    _raylets: dict[int, subprocess.Popen] = field(default_factory=dict)
    _names: list[str] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"{NETWORK}.1:{PORT}"

    def inside(self, number: int) -> list[str]:
        """What has a command run on a machine."""
        return ["ip", "netns", "exec", self._name(number)]

    def add(self, number: int, cpus: int) -> None:
        """Connect a machine, and start its raylet."""
        name, own = self._name(number), f"{NETWORK}.{number}"
        self._names.append(name)
        ip("netns", "add", name)
        ip("link", "add", self._name(number), "type", "veth", "peer", "name", "net0", "netns", name)
        ip("link", "set", self._name(number), "master", OWN, "up")
        for words in (
            ("link", "set", "lo", "up"),
            ("addr", "add", f"{own}/24", "dev", "net0"),
            ("link", "set", "net0", "up"),
            ("route", "add", "default", "dev", "net0"),  # by its default route Ray finds out its own address
        ):
            ip("-n", name, *words)
        self.start(number, cpus)

    def start(self, number: int, cpus: int) -> None:
        """Start a machine's raylet, and wait until it has joined."""
        own = f"{NETWORK}.{number}"
        at = ["--head", f"--port={PORT}", "--include-dashboard=false"] if number == 1 else [f"--address={self.address}"]
        words = ["start", *at, f"--node-ip-address={own}", f"--num-cpus={cpus}", "--object-store-memory=134217728"]
        log = self.folder / f"machine-{number}.log"
        with open(log, "w") as said:
            self._raylets[number] = subprocess.Popen(
                [*self.inside(number), RAY, *words, "--block"],
                stdout=said,
                stderr=subprocess.STDOUT,
                env=os.environ | TOKEN | SOON,
            )
        deadline = time.monotonic() + 90
        while "Ray runtime started" not in log.read_text():
            assert self._raylets[number].poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)

    def of(self, pid: int) -> int:
        """The machine of a process."""
        return int(ip("netns", "identify", str(pid)).strip().rpartition("-")[2])

    def processes(self, number: int) -> list[int]:
        return [int(pid) for pid in ip("netns", "pids", self._name(number)).split()]

    def kill(self, number: int) -> None:
        """Kill everything on a machine at once."""
        for pid in self.processes(number):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._raylets[number].wait(10)

    def cut(self, number: int) -> None:
        """Take a machine from the network; it goes on by itself."""
        ip("link", "set", self._name(number), "down")

    def heal(self, number: int) -> None:
        ip("link", "set", self._name(number), "up")

    def end(self) -> None:
        for number in sorted(self._raylets, reverse=True):
            self.kill(number)
        for name in self._names:  # what was not made for some fault is not there
            ip("link", "del", name, check=False)
            ip("netns", "del", name, check=False)

    def _name(self, number: int) -> str:
        return f"{OWN}-{number}"


@contextmanager
def machines(folder: Path) -> Iterator[Machines]:
    """A bridge for machines, which are gone at the end."""
    ip("link", "add", OWN, "type", "bridge")
    ip("link", "set", OWN, "up")
    made = Machines(folder)
    try:
        yield made
    finally:
        made.end()
        ip("link", "del", OWN)
