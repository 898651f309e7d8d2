"""A real S3 server, `s3rver`, on this machine."""

import itertools
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.storage.cache import cache_folder
from actors.storage.store import Store

VERSION = "3.7.1"
HOME = cache_folder() / "s3rver"
"""Where the server is installed: this machine's cache, which the tests otherwise keep out of."""
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "S3RVER",
    "AWS_SECRET_ACCESS_KEY": "S3RVER",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",  # s3rver does not know the checksums of newer clients
}


def installed() -> Path:
    """The server's program; npm fetches it once."""
    program = HOME / "node_modules" / ".bin" / "s3rver"
    if program.exists():
        return program
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("s3rver, the S3 server of these tests, needs node and npm")
    command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(HOME), f"s3rver@{VERSION}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode:
        pytest.skip(f"npm could not install s3rver@{VERSION}: {done.stderr.strip()[-300:]}")
    return program


class Server:
    """An S3 server that can go away, hang and come back with what it had."""

    def __init__(self, program: Path, folder: Path) -> None:
        self.command = [str(program), "--silent", "--directory", str(folder), "--address", "127.0.0.1", "--port"]
        self.buckets = (f"bucket-{i}" for i in itertools.count())
        self.port = 0
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen([*self.command, str(self.port)], stdout=subprocess.PIPE, text=True)
        said = next(line for line in self.process.stdout if "listening" in line)
        self.port = int(said.rpartition(":")[2])

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()

    def store(self, keys: str = "", create: bool = True) -> Store:
        """A folder in a bucket that is not there yet."""
        options = f"endpoint_override=127.0.0.1:{self.port}&scheme=http&region=us-east-1"
        if create:
            options += "&allow_bucket_creation=true"
        return Store(f"s3://{keys}{next(self.buckets)}/runs?{options}") / "one" / "trajectories"


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    program = installed()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        server = Server(program, tmp_path_factory.mktemp("s3"))
        yield server
        server.stop()
