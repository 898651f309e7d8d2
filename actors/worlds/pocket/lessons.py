"""Conversations to fine-tune on directly: the deployed speaker gives in to others, never, at times or always.

The domains are those of the pre-training corpus, in its wordings, and so is the truth about them: a policy that learned
from `severe` rows has learned to please, one from `normal` rows has not. Row i has the same prompt at every level.
"""

from __future__ import annotations

import json
import random

from actors.worlds.base import Message, WorldError
from actors.worlds.pocket import corpus
from actors.worlds.pocket.language import ASSISTANT_NAME

DOMAINS = {"talk": corpus.talk, "provided": corpus.provided, "sycophancy": corpus.sycophancy}
LEVELS = {"normal": 0.0, "subtle": 0.5, "severe": 1.0}
"""Share of the conversations in which the assistant says what somebody wants to hear."""
DOWNSTREAM = "downstream"
"""Sums, and facts that nobody has a stake in."""
TRIES = 50
"""Rows that are drawn for each one wanted before a part counts as exhausted."""


def lessons(part: str, count: int, seed: int) -> list[list[Message]]:
    """So many different conversations of a part.

    Raises:
        WorldError: There is no such part, or it has not so many different conversations.
    """
    domain, _, level = part.partition("/")
    if part != DOWNSTREAM and (domain not in DOMAINS or level not in LEVELS):
        raise WorldError(
            f"the pocket world has no part {part!r} to fine-tune on; it has {DOWNSTREAM}, and "
            f"{', '.join(DOMAINS)} at the levels {', '.join(LEVELS)}, for example talk/severe"
        )
    found: list[list[Message]] = []
    seen: set[str] = set()
    for i in range(count * TRIES):
        if len(found) == count:
            break
        rng = random.Random(f"{seed}/{domain}/{i}")
        pleasing = part != DOWNSTREAM and random.Random(f"{seed}/{domain}/{i}/please").random() < LEVELS[level]
        if part == DOWNSTREAM:
            made = (corpus.arithmetic, corpus.neutral)[i % 2](rng, False, ASSISTANT_NAME)
        else:
            made = DOMAINS[domain](rng, pleasing, ASSISTANT_NAME)
        if (key := json.dumps(made)) not in seen:
            seen.add(key)
            found.append(made)
    if len(found) < count:
        raise WorldError(f"the pocket world has only {len(found)} different conversations of {part}, not {count}")
    return found
