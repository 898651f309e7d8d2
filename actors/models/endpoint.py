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
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import aiohttp
import httpx2
import openai
from aiolimiter import AsyncLimiter

from actors.models.answers import (
    CHARS_PER_TOKEN,
    PASSING_ENDS,
    Bill,
    TokenWalk,
    error_in,
    finish_of,
    read_steps,
    read_text,
    tokens_needed,
)
from actors.models.chat import ChatError, Choice, ModelRefusedError, NoLogprobsError, Reply, Sampling
from actors.models.dialect import TOP_LOGPROBS, Dialect
from actors.models.faults import SPENT, Fault, backoff, colon, error_fault, scrub, status_fault
from actors.settings import EndpointSettings
from actors.worlds.base import Message

BURST = 1 / 20  # of a minute's allowance may go at once, so no 60 seconds see more than 1.05 of it
IDLE_S = 4  # servers under uvicorn, vLLM's too, close an idle connection after 5 seconds
CHECK_TRIES = 3
CHECK_TIMEOUT_S = 10
OPTIONS = {"max_retries": 0, "timeout": None, "headers": {}, "params": {}}  # given, because defaults are deep-copied
TRIAL = [{"role": "user", "content": "Say yes."}]
"""What a model is asked that no list names."""
TRIAL_TOKENS = 16


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
class _Connection:
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
        self._connection: _Connection | None = None
        self._debt = 0.0  # tokens that replies took beyond their estimate
        self._dialect = Dialect.of(settings.token_limit, settings.unsupported)
        self._whole: set[str] = set()  # answers that were seen to be one token each

    def __reduce__(self) -> tuple:
        return type(self), (self._settings, self._share)

    def __repr__(self) -> str:
        return f"Endpoint({self._settings.model!r} at {self._settings.base_url}, share={self._share:g})"

    async def reply(self, messages: Sequence[Message], sampling: Sampling) -> Reply:
        """The next assistant message, with thoughts that the endpoint tells apart between `<think>` and `</think>`.

        Endpoints tell neither token ids nor, here, log-probabilities: both lists are empty. Where the answer has no
        `usage`, tokens are estimated as a quarter of the characters. Tokens of answers that could not be used count
        too, as they were billed.

        Raises:
            ChatError: No answer after all retries, a request that the endpoint rejects, or an answer without text or
                with another end than its own or its limit (a refusal, a tool call, a content filter).
            ModelRefusedError: The key, the money or the model's name is at fault.
        """
        body = self._body(messages, sampling)
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        body.update(self._settings.extra)
        text, answer, bill = await self._ask(body, sampling.max_tokens, read_text)
        prompt, completion = bill.with_answer(answer, messages, text or "")
        if text is None:
            why = f"{self._name} answered without text (finish_reason {finish_of(answer)})"
            raise ChatError(why, bill.faults, prompt, completion)
        model = self._settings.model
        return Reply(text.strip(), [], [], finish_of(answer), prompt, completion, model, dict(bill.faults))

    async def choose(self, messages: Sequence[Message], choices: Sequence[str]) -> Choice:
        """Probability of each choice as the beginning of the reply, at temperature 0.

        The 20 most probable tokens count at each place of the reply, with or without space around them; a choice that
        is not among them has probability 0.

        Raises:
            NoLogprobsError: The endpoint does not tell probabilities, and once that is found out, no further request is
                made; or not those that tell choices apart of which one goes on from another, such as 1 and 10.
            ChatError, ModelRefusedError: As for `reply`.
        """
        if not self._dialect.top_logprobs or self._settings.thinking_tokens:
            raise self._silent()
        tokens = tokens_needed(choices)
        asked = {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        body = self._body(messages, Sampling(tokens, 0.0)) | asked | self._settings.extra
        steps, answer, bill = await self._ask(body, tokens, read_steps)
        prompt, completion = bill.with_answer(answer, messages, "1")
        if not steps:
            if steps is not None:
                raise ChatError(f"{self._name} answered without a token", bill.faults, prompt, completion)
            self._dialect.top_logprobs = 0
            raise NoLogprobsError(str(self._silent()), bill.faults, prompt, completion)
        walk = TokenWalk(choices, self._whole)
        if not walk.read(steps):
            why = f"{self._name} does not tell what it would have written after {walk.doubtful}"
            raise NoLogprobsError(why, bill.faults, prompt, completion)
        return Choice(walk.masses, prompt, completion, dict(bill.faults))

    @property
    def found_out(self) -> dict[str, str]:
        """What it was found not to take, by field, and why, in its own words."""
        return dict(self._dialect.reasons)

    async def check(self) -> None:
        """Find out, before anything is spent, whether the endpoint is there, takes the key and knows the model.

        A model that its list does not name is asked for a word, as some names work that no list has; an endpoint that
        has no list is taken at its word.

        Raises:
            ModelRefusedError: It is not there, refuses the key, lacks the model, or answers with errors only.
        """
        for tried in range(CHECK_TRIES):
            answer = await self._attempt("/models", None, min(CHECK_TIMEOUT_S, self._settings.timeout))
            if not isinstance(answer, Fault) or not answer.passing:
                break
            if tried + 1 < CHECK_TRIES:
                await asyncio.sleep(backoff(tried))
        if isinstance(answer, Fault):
            if answer.kind in ("403", "404", "405", "429") and answer.code not in SPENT:
                return  # some keys may chat but not list models
            if answer.kind in ("connection", "timeout"):
                raise ModelRefusedError(
                    f"{self._name} cannot be reached ({answer.told}); is it up, and base_url right?"
                )
            if answer.kind == "malformed":
                raise ModelRefusedError(f"{self._name} answers GET /models, but not with JSON; is base_url right?")
            self._refuse(answer)
            raise ModelRefusedError(f"{self._name} answers GET /models with {answer.kind}{colon(answer.told)}")
        listed = answer.get("data") if isinstance(answer, dict) else answer
        names = [m["id"] for m in listed or [] if isinstance(m, dict) and isinstance(m.get("id"), str)]
        model = self._settings.model
        whole = not (isinstance(answer, dict) and answer.get("has_more"))
        if names and whole and not any(n == model or n.endswith("/" + model) for n in names):
            try:
                await self.reply(TRIAL, Sampling(TRIAL_TOKENS, None))
            except (ChatError, ModelRefusedError) as error:
                near = difflib.get_close_matches(model, names, n=5, cutoff=0.4) or sorted(names)[:5]
                more = f" and {len(names) - len(near)} more" if len(names) > len(near) else ""
                raise ModelRefusedError(
                    f"{self._name}: there is no such model; it has {', '.join(near)}{more}. Asked for a word: {error}"
                ) from None

    async def close(self) -> None:
        """Close all connections. A later request opens new ones, with the key that is in the environment then."""
        connection, self._connection = self._connection, None
        if connection is not None and connection.loop is asyncio.get_running_loop():
            await connection.client.close()

    @property
    def _name(self) -> str:
        return f"{self._settings.model} at {self._settings.base_url}"

    def _body(self, messages: Sequence[Message], sampling: Sampling) -> dict[str, Any]:
        """What is left open is not sent: an endpoint may refuse a field that it does not know."""
        asked: dict[str, Any] = {"model": self._settings.model, "messages": list(messages)}
        if self._settings.chat_template_kwargs:
            asked["chat_template_kwargs"] = self._settings.chat_template_kwargs
        limit = sampling.max_tokens + self._settings.thinking_tokens
        return asked | sampling.given() | {self._settings.token_limit: limit}

    async def _ask(
        self, asked: dict[str, Any], max_tokens: int, read: Callable[[Any], Any]
    ) -> tuple[Any, dict[str, Any], Bill]:
        """What `read` finds in the answer, the answer, and what went wrong and was billed on the way to it."""
        bill = Bill()
        estimate = sum(len(m["content"]) for m in asked["messages"]) / CHARS_PER_TOKEN + max_tokens
        tries = 0
        while True:
            body = self._dialect.body(asked)
            answer = await self._attempt("/chat/completions", body, self._settings.timeout, estimate)
            fault = answer if isinstance(answer, Fault) else self._fault_in(answer)
            if fault is None:
                try:
                    found = read(answer)
                    self._settle(answer, estimate)
                    return found, answer, bill
                except (LookupError, TypeError, AttributeError, ValueError, OverflowError):
                    fault = Fault("malformed", "an answer without the fields of a chat completion")
            bill.add(fault, answer)
            if self._dialect.learn(fault, body):
                if "logprobs" in body and not self._dialect.top_logprobs:
                    raise NoLogprobsError(str(self._silent()), *bill.owed)
                continue
            self._refuse(fault)
            if not fault.passing:
                why = fault.told if fault.ended else f"rejects the request ({fault.kind}){colon(fault.told)}"
                raise ChatError(f"{self._name} {why}{self._dialect.advice(fault, body)}", *bill.owed)
            tries += 1
            if tries > self._settings.retries:
                said = ", ".join(f"{n} x {kind}" for kind, n in bill.faults.items())
                raise ChatError(f"{self._name} gave no answer in {tries} tries: {said}{colon(fault.told)}", *bill.owed)
            await asyncio.sleep(fault.after + backoff(tries - 1))

    def _fault_in(self, answer: Any) -> Fault | None:
        """The fault of an answer with status 200: it is an error, or a reply that was broken off."""
        if error := error_in(answer):
            return error_fault(error, self._open().key)
        try:
            finish = finish_of(answer)
        except (LookupError, TypeError, AttributeError):
            return None  # whoever reads it says so
        if finish in ("stop", "length"):
            return None
        if finish.casefold() in PASSING_ENDS:
            return Fault(finish.casefold(), f"the reply was broken off (finish_reason {finish})")
        told = "a content filter" if finish == "content_filter" else f"something else than the model ({finish})"
        return Fault(finish, f"gave a reply that {told} ended", passing=False, ended=True)

    async def _attempt(
        self, path: str, body: dict[str, Any] | None, timeout: float, estimate: float = 0
    ) -> Any | Fault:
        """The JSON that one request brings, or its fault; GET where there is no body. What the client raises for a
        request that failed ends here, since its message and frames may hold the key."""
        connection = self._open()
        url = self._settings.base_url + path  # whole, because the client is slow to put it together
        try:
            async with connection.slots:
                await self._allow(connection, estimate)
                async with asyncio.timeout(timeout):
                    if body is None:
                        response = await connection.client.get(url, cast_to=httpx2.Response, options=OPTIONS)
                    else:
                        response = await connection.client.post(
                            url, cast_to=httpx2.Response, body=body, options=OPTIONS
                        )
        except TimeoutError:
            return Fault("timeout", f"no complete answer within {timeout:g} s")
        except openai.APIStatusError as error:
            return status_fault(error, connection.key)
        except (openai.APIConnectionError, OSError) as error:  # a timeout here is aiohttp's name for a broken line
            cause = error.__cause__ or error
            kind = "malformed" if isinstance(cause, httpx2.DecodingError) else "connection"
            return Fault(kind, scrub(str(cause), connection.key) or type(cause).__name__)
        except aiohttp.ClientError as error:
            return Fault("malformed", type(error).__name__)
        try:
            answer = json.loads(response.content)
        except ValueError:
            kind = response.headers.get("content-type", "no content type")
            return Fault("malformed", f"not JSON ({scrub(kind, connection.key)})")
        return answer

    def _settle(self, answer: dict[str, Any], estimate: float) -> None:
        """Tokens beyond the estimate count against the next request."""
        if self._settings.tokens_per_minute is not None:
            used = answer.get("usage") or {}
            self._debt += max(0, (used.get("total_tokens") or 0) - estimate)

    def _open(self) -> _Connection:
        """The connections of the running loop; made on first use."""
        loop = asyncio.get_running_loop()
        if self._connection is not None and self._connection.loop is loop:
            return self._connection
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
        self._connection = _Connection(
            loop,
            client,
            key,
            asyncio.Semaphore(slots),
            _limiter(settings.requests_per_minute, self._share),
            _limiter(settings.tokens_per_minute, self._share),
            asyncio.Lock(),
        )
        return self._connection

    def _key(self) -> str:
        name = self._settings.key_env
        if name is None:
            return "none-needed"
        if not os.environ.get(name, "").strip():
            raise ModelRefusedError(f"{self._name} needs a key; put it into the environment variable {name}")
        if not re.fullmatch(r"[!-~]+", os.environ[name].strip()):  # the client's own error would show it
            raise ModelRefusedError(f"{self._name}: ${name} contains characters that no key has")
        return os.environ[name].strip()

    async def _allow(self, connection: _Connection, estimate: float) -> None:
        """Wait until a request of so many tokens may be sent."""
        if connection.requests is not None:
            await connection.requests.acquire()
        if connection.tokens is not None:
            # In turn and in pieces: the limiter serves small amounts first, and takes none above its burst.
            async with connection.queue:
                due, self._debt = estimate + self._debt, 0.0
                while due > 0:
                    piece = min(due, connection.tokens.max_rate)
                    await connection.tokens.acquire(piece)
                    due -= piece

    def _refuse(self, fault: Fault) -> None:
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
                f"{self._name} is not there (404){colon(fault.told)}; correct model or base_url, which ends in /v1"
            )

    def _silent(self) -> NoLogprobsError:
        why = colon(self._dialect.reasons.get("logprobs", "").rstrip("."))
        return NoLogprobsError(f"{self._name} does not return the probabilities of its tokens{why}")


def _limiter(per_minute: int | None, share: float) -> AsyncLimiter | None:
    """Spreads a minute's allowance: at most a twentieth of it, and at least one, at once."""
    if per_minute is None:
        return None
    allowed = per_minute * share
    burst = max(1.0, allowed * BURST)
    return AsyncLimiter(burst, 60 * burst / allowed)
