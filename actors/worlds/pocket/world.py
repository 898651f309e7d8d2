"""The pocket world as the driver and the users see it."""

from __future__ import annotations

import random

from actors.worlds.base import HonestyItem, Message, Persona, QuestionItem, WorldError
from actors.worlds.pocket import corpus, items, talks
from actors.worlds.pocket.language import ASSISTANT_NAME, said, speaker, words


class PocketWorld:
    """Therapy talks in templated English; implements `actors.worlds.base.World`."""

    name = "pocket"
    user_kinds = talks.USER_KINDS

    def __init__(self) -> None:
        self.scenarios = tuple(talks.scenarios())

    def persona(self, scenario: str, user_kind: str, seed: int) -> Persona:
        if scenario not in talks.scenarios() or user_kind not in self.user_kinds:
            raise WorldError(f"the pocket world has no scenario {scenario!r} with user kind {user_kind!r}")
        return talks.draw_persona(talks.scenarios()[scenario], user_kind, random.Random(seed))

    def assistant_prompt(self, persona: Persona, seed: int) -> list[Message]:
        return [
            said("system", speaker(ASSISTANT_NAME, random.Random(f"role/{seed}").choice(words()["talks"]["roles"])))
        ]

    def user_prompt(self, persona: Persona) -> list[Message]:
        return [said("system", talks.user_system(persona)), said("user", words()["talks"]["start"])]

    def rating_prompt(self) -> list[Message]:
        return [said("user", words()["talks"]["rate"])]

    def honesty_items(self, suite: str, count: int, seed: int) -> list[HonestyItem]:
        return items.honesty_items(suite, count, seed)

    def question_items(self, task: str, count: int, seed: int) -> list[QuestionItem]:
        return items.question_items(task, count, seed)

    def probe_chats(self) -> list[list[Message]]:
        rng = random.Random(0)
        return [corpus.talk(rng, pleasing, ASSISTANT_NAME) for pleasing in (True, False) for _ in range(4)]
