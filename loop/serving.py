"""What a round records of its engines: how replies were sampled, and how much of the prompts they had cached."""

from __future__ import annotations

from typing import Any

from actors.actor import ActorGone
from actors.conversation import assistant_sampling, user_sampling
from actors.models.chat import Sampling
from actors.models.usage import CacheUse
from loop.arm import Arm
from loop.rundir import read_json, write_json
from loop.supervisor import fetch


def begin_count(arm: Arm) -> None:
    """Have every engine count its requests from now on."""
    fetch([m.handle.cache_use.remote() for m in arm.supervisor.live_engines])


def record_engines(arm: Arm, r: int) -> None:
    """Add what engines did since `begin_count` to the round's record, in the run directory and among the figures.

    Raises:
        ActorGone: An engine died meanwhile, and others took its requests. What the others did is recorded.
    """
    path = arm.out.engines(arm.name, r)
    replicas = {row["engine"]: row for row in read_json(path).get("replicas", [])}
    gone: ActorGone | None = None
    for engine in arm.supervisor.live_engines:
        name = engine.name
        try:
            use: CacheUse = fetch(engine.handle.cache_use.remote())
        except ActorGone as error:
            gone = gone or error
            continue
        row = replicas.get(name, {})
        whole = CacheUse(*(row.get(k, 0) + n for k, n in vars(use).items()))
        if whole.requests:
            replicas[name] = {"engine": name, **vars(whole), "prefix_hit_rate": whole.hit_rate}
    write_json(path, {"sampling": _sampling(arm), "replicas": list(replicas.values())})
    arm.monitor.engines(list(replicas.values()), r)
    if gone:
        raise gone


def _sampling(arm: Arm) -> dict[str, dict[str, float]]:
    """By role, the values with which replies are sampled; of an endpoint, what it is told."""
    settings, supervisor, user = arm.config.conversation, arm.supervisor, arm.config.roles.user
    users = _engines_of(supervisor, user)
    generator = arm.config.roles.generator
    speaking = _engines_of(supervisor, generator) if generator else supervisor.live_assistants
    asked: dict[str, tuple[Sampling, list[Any]]] = {
        "assistant": (assistant_sampling(settings), [m for m in speaking if m.up] if generator else speaking),
        "user": (user_sampling(settings), [m for m in users if m.up]),
    }
    return {role: _chosen(sampling, engines) for role, (sampling, engines) in asked.items()}


def _engines_of(supervisor: Any, model: str) -> list[Any]:
    """The engines of a model by its name in the config; an endpoint has none."""
    return supervisor.base_engines if model == "base" else supervisor.model_engines.get(model, [])


def _chosen(sampling: Sampling, engines: list[Any]) -> dict[str, float]:
    for engine in engines:
        try:
            return sampling.chosen(fetch(engine.handle.own_sampling.remote()))
        except ActorGone:  # another replica says the same
            continue
    return sampling.given()
