"""A folder on any file system that `pyarrow.fs` knows; each file in it is complete or absent.

On a local disk a file is written under a temporary name, flushed and renamed. An object store shows an object only when
its upload is complete, so there the file gets its name at once.
"""

from __future__ import annotations

import itertools
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
from pyarrow.fs import AwsStandardS3RetryStrategy, FileSelector, FileSystem, FileType, LocalFileSystem, S3FileSystem

from actors.storage.files import whole_file

ASIDE = "set-aside"
"""Folder, below the one they were found in, for files that are torn or not ours."""
S3_ATTEMPTS = 5
"""With these an S3 server that refuses connections is given up within 15 s, one that hangs within 30 s; Arrow's own
number, which a URI cannot change, waits 99 s for one that hangs."""
_SPOOL_BYTES = 16 * 2**20


class StorageError(RuntimeError):
    """Storage that cannot be read or written: full, forbidden, unreachable. The message names place and cause."""


@lru_cache(maxsize=16)
def _open(root: str) -> tuple[FileSystem, str]:
    fs, base = FileSystem.from_uri(root if "://" in root else str(Path(root).absolute()))
    if isinstance(fs, S3FileSystem) and not re.search("tls_|smart_defaults", root):  # which a new one would lack
        make, (options,) = fs.__reduce__()
        fs = make({**options, "retry_strategy": AwsStandardS3RetryStrategy(max_attempts=S3_ATTEMPTS)})
    return fs, base


@dataclass(frozen=True)
class Store:
    """One folder. Only its address is pickled; each process opens the file system for itself.

    Attributes:
        root: Local path or `pyarrow.fs` URI, with options after `?`, for example
            `s3://bucket/prefix?endpoint_override=localhost:9000&scheme=http`.
        path: Folder below it; empty for the root.
    """

    root: str
    path: str = ""

    def __truediv__(self, name: str) -> Store:
        return Store(self.root, f"{self.path}/{name}" if self.path else name)

    def __str__(self) -> str:
        """The address without keys and options."""
        shown = re.sub(r"(?<=://)[^/@]*@|\?.*", "", self.root) if "://" in self.root else self.root
        return f"{shown.rstrip('/')}/{self.path}".rstrip("/")

    @property
    def local(self) -> Path | None:
        """The folder as a path, where it is on this machine's file system."""
        with self._told("opened"):
            fs, base = _open(self.root)
        return Path(base) / self.path if isinstance(fs, LocalFileSystem) else None

    def create(self) -> None:
        """Make the folder, and on an object store the bucket where its URI allows that."""
        with self._told("created"):
            fs, _ = _open(self.root)
            fs.create_dir(self._full(""), recursive=True)

    def names(self) -> dict[str, int]:
        """Names of the files in the folder, with their sizes in bytes; none where there is no folder."""
        with self._told("listed"):
            fs, _ = _open(self.root)
            found = fs.get_file_info(FileSelector(self._full(""), allow_not_found=True))
        return {f.base_name: f.size for f in found if f.type == FileType.File and not f.base_name.startswith(".")}

    def read(self, name: str) -> pa.Buffer:
        """The content of a file: a memory map of a local one, a copy of any other; FileNotFoundError for none."""
        with self._told("read", name):
            fs, _ = _open(self.root)
            if isinstance(fs, LocalFileSystem):
                with pa.memory_map(self._full(name)) as source:
                    return source.read_buffer()
            with fs.open_input_file(self._full(name)) as source:
                return source.read_buffer()

    @contextmanager
    def write(self, name: str, flush_name: bool = False) -> Iterator[BinaryIO]:
        """A file to write to that appears as `name`, complete, when the block ends without an error.

        Args:
            flush_name: Flush its name on a local disk too. Without, a power cut may take the newest files away whole;
                what they held is then done again.
        """
        with self._told("written", name):
            fs, _ = _open(self.root)
            if isinstance(fs, LocalFileSystem):
                with whole_file(Path(self._full(name)), flush_name) as file:
                    yield file
            else:
                with tempfile.SpooledTemporaryFile(_SPOOL_BYTES) as scratch:  # an upload cannot be taken back
                    yield scratch
                    scratch.seek(0)
                    with fs.open_output_stream(self._full(name)) as file:
                        shutil.copyfileobj(scratch, file, 2**20)

    def delete(self, name: str) -> None:
        with self._told("deleted", name):
            fs, _ = _open(self.root)
            fs.delete_file(self._full(name))

    def set_aside(self, name: str) -> None:
        """Move a file out of the way without losing it, or one of that name that is there already."""
        with self._told("moved", name):
            fs, _ = _open(self.root)
            fs.create_dir(self._full(ASIDE), recursive=True)
            there = (self / ASIDE).names()
            names = itertools.chain([name], (f"{name}.{i}" for i in itertools.count(2)))
            fs.move(self._full(name), self._full(f"{ASIDE}/{next(n for n in names if n not in there)}"))

    def copy_in(self, name: str, file: BinaryIO) -> None:
        """Store the content of an open file as `name`."""
        with self.write(name) as target:
            shutil.copyfileobj(file, target, 2**20)

    def _full(self, name: str) -> str:
        return "/".join([_open(self.root)[1].rstrip("/"), *filter(None, (self.path, name))])

    @contextmanager
    def _told(self, what: str, name: str = "") -> Iterator[None]:
        """Turn what the file system says into one error that names the place."""
        try:
            yield
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowException) as error:
            place = f"{self}/{name}".rstrip("/")
            raise StorageError(f"{place} cannot be {what}: {getattr(error, 'strerror', None) or error}") from error
