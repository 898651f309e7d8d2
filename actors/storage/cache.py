"""The folder for what can be made again: models that were built, judges' answers, how long runs took."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`CANDOR_CACHE`, or `~/.cache/candor`."""
    return Path(os.environ.get("CANDOR_CACHE") or Path.home() / ".cache" / "candor").expanduser()
