"""The pocket models that are part of the package, and those that were built here."""

from __future__ import annotations

from pathlib import Path

from actors.storage.cache import cache_folder
from actors.worlds.base import WorldError
from actors.worlds.pocket.recipe import RECIPES, file_hash, identity, read_record

SHIPPED = Path(__file__).parent / "models"
"""The pocket models that are part of the package."""
BUILD_TIME = "15 to 60 minutes on two cores"
"""How long it takes to build a pocket model."""


def built_folder(name: str) -> Path:
    """Where `candor world build` puts the pocket model `name`; another recipe or another corpus is another folder."""
    return cache_folder() / "models" / f"{name}-{identity(RECIPES[name])[:12]}"


def model_folder(name: str) -> Path:
    """The shipped pocket model; where it cannot be used, the one that was built here.

    Raises:
        WorldError: It is damaged, or the world's files are not those it was made from, and none was built.
    """
    folder, built, recipe = SHIPPED / name, built_folder(name), RECIPES[name]
    record = read_record(folder)
    if record.get("world") != identity(recipe):
        why = "was not made from the world's files that are here" if record else f"is not in {SHIPPED}"
    elif bad := [f for f, sha256 in record["sha256"].items() if file_hash(folder / f) != sha256]:
        why = f"is damaged: {folder / bad[0]} has another SHA-256 than {record['sha256'][bad[0]]}"
    else:
        return folder
    if read_record(built):
        return built
    raise WorldError(
        f"model: the pocket model {name!r} that Candor ships {why}, so it is not used. Build it here with "
        f"`candor world build {name}` ({BUILD_TIME}), or install Candor again"
    )
