"""OpenAI's API as far as a running assistant speaks it: what requests may hold, how answers and errors look."""

from __future__ import annotations

import itertools
import secrets
import time
import uuid
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from actors.models.chat import Sampling, plain
from actors.visitors import AWAY, REFUSED, UNKNOWN, Part, Told, Visit

KINDS = {
    500: "server_error",
    401: "authentication_error",
    UNKNOWN: "not_found_error",
    AWAY: "service_unavailable_error",
}
"""What OpenAI calls kinds of errors; all others are `invalid_request_error`."""
CODES = {401: "invalid_api_key", UNKNOWN: "model_not_found"}


class ApiError(Exception):
    """A request that is not answered.

    Args:
        status: As HTTP has it.
        message: For people.
        param: The field that is to blame.
    """

    def __init__(self, status: int, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param

    def body(self) -> dict[str, Any]:
        """As OpenAI writes it."""
        kind = KINDS.get(self.status, "invalid_request_error")
        told = {"message": str(self), "type": kind, "param": self.param, "code": CODES.get(self.status)}
        return {"error": told}


class Asked(BaseModel):
    """What both kinds of requests may hold. Fields that change nothing, such as `user`, are passed over."""

    model_config = ConfigDict(extra="allow")

    model: str
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0)
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: dict[str, Any] | None = None
    n: Literal[1] | None = None

    @model_validator(mode="after")
    def _nothing_else(self) -> Asked:
        given = self.model_extra or {}
        for name, harmless in UNSUPPORTED.items():
            if given.get(name) not in (None, *harmless):
                raise ValueError(f"{name} is not supported while a run goes on; `candor serve` has vLLM's own server")
        return self

    @property
    def most(self) -> int | None:
        """The most tokens of the answer; None for what the context leaves."""
        return self.max_tokens

    def sampling(self) -> Sampling:
        """With the model's own values where the request leaves them open. Every visit has a seed: on a CPU, vLLM does
        not repeat seeded requests beside such as have none, and those of the run are seeded."""
        given = {name: getattr(self, name) for name in ("top_p", "min_p", "repetition_penalty")}
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return Sampling(
            self.most or 0,
            self.temperature,
            secrets.randbits(31) if self.seed is None else self.seed,
            stop=stop,
            top_k=None if self.top_k is None else max(0, self.top_k),
            own=True,
            **given,
        )

    @property
    def counts(self) -> bool:
        """Whether a stream ends with what it took."""
        return bool((self.stream_options or {}).get("include_usage"))


UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ("none",),
    "functions": ([],),
    "response_format": ({"type": "text"},),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "echo": (False,),
    "suffix": ("",),
    "best_of": (1,),
    "prompt_logprobs": (),
    "chat_template": (),
    "chat_template_kwargs": ({},),
}
"""Fields that would change an answer and are not done, and values of them that change nothing."""


class Chat(Asked):
    """A request for `/v1/chat/completions`."""

    messages: list[dict[str, Any]] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)

    @property
    def most(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    def visit(self) -> Visit:
        """The same for an engine."""
        told = (self.top_logprobs or 0) if self.logprobs else None
        messages = [{"role": _role(m), "content": _text(m)} for m in self.messages]
        return Visit(self.model, self.sampling(), messages, limited=self.most is not None, logprobs=told)


class Completion(Asked):
    """A request for `/v1/completions`."""

    prompt: str | list[int] | list[str]
    logprobs: int | None = Field(None, ge=0, le=20)

    def visit(self) -> Visit:
        """The same for an engine."""
        prompt = self.prompt
        if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str):
            prompt = prompt[0]
        if isinstance(prompt, list) and (not prompt or isinstance(prompt[0], str)):
            raise ApiError(REFUSED, "one prompt at a time", "prompt")
        asked = {"limited": True, "logprobs": self.logprobs}
        if isinstance(prompt, str):
            return Visit(self.model, self.sampling(), plain(prompt), **asked)
        return Visit(self.model, self.sampling(), ids=prompt, **asked)

    @property
    def most(self) -> int:
        return self.max_tokens or 16


def _role(message: dict[str, Any]) -> str:
    role = {"developer": "system"}.get(message.get("role", ""), message.get("role"))
    if role not in ("system", "user", "assistant"):
        raise ApiError(REFUSED, f"found the role {role!r}; known: system, user, assistant", "messages")
    return role


def _text(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list) and all(isinstance(p, dict) and p.get("type") == "text" for p in content):
        content = "".join(str(p.get("text", "")) for p in content)
    if not isinstance(content, str):
        raise ApiError(REFUSED, "the content of a message is text", "messages")
    return content


def model_entry(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "candor"}


class Form:
    """How an answer is written; one object for each answer.

    Attributes:
        prefix: What its id begins with.
        whole_object, chunk_object: What OpenAI calls an answer, and a part of a stream.
    """

    prefix = ""
    whole_object = ""
    chunk_object = ""

    def __init__(self, model: str) -> None:
        self._head = {"id": f"{self.prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    def whole(self, parts: list[Part]) -> dict[str, Any]:
        """All parts as one answer."""
        told = [t for part in parts for t in part.tokens]
        said = {"index": 0, **self.content("".join(p.text for p in parts)), "logprobs": self.logprobs(told)}
        choice = said | {"finish_reason": parts[-1].finish}
        return self._head | {"object": self.whole_object, "choices": [choice], "usage": _usage(parts[-1])}

    def chunk(self, part: Part, begins: bool = False) -> dict[str, Any]:
        """One part of a stream."""
        said = {"index": 0, **self.delta(part.text, begins), "logprobs": self.logprobs(part.tokens)}
        return self._head | {"object": self.chunk_object, "choices": [said | {"finish_reason": part.finish}]}

    def usage_chunk(self, last: Part) -> dict[str, Any]:
        """What closes a stream that counts."""
        return self._head | {"object": self.chunk_object, "choices": [], "usage": _usage(last)}

    def content(self, text: str) -> dict[str, Any]:
        raise NotImplementedError

    def delta(self, text: str, begins: bool) -> dict[str, Any]:
        raise NotImplementedError

    def logprobs(self, told: list[Told]) -> dict[str, Any] | None:
        raise NotImplementedError


class ChatForm(Form):
    prefix, whole_object, chunk_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def content(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def delta(self, text: str, begins: bool) -> dict[str, Any]:
        return {"delta": {"role": "assistant", "content": ""} if begins else {"content": text}}

    def logprobs(self, told: list[Told]) -> dict[str, Any] | None:
        rows = [_token(t.token, t.logprob) | {"top_logprobs": [_token(*top) for top in t.top]} for t in told]
        return {"content": rows} if rows else None


class TextForm(Form):
    prefix, whole_object, chunk_object = "cmpl", "text_completion", "text_completion"

    def content(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def delta(self, text: str, begins: bool) -> dict[str, Any]:
        return {"text": text}

    def logprobs(self, told: list[Told]) -> dict[str, Any] | None:
        if not told:
            return None
        ends = list(itertools.accumulate(len(t.token) for t in told))
        return {
            "tokens": [t.token for t in told],
            "token_logprobs": [t.logprob for t in told],
            "top_logprobs": [dict(t.top) for t in told],
            "text_offset": [0, *ends[:-1]],
        }


def _token(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode())}


def _usage(last: Part) -> dict[str, int]:
    sent, wrote = last.prompt_tokens, last.completion_tokens
    return {"prompt_tokens": sent, "completion_tokens": wrote, "total_tokens": sent + wrote}
