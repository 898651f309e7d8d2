"""How probable each of several answers is, where a tokenizer may write an answer with several tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from actors.models.chat import NoLogprobsError
from actors.models.template import ChatTemplate

TokenPath = tuple[int, ...]
"""Token ids from the beginning of a reply."""
NextTokens = Callable[[TokenPath, Sequence[int]], Awaitable[Mapping[int, float]]]
"""Probability of each of some tokens after a path."""
_QUESTION = {"role": "user", "content": "?"}
NEGLIGIBLE = 1e-6
"""What follows a path that is less probable is not asked for; no figure moves by more."""


class ChoiceTree:
    """The ways in which a tokenizer writes each of several choices.

    The probability of a choice is that the model writes it and does not go on towards a longer one. Where "10" is the
    tokens `1` and `0`, P("1") = P(1) (1 - P(0 | 1)) and P("10") = P(1) P(0 | 1). Nothing else that may follow is looked
    at, so "7 of 10" is a 7, as it is where every choice is one token.

    Args:
        spellings: By choice, the paths that write it.

    Raises:
        ValueError: A path writes two choices.
    """

    def __init__(self, spellings: Mapping[str, Iterable[TokenPath]]) -> None:
        self.choices = tuple(spellings)
        self._ends: dict[TokenPath, str] = {}
        tokens: dict[TokenPath, dict[int, None]] = {}
        for choice, paths in spellings.items():
            for path in paths:
                if self._ends.setdefault(path, choice) != choice:
                    raise ValueError(f"{choice!r} and {self._ends[path]!r} are written with the same tokens")
                for n, token in enumerate(path):
                    tokens.setdefault(path[:n], {})[token] = None
        self._after = {path: sorted(found) for path, found in tokens.items()}

    @property
    def first(self) -> list[int]:
        """The tokens with which a choice can begin."""
        return self._after[()]

    @property
    def depth(self) -> int:
        """The most steps, one after the other, that it takes to tell all choices apart."""
        return 1 + max(len(path) for path in self._after)

    @property
    def longest(self) -> int:
        """Tokens of the longest way to write a choice."""
        return max(map(len, self._ends))

    async def probabilities(self, after: NextTokens) -> tuple[dict[str, float], int]:
        """The probability of each choice, and how often it took a model to tell what follows a path.

        Args:
            after: Tells that; paths of one length are asked for side by side.
        """
        found, asked = dict.fromkeys(self.choices, 0.0), 0
        level: dict[TokenPath, float] = {(): 1.0}
        while level:
            told = await asyncio.gather(*(after(path, self._after[path]) for path in level))
            asked += len(level)
            below: dict[TokenPath, float] = {}
            for (path, mass), following in zip(level.items(), told, strict=True):
                if path in self._ends:
                    found[self._ends[path]] += mass * max(0.0, 1 - sum(following[t] for t in self._after[path]))
                for token in self._after[path]:
                    longer, its_mass = (*path, token), mass * following[token]
                    if longer in self._after and its_mass >= NEGLIGIBLE:
                        below[longer] = its_mass
                    elif longer in self._ends:
                        found[self._ends[longer]] += its_mass
            level = below
        return found, asked


def choice_tree(
    tokenizer: Any, choices: Sequence[str], name: str = "the model", template: ChatTemplate | None = None
) -> ChoiceTree:
    """The choices as a model writes them at the beginning of a reply: as they are, with a capital, and after a space
    where the chat template leaves that to the reply.

    Args:
        tokenizer: With a chat template.
        name: What the model is called in errors.
        template: Its chat template; None takes it without settings.

    Raises:
        NoLogprobsError: The tokenizer cannot write a choice, or writes two of them alike.
    """
    template = template or ChatTemplate(tokenizer)
    lead = template.text([_QUESTION])
    before = tokenizer(lead, add_special_tokens=False)["input_ids"]
    spaces = ("", " ") if _space_follows(tokenizer, template, lead, before) else ("",)

    def path(text: str) -> TokenPath:
        whole = tokenizer(lead + text, add_special_tokens=False)["input_ids"]
        apart = whole[: len(before)] == before
        return tuple(whole[len(before) :] if apart else tokenizer(text, add_special_tokens=False)["input_ids"])

    spelled: dict[str, list[TokenPath]] = {}
    for choice in choices:
        paths = [path(space + text) for space in spaces for text in (choice, choice.capitalize())]
        spelled[choice] = [p for p in dict.fromkeys(paths) if p and tokenizer.unk_token_id not in p]
        if not spelled[choice]:
            raise NoLogprobsError(f"the tokenizer of {name} has no tokens for {choice!r}")
    try:
        return ChoiceTree(spelled)
    except ValueError as error:
        raise NoLogprobsError(f"the tokenizer of {name} cannot tell answers apart: {error}") from None


def _space_follows(tokenizer: Any, template: ChatTemplate, lead: str, before: Sequence[int]) -> bool:
    """Whether a reply may begin with a space: the prompt ends in a visible character, as in `Assistant:`, or the chat
    template writes a space before what the assistant says."""
    marked = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    visible = bool(before) and before[-1] not in marked and not lead[-1].isspace()
    answered = template.text([_QUESTION, {"role": "assistant", "content": "7"}], opened=False)
    return visible or answered.startswith(f"{lead} 7")
