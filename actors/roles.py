"""Who plays whom: how a pool reaches the model of each role, and the company that holds one conversation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actors.chat import ChatModel, EngineChat
from actors.judge import Judge, JudgeHandle, ModelJudge
from actors.settings import EndpointSettings, Prices
from actors.usage import Bill, Metered, Purse
from actors.worlds.base import World


@dataclass(frozen=True)
class Door:
    """How to reach a model.

    Attributes:
        model: What it is called in the config, `assistant`, `base` or a name under `models`.
        engines: Handles of the engines that serve it.
        policy: The name under which they serve it.
        endpoint: In place of engines.
        share: Part of the endpoint's limits that one process may use.
        identity: What tells the model from every other, so that its answers can be kept; empty where that is not known.
    """

    model: str
    engines: Sequence[Any] = ()
    policy: str = ""
    endpoint: EndpointSettings | None = None
    share: float = 1.0
    price: Prices | None = None
    identity: str = ""


@dataclass(frozen=True)
class Peers:
    """Whom a pool works with; handles may be others after an actor died.

    Attributes:
        doors: By role; roles that nobody plays are missing.
        judge: Handle of the world's own judge; None where it has none or a model judges.
        engine: Name and version of the assistant's engines.
    """

    doors: Mapping[str, Door]
    judge: Any
    buffer: Any
    engine: str


@dataclass
class Company:
    """The models of one conversation, every call of which goes on its bill.

    Attributes:
        aside: The user's model, for questions that are not part of the conversation; prompts and answers are kept.
        rater: A third person who rates; None where the user does.
    """

    assistant: ChatModel
    user: ChatModel
    aside: ChatModel
    rater: ChatModel | None
    judge: Judge | None
    bill: Bill


class Troupe:
    """All models that play in a round; each conversation gets a company of them.

    Args:
        endpoints: Those that this process has open, as in `open_door`; they stay open, so that limits hold over rounds.
    """

    def __init__(self, world: World, peers: Peers, purse: Purse, endpoints: dict[str, ChatModel]) -> None:
        self._world = world
        self._doors = peers.doors
        self._purse = purse
        self._judge = JudgeHandle(peers.judge) if peers.judge else None
        opened: dict[str, ChatModel] = {}
        for door in peers.doors.values():
            if door.model not in opened:
                opened[door.model] = open_door(door, endpoints)
        self._models = opened

    @property
    def assistant(self) -> ChatModel:
        """The assistant, for questions that are on nobody's bill."""
        return self._models[self._doors["assistant"].model]

    def company(self) -> Company:
        """The models of a new conversation."""
        bill = Bill()

        def play(role: str, keep: bool = False) -> ChatModel | None:
            door = self._doors.get(role)
            if door is None:
                return None
            return Metered(self._models[door.model], door.model, role, bill, self._purse, door.price, keep)

        judge: Judge | None = self._judge
        if model := play("judge", keep=True):
            judge = ModelJudge(model, self._world, self._doors["judge"].model)
        return Company(
            assistant=play("assistant"),
            user=play("user"),
            aside=play("user", keep=True),
            rater=play("rater", keep=True),
            judge=judge,
            bill=bill,
        )


def endpoint_identity(settings: EndpointSettings) -> str:
    """What tells an endpoint's model from every other: where it is, what it is called there, and how it is asked."""
    return json.dumps([settings.base_url, settings.model, settings.extra], sort_keys=True)


def open_door(door: Door, endpoints: dict[str, ChatModel]) -> ChatModel:
    """The model behind a door; endpoints stay open in `endpoints`, by what they are called here and where they are."""
    if door.endpoint is None:
        return EngineChat(door.engines, door.policy)
    key = f"{door.model} {endpoint_identity(door.endpoint)}"
    if key not in endpoints:
        from actors.endpoint import Endpoint

        endpoints[key] = Endpoint(door.endpoint, door.share)
    return endpoints[key]
