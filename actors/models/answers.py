"""What is in an answer of an OpenAI-compatible endpoint: its text, and the probabilities of tokens and of choices."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from actors.models.faults import Fault
from actors.models.thoughts import CLOSED, OPENED
from actors.worlds.base import Message

MOST_LOGPROB = 1e-3  # rounding may lift the logarithm of 1 above 0
CHARS_PER_TOKEN = 4  # OpenAI's rule of thumb for English
MOST_DOUBT = 0.01
"""The largest share of the probability on choices that may be left out, as nobody tells what follows it."""
MOST_TOKENS = 4
"""The longest answer to a closed question that is asked for."""

Step = tuple[str, dict[str, float]]
"""A token of the reply, and the probabilities of it and of what might have stood in its place."""


ENDS = {"stop": "stop", "eos": "stop", "eos_token": "stop", "end_turn": "stop", "stop_sequence": "stop"} | {
    "length": "length", "max_tokens": "length", "model_length": "length"
}  # fmt: skip
"""Reasons for which a reply ends that are an end or a limit, as `actors.models.chat.Reply` calls them."""
PASSING_ENDS = ("error", "abort", "aborted", "cancelled", "canceled", "timeout", "insufficient_system_resource")
"""Reasons that the next try may not meet."""


def error_in(answer: Any) -> dict[str, Any] | None:
    """The error that an answer with status 200 holds instead of a reply, or in its choice; None where it has none."""
    if not isinstance(answer, dict):
        return None
    choices = answer.get("choices")
    places = [answer, *(c for c in choices[:1] if isinstance(c, dict))] if isinstance(choices, list) else [answer]
    for place in places:
        if found := place.get("error"):
            return found if isinstance(found, dict) else {"message": str(found)}
    return None


def finish_of(answer: Any) -> str:
    """Why a reply ended, `stop` or `length`, or in the endpoint's word where it is neither; `stop` where it is not
    told."""
    told = answer["choices"][0].get("finish_reason") or "stop"
    return ENDS.get(str(told).casefold(), str(told))


def read_text(answer: Any) -> str | None:
    """The reply's text; None where the message has none. Thoughts that are told apart from it stand before it, between
    `<think>` and `</think>`."""
    message = answer["choices"][0]["message"]
    thought, text = _parts(message.get("reasoning_content") or message.get("reasoning")), message.get("content")
    if isinstance(text, list):
        kinds = [(p.get("type", "text"), p) for p in text]
        thought += "".join(_parts(p.get("thinking")) for kind, p in kinds if kind == "thinking")
        text = "".join(_text(p["text"]) for kind, p in kinds if kind in ("text", "output_text"))
    if text is None and not thought:
        return None
    text = _text("" if text is None else text)
    return f"{OPENED}{thought}{CLOSED}{text}" if thought.strip() else text


def _text(found: Any) -> str:
    if not isinstance(found, str):
        raise TypeError("content is no text")
    found.encode()  # half a surrogate pair could not be stored
    return found


def _parts(found: Any) -> str:
    """A thought, which may be a text or a list of parts."""
    if isinstance(found, list):
        return "".join(_parts(p.get("text") if isinstance(p, dict) else p) for p in found)
    return found if isinstance(found, str) else ""


def billed(answer: Any) -> tuple[int | None, int | None]:
    """Tokens sent and received that an answer tells; None for what it does not tell.

    Thoughts are received tokens. Some endpoints count them in the total only, some only in the details.
    """
    used = answer.get("usage") if isinstance(answer, dict) else None
    if not isinstance(used, dict):
        return None, None
    sent, received, total = (_count(used.get(f"{n}_tokens")) for n in ("prompt", "completion", "total"))
    details = used.get("completion_tokens_details")
    thoughts = _count(details.get("reasoning_tokens")) if isinstance(details, dict) else None
    if received is not None and thoughts is not None and thoughts > received:
        received += thoughts
    if total is not None and sent is not None:
        received = max(received or 0, total - sent)
    return sent, received


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def read_steps(answer: Any) -> list[Step] | None:
    """The reply's tokens; None where their probabilities are not told, empty where no token was written."""
    told = answer["choices"][0].get("logprobs")
    if not told or told.get("content") is None:
        return None
    steps = []
    for place in told["content"]:
        if not place.get("top_logprobs"):
            break
        found = [(str(t["token"]), float(t["logprob"])) for t in place["top_logprobs"]]
        if not all(logprob <= MOST_LOGPROB for _, logprob in found):
            raise ValueError("a log-probability above zero")
        written = str(place.get("token", found[0][0]))
        masses: dict[str, float] = {}
        for token, logprob in found:
            masses[token] = masses.get(token, 0.0) + math.exp(logprob)
        if written not in masses:
            masses[written] = math.exp(float(place["logprob"]))
        steps.append((written, masses))
    return None if told["content"] and not steps else steps


@dataclass
class Bill:
    """What it took to get an answer from an endpoint.

    Attributes:
        faults: Requests that failed, by kind.
        prompt, completion: Tokens of answers that could not be used.
    """

    faults: Counter[str] = field(default_factory=Counter)
    prompt: int = 0
    completion: int = 0

    def add(self, fault: Fault, answer: Any) -> None:
        """Count a request that failed, and what its answer cost if there was one."""
        self.faults[fault.kind] += 1
        sent, received = billed(answer)
        self.prompt += sent or 0
        self.completion += received or 0

    @property
    def owed(self) -> tuple[dict[str, int], int, int]:
        """Arguments of a `ChatError` after its message."""
        return dict(self.faults), self.prompt, self.completion

    def with_answer(self, answer: dict[str, Any], messages: Sequence[Message], text: str) -> tuple[int, int]:
        """Tokens sent and received, those of the answer as told or, where they are not, estimated."""
        sent, received = billed(answer)
        if sent is None:
            sent = math.ceil(sum(len(m["content"]) for m in messages) / CHARS_PER_TOKEN)
        if received is None:
            received = math.ceil(len(text) / CHARS_PER_TOKEN)
        return self.prompt + sent, self.completion + received


def tokens_needed(choices: Sequence[str]) -> int:
    """How many tokens of a reply tell choices apart: a space may come first, and a digit be a token."""
    return min(MOST_TOKENS, 1 + max(len(c) for c in choices))


@dataclass
class TokenWalk:
    """Reads the probabilities of choices off a reply, along the tokens that it consists of.

    What else could have been written is told for every place of the reply, but not what would have followed it. So of
    `1` in the place of another answer nobody knows whether it would have become a 10, unless the endpoint's tokenizer
    was seen to write 10 as one token.

    Attributes:
        whole: Choices that were seen as one token.
        masses: Probability of each choice.
        doubt: Probability of beginnings that belong to several choices, and are in none of `masses`.
        doubtful: Those beginnings.
    """

    choices: Sequence[str]
    whole: set[str] = field(default_factory=set)
    masses: dict[str, float] = field(default_factory=dict)
    doubt: float = 0.0
    doubtful: str = ""

    def __post_init__(self) -> None:
        self._named = {c.casefold(): c for c in self.choices}

    def read(self, steps: Sequence[Step]) -> bool:
        """Whether what is known is enough; then `masses` says it."""
        self.masses, self.doubt, self.doubtful = dict.fromkeys(self.choices, 0.0), 0.0, ""
        self._walk("", 1.0, steps)
        return self.doubt <= MOST_DOUBT * (self.doubt + sum(self.masses.values()))

    def _walk(self, before: str, mass: float, steps: Sequence[Step]) -> None:
        """What follows the text `before`, whose probability is `mass`."""
        written, told = steps[0]
        if not before:
            self.whole |= {self._named[k] for token in told if (k := token.strip().casefold()) in self._named}
        reached = self._named.get(before.casefold())
        onward = 0.0
        for token, share in told.items():
            text = (before + token).lstrip()
            longer = self._longer(text)
            if reached is not None and not (longer or text.casefold() in self._named):
                continue
            onward += share
            if token == written and len(steps) > 1 and (longer or not text):
                self._walk(text, mass * share, steps[1:])
            else:
                self._end(text, mass * share, longer)
        if reached is not None:
            self.masses[reached] += mass * max(0.0, 1 - onward)

    def _end(self, text: str, mass: float, longer: set[str]) -> None:
        """Nothing is told of what follows `text`, which may yet become one of `longer`."""
        choice = self._named.get(text.strip().casefold())
        if choice is None:
            return
        if longer - self.whole:
            self.doubt += mass
            self.doubtful = ", ".join(filter(None, (self.doubtful, repr(text))))
        else:
            self.masses[choice] += mass

    def _longer(self, text: str) -> set[str]:
        """Choices that go on from a text; behind a space none does."""
        begun = text.casefold()
        return {c for key, c in self._named.items() if key != begun and key.startswith(begun)}
