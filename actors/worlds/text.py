"""Worlds written as text: scenarios, personas and prompts in YAML files that anyone can read and change.

`actors/worlds/spec.py` says what belongs in the files; `actors/worlds/check.py` finds what is wrong with a world.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from actors.worlds.base import HonestyItem, Message, Persona, QuestionItem, WorldError
from actors.worlds.spec import PersonaSpec, ScenarioSpec, WorldSpec, read_parts

PROBE_REPLIES = (
    "Thank you for telling me. I will be honest with you, also where it is not what you hoped for.",
    "Let us look at one thing at a time. What would you like to know first?",
)


class TextWorld:
    """A world read from a folder; implements `actors.worlds.base.World`.

    Honesty suites, capability tasks and their items are those of the pocket world, which serve until suites of their
    own exist; nothing that users say in a text world has to do with the facts those items ask about.

    Example:
        >>> from actors.worlds import TEXT_WORLDS
        >>> world = TextWorld.read(TEXT_WORLDS["support"])
        >>> world.persona(world.scenarios[0], "biased", seed=7).user_kind
        'biased'
    """

    def __init__(self, spec: WorldSpec, scenarios: Sequence[ScenarioSpec], personas: Sequence[PersonaSpec]) -> None:
        self.spec = spec
        self.name = spec.name
        self._scenarios = {s.name: s for s in sorted(scenarios, key=lambda s: s.name)}
        self.scenarios = tuple(self._scenarios)
        self.user_kinds = tuple(spec.kinds)
        self._personas: dict[tuple[str, str], list[Persona]] = {}
        for p in personas:
            self._personas.setdefault((p.scenario, p.kind), []).append(self._made(p))

    @classmethod
    def read(cls, folder: Path) -> TextWorld:
        """Read a world.

        Raises:
            WorldError: The folder holds no sound world; the message has a line for each problem.
        """
        parts, problems = read_parts(folder)
        if problems or parts.world is None:
            lines = "\n".join(f"  {p}" for p in problems)
            raise WorldError(f"{folder} holds no sound world (candor world check {folder}):\n{lines}")
        return cls(parts.world, list(parts.scenarios.values()), list(parts.personas.values()))

    def personas(self, scenario: str, user_kind: str) -> Sequence[Persona]:
        """Every persona of a scenario and kind, in the order of the file; `WorldError` where there is none."""
        if (scenario, user_kind) not in self._personas:
            raise WorldError(f"the {self.name} world has no scenario {scenario!r} with user kind {user_kind!r}")
        return self._personas[scenario, user_kind]

    def persona(self, scenario: str, user_kind: str, seed: int) -> Persona:
        """Draw one of the shipped personas, each as likely as any other.

        In a text world `background` is the persona's user_context, `thoughts` what its kind thinks in this scenario,
        and `trouble` its user_prompt: what it says first.
        """
        choices = self.personas(scenario, user_kind)
        drawn = hashlib.sha256(f"{self.name}/{scenario}/{user_kind}/{seed}".encode()).digest()
        return choices[int.from_bytes(drawn[:8], "big") % len(choices)]

    def assistant_prompt(self, persona: Persona, seed: int) -> list[Message]:
        scenario = self._scenarios[persona.scenario]
        content = self.spec.assistant_template.format(task_description=scenario.task_description)
        return [{"role": "system", "content": content}]

    def user_prompt(self, persona: Persona) -> list[Message]:
        content = self.spec.user_template.format(
            user_context=persona.background,
            thoughts=persona.thoughts,
            user_prompt=persona.trouble,
            wants=self.spec.kinds[persona.user_kind].wants,
            task_description=self._scenarios[persona.scenario].task_description,
            end_marker=self.spec.end_marker,
        )
        return [{"role": "system", "content": content}, {"role": "user", "content": self.spec.start}]

    def rating_prompt(self) -> list[Message]:
        return [{"role": "user", "content": self.spec.rating_question}]

    def honesty_items(self, suite: str, count: int, seed: int) -> list[HonestyItem]:
        """Items of the pocket world."""
        from actors.worlds.pocket import items

        return items.honesty_items(suite, count, seed)

    def question_items(self, task: str, count: int, seed: int) -> list[QuestionItem]:
        """Items of the pocket world."""
        from actors.worlds.pocket import items

        return items.question_items(task, count, seed)

    def probe_chats(self) -> list[list[Message]]:
        """Eight chats: personas spread evenly over the world say their first message and get a fixed reply."""
        everyone = [p for kind in self.user_kinds for s in self.scenarios for p in self._personas[s, kind]]
        chats = []
        for i in range(8):
            persona = everyone[i * len(everyone) // 8]
            opening = {"role": "user", "content": persona.trouble}
            reply = {"role": "assistant", "content": PROBE_REPLIES[i % len(PROBE_REPLIES)]}
            chats.append([*self.assistant_prompt(persona, 0), opening, reply])
        return chats

    def _made(self, spec: PersonaSpec) -> Persona:
        """The id follows from the text, so it stays the same when others are added or moved."""
        digest = hashlib.sha256(f"{spec.user_context}\n{spec.user_prompt}".encode()).hexdigest()[:10]
        return Persona(
            persona_id=f"{spec.scenario}/{spec.kind}/{digest}",
            scenario=spec.scenario,
            user_kind=spec.kind,
            background=spec.user_context,
            thoughts=self._scenarios[spec.scenario].of_kind(spec.kind) or "",
            trouble=spec.user_prompt,
        )
