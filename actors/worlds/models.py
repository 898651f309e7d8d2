"""Where the base model of a run comes from: a pocket model built here, a directory, or a model hub."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from actors.scripted import SCRIPTED
from actors.worlds.base import WorldError

POCKET_MODELS = ("pocket", "pocket-control")


def cache_folder() -> Path:
    """`CANDOR_CACHE`, or `~/.cache/candor`."""
    return Path(os.environ.get("CANDOR_CACHE") or Path.home() / ".cache" / "candor").expanduser()


def pocket_folder(name: str) -> Path:
    """Where the pocket model `name` is cached; another recipe or another corpus is another folder."""
    from actors.worlds.pocket.build import RECIPES

    here = Path(__file__).parent / "pocket"
    sources = ("words.yaml", "scenarios.yaml", "language.py", "talks.py", "corpus.py", "build.py")
    key = json.dumps(asdict(RECIPES[name]), sort_keys=True).encode() + b"".join(
        (here / s).read_bytes() for s in sources
    )
    return cache_folder() / "models" / f"{name}-{hashlib.sha256(key).hexdigest()[:12]}"


def resolve(model: str, progress: Callable[[int, int, float], None] = lambda *_: None) -> str:
    """Path or hub name of a base model; a pocket model that the cache lacks is built first.

    Args:
        model: `pocket`, `pocket-control`, `scripted`, a directory, or a hub name such as `org/name`.
        progress: Called while building with (steps done, steps in all, loss).

    Raises:
        WorldError: The directory holds no model, or the cache cannot be written.
    """
    if model in POCKET_MODELS:
        from safetensors import SafetensorError

        from actors.worlds.pocket.build import BUILD_FILE, RECIPES, build

        folder = pocket_folder(model)
        if not (folder / BUILD_FILE).exists():
            try:
                build(RECIPES[model], folder, progress)
            except (OSError, SafetensorError) as error:
                raise WorldError(
                    f"the pocket model cannot be written to {folder}: {error}; free space there or "
                    "set CANDOR_CACHE to a folder that can be written"
                ) from None
        return str(folder)
    if model == SCRIPTED:
        return model
    path = Path(model).expanduser()
    if path.is_dir():
        if not (path / "config.json").exists():
            raise WorldError(f"model: {model} has no config.json, so it is no Hugging Face model directory")
        weights = [*path.glob("*.safetensors"), *path.glob("pytorch_model*.bin")]
        if not weights:
            raise WorldError(f"model: {model} has no weights; expected *.safetensors or pytorch_model*.bin in it")
        return str(path.resolve())
    if model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise WorldError(
            f"model: there is no directory {model}; give one, a hub name such as org/name, or one of "
            f"{', '.join((*POCKET_MODELS, SCRIPTED))}"
        )
    return model
