"""Where the base model of a run comes from: a world, the catalogue, a directory, or a model hub."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from actors.models.catalogue import CATALOGUE, hashes, read_record
from actors.scripted import SCRIPTED
from actors.storage.cache import cache_folder
from actors.worlds import WORLDS, WorldError, world_kind


def world_models() -> dict[str, str]:
    """The models that come with worlds, by name, each with the world that it can speak of."""
    return {model: world for world in WORLDS for model in world_kind(world).models}


def home_of(model: str) -> str | None:
    """The only world that a model can speak of; None where it can speak of any."""
    return world_models().get(model)


@cache
def ties_embeddings(model: str) -> bool:
    """Whether a model's output head is its embeddings; False where its config is not on this machine."""
    if home_of(model) or model == SCRIPTED:
        return False
    folder = fetched_folder(model) if model in CATALOGUE else Path(model).expanduser()
    try:
        file: Path | str | None = folder / "config.json"
        if not folder.is_dir():
            from huggingface_hub import try_to_load_from_cache

            file = try_to_load_from_cache(model, "config.json")
        return isinstance(file, (str, Path)) and bool(json.loads(Path(file).read_bytes()).get("tie_word_embeddings"))
    except (OSError, ValueError):  # no hub name, not downloaded yet, or no JSON: whoever loads it says so
        return False


def public_name(model: str) -> tuple[str | None, str | None]:
    """What a base model is called everywhere, and its revision where that is known: its name on the Hugging Face Hub,
    or the short name of one that ships with a world; None for other folders of this machine.

    Args:
        model: A path or hub name as `resolve` gives it.
    """
    folder = Path(model).expanduser()
    if not folder.is_dir():
        return (model, None) if model.count("/") == 1 else (None, None)
    record = read_record(folder)
    if entry := CATALOGUE.get(record.get("name", "")):
        return record.get("hub", entry.hub), record.get("revision")
    shipped = {n: world_kind(home).model_folder(n) for n, home in world_models().items()}
    return next((n for n, of in shipped.items() if Path(of).resolve() == folder.resolve()), None), None


def fetched_folder(name: str) -> Path:
    """Where `candor model fetch` puts a model of the catalogue."""
    return cache_folder() / "models" / name


def _fetched(name: str) -> Path:
    """A model of the catalogue, as it was fetched.

    Raises:
        WorldError: It was not fetched, or is damaged.
    """
    folder = fetched_folder(name)
    record = read_record(folder)
    if not record:
        raise WorldError(f"model: {name} is not on this machine yet; get it with `candor model fetch {name}`")
    found = hashes(folder)
    if bad := sorted(f for f, sha256 in record["sha256"].items() if found.get(f) != sha256):
        raise WorldError(
            f"model: {name} is damaged: {folder / bad[0]} has another SHA-256 than {record['sha256'][bad[0]]}; get it "
            f"again with `candor model fetch {name}`"
        )
    return folder


def resolve(model: str) -> str:
    """Path or hub name of a base model.

    Args:
        model: The name of a world's model or of one of `actors.models.catalogue`, `scripted`, a directory, or a hub
            name such as `org/name`.

    Raises:
        WorldError: The directory holds no model, or a model with a short name cannot be used.
    """
    if home := home_of(model):
        return str(world_kind(home).model_folder(model))
    if model in CATALOGUE:
        return str(_fetched(model))
    if model == SCRIPTED:
        return model
    path = Path(model).expanduser()
    if path.is_dir():
        if not (path / "config.json").exists():
            raise WorldError(f"model: {model} has no config.json, so it is not a Hugging Face model directory")
        weights = [*path.glob("*.safetensors"), *path.glob("pytorch_model*.bin")]
        if not weights:
            raise WorldError(f"model: {model} has no weights; expected *.safetensors or pytorch_model*.bin in it")
        return str(path.resolve())
    if model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise WorldError(
            f"model: there is no directory {model}; give one, a hub name such as org/name, or one of "
            f"{', '.join((*world_models(), *CATALOGUE, SCRIPTED))}"
        )
    return model
