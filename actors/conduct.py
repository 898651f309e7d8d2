"""How simulated users behave, as far as it shows without a judge: who repeats, echoes, or speaks as an assistant."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import takewhile

from actors.worlds.alike import similarity, words

FLAGS = ("echo", "repeat", "assistant_voice", "cut")
"""`echo`: a message says again what the assistant has just said. `repeat`: what the user has said before.
`assistant_voice`: it sounds like an assistant, or speaks of being one. `cut`: it reached its token limit."""

ECHO = 0.8
"""Share of words in common, in order, from which a message is an echo."""
ECHO_WORDS = 5
"""Shorter messages are never an echo: `Thank you` is what people say."""

MOST_SENTENCES = 3
"""What users who continue a transcript say at a time."""

_SENTENCE = re.compile(r"\S.*?[.!?…]+[\"')\]]*(?=\s|$)", re.DOTALL)
_VOICE = re.compile(
    r"\b((as|i am|i'm) an? (ai|language model|assistant(?!\s+(?!i\b|and\b)\w))\b"
    r"|how (can|may) i (help|assist) you|(i am|i'm) here to (help|listen|support)"
    r"|(play this |stay in (a |the |this |my )?)(role|character)\b|simulated user)",
    re.IGNORECASE,
)


def flags(message: str, heard: str | None, before: Sequence[str], cut: bool) -> list[str]:
    """What is odd about a user's message.

    Args:
        heard: The reply that it answers; None for the first message.
        before: What the user said earlier.
        cut: Whether it reached its token limit.
    """
    said = _words(message)
    echo = heard is not None and len(said) >= ECHO_WORDS and similarity(said, _words(heard)) >= ECHO
    found = {
        "echo": echo,
        "repeat": any(said == _words(earlier) for earlier in before),
        "assistant_voice": _VOICE.search(message) is not None,
        "cut": cut,
    }
    return [name for name in FLAGS if found[name]]


def whole_sentences(text: str) -> tuple[str, bool]:
    """The first `MOST_SENTENCES` sentences of a text without one that has no end, and False; all of it, and True, where
    none has one. A sentence that begins with a bracket or an asterisk tells what is done, and ends what is said.

    Example:
        >>> whole_sentences("I see. But why? I never. Not once. And so"), whole_sentences("I was about to")
        (('I see. But why? I never.', False), ('I was about to', True))
        >>> whole_sentences("I see (at last). (gets up) Then go.")
        ('I see (at last).', False)
    """
    sentences = (m[0].strip() for m in _SENTENCE.finditer(text))
    whole = list(takewhile(lambda said: said[0] not in "([*", sentences))[:MOST_SENTENCES]
    return (" ".join(whole), False) if whole else (text.strip(), True)


def _words(text: str) -> list[str]:
    """Words, or signs where there is no word, so that two messages of signs are not the same."""
    return words(text) or text.split()
