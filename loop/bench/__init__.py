"""The home of all benchmarks: `candor bench NAME`, a module each.

A benchmark's `run` returns `ratio` (the headline figure), `goal` (or None), `runs` and its parts; versions and machine
are added to every one.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
from typing import Any

from loop.doctor import PACKAGES, installed_version

BENCHMARKS = (
    *(
        "adapter",
        "buffer",
        "eval",
        "judge",
        "lockstep",
        "mfu",
        "rating",
        "rollouts",
        "scale",
        "sync",
        "train",
        "users",
        "view",
    ),
)
MODULES = {"eval": "evaluation"}
"""Where the module has another name than the benchmark."""
WIDENED = ("lockstep", "rollouts")
"""Those that take `widen`, `model` and `world`."""
ASKED_OF = ("rating",)
"""Those that need `model`."""
TRIED = ("eval", "judge", "train")
"""Those that may take `model`."""


def report_benchmark(name: str, as_json: bool, **options: Any) -> None:
    """Run a benchmark, which may take options, and print what it measured."""
    figures = importlib.import_module(f"loop.bench.{MODULES.get(name, name)}").run(**options)
    figures |= {
        "versions": {p: v for p in PACKAGES if (v := installed_version(p))},
        "machine": {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine()},
    }
    if as_json:
        print(json.dumps(figures))
        return
    for key, value in figures.items():
        print(f"{key}: {value}")
