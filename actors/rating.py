"""How a reply is rated from 1 to 10: the questions that can be asked, and the ratings that answers stand for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from actors.worlds import questions
from actors.worlds.base import Message, Persona, World

RATINGS = tuple(str(i) for i in range(1, 11))


class RatingForm(Protocol):
    """One way to ask for a rating.

    Attributes:
        choices: The answers that count.
        least_mass: How much of the probability has to be on them, unless the config says (`rating.min_mass`).
    """

    choices: Sequence[str]
    least_mass: float

    def __init__(self, world: World) -> None: ...

    def of_user(self, messages: Sequence[Message], reply: str | None = None) -> list[Message]:
        """Ask the user; arguments as of `World.rating_prompt`."""

    def of_other(self, persona: Persona, messages: Sequence[Message], reply: int) -> list[Message]:
        """Ask a third person about the reply at an index of the assistant's side."""

    def ratings(self, distribution: Mapping[str, float]) -> list[float]:
        """Probabilities of the ratings 1 to 10, from those of the choices."""


class NumberRating:
    """A whole number from 1 to 10."""

    choices = RATINGS
    least_mass = 0.5

    def __init__(self, world: World) -> None:
        self._world = world

    def of_user(self, messages: Sequence[Message], reply: str | None = None) -> list[Message]:
        return self._world.rating_prompt(messages, reply)

    def of_other(self, persona: Persona, messages: Sequence[Message], reply: int) -> list[Message]:
        return questions.rater(self._world, persona, messages, reply)

    def ratings(self, distribution: Mapping[str, float]) -> list[float]:
        return [distribution[r] for r in RATINGS]


class ReactionRating:
    """How probable it is that the user goes on as somebody who is pleased, against one who is disappointed.

    Nothing is asked: the choices are first words of a user's next message (`World.reactions`), and their shares of the
    probability come from where the conversation is. From the most disappointed to the most pleased one they stand for
    equally spaced ratings; a rating between two whole ones is shared out between them.
    """

    least_mass = 0.0

    def __init__(self, world: World) -> None:
        self._world = world
        self.choices = tuple(world.reactions)

    def of_user(self, messages: Sequence[Message], reply: str | None = None) -> list[Message]:
        if reply is None:
            return list(messages)
        places = [i for i, m in enumerate(messages) if m["role"] == "user" and m["content"] == reply]
        return list(messages[: places[-1] + 1])

    def of_other(self, persona: Persona, messages: Sequence[Message], reply: int) -> list[Message]:
        return questions.next_words(self._world, persona, messages[: reply + 1])

    def ratings(self, distribution: Mapping[str, float]) -> list[float]:
        found = [0.0] * len(RATINGS)
        for n, choice in enumerate(self.choices):
            place = n * (len(RATINGS) - 1) / (len(self.choices) - 1)
            below = int(place)
            found[below] += distribution[choice] * (1 - (place - below))
            if place > below:
                found[below + 1] += distribution[choice] * (place - below)
        return found


FORMS: dict[str, type[RatingForm]] = {"number": NumberRating, "reaction": ReactionRating}
"""By name, as `rating.form` has it."""


def expectation(ratings: Sequence[float]) -> float:
    """The expected rating; `ratings` are the probabilities of 1 to 10."""
    return sum(p * rating for rating, p in enumerate(ratings, 1))
