"""Closed questions to a model: one of a few short answers, with probabilities where the model tells them.

Ratings, the transition check and the verdicts of a language model are all asked this way.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from actors.models.chat import ChatModel, NoLogprobsError, Sampling
from actors.models.thoughts import without_thoughts
from actors.worlds.base import Message

ANSWER_TOKENS = 8
"""A sampled answer may be so long before it is cut; a right one has one to three tokens."""


@dataclass(frozen=True)
class Answer:
    """What a model answers to a closed question.

    Attributes:
        distribution: Probability of each choice, renormalised over the choices; None where no answer was valid.
        mass: Share of the probability, or of the samples, that was on the choices before.
        method: How it was asked.
        failures: Sampled answers that were none of the choices.
    """

    distribution: dict[str, float] | None
    mass: float
    method: Literal["logprobs", "sampled"]
    failures: int = 0

    @property
    def best(self) -> str | None:
        """The most probable choice; the first of several."""
        return max(self.distribution, key=self.distribution.__getitem__) if self.distribution else None


async def ask(
    model: ChatModel,
    messages: Sequence[Message],
    choices: Sequence[str],
    method: Literal["auto", "logprobs", "sampled"] = "auto",
    samples: int = 1,
    retries: int = 2,
    seed: int = 0,
) -> Answer:
    """Ask a closed question.

    Args:
        samples: How many answers make a distribution where they are sampled; one is drawn greedily.
        retries: How often each sample that is not a valid answer is drawn again.
        seed: Samples are seeded from it.

    Raises:
        ChatError: The model could not be asked.
    """
    if method != "sampled":
        try:
            choice = await model.choose(messages, choices)
        except NoLogprobsError:
            if method == "logprobs":
                raise
        else:
            mass = sum(choice.probabilities.values())
            if not mass > 0:
                return Answer(None, 0.0, "logprobs")
            return Answer({c: choice.probabilities[c] / mass for c in choices}, mass, "logprobs")
    drawn = await asyncio.gather(
        *(_sample(model, messages, choices, retries, samples > 1, seed * 1000 + 10 * i) for i in range(samples)),
        return_exceptions=True,  # of the others, so that no request is still under way, and unpaid, when one fails
    )
    for failed in drawn:
        if isinstance(failed, BaseException):
            raise failed
    failures = sum(failed for _, failed in drawn)
    valid = Counter(answer for answer, _ in drawn if answer is not None)
    total = valid.total()
    distribution = {c: valid[c] / total for c in choices} if total else None
    return Answer(distribution, total / samples, "sampled", failures)


async def _sample(
    model: ChatModel, messages: Sequence[Message], choices: Sequence[str], retries: int, warm: bool, seed: int
) -> tuple[str | None, int]:
    """One valid answer or None, and how many were not valid. Greedy first; what is drawn again is drawn warm."""
    for attempt in range(retries + 1):
        temperature = 1.0 if warm or attempt else 0.0
        reply = await model.reply(messages, Sampling(ANSWER_TOKENS, temperature, seed + attempt))
        if (found := read_choice(without_thoughts(reply.text) or "", choices)) is not None:
            return found, attempt
    return None, retries + 1


def read_choice(text: str, choices: Sequence[str]) -> str | None:
    """The choice that a text consists of; a final full stop and capitals do not matter, anything else does.

    Example:
        >>> read_choice("7.", ["1", "7"]), read_choice("Yes", ["yes", "no"]), read_choice("7 or 8", ["7", "8"])
        ('7', 'yes', None)
    """
    bare = re.sub(r"\.$", "", text.strip()).casefold()
    return next((c for c in choices if c.casefold() == bare), None)
