"""The server of `candor view`: one process on loopback, and a thread that reads what the run writes."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from actors.buffer import BufferError, StorageError
from loop.config.schema import RunConfig
from loop.listening import listen
from loop.rundir import RunDir
from loop.view.pages import Viewer

HOST = "127.0.0.1"
LOOK_SECONDS = 1.0
"""How often one looks for what is new."""


@contextmanager
def reading(viewer: Viewer, say: Callable[[str], None]) -> Iterator[None]:
    """Read what is new on disk in a thread while the block runs."""
    over = threading.Event()
    told: set[str] = set()

    def read() -> None:
        while not over.is_set():
            try:
                viewer.refresh()
            except (BufferError, StorageError, FileNotFoundError) as error:  # may be there again, or compacted just now
                if str(error) not in told:
                    told.add(str(error))
                    say(str(error))
            over.wait(LOOK_SECONDS)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=5)


def serve(
    out: RunDir, config: RunConfig, port: int, started: Callable[[str], None], say: Callable[[str], None]
) -> None:
    """Serve the pages of a run until Ctrl-C or SIGTERM.

    Args:
        started: Told the address once pages can be had.
        say: Told of files that cannot be read.

    Raises:
        PortTakenError: The port is taken.
    """
    with listen(HOST, port) as door:
        viewer = Viewer.of(out, config)
        server = uvicorn.Server(uvicorn.Config(viewer.app(), log_level="warning", access_log=False))
        with reading(viewer, say):
            threading.Thread(target=_tell, args=(server, door, started), daemon=True).start()
            server.run(sockets=[door])


def _tell(server: uvicorn.Server, door: socket.socket, started: Callable[[str], None]) -> None:
    address = f"http://{HOST}:{door.getsockname()[1]}/"
    while not server.started and not server.should_exit:
        time.sleep(0.02)
    if server.started:
        started(address)
