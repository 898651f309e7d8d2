"""The assistant of a run that goes on, behind OpenAI's API: `assistant.serve`.

A thread of the driver answers, and asks the engines that serve the policy just now. vLLM's own server is what `candor
serve` starts; here the engines are the run's, which has them take new policies, sleep and start again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import itertools
import json
import os
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from actors.actor import ActorGone, answer
from actors.settings import LOOPBACK, ServeSettings
from actors.visitors import AWAY, REFUSED, UNKNOWN, Part, Visit
from loop.config.explain import ConfigError
from loop.listening import listen, shown
from loop.openai_api import ApiError, Chat, ChatForm, Completion, Form, TextForm, model_entry
from loop.supervisor import ActorSupervisor

AT_A_TIME = 16
"""Visits that are answered at the same time; others wait, so that the run keeps most of its engines."""
START_SECONDS = 30
LOOK_SECONDS = 0.5
"""How often one looks whether somebody still listens."""


class Door:
    """Answers requests with the engines of a run.

    Args:
        supervisor: Knows which engines serve a policy now.
        key: What requests have to bring; None for nothing.
    """

    def __init__(self, supervisor: ActorSupervisor, key: str | None) -> None:
        self._supervisor = supervisor
        self._key = key
        self._turns = itertools.count()
        self._room = asyncio.Semaphore(AT_A_TIME)

    def app(self) -> Starlette:
        """The web application. Where it needs no key it answers requests that name this machine alone, so that no page
        in a browser can speak for its reader."""
        routes = [
            Route("/health", self.health),
            Route("/v1/models", self.models),
            Route("/v1/models/{name:path}", self.model),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/completions", self.complete, methods=["POST"]),
        ]
        hosts = [*LOOPBACK, "[::1]"] if self._key is None else ["*"]
        middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=hosts)]
        faults = {ApiError: _told_so, HTTPException: _no_such_page, Exception: _broken}
        return Starlette(routes=routes, middleware=middleware, exception_handlers=faults)

    async def health(self, request: Request) -> Response:
        """That it is there; whether a policy is served, `/v1/models` says."""
        return Response()

    async def models(self, request: Request) -> Response:
        """The policies that can be asked now."""
        self._admit(request)
        return JSONResponse({"object": "list", "data": [model_entry(name) for name in await self._served()]})

    async def model(self, request: Request) -> Response:
        """One of them."""
        self._admit(request)
        name, served = request.path_params["name"], await self._served()
        if name not in served:
            raise ApiError(UNKNOWN, f"The model `{name}` does not exist; served now: {', '.join(served) or 'none'}")
        return JSONResponse(model_entry(name))

    async def chat(self, request: Request) -> Response:
        """`/v1/chat/completions`."""
        return await self._answered(request, Chat, ChatForm)

    async def complete(self, request: Request) -> Response:
        """`/v1/completions`."""
        return await self._answered(request, Completion, TextForm)

    def _admit(self, request: Request) -> None:
        if self._key is None:
            return
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), self._key.encode()):
            raise ApiError(401, "Incorrect API key provided.")

    async def _answered(self, request: Request, kind: type[Chat] | type[Completion], form: type[Form]) -> Response:
        self._admit(request)
        if not request.headers.get("content-type", "").startswith("application/json"):  # a form of any web page's
            raise ApiError(415, "the content-type of a request is application/json")
        try:
            asked = kind.model_validate(json.loads(await request.body()))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"])) or None
            said = first["msg"].removeprefix("Value error, ")
            raise ApiError(REFUSED, f"{field}: {said}" if field else said, field) from None
        except ValueError:
            raise ApiError(REFUSED, "the body of a request is JSON") from None
        shape = form(asked.model)
        parts = self._parts(asked.visit())
        if asked.stream:
            first = await anext(parts)  # what is refused at once has a status of its own
            if first.fault is not None:
                await parts.aclose()
                raise _error(first)
            return StreamingResponse(_events(first, parts, shape, asked.counts), media_type="text/event-stream")
        heard = asyncio.ensure_future(_all(parts))
        try:
            while not (await asyncio.wait([heard], timeout=LOOK_SECONDS))[0]:
                if await request.is_disconnected():
                    heard.cancel()
                    return Response(status_code=499)
        except asyncio.CancelledError:  # the server is closed, and whoever asked is still there
            heard.cancel()
            raise ApiError(AWAY, "the run is over") from None
        return JSONResponse(shape.whole(heard.result()))

    async def _served(self) -> list[str]:
        """The policies of the first engine that can be asked."""
        for handle in self._engines():
            with contextlib.suppress(ActorGone):
                return await answer(handle.served.remote(), "assistant")
        return []

    def _engines(self) -> list[Any]:
        """Engines that were proved to serve a policy, another one first each time."""
        found = [m.handle for m in self._supervisor.live_assistants if m.serves is not None and m.handle is not None]
        turn = next(self._turns) % len(found) if found else 0
        return [*found[turn:], *found[:turn]]

    async def _parts(self, visit: Visit) -> AsyncIterator[Part]:
        """What an engine says, until the last part."""
        async with self._room:
            engines = self._engines()
            if not engines:
                yield Part(fault="no engine serves a policy just now; try again later", status=AWAY)
                return
            handle, number = engines[0], uuid.uuid4().hex
            over = False
            try:
                await answer(handle.visit.remote(number, visit), "assistant")
                while not over:
                    for part in await answer(handle.heard.remote(number), "assistant"):
                        over = part.last
                        yield part
            except ActorGone as error:
                over = True
                yield Part(fault=f"{error}; try again later", status=AWAY)
            finally:
                if not over:  # nobody listens any more
                    with contextlib.suppress(ActorGone):
                        await answer(handle.leave.remote(number), "assistant")


async def _all(parts: AsyncIterator[Part]) -> list[Part]:
    """Every part of an answer; `ApiError` where it came to nothing."""
    heard = []
    async with contextlib.aclosing(parts):
        async for part in parts:
            if part.fault is not None:
                raise _error(part)
            heard.append(part)
    return heard


async def _events(first: Part, parts: AsyncIterator[Part], shape: Form, counts: bool) -> AsyncIterator[str]:
    """An answer as server-sent events."""
    part = first
    async with contextlib.aclosing(parts):
        yield _event(shape.chunk(Part(), begins=True))
        while True:
            if part.fault is not None:
                yield _event(_error(part).body())
                break
            yield _event(shape.chunk(part))
            if part.last:
                if counts:
                    yield _event(shape.usage_chunk(part))
                break
            part = await anext(parts)
    yield "data: [DONE]\n\n"


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body)}\n\n"


def _error(part: Part) -> ApiError:
    return ApiError(part.status, part.fault or "")


async def _told_so(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    later = {"Retry-After": "1"} if error.status == AWAY else None
    return JSONResponse(error.body(), error.status, later)


async def _no_such_page(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    told = ApiError(error.status_code, f"{request.method} {request.url.path}: {error.detail}")
    return JSONResponse(told.body(), told.status)


async def _broken(request: Request, error: Exception) -> Response:
    return JSONResponse(ApiError(500, f"{type(error).__name__}: {error}").body(), 500)


@contextmanager
def open_door(
    settings: ServeSettings | None, supervisor: ActorSupervisor, say: Callable[[str], None]
) -> Iterator[str | None]:
    """Let people ask the assistant while the block runs; yields the address, or None where the door stays shut.

    Args:
        say: Told the address.

    Raises:
        ConfigError: The port cannot be had, or the key is not in the environment.
    """
    if settings is None:
        yield None
        return
    key = key_of(settings)
    with listen(settings.host, settings.port, "assistant.serve.port") as door:
        app = Door(supervisor, key).app()
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False, lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [door]}, name="door", daemon=True)
        thread.start()
        deadline = time.monotonic() + START_SECONDS
        while not server.started and thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.02)
        address = f"http://{shown(settings.host)}:{door.getsockname()[1]}/v1"
        say(f"assistant:     {address}")
        try:
            yield address
        finally:
            server.should_exit = server.force_exit = True
            thread.join(timeout=5)


def key_of(settings: ServeSettings) -> str | None:
    """What requests have to bring.

    Raises:
        ConfigError: The variable that holds it is not set.
    """
    if settings.key_env is None:
        return None
    key = os.environ.get(settings.key_env, "").strip()
    if not key:
        raise ConfigError(f"assistant.serve.key_env {settings.key_env}: this environment variable is not set")
    return key
