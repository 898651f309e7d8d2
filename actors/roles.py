"""Who plays which role: the models and actors that a pool works with, and the models of one conversation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from actors.judge import Judge, JudgeHandle, ModelJudge
from actors.models.chat import ChatModel
from actors.models.engine_client import EngineClient
from actors.models.ref import ModelRef, open_model
from actors.models.usage import BudgetLease, MeteredModel, UsageLedger
from actors.worlds.base import World


@dataclass(frozen=True)
class ActorHandles:
    """The models and actors that a pool works with; handles may be others after an actor died.

    Attributes:
        models: By role; roles that nobody plays are missing.
        judge: Handle of the world's own judge; None where it has none or a model judges.
        engine: Name and version of the assistant's engines.
    """

    models: Mapping[str, ModelRef]
    judge: Any
    buffer: Any
    engine: str


@dataclass
class ConversationModels:
    """The models of one conversation, every call of which is entered in its ledger.

    Attributes:
        aside: The user's model, for questions that are not part of the conversation; prompts and answers are kept.
        rater: A third person who rates; None where the user does.
    """

    assistant: ChatModel
    user: ChatModel
    aside: ChatModel
    rater: ChatModel | None
    judge: Judge | None
    ledger: UsageLedger


class RoleModels:
    """All models that play in a round; each conversation gets its own view of them.

    Args:
        endpoints: Those that this process has open, as in `open_model`; they stay open, so that limits hold over
            rounds.
    """

    def __init__(
        self, world: World, handles: ActorHandles, lease: BudgetLease, endpoints: dict[str, ChatModel]
    ) -> None:
        self._world = world
        self._refs = handles.models
        self._lease = lease
        self._judge = JudgeHandle(handles.judge) if handles.judge else None
        opened: dict[str, ChatModel] = {}
        for ref in handles.models.values():
            if ref.model not in opened:
                opened[ref.model] = open_model(ref, endpoints)
        self._models = opened

    def admit(self, models: Mapping[str, ModelRef]) -> None:
        """Take in engines that came up since.

        Args:
            models: By role, as they are now.
        """
        for ref in models.values():
            if isinstance(model := self._models.get(ref.model), EngineClient):
                model.admit(ref.engines)

    @property
    def assistant(self) -> ChatModel:
        """The assistant, for questions that are in nobody's ledger."""
        return self._models[self._refs["assistant"].model]

    def for_conversation(self) -> ConversationModels:
        """The models of a new conversation."""
        ledger = UsageLedger()

        def play(role: str, keep: bool = False) -> ChatModel | None:
            ref = self._refs.get(role)
            if ref is None:
                return None
            return MeteredModel(self._models[ref.model], ref.model, role, ledger, self._lease, ref.price, keep)

        judge: Judge | None = self._judge
        if model := play("judge", keep=True):
            judge = ModelJudge(model, self._world, self._refs["judge"].model)
        return ConversationModels(
            assistant=play("assistant"),
            user=play("user"),
            aside=play("user", keep=True),
            rater=play("rater", keep=True),
            judge=judge,
            ledger=ledger,
        )
