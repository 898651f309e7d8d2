"""From the tokens of a reply to its text, with thoughts between `<think>` and `</think>` however a model marks them.

Marks that a tokenizer counts as special are left out when tokens are decoded, and a thought would run into the answer:
Magistral's `[THINK]`, and the channels of the harmony format that gpt-oss writes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from actors.models.thoughts import CLOSED, OPENED

_MARKS = {"<think>": OPENED, "</think>": CLOSED, "[THINK]": OPENED, "[/THINK]": CLOSED}
_CHANNEL, _MESSAGE = "<|channel|>", "<|message|>"
_PART = re.compile(
    r"<\|channel\|>\s*(?P<channel>\w+)[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>(?P<text>.*?)"
    r"(?P<end><\|end\|>|<\|return\|>|<\|call\|>|(?=<\|start\|>)|\Z)",
    re.DOTALL,
)
ANSWER_CHANNEL = "final"


class ReplyDecoder:
    """Decodes replies of a model.

    Args:
        tokenizer: Of transformers.
        begun: What the chat template has written of the reply already, `<think>` or nothing.
    """

    def __init__(self, tokenizer: Any, begun: str = "") -> None:
        self._tokenizer = tokenizer
        self._begun = begun
        known = tokenizer.get_vocab()
        self._channels = _CHANNEL in known and _MESSAGE in known
        special = set(tokenizer.all_special_ids)
        self._marks = {known[m]: text for m, text in _MARKS.items() if known.get(m) in special}

    def __call__(self, ids: Sequence[int]) -> str:
        """The text, without spaces at its ends; a thought that was cut has its opening tag only."""
        return self._begun + self.continued(ids).strip()

    def continued(self, ids: Sequence[int]) -> str:
        """The text as it was written, spaces at its ends included."""
        if self._channels:
            return of_channels(self._tokenizer.decode(ids, skip_special_tokens=False))
        parts, start = [], 0
        for place, token in enumerate(ids):
            if token in self._marks:
                parts += [self._text(ids[start:place]), self._marks[token]]
                start = place + 1
        return "".join([*parts, self._text(ids[start:])])

    def _text(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True)


def of_channels(text: str) -> str:
    """A reply in the harmony format, its special tokens included, with every channel but `final` as a thought.

    Example:
        >>> of_channels("<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>Yes.")
        '<think>hm</think>Yes.'
    """
    found = list(_PART.finditer(text))
    if not found:
        return re.sub(r"<\|[a-z]+\|>", "", text).strip()
    parts = []
    for part in found:
        if part["channel"] == ANSWER_CHANNEL:
            parts.append(part["text"].strip())
        else:
            ended = part["end"] or part is not found[-1]
            parts.append(f"{OPENED}{part['text'].strip()}{CLOSED if ended else ''}")
    return "".join(parts).strip()
