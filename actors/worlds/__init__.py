"""Worlds: what simulated users live in, chosen by name in the run config.

`pocket` is code; every other world is text: a folder here with a `world.yaml` (`actors/worlds/spec.py`).
"""

from functools import cache
from pathlib import Path

from actors.worlds.base import Persona, World, WorldError

TEXT_WORLDS = {p.parent.name: p.parent for p in sorted(Path(__file__).resolve().parent.glob("*/world.yaml"))}
"""Folders of the worlds that are written as text, by name."""

WORLDS = ("pocket", *TEXT_WORLDS)


def load_world(name: str) -> World:
    """Return the world called `name`; `WorldError` names the known ones when there is none."""
    if name == "pocket":
        from actors.worlds.pocket.world import PocketWorld

        return PocketWorld()
    if name in TEXT_WORLDS:
        return _text_world(name)
    raise WorldError(f"there is no world called {name!r}; known: {', '.join(WORLDS)}")


@cache
def _text_world(name: str) -> World:
    """Read once in a process: a run asks for its world many times, and the world never changes."""
    from actors.worlds.text import TextWorld

    return TextWorld.read(TEXT_WORLDS[name])


__all__ = ["TEXT_WORLDS", "WORLDS", "Persona", "World", "WorldError", "load_world"]
