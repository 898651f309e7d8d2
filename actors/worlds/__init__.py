"""Worlds: what simulated users live in, chosen by name in the run config.

`pocket` is code; every other world is text: a folder here with a `world.yaml` (`actors/worlds/spec.py`).
"""

import hashlib
from functools import cache
from pathlib import Path

from actors.worlds.base import Persona, World, WorldError

TEXT_WORLDS = {p.parent.name: p.parent for p in sorted(Path(__file__).resolve().parent.glob("*/world.yaml"))}
"""Folders of the worlds that are written as text, by name."""

WORLDS = ("pocket", *TEXT_WORLDS)


def world_folder(world: str) -> Path:
    """The folder of a world, by its name or by its path, absolute.

    Raises:
        WorldError: There is no such world; the message names the known ones.
    """
    if world in TEXT_WORLDS:
        return TEXT_WORLDS[world]
    if world == "pocket":
        return Path(__file__).resolve().parent / world
    if (Path(world) / "world.yaml").exists():
        return Path(world).resolve()
    raise WorldError(f"there is no world called {world!r}, and no folder with a world.yaml; known: {', '.join(WORLDS)}")


def load_world(world: str) -> World:
    """The world with a name, or in a folder.

    Raises:
        WorldError: There is none, or it is not sound.
    """
    return _read(world_kind(world), world_folder(world))


def world_kind(world: str) -> type[World]:
    """The class of a world, which says what all its worlds have in common; nothing of the world is read."""
    if world == "pocket":
        from actors.worlds.pocket.world import PocketWorld

        return PocketWorld
    from actors.worlds.text import TextWorld

    return TextWorld


@cache
def _read(kind: type[World], folder: Path) -> World:
    """Read once in a process: a run asks for its world many times, and the world never changes."""
    return kind.read(folder)


def fingerprint(world: str) -> str:
    """Hash of the files that a world is made of."""
    folder = world_folder(world)
    found = hashlib.sha256()
    for path in sorted(p for part in ("**/*.yaml", "personas.jsonl", "reviews.jsonl") for p in folder.glob(part)):
        found.update(f"{path.relative_to(folder)}\n".encode() + hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()[:16]


__all__ = [
    "TEXT_WORLDS",
    "WORLDS",
    "Persona",
    "World",
    "WorldError",
    "fingerprint",
    "load_world",
    "world_folder",
    "world_kind",
]
