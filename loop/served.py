"""Which files a model consists of that is served: a hub model at a fixed revision, and the hash of every file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from actors.storage.files import file_mark
from loop.config.explain import ConfigError

FILES = ("*.safetensors", "*.bin", "*.json", "*.jinja", "*.txt", "*.model")
"""Weights, shape, tokenizer and template of a model."""


def at_revision(model: str, revision: str | None) -> str:
    """A model as it is at a revision of the hub: the folder of it in the hub's cache, downloaded if it is not there.

    Args:
        model: A folder, or a hub name such as `org/name`.
        revision: A commit, tag or branch; None takes the model as it is.

    Raises:
        ConfigError: The model is no hub name, or that revision of it cannot be had.
    """
    if revision is None:
        return model
    if Path(model).is_dir() or "/" not in model:
        raise ConfigError(f"model_revision {revision}: {model} is no hub name such as org/name, so it has no revisions")
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(model, revision=revision, allow_patterns=list(FILES))
    except Exception as error:  # no connection, a gate, no such revision: each has its own class
        told = str(error).strip().splitlines()
        raise ConfigError(
            f"model_revision {revision}: {model} cannot be had from the Hugging Face Hub "
            f"({told[0] if told else type(error).__name__})"
        ) from None


def files_of(model: str) -> dict[str, Any]:
    """What is known of a model's files on this machine: `commit`, for one from the hub, and `files`, the hash of each
    by name (`actors.storage.files.file_mark`); empty where none are here yet."""
    folder = Path(model)
    if not folder.is_dir():
        folder = _cached(model) or folder
    if not folder.is_dir():
        return {}
    files = {p.name: file_mark(p) for p in sorted(q for kind in FILES for q in folder.glob(kind))}
    commit = {"commit": folder.name} if folder.parent.name == "snapshots" else {}
    return {**commit, "files": files}


def _cached(model: str) -> Path | None:
    """The folder of a hub model in the cache of this machine."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(model, "config.json")
    except HFValidationError:  # `scripted` and the like
        return None
    return Path(found).parent if isinstance(found, str) else None
