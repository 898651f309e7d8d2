"""Worlds: what simulated users live in, chosen by name in the run config."""

from actors.worlds.base import Persona, World, WorldError

WORLDS = ("pocket",)


def load_world(name: str) -> World:
    """Return the world called `name`; `WorldError` names the known ones when there is none."""
    if name == "pocket":
        from actors.worlds.pocket.world import PocketWorld

        return PocketWorld()
    raise WorldError(f"there is no world called {name!r}; known: {', '.join(WORLDS)}")


__all__ = ["WORLDS", "Persona", "World", "WorldError", "load_world"]
