"""Endpoint: a model behind an OpenAI-compatible HTTP endpoint.

The `openai` client carries the requests; limits, retries and the counting of what failed are here, because a failure
that a library retries in silence is one that nobody can count. With a thousand requests under way the client's
defaults take 12 ms of processor time for each. Its aiohttp transport takes 1.2 ms, with `post` and no response models
0.55 ms, and `_Http` saves a tenth of that.
"""

from __future__ import annotations

import asyncio
import difflib
import json
import math
import os
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any

import aiohttp
import httpx2
import openai
from aiolimiter import AsyncLimiter

from actors.chat import ChatError, Choice, ModelRefusedError, NoLogprobsError, Reply, Sampling
from actors.settings import EndpointSettings
from actors.worlds.base import Message

BACKOFF_S = 0.5  # before the first retry, at most; doubled for each further one
MAX_BACKOFF_S = 30
MAX_RETRY_AFTER_S = 600  # an endpoint that asks for more is not waited for any longer
BURST = 1 / 20  # of a minute's allowance may go at once, so no 60 seconds see more than 1.05 of it
CHARS_PER_TOKEN = 4  # OpenAI's rule of thumb for English
IDLE_S = 4  # servers under uvicorn, vLLM's too, close an idle connection after 5 seconds
CHECK_TRIES = 3
CHECK_TIMEOUT_S = 10
OPTIONS = {"max_retries": 0, "timeout": None, "headers": {}, "params": {}}  # given, because defaults are deep-copied
MOST_LOGPROB = 1e-3  # rounding may lift the logarithm of 1 above 0
TOP_LOGPROBS = 20  # the most that OpenAI and vLLM tell
PASSING = {408, 409, 429}  # statuses below 500 that may be gone on the next try
SPENT = ("insufficient_quota", "billing_hard_limit_reached", "402")
_SECRET = re.compile(r"\S*\*{3}\S*|\bsk-\S+|\bbearer\s+\S+", re.IGNORECASE)


class _Http(openai.DefaultAioHttpClient):
    """The client's aiohttp transport; requests are built without merging in defaults, of which there are none."""

    def build_request(
        self, method: str, url: str, *, content: bytes | None = None, headers: Any = None, **unused: Any
    ) -> httpx2.Request:
        return httpx2.Request(method, _parsed(url), content=content, headers=headers, extensions={"timeout": {}})


@lru_cache(maxsize=64)
def _parsed(url: str) -> httpx2.URL:
    return httpx2.URL(url)


@dataclass(frozen=True)
class _Fault:
    """A request that failed: `kind` as in `ChatError.faults`, and what can be said about it without a secret.

    Attributes:
        passing: Whether another try may help.
        after: Seconds that the endpoint asks to wait.
    """

    kind: str
    told: str = ""
    code: str | None = None
    passing: bool = True
    after: float = 0


@dataclass(frozen=True)
class _Lines:
    """What belongs to one event loop: the client, and what may still be sent."""

    loop: asyncio.AbstractEventLoop
    client: openai.AsyncOpenAI
    key: str = field(repr=False)
    slots: asyncio.Semaphore
    requests: AsyncLimiter | None
    tokens: AsyncLimiter | None
    queue: asyncio.Lock


class Endpoint:
    """A `ChatModel` over HTTP.

    Nothing is opened, and no key is read, before the first request; so it can be made anywhere and sent to an actor.

    Args:
        settings: The model, and what its owner allows the whole run.
        share: The part of that allowance which this process may use.

    Example:
        ```python
        model = Endpoint(EndpointSettings(kind="endpoint", model="gpt-4o-mini"), share=1 / pools)
        await model.check()
        reply = await model.reply([{"role": "user", "content": "Hello"}], Sampling(max_tokens=48))
        ```
    """

    def __init__(self, settings: EndpointSettings, share: float = 1.0) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, not {share}")
        self._settings = settings
        self._share = share
        self._lines: _Lines | None = None
        self._debt = 0.0  # tokens that replies took beyond their estimate
        self._tells_logprobs = True

    def __reduce__(self) -> tuple:
        return type(self), (self._settings, self._share)

    def __repr__(self) -> str:
        return f"Endpoint({self._settings.model!r} at {self._settings.base_url}, share={self._share:g})"

    async def reply(self, messages: Sequence[Message], sampling: Sampling) -> Reply:
        """The next assistant message.

        Endpoints tell neither token ids nor, here, log-probabilities: both lists are empty. Where the answer has no
        `usage`, tokens are estimated as a quarter of the characters.

        Raises:
            ChatError: No answer after all retries, a request that the endpoint calls wrong, or an answer without text
                (a refusal, a tool call, a content filter).
            ModelRefusedError: The key, the money or the model's name is the matter.
        """
        body = self._body(messages, sampling.max_tokens, sampling.temperature)
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        body.update(self._settings.extra)
        text, answer, faults = await self._ask(body, sampling.max_tokens, _read_text)
        prompt, completion = self._usage(answer, messages, text or "")
        content = self._said(text, answer, faults, prompt, completion)
        finish = answer["choices"][0].get("finish_reason") or "stop"
        return Reply(content.strip(), [], [], finish, prompt, completion, self._settings.model, faults)

    async def choose(self, messages: Sequence[Message], choices: Sequence[str]) -> Choice:
        """Probability of each one-token choice as the first token of the reply, at temperature 0.

        The 20 most probable tokens count, those that differ in surrounding space only together; a choice that is not
        among them has probability 0.

        Raises:
            NoLogprobsError: The endpoint does not tell probabilities; once found out, no further request is made.
            ChatError, ModelRefusedError: As for `reply`.
        """
        if not self._tells_logprobs:
            raise self._silent()
        body = self._body(messages, 1, 0.0) | {"logprobs": True, "top_logprobs": TOP_LOGPROBS} | self._settings.extra
        top, answer, faults = await self._ask(body, 1, _read_logprobs)
        prompt, completion = self._usage(answer, messages, "1")
        if not top:
            if answer["choices"][0].get("finish_reason") == "content_filter":
                raise ChatError(f"{self._name}: a content filter took the answer", faults, prompt, completion)
            if top is not None:
                raise ChatError(f"{self._name} answered without a token", faults, prompt, completion)
            self._tells_logprobs = False
            raise NoLogprobsError(str(self._silent()), faults, prompt, completion)
        masses = dict.fromkeys(choices, 0.0)
        named = {c.casefold(): c for c in choices}
        for token, logprob in top:
            if choice := named.get(token.strip().casefold()):
                masses[choice] += math.exp(logprob)
        return Choice(masses, prompt, completion, faults)

    async def check(self) -> None:
        """Find out, before anything is spent, whether the endpoint is there, takes the key and knows the model.

        An endpoint that has no list of models is taken at its word.

        Raises:
            ModelRefusedError: It is not there, refuses the key, lacks the model, or answers with errors only.
        """
        for tried in range(CHECK_TRIES):
            answer = await self._attempt("/models", None, min(CHECK_TIMEOUT_S, self._settings.timeout))
            if not isinstance(answer, _Fault) or not answer.passing:
                break
            if tried + 1 < CHECK_TRIES:
                await asyncio.sleep(_backoff(tried))
        if isinstance(answer, _Fault):
            if answer.kind in ("403", "404", "405", "429") and answer.code not in SPENT:
                return  # some keys may talk and not list
            if answer.kind in ("connection", "timeout"):
                raise ModelRefusedError(
                    f"{self._name} cannot be reached ({answer.told}); is it up, and base_url right?"
                )
            if answer.kind == "malformed":
                raise ModelRefusedError(f"{self._name} answers GET /models with no JSON; is base_url right?")
            self._refuse(answer)
            raise ModelRefusedError(f"{self._name} answers GET /models with {answer.kind}{_colon(answer.told)}")
        listed = answer.get("data") if isinstance(answer, dict) else answer
        names = [m["id"] for m in listed or [] if isinstance(m, dict) and isinstance(m.get("id"), str)]
        model = self._settings.model
        whole = not (isinstance(answer, dict) and answer.get("has_more"))
        if names and whole and not any(n == model or n.endswith("/" + model) for n in names):
            near = difflib.get_close_matches(model, names, n=5, cutoff=0.4) or sorted(names)[:5]
            more = f" and {len(names) - len(near)} more" if len(names) > len(near) else ""
            raise ModelRefusedError(f"{self._name}: there is no such model; it has {', '.join(near)}{more}")

    async def close(self) -> None:
        """Close all connections. A later request opens new ones, with the key that is in the environment then."""
        lines, self._lines = self._lines, None
        if lines is not None and lines.loop is asyncio.get_running_loop():
            await lines.client.close()

    @property
    def _name(self) -> str:
        return f"{self._settings.model} at {self._settings.base_url}"

    def _body(self, messages: Sequence[Message], max_tokens: int, temperature: float) -> dict[str, Any]:
        return {
            "model": self._settings.model,
            "messages": list(messages),
            "temperature": temperature,
            self._settings.token_limit: max_tokens,
        }

    async def _ask(
        self, body: dict[str, Any], max_tokens: int, read: Callable[[Any], Any]
    ) -> tuple[Any, dict[str, Any], dict[str, int]]:
        """What `read` finds in the answer, the answer, and the faults on the way to it."""
        faults: Counter[str] = Counter()
        estimate = sum(len(m["content"]) for m in body["messages"]) / CHARS_PER_TOKEN + max_tokens
        for tried in range(self._settings.retries + 1):
            fault = answer = await self._attempt("/chat/completions", body, self._settings.timeout, estimate)
            if not isinstance(answer, _Fault):
                try:
                    found = read(answer)
                    self._settle(answer, estimate)
                    return found, answer, dict(faults)
                except (LookupError, TypeError, AttributeError, ValueError, OverflowError):
                    fault = _Fault("malformed", "an answer without the fields of a chat completion")
            faults[fault.kind] += 1
            self._refuse(fault)
            if fault.kind in ("400", "422") and "logprobs" in body and "logprobs" in fault.told:
                self._tells_logprobs = False
                raise self._silent(faults)
            if not fault.passing:
                raise ChatError(f"{self._name} calls the request wrong ({fault.kind}){_colon(fault.told)}", faults)
            if tried < self._settings.retries:
                await asyncio.sleep(fault.after + _backoff(tried))
        said = ", ".join(f"{n} x {kind}" for kind, n in faults.items())
        raise ChatError(f"{self._name} gave no answer in {tried + 1} tries: {said}{_colon(fault.told)}", faults)

    async def _attempt(
        self, path: str, body: dict[str, Any] | None, timeout: float, estimate: float = 0
    ) -> Any | _Fault:
        """The JSON that one request brings, or its fault; GET where there is no body. What the client raises for a
        request that failed ends here, since its message and frames may hold the key."""
        lines = self._open()
        url = self._settings.base_url + path  # whole, because the client is slow to put it together
        try:
            async with lines.slots:
                await self._allow(lines, estimate)
                async with asyncio.timeout(timeout):
                    if body is None:
                        response = await lines.client.get(url, cast_to=httpx2.Response, options=OPTIONS)
                    else:
                        response = await lines.client.post(url, cast_to=httpx2.Response, body=body, options=OPTIONS)
        except TimeoutError:
            return _Fault("timeout", f"nothing complete within {timeout:g} s")
        except openai.APIStatusError as error:
            return _status_fault(error, lines.key)
        except (openai.APIConnectionError, OSError) as error:  # a timeout here is aiohttp's name for a broken line
            cause = error.__cause__ or error
            kind = "malformed" if isinstance(cause, httpx2.DecodingError) else "connection"
            return _Fault(kind, _scrub(str(cause), lines.key) or type(cause).__name__)
        except aiohttp.ClientError as error:
            return _Fault("malformed", type(error).__name__)
        try:
            answer = json.loads(response.content)
        except ValueError:
            kind = response.headers.get("content-type", "no content type")
            return _Fault("malformed", f"no JSON ({_scrub(kind, lines.key)})")
        return answer

    def _settle(self, answer: dict[str, Any], estimate: float) -> None:
        """Tokens beyond the estimate count against the next request."""
        if self._settings.tokens_per_minute is not None:
            used = answer.get("usage") or {}
            self._debt += max(0, (used.get("total_tokens") or 0) - estimate)

    def _open(self) -> _Lines:
        """The lines of the running loop; made on first use."""
        loop = asyncio.get_running_loop()
        if self._lines is not None and self._lines.loop is loop:
            return self._lines
        settings = self._settings
        key = self._key()
        slots = max(1, math.floor(settings.concurrency * self._share + 1e-9))
        # No timeouts but ours: theirs bound each read, and bytes that drip in slowly pass them.
        http = _Http(
            timeout=None,
            limits=httpx2.Limits(max_connections=slots, max_keepalive_connections=slots, keepalive_expiry=IDLE_S),
        )
        client = openai.AsyncOpenAI(
            api_key=key, base_url=settings.base_url, max_retries=0, timeout=None, http_client=http
        )
        self._lines = _Lines(
            loop,
            client,
            key,
            asyncio.Semaphore(slots),
            _limiter(settings.requests_per_minute, self._share),
            _limiter(settings.tokens_per_minute, self._share),
            asyncio.Lock(),
        )
        return self._lines

    def _key(self) -> str:
        name = self._settings.key_env
        if name is None:
            return "none-needed"
        if not os.environ.get(name, "").strip():
            raise ModelRefusedError(f"{self._name} needs a key; put it into the environment variable {name}")
        if not re.fullmatch(r"[!-~]+", os.environ[name].strip()):  # the client's own error would show it
            raise ModelRefusedError(f"{self._name}: ${name} holds characters that no key has")
        return os.environ[name].strip()

    async def _allow(self, lines: _Lines, estimate: float) -> None:
        """Wait until a request of so many tokens may be sent."""
        if lines.requests is not None:
            await lines.requests.acquire()
        if lines.tokens is not None:
            # In turn and in pieces: the limiter serves small amounts first, and takes none above its burst.
            async with lines.queue:
                due, self._debt = estimate + self._debt, 0.0
                while due > 0:
                    piece = min(due, lines.tokens.max_rate)
                    await lines.tokens.acquire(piece)
                    due -= piece

    def _refuse(self, fault: _Fault) -> None:
        """Raise `ModelRefusedError` where only a person can help."""
        key = f"the key in ${self._settings.key_env}" if self._settings.key_env else "the request, which has no key"
        if fault.code in SPENT or fault.kind in SPENT:
            code = fault.code or "payment required"
            raise ModelRefusedError(
                f"{self._name} refuses ({fault.kind}, {code}): the money or quota is spent; add credit"
            )
        if fault.kind == "401":
            raise ModelRefusedError(f"{self._name} refuses {key} (401); give one that is valid and has not expired")
        if fault.kind == "403" and not re.search(r"moderat|flagged|policy", fault.told, re.IGNORECASE):
            raise ModelRefusedError(f"{self._name} refuses {key} (403); it may not use this model or endpoint")
        if fault.kind == "404":
            raise ModelRefusedError(
                f"{self._name} is not there (404){_colon(fault.told)}; correct model or base_url, which ends in /v1"
            )

    def _silent(self, faults: Mapping[str, int] | None = None) -> NoLogprobsError:
        return NoLogprobsError(f"{self._name} does not tell the probabilities of its tokens", faults)

    def _said(
        self, text: str | None, answer: dict[str, Any], faults: Mapping[str, int], prompt: int, completion: int
    ) -> str:
        finish = answer["choices"][0].get("finish_reason")
        if finish == "content_filter":
            raise ChatError(f"{self._name}: a content filter cut the reply", faults, prompt, completion)
        if text is None:
            why = f"{self._name} answered without text (finish_reason {finish})"
            raise ChatError(why, faults, prompt, completion)
        return text

    def _usage(self, answer: dict[str, Any], messages: Sequence[Message], text: str) -> tuple[int, int]:
        """Tokens sent and received, as told or, where they are not, estimated."""
        used = answer.get("usage")
        used = used if isinstance(used, dict) else {}
        sent, received = used.get("prompt_tokens"), used.get("completion_tokens")
        if not isinstance(sent, int):
            sent = math.ceil(sum(len(m["content"]) for m in messages) / CHARS_PER_TOKEN)
        if not isinstance(received, int):
            received = math.ceil(len(text) / CHARS_PER_TOKEN)
        return sent, received


def _read_text(answer: Any) -> str | None:
    """The reply's text; None where the message has none."""
    text = answer["choices"][0]["message"].get("content")
    if text is None:
        return None
    if not isinstance(text, str):
        raise TypeError("content is no text")
    text.encode()  # half a surrogate pair could not be stored
    return text


def _read_logprobs(answer: Any) -> list[tuple[str, float]] | None:
    """The first token's alternatives and their log-probabilities; None where they are not told, empty where no token
    was written."""
    told = answer["choices"][0].get("logprobs")
    if not told or told.get("content") is None:
        return None
    if not told["content"]:
        return []
    if not told["content"][0].get("top_logprobs"):
        return None
    found = [(str(t["token"]), float(t["logprob"])) for t in told["content"][0]["top_logprobs"]]
    if not all(logprob <= MOST_LOGPROB for _, logprob in found):
        raise ValueError("a log-probability above zero")
    return found


def _status_fault(error: openai.APIStatusError, key: str) -> _Fault:
    status = error.status_code
    told = error.body
    if isinstance(told, dict):
        told = told.get("message") or told.get("detail")
    told = told if isinstance(told, str) and not told.lstrip().startswith("<") else ""
    if error.param and error.param not in told:
        told += f" ({error.param})"
    code = next((c for c in (error.code, error.type) if c in SPENT), error.code)
    return _Fault(
        kind=str(status),
        told=_scrub(told, key),
        code=_scrub(code or "", key) or None,
        passing=(status in PASSING or status >= 500) and code not in SPENT,
        after=_retry_after(error.response.headers),
    )


def _retry_after(headers: Mapping[str, str]) -> float:
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


def _backoff(tried: int) -> float:
    """Full jitter, https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter. Not seeded: it decides
    when a request is sent, never what is in it."""
    return random.uniform(0, min(MAX_BACKOFF_S, BACKOFF_S * 2**tried))


def _limiter(per_minute: int | None, share: float) -> AsyncLimiter | None:
    """Spreads a minute's allowance: at most a twentieth of it, and at least one, at once."""
    if per_minute is None:
        return None
    allowed = per_minute * share
    burst = max(1.0, allowed * BURST)
    return AsyncLimiter(burst, 60 * burst / allowed)


def _scrub(text: str, key: str) -> str:
    """Foreign text without the key or what looks like a part of one."""
    words = " ".join(text.replace(key, "[key]").split())
    words = _SECRET.sub("[key]", words)
    if len(key) >= 16:
        words = " ".join("[key]" if key[:8] in w or key[-8:] in w else w for w in words.split(" "))
    return words[:300]


def _colon(text: str) -> str:
    return f": {text}" if text else ""
