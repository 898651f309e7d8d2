"""An OpenAI-compatible endpoint on loopback, over real HTTP, whose failures are dealt from a seeded deck and counted.

`serve(...)` runs it in a process of its own; with `answer=` it runs in a thread and a Python callable writes the
replies. By hand: `python -m tests.endpoint_server '{"port": 8080, "latency": 0.2}'`.

`/v1/models` and `/v1/chat/completions` are the endpoint. `GET /stats` tells what was served and injected,
`POST /reset` forgets the counts and takes new options, `POST /keys` changes which keys are accepted.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import math
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

WORDS = "a some time rest walk friend plan today slowly honest small step help listen think water sleep again"
DECK = 100  # cards; each holds the fate of one request, so that a share of 0.05 is exactly 5 in 100
FAULTS = (
    "429",  # rate limit, no hint when to come back
    "429-after",  # rate limit with Retry-After
    "500",  # in bursts
    "slow",  # headers at once, then a byte at a time
    "truncated",  # JSON that breaks off, with a Content-Length that agrees
    "html",  # a proxy's page with status 200
    "reset",  # RST instead of an answer
    "reset-midway",  # RST within the body
    "no-choices",  # JSON without an answer
    "null",  # an answer without content
    "filtered",  # cut by a content filter
    "no-usage",  # a good answer that does not say what it cost
    "400",  # the request itself is wrong
    "400-logprobs",  # OpenAI's refusal of logprobs
    "quota",  # 429 that no waiting helps
)


@dataclass
class Options:
    """How the endpoint behaves.

    Attributes:
        latency: Seconds before each answer.
        faults: Share of requests, by kind, that fail; see `FAULTS`.
        script: Fates of the first requests, in order, before the deck; null is a good answer.
        burst: Requests in a row that one burst of `500` takes.
        retry_after, retry_form: The wait asked for by `429-after`, as `seconds`, `date` or `ms`.
        drip: Seconds between the bytes of `slow`.
        logprobs: `yes`, `refused` (400) or `absent` (null, although asked for).
        tokens: What closed questions are answered with, the probabilities of what could stand in each place; null draws
            numbers, each of which is one token.
        bodies: What the first requests are answered with, as status and JSON; a null body is a good answer.
        refuses: By field, the status and the JSON with which a request that has it is refused.
        most_logprobs: How many alternatives to a token may be asked for; more are refused with 400.
        thinks: Tokens that a reply is preceded by; with a smaller limit it is empty and cut.
        tells: For how many of these places probabilities are told; null for all.
        keys: Bearer keys that are accepted; null accepts all.
        expires_after: Requests after which no key is accepted any more.
        quota_after: Requests after which the money is spent.
        models: What `/v1/models` lists; null answers 404.
        unlisted: Models that work and are not listed.
        models_status: Status with which `/v1/models` fails.
        record: Keep the time of every request in `/stats`.
    """

    port: int = 0
    latency: float = 0
    faults: dict[str, float] = field(default_factory=dict)
    script: list[str | None] = field(default_factory=list)
    seed: int = 0
    burst: int = 3
    retry_after: float = 1
    retry_form: str = "seconds"
    drip: float = 0.05
    logprobs: str = "yes"
    tokens: list[dict[str, float]] | None = None
    bodies: list[tuple[int, Any]] = field(default_factory=list)
    refuses: dict[str, tuple[int, Any]] = field(default_factory=dict)
    most_logprobs: int | None = None
    thinks: int = 0
    tells: int | None = None
    keys: list[str] | None = None
    expires_after: int | None = None
    quota_after: int | None = None
    models: list[str] | None = field(default_factory=lambda: ["mock"])
    unlisted: list[str] = field(default_factory=list)
    models_status: int | None = None
    record: bool = True


class State:
    """Options, counts and the deck of fates, shared by all connections."""

    def __init__(self, options: Options, answer: Callable[[list[dict]], str] | None) -> None:
        self.answer = answer
        self.active = 0
        self.set(options)

    def set(self, options: Options) -> None:
        unknown = {*options.faults, *filter(None, options.script)} - {*FAULTS}
        if unknown:
            raise ValueError(f"unknown faults: {', '.join(sorted(unknown))}")
        self.options = options
        self.rng = random.Random(options.seed)
        self.script = list(options.script)
        self.bodies = list(options.bodies)
        self.deck: list[str | None] = []
        self.requests = self.served = 0
        self.active_max = self.active
        self.injected: Counter[str] = Counter()
        self.times: list[float] = []
        self.last: Any = None

    def fate(self) -> str | None:
        """What happens to the next request; None is a good answer."""
        if self.script:
            return self.script.pop(0)
        if not self.options.faults:
            return None
        if not self.deck:
            blocks: list[list[str | None]] = []
            for kind, share in self.options.faults.items():
                size = self.options.burst if kind == "500" else 1
                blocks += [[kind] * size] * round(share * DECK / size)
            blocks += [[None]] * (DECK - sum(map(len, blocks)))
            self.rng.shuffle(blocks)
            self.deck = [card for block in blocks for card in block]
        return self.deck.pop()

    def stats(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "served": self.served,
            "injected": dict(self.injected),
            "active_max": self.active_max,
            "times": self.times,
            "last": self.last,
        }


def packet(status: str, body: bytes, kind: str = "application/json", extra: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n{extra}\r\n"
    return head.encode() + body


def error(status: str, message: str, code: str | None, extra: str = "") -> bytes:
    """An error in OpenAI's form."""
    told = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return packet(status, json.dumps({"error": told}).encode(), extra=extra)


def alternatives(options: Options, digest: bytes, limit: int, most: int) -> list[dict[str, Any]]:
    """What could stand at each place of an answer: numbers that a digest draws, or what the options say."""
    drawn = {f"{n}": 1.0 + digest[n] for n in range(1, 11)} | {" 7": 40.0, "the": 30.0, "\n": 5.0}
    total = sum(drawn.values())
    places = options.tokens or [{token: mass / total for token, mass in drawn.items()}]
    content = []
    for place in places[:limit]:
        ranked = sorted(((t, math.log(m)) for t, m in place.items()), key=lambda pair: -pair[1])
        top = [{"token": t, "logprob": p, "bytes": list(t.encode())} for t, p in ranked[:most]]
        content.append({**top[0], "top_logprobs": top})
    return content


def completion(request: dict[str, Any], answer: Callable[[list[dict]], str] | None, options: Options) -> dict[str, Any]:
    """A reply that depends on the messages and the seed only."""
    messages = request["messages"]
    digest = hashlib.blake2b(json.dumps([messages, request.get("seed")]).encode(), digest_size=16).digest()
    limit = request.get("max_tokens") or request.get("max_completion_tokens") or 64
    told = None
    if request.get("logprobs") and options.logprobs == "yes":
        content = alternatives(options, digest, limit, request["top_logprobs"])
        words = ["".join(place["token"] for place in content)]
        told = {"content": content[: options.tells]}
    elif answer is not None:
        words = answer(messages).split(" ")
    else:
        known = WORDS.split()
        words = [known[b % len(known)] for b in digest[: 6 + digest[0] % 8]]
    if options.thinks:
        words = words if (limit := limit - options.thinks) > 0 else []
    text = " ".join(words[:limit])
    prompt = sum(len(m["content"].split()) for m in messages)
    return {
        "id": "chatcmpl-" + digest.hex()[:12],
        "object": "chat.completion",
        "created": 1700000000,
        "model": request["model"],
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": told,
                "finish_reason": "length" if len(words) > limit or limit <= 0 else "stop",
            }
        ],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": min(len(words), limit),
            "total_tokens": prompt + min(len(words), limit),
        },
    }


class Connection(asyncio.Protocol):
    """One keep-alive connection; requests on it come one after the other."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.buffer = bytearray()
        self.pending: asyncio.Handle | None = None
        self.busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self.pending:
            self.pending.cancel()
        self.idle()

    def idle(self) -> None:
        if self.busy:
            self.busy = False
            self.state.active -= 1

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self.buffer[:end])
        lower = head.lower()
        at = lower.find(b"\r\ncontent-length:")
        length = int(lower[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(self.buffer) < end + 4 + length:
            return
        body = bytes(self.buffer[end + 4 : end + 4 + length])
        del self.buffer[: end + 4 + length]
        method, path, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
        if path.startswith("/v1/"):
            at = lower.find(b"\r\nauthorization: bearer ")
            key = head[at + 24 :].split(b"\r\n", 1)[0].decode() if at >= 0 else ""
            self.endpoint(path, key, body)
        else:
            self.write(self.control(method, path, body))

    def control(self, method: str, path: str, body: bytes) -> bytes:
        state = self.state
        if path == "/stats":
            return packet("200 OK", json.dumps(state.stats()).encode())
        if path == "/reset":
            state.set(replace(state.options, **json.loads(body or b"{}")))
        elif path == "/keys":
            state.options.keys = json.loads(body)
            state.options.expires_after = None
        else:
            return error("404 Not Found", "no such path", None)
        return packet("200 OK", b"{}")

    def endpoint(self, path: str, key: str, body: bytes) -> None:
        state, options = self.state, self.state.options
        if path == "/v1/chat/completions":
            state.requests += 1
        spent = state.requests
        if options.keys is not None and (
            key not in options.keys or (options.expires_after is not None and spent > options.expires_after)
        ):
            state.injected["401"] += 1
            told = f"Incorrect API key provided: {key[:8]}{'*' * 12}{key[-4:]}. You can find your API key at https://x."
            self.write(error("401 Unauthorized", told, "invalid_api_key"))
        elif path == "/v1/models" and options.models_status:
            self.write(error(f"{options.models_status} Error", "told to fail", None))
        elif path == "/v1/models":
            if options.models is None:
                self.write(error("404 Not Found", "unknown path", None))
            else:
                listed = [{"id": m, "object": "model", "created": 1, "owned_by": "test"} for m in options.models]
                self.write(packet("200 OK", json.dumps({"object": "list", "data": listed}).encode()))
        elif path != "/v1/chat/completions":
            self.write(error("404 Not Found", "unknown path", None))
        else:
            self.chat(json.loads(body))

    def chat(self, request: dict[str, Any]) -> None:
        state, options = self.state, self.state.options
        state.last = request
        state.active += 1
        self.busy = True
        state.active_max = max(state.active_max, state.active)
        if options.record:
            state.times.append(time.monotonic())
        fate = state.fate()
        if options.quota_after is not None and state.requests > options.quota_after:
            fate = "quota"
        if fate is not None:
            state.injected[fate] += 1
            self.later(self.fail, fate, request)
        elif options.models is not None and request["model"] not in (*options.models, *options.unlisted):
            told = f"The model `{request['model']}` does not exist or you do not have access to it."
            self.later(self.write, error("404 Not Found", told, "model_not_found"))
        elif state.bodies and state.bodies[0][1] is not None:
            status, told = state.bodies.pop(0)
            self.later(self.write, packet(f"{status} Told", json.dumps(told).encode()))
        elif found := [of for name, of in options.refuses.items() if name in request]:
            self.later(self.write, packet(f"{found[0][0]} Refused", json.dumps(found[0][1]).encode()))
        elif options.most_logprobs is not None and request.get("top_logprobs", 0) > options.most_logprobs:
            told = f"Invalid value for 'top_logprobs': must be less than or equal to {options.most_logprobs}."
            self.later(self.write, error("400 Bad Request", told, "invalid_value"))
        elif options.logprobs == "refused" and request.get("logprobs"):
            self.later(self.fail, "400-logprobs", request)
        else:
            state.served += 1
            state.bodies = state.bodies[1:]
            body = completion(request, state.answer, options)
            self.later(self.write, packet("200 OK", json.dumps(body, ensure_ascii=False).encode()))

    def later(self, call: Callable, *args: Any) -> None:
        if self.state.options.latency:
            self.pending = asyncio.get_running_loop().call_later(self.state.options.latency, call, *args)
        else:
            call(*args)

    def write(self, data: bytes) -> None:
        self.idle()
        if not self.transport.is_closing():
            self.transport.write(data)

    def fail(self, kind: str, request: dict[str, Any]) -> None:
        good = completion(request, None, replace(self.state.options, logprobs="yes"))
        body = json.dumps(good).encode()
        if kind == "429":
            self.write(error("429 Too Many Requests", "Rate limit reached", "rate_limit_exceeded"))
        elif kind == "429-after":
            wait, form = self.state.options.retry_after, self.state.options.retry_form
            extra = {
                "seconds": f"retry-after: {wait:g}\r\n",
                "date": f"retry-after: {formatdate(math.ceil(time.time() + wait), usegmt=True)}\r\n",
                "ms": f"retry-after-ms: {wait * 1000:g}\r\n",
            }[form]
            self.write(error("429 Too Many Requests", "Rate limit reached", "rate_limit_exceeded", extra))
        elif kind == "quota":
            self.write(error("429 Too Many Requests", "You exceeded your current quota", "insufficient_quota"))
        elif kind == "500":
            self.write(error("500 Internal Server Error", "The server had an error", None))
        elif kind == "400":
            self.write(error("400 Bad Request", "messages must not be empty", None))
        elif kind == "400-logprobs":
            self.write(error("400 Bad Request", "This model does not support logprobs.", "unsupported_parameter"))
        elif kind == "truncated":
            self.write(packet("200 OK", body[: len(body) // 2]))
        elif kind == "html":
            self.write(packet("200 OK", b"<html><body>Please wait</body></html>", "text/html; charset=utf-8"))
        elif kind == "slow":
            self.drip(packet("200 OK", body), len(packet("200 OK", body)) - len(body))
        elif kind == "reset":
            self.reset()
        elif kind == "reset-midway":
            self.transport.write(packet("200 OK", body)[: -len(body) // 2])
            self.pending = asyncio.get_running_loop().call_later(0.02, self.reset)
        else:
            if kind == "no-choices":
                good["choices"] = []
            elif kind == "null":
                good["choices"][0]["message"]["content"] = None
            elif kind == "filtered":
                good["choices"][0]["message"]["content"] = ""
                good["choices"][0]["finish_reason"] = "content_filter"
            elif kind == "no-usage":
                del good["usage"]
            self.write(packet("200 OK", json.dumps(good).encode()))

    def drip(self, data: bytes, at: int) -> None:
        """The headers at once, then one byte after the other."""
        self.transport.write(data[: at + 1])
        if at + 1 < len(data):
            loop = asyncio.get_running_loop()
            self.pending = loop.call_later(self.state.options.drip, self.drip, data[at + 1 :], 0)
        else:
            self.idle()

    def reset(self) -> None:
        self.idle()
        if sock := self.transport.get_extra_info("socket"):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


async def run(state: State, ready: Callable[[int], None], stop: asyncio.Event | None = None) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(state), "127.0.0.1", state.options.port, backlog=4096)
    ready(server.sockets[0].getsockname()[1])
    await (stop or asyncio.Event()).wait()
    server.close()


class Server:
    """A running endpoint, as its tests see it."""

    def __init__(self, port: int) -> None:
        self.root = f"http://127.0.0.1:{port}"
        self.base_url = self.root + "/v1"

    def call(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(urllib.request.Request(self.root + path, data), timeout=10) as response:
            return json.load(response)

    def stats(self) -> dict[str, Any]:
        return self.call("/stats")

    def reset(self, **options: Any) -> None:
        """Forget the counts and change these options."""
        self.call("/reset", options)

    def accept(self, *keys: str) -> None:
        """Accept these keys from now on, for ever."""
        self.call("/keys", keys)


@contextlib.contextmanager
def serve(answer: Callable[[list[dict]], str] | None = None, **options: Any) -> Iterator[Server]:
    """An endpoint with these `Options`; in this process where `answer` writes the replies, else in one of its own."""
    if answer is None:
        command = [sys.executable, "-m", "tests.endpoint_server", json.dumps(asdict(Options(**options))), "--child"]
        root = Path(__file__).resolve().parent.parent
        with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            try:
                line = process.stdout.readline()
                if not line:
                    raise RuntimeError("the endpoint did not start; see its standard error")
                yield Server(int(line))
            finally:
                process.kill()
        return
    loop, stop, ports = asyncio.new_event_loop(), asyncio.Event(), []
    up = threading.Event()
    state = State(Options(**options), answer)
    main = run(state, lambda port: (ports.append(port), up.set()), stop)
    thread = threading.Thread(target=loop.run_until_complete, args=(main,), daemon=True)
    thread.start()
    try:
        if not up.wait(10):
            raise RuntimeError("the endpoint did not start")
        yield Server(ports[0])
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()


def main() -> None:
    options = Options(**json.loads(sys.argv[1] if len(sys.argv) > 1 else "{}"))
    if "--child" in sys.argv:  # ends with its parent, however that ends

        def watch() -> None:
            sys.stdin.read()
            os._exit(0)

        threading.Thread(target=watch, daemon=True).start()
    with contextlib.suppress(ImportError):
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.run(run(State(options, None), lambda port: print(port, flush=True)))


if __name__ == "__main__":
    main()
