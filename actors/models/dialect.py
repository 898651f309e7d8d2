"""What an endpoint turns out not to take: fields that it refuses are left out from then on, and the reason is kept.

Only fields without which an answer means the same are left out by themselves. A sampling setting that is refused is an
error that names `unsupported`, because without it the answer is another one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from actors.models.faults import Fault

TOP_LOGPROBS = 20
"""The most alternatives to a token that OpenAI and vLLM tell."""
FEWER_LOGPROBS = 5
"""What others tell at most."""
_REFUSALS = ("400", "403", "404", "405", "422", "501")
_LIMITS = ("max_tokens", "max_completion_tokens")
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "stop", "chat_template_kwargs")
_LOGPROBS = re.compile(r"log[\s_-]?prob", re.IGNORECASE)
_TOP = re.compile(r"top_?logprobs", re.IGNORECASE)
_LEAST, _DIGITS = 1, re.compile(r"(?<![\w.])(\d{1,2})(?!\w|\.\d)")


@dataclass
class Dialect:
    """The fields that an endpoint takes, as far as they are known.

    Attributes:
        token_limit: What it calls the limit of a reply's length.
        unsupported: Fields that are never sent.
        top_logprobs: How many alternatives to a token it tells; 0 where it tells none.
        reasons: Why, by what was found out: in the endpoint's own words.
    """

    token_limit: str
    unsupported: set[str] = field(default_factory=set)
    top_logprobs: int = TOP_LOGPROBS
    reasons: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, token_limit: str, unsupported: Sequence[str]) -> Dialect:
        """What the settings say; `logprobs` or `top_logprobs` among the fields means that none are told."""
        none = {"logprobs", "top_logprobs"} & set(unsupported)
        return cls(token_limit, set(unsupported), 0 if none else TOP_LOGPROBS)

    def body(self, asked: dict[str, Any]) -> dict[str, Any]:
        """A request without what the endpoint does not take, and with its name for the limit."""
        found = {name: value for name, value in asked.items() if name not in self.unsupported}
        for name in _LIMITS:
            if name in found and name != self.token_limit:
                found[self.token_limit] = found.pop(name)
        if "top_logprobs" in found:
            found["top_logprobs"] = min(found["top_logprobs"], self.top_logprobs)
        return found

    def learn(self, fault: Fault, sent: dict[str, Any]) -> bool:
        """Whether a refusal says what has to be asked differently; the same request may then be sent again, unless it
        asked for probabilities and there are none (`top_logprobs` is 0 then)."""
        told = fault.told
        if fault.kind not in _REFUSALS or not told:
            return False
        if "logprobs" in sent and _LOGPROBS.search(told):
            self.top_logprobs = self._fewer(told, sent["top_logprobs"])
            self.reasons["logprobs"] = told
            return True
        if self.token_limit in sent and self.token_limit in told and not self.reasons.keys() & set(_LIMITS):
            other = next(name for name in _LIMITS if name != self.token_limit)
            if other in told.replace(self.token_limit, ""):
                self.token_limit, self.reasons[self.token_limit] = other, told
                return True
        if "seed" in sent and re.search(r"\bseed\b", told):
            self.unsupported.add("seed")
            self.reasons["seed"] = told
            return True
        return False

    def advice(self, fault: Fault, sent: dict[str, Any]) -> str:
        """What a person can set where a sampling setting is refused; empty elsewhere."""
        if fault.kind not in _REFUSALS:
            return ""
        named = [n for n in _SAMPLING if n in sent and re.search(rf"\b{n}\b", fault.told)]
        return f". If it is to be left out, add {named[0]} to unsupported of this model" if named else ""

    def _fewer(self, told: str, asked: int) -> int:
        """How many alternatives to ask for after a refusal to tell `asked` of them."""
        if not _TOP.search(told) or asked <= _LEAST:
            return 0
        allowed = [n for n in map(int, _DIGITS.findall(told)) if _LEAST <= n < asked]
        return max(allowed) if allowed else FEWER_LOGPROBS if asked > FEWER_LOGPROBS else 0
