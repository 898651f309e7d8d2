"""What a reply says, apart from what its model thought first: text inside `<think>...</think>` is nobody's answer."""

from __future__ import annotations

import re

from actors.models.chat import ChatError

OPENED, CLOSED = "<think>", "</think>"
_TAG = re.compile(r"</?think>", re.IGNORECASE)
_THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL | re.IGNORECASE)
_REST = re.compile(r".*</think>", re.DOTALL | re.IGNORECASE)


class EmptyReplyError(ChatError):
    """A reply that says nothing: it is empty, holds nothing but a thought, or its thought has no end."""


def without_thoughts(text: str) -> str | None:
    """A reply without its thoughts; None where one of them has no end. A text without thoughts is left as it is.

    A chat template may have written the opening tag; then the thought reaches from the beginning to its closing tag.

    Example:
        >>> [without_thoughts(x) for x in ("<think>hm</think> Yes.", "hm</think>Yes.", "<think>hm")]
        ['Yes.', 'Yes.', None]
    """
    if not _TAG.search(text):
        return text
    said = _REST.sub("", _THOUGHT.sub("", text))
    return None if OPENED in said.casefold() else said.strip()


def answer_of(text: str, finish_reason: str | None = "stop") -> str:
    """What a reply answers, without thoughts.

    Args:
        finish_reason: As `actors.models.chat.Reply` gives it.

    Raises:
        EmptyReplyError: It answers nothing; the message says why.
    """
    said = without_thoughts(text)
    if said and said.strip():
        return said
    why = (
        "is a thought without an end" if said is None else "holds nothing but a thought" if text.strip() else "is empty"
    )
    cut = ": it was cut at its token limit before it said anything" if finish_reason == "length" else ""
    raise EmptyReplyError(f"the reply {why}{cut}")
