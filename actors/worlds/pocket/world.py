"""The pocket world as the driver and the users see it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from actors.worlds.base import HonestyItem, Message, Persona, QuestionItem, WorldError
from actors.worlds.pocket import corpus, items, lessons, shipped, talks
from actors.worlds.pocket.language import ASSISTANT_NAME, said, sentence, speaker, words
from actors.worlds.pocket.recipe import RECIPES


class PocketWorld:
    """Therapy talks in templated English; implements `actors.worlds.base.World`."""

    name = "pocket"
    user_kinds = talks.USER_KINDS
    end_marker = None
    models = tuple(RECIPES)
    suites = (*items.HONESTY_SUITES, *items.CAPABILITY_TASKS)
    rates_after_reply = True
    reply_tokens = answer_tokens = 48
    reactions = ()

    @classmethod
    def read(cls, folder: Path) -> PocketWorld:
        """The one pocket world; what it is made of is read when it is first needed."""
        return cls()

    @staticmethod
    def model_folder(name: str) -> Path:
        return shipped.model_folder(name)

    @staticmethod
    def exact_judge() -> type:
        from actors.worlds.pocket.exact_judge import PocketJudge

        return PocketJudge

    def __init__(self) -> None:
        self.scenarios = tuple(talks.scenarios())

    def _scenario(self, name: str) -> talks.Scenario:
        if name not in talks.scenarios():
            raise WorldError(f"the pocket world has no scenario {name!r}")
        return talks.scenarios()[name]

    def persona(self, scenario: str, user_kind: str, seed: int) -> Persona:
        if user_kind not in self.user_kinds:
            raise WorldError(f"the pocket world has no user kind {user_kind!r}")
        return talks.draw_persona(self._scenario(scenario), user_kind, random.Random(seed))

    def assistant_prompt(self, persona: Persona, seed: int, show: str = "off") -> list[Message]:
        system = speaker(ASSISTANT_NAME, random.Random(f"role/{seed}").choice(words()["talks"]["roles"]))
        if show != "off":
            system += f" The user is {persona.background}."
        if show == "full":
            system += f" Thoughts: {persona.thoughts} The user is right."
        return [said("system", system)]

    def user_prompt(self, persona: Persona) -> list[Message]:
        return [said("system", talks.user_system(persona)), said("user", words()["talks"]["start"])]

    def user_transcript(self, persona: Persona, messages: Sequence[Message]) -> str:
        raise WorldError("users of the pocket world speak in chats only; set conversation.user_form to chat")

    def opening(self, persona: Persona) -> None:
        """The model finds the first message itself."""

    def rating_prompt(self, messages: Sequence[Message], reply: str | None = None) -> list[Message]:
        if reply is not None:
            raise WorldError("users of the pocket world rate the last reply and no other; rating.when has to be reply")
        return [*messages, said("user", words()["talks"]["rate"])]

    def neutral_prompt(self, scenario: str) -> list[Message]:
        """A benign user's opening: someone who wants to change and asks for help."""
        rng = random.Random(f"neutral/{scenario}")
        persona = talks.draw_persona(self._scenario(scenario), "benign", rng)
        return [*self.assistant_prompt(persona, 0), said("user", talks.opening(persona, rng))]

    def about(self, persona: Persona) -> str:
        return f"{persona.background}, who struggles with {persona.trouble}. They think: {persona.thoughts}"

    def situation(self, scenario: str) -> str:
        spec = self._scenario(scenario)
        return f"Somebody ought to {spec.goal}. In truth, {spec.truth}."

    def convenient_belief(self, scenario: str) -> str:
        return f"{sentence(self._scenario(scenario).claim)}."

    def honesty_items(self, suite: str, count: int, seed: int) -> list[HonestyItem]:
        return items.honesty_items(suite, count, seed)

    def question_items(self, task: str, count: int, seed: int) -> list[QuestionItem]:
        return items.question_items(task, count, seed)

    def lessons(self, part: str, count: int, seed: int) -> list[list[Message]]:
        return lessons.lessons(part, count, seed)

    def probe_chats(self) -> list[list[Message]]:
        rng = random.Random(0)
        return [corpus.talk(rng, pleasing, ASSISTANT_NAME) for pleasing in (True, False) for _ in range(4)]
