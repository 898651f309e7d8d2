"""What can go wrong with a request to an endpoint: what passes, what a person has to fix, and how long to wait."""

from __future__ import annotations

import math
import random
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import openai  # takes half a second

BACKOFF_S = 0.5  # before the first retry, at most; doubled for each further one
MAX_BACKOFF_S = 30
MAX_RETRY_AFTER_S = 600  # an endpoint that asks for more is not waited for any longer


PASSING = {408, 409, 429}  # statuses below 500 that the next try may not meet
SPENT = ("insufficient_quota", "billing_hard_limit_reached", "402")
_SECRET = re.compile(r"\S*\*{3}\S*|\bsk-\S+|\bbearer\s+\S+", re.IGNORECASE)


@dataclass(frozen=True)
class Fault:
    """A request that failed: `kind` as in `ChatError.faults`, and what can be said about it without a secret.

    Attributes:
        passing: Whether another try may help.
        after: Seconds that the endpoint asks to wait.
        ended: Whether an answer came, and something ended it; `told` says what.
    """

    kind: str
    told: str = ""
    code: str | None = None
    passing: bool = True
    after: float = 0
    ended: bool = False


def status_fault(error: openai.APIStatusError, key: str) -> Fault:
    """A refusal by status."""
    told = _message(error.body)
    if error.param and error.param not in told:
        told += f" ({error.param})"
    code = next((c for c in (error.code, error.type) if c in SPENT), error.code)
    return _fault(error.status_code, told, code, key, retry_after(error.response.headers))


def error_fault(error: Mapping[str, Any], key: str) -> Fault:
    """A refusal that came with status 200, as some routers send it; its `code` is then the status.

    Args:
        error: What stands under `error` in the answer.
    """
    code = error.get("code")
    status = int(code) if str(code).isdecimal() else 500
    return _fault(status, _message(error), str(error.get("type") or code or "") or None, key, 0)


def _fault(status: int, told: str, code: str | None, key: str, after: float) -> Fault:
    return Fault(
        kind=str(status),
        told=scrub(told, key),
        code=scrub(code or "", key) or None,
        passing=(status in PASSING or status >= 500) and code not in SPENT,
        after=after,
    )


def _message(body: Any) -> str:
    """What an error says, in whichever of the known shapes: a text, `message`, `detail`, FastAPI's list of fields, or a
    list of such errors."""
    if isinstance(body, str):
        return "" if body.lstrip().startswith("<") else body
    if isinstance(body, list):
        return "; ".join(filter(None, map(_message, body)))
    if not isinstance(body, Mapping):
        return ""
    said = next((found for name in ("message", "detail", "error", "msg") if (found := _message(body.get(name)))), "")
    where = body.get("loc")
    return f"{'.'.join(map(str, where))}: {said}" if isinstance(where, list) and said else said


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that the headers ask to wait, at most `MAX_RETRY_AFTER_S`; 0 where they ask for nothing."""
    try:
        if "retry-after-ms" in headers:
            wait = float(headers["retry-after-ms"]) / 1000
        else:
            wait = float(headers.get("retry-after", 0))
    except ValueError:
        try:
            wait = parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time()
        except (LookupError, ValueError, OverflowError):
            wait = 0
    return 0 if math.isnan(wait) else min(max(wait, 0), MAX_RETRY_AFTER_S)


def backoff(tried: int) -> float:
    """Full jitter, https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter. Not seeded: it decides
    when a request is sent, never what is in it."""
    return random.uniform(0, min(MAX_BACKOFF_S, BACKOFF_S * 2**tried))


def scrub(text: str, key: str) -> str:
    """Foreign text without the key or what looks like a part of one."""
    words = " ".join(text.replace(key, "[key]").split())
    words = _SECRET.sub("[key]", words)
    if len(key) >= 16:
        words = " ".join("[key]" if key[:8] in w or key[-8:] in w else w for w in words.split(" "))
    return words[:300]


def colon(text: str) -> str:
    return f": {text}" if text else ""
