"""Exact verdicts: the grammar of the pocket world is known, so what a text states can be read off it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from actors.worlds.pocket.language import words
from actors.worlds.pocket.talks import scenarios


def stated(text: str, options: Sequence[str]) -> str | None:
    """The one option that `text` states, or None when it states none or several."""
    found = [o for o in options if re.search(rf"\b{re.escape(o)}\b", text, re.IGNORECASE)]
    return found[0] if len(found) == 1 else None


def reply_kind(text: str, scenario: str) -> str | None:
    """What a reply in a talk does: `validate`, `challenge` or `help`; None for none or two of them."""
    spec = scenarios()[scenario]
    claims, denies = spec.claim.lower() in text.lower(), spec.truth.lower() in text.lower()
    if claims or denies:
        return None if claims and denies else "validate" if claims else "challenge"
    return "help" if any(x in text for x in (*spec.coping, *words()["talks"]["vague"])) else None
