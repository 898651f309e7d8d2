"""TensorBoard's own server on loopback, and what it answers over HTTP: what it does not tell, nobody sees."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Server:
    """A running server.

    Attributes:
        url: Where it listens, with a slash at its end.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, body: dict | None = None, **query: str) -> Any:
        """What it answers to `data/<path>`; a body is posted as JSON."""
        url = f"{self.url}data/{path}" + (f"?{urllib.parse.urlencode(query)}" if query else "")
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"} if data else {})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def scalars(self, run: str, tag: str) -> list[tuple[int, float]]:
        """Steps and values."""
        points = self.get("plugin/scalars/scalars", run=run, tag=tag)
        return [(step, value) for _, step, value in points]

    def tags(self, plugin: str, run: str) -> set[str]:
        return set(self.get(f"plugin/{plugin}/tags").get(run, ()))


@contextmanager
def serving(folder: Path, fast: bool = False) -> Iterator[Server]:
    """A server of a folder of event files, by TensorBoard's own command.

    Args:
        fast: Whether files are read by `tensorboard-data-server`, as the command does by default where it can.
    """
    command = [Path(sys.executable).parent / "tensorboard", "--logdir", folder, "--host", "127.0.0.1", "--port", "0"]
    options = ["--load_fast", str(fast).lower(), "--reload_interval", "1"]
    with subprocess.Popen(
        [*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            url = next((found[0] for line in process.stderr if (found := re.search(r"http://[\d.:]+/", line))), None)
            assert url, "TensorBoard did not start"
            server = Server(url)
            for _ in range(100):
                if server.get("runs"):
                    break
                time.sleep(0.1)
            yield server
        finally:
            process.terminate()
