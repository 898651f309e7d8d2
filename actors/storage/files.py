"""Files and folders that are complete or absent, whatever happens while they are written."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def whole_file(path: Path, flush_name: bool = True) -> Iterator[BinaryIO]:
    """A file to write to that appears at `path`, flushed to disk, when the block ends without an error.

    Args:
        flush_name: Flush its name too, so that it is there even after a power cut. Without, it may be absent then, but
            still not torn.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = _scratch(path)
    try:
        with open(scratch, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
        if flush_name:
            _flush_entry(path)
    finally:
        scratch.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to fill that appears at `path`, in place of an older one, when the block ends without an error."""
    scratch = _scratch(path)
    shutil.rmtree(scratch, ignore_errors=True)  # of a process with the same number that was killed
    scratch.mkdir(parents=True)
    try:
        yield scratch
        flush_files(scratch)
        shutil.rmtree(path, ignore_errors=True)
        os.replace(scratch, path)
        _flush_entry(path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def flush_files(folder: Path) -> None:
    """Flush every file below a folder to disk."""
    for file in folder.rglob("*"):
        if file.is_file():
            with open(file, "rb") as written:
                os.fsync(written.fileno())


def _scratch(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")


def _flush_entry(path: Path) -> None:
    """Flush the directory that names `path`, so that the name outlives a power cut too."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def shown_size(count: int) -> str:
    """A number of bytes for people.

    Example:
        >>> shown_size(1_250_000)
        '1.2 MB'
    """
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


_FINGERPRINT_BYTES = 2**20


def model_fingerprint(model: Path) -> str:
    """Hash of a model directory: names and sizes of its weights and tokenizer, and the ends of each.

    Whole files of a large model would take minutes. A hub name has no directory; its name is hashed.
    """
    found = hashlib.sha256(str(model).encode() if not model.is_dir() else b"")
    for path in sorted(p for kind in ("*.safetensors", "*.bin", "*.json", "*.jinja") for p in model.glob(kind)):
        size = path.stat().st_size
        found.update(f"{path.name}/{size}".encode())
        with open(path, "rb") as file:
            found.update(file.read(_FINGERPRINT_BYTES))
            file.seek(max(0, size - _FINGERPRINT_BYTES))
            found.update(file.read())
    return found.hexdigest()[:16]


def file_mark(path: Path) -> str:
    """Hash of a file: its size, and all of it up to 64 MiB, else its ends, as whole files of a large model would take
    minutes."""
    size = path.stat().st_size
    found = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        if size <= 64 * _FINGERPRINT_BYTES:
            found.update(file.read())
        else:
            found.update(file.read(_FINGERPRINT_BYTES))
            file.seek(size - _FINGERPRINT_BYTES)
            found.update(file.read())
    return found.hexdigest()[:16]
