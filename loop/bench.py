"""The home of all benchmarks: `candor bench NAME`."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

BENCHMARKS: dict[str, Callable[[], dict[str, Any]]] = {}


def report_benchmark(name: str, as_json: bool) -> None:
    """Run a benchmark and print what it measured."""
    figures = BENCHMARKS[name]()
    figures |= {
        "versions": {p: version(p) for p in ("candor-loop", "ray", "torch", "trl")},
        "machine": {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine()},
    }
    if as_json:
        print(json.dumps(figures))
        return
    for key, value in figures.items():
        print(f"{key}: {value}")
