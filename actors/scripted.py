"""Models that answer from a script: every word, rating and log-probability follows from a hash of what was asked.

`model: scripted` in a run config puts them in place of vLLM and TRL, and nothing else. What such a run says about
honesty means nothing; that it ends, and ends the same after any crash, shows that cluster, storage and restarts work.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

from actors.actor import Actor
from actors.batching import BatchedServer
from actors.engine import BASE_POLICY
from actors.models.chat import ChatError, Choice, Reply, Sampling
from actors.models.usage import CacheUse
from actors.settings import EngineSettings
from actors.visitors import Host, Part, Told, Visit, not_served, too_long
from actors.worlds.base import Message

SCRIPTED = "scripted"
"""What `model` is called in a config."""
WEIGHTS_FILE = "scripted_weights.json"
CONTEXT = 2048
"""Words of a prompt and its answer that a visitor may have together."""
REPLY_SECONDS = 0.01
"""A reply takes this long, so that a run has stages to be interrupted in."""


def base_weights() -> str:
    """The fingerprint that stands for the weights of the untouched base."""
    return hashlib.sha256(SCRIPTED.encode()).hexdigest()


def read_weights(folder: Path) -> str:
    """The fingerprint of a saved policy."""
    return json.loads((folder / WEIGHTS_FILE).read_text(encoding="utf-8"))["fingerprint"]


def write_weights(folder: Path, fingerprint: str) -> None:
    (folder / WEIGHTS_FILE).write_text(json.dumps({"fingerprint": fingerprint}) + "\n", encoding="utf-8")


def logprobs(fingerprint: str, texts: Sequence[Sequence[int]]) -> list[list[float]]:
    """What stands for the log-probability of each token of each text but its first (nats)."""
    return [[-5 * _rng(fingerprint, list(ids), i).random() for i in range(1, len(ids))] for ids in texts]


def probe_texts(chats: Sequence[Sequence[Message]]) -> list[list[int]]:
    """Token ids of chats: their first sixteen characters, which is all that a fingerprint needs to tell it apart."""
    return [[ord(c) for c in chat[-1]["content"][:16]] for chat in chats]


def _rng(*what: object) -> random.Random:
    return random.Random(hashlib.sha256(json.dumps(what).encode()).digest())


class ScriptedEngine(BatchedServer, Host, Actor):
    """Answers in the place of `actors.engine.Engine`; run as a Ray actor."""

    def __init__(
        self, model: str, settings: EngineSettings, lora_rank: int | None = None, sleeps: bool = False
    ) -> None:
        self._asleep = False
        self._policies = {BASE_POLICY: base_weights()}
        self._gate = asyncio.Semaphore(settings.max_num_seqs)

    async def start(self) -> str:
        return "scripted 1"

    async def check_choices(self, choices: Sequence[str]) -> None:
        """Any choice will do."""

    async def own_sampling(self) -> dict[str, float]:
        """A script has no values of its own."""
        return {}

    async def cache_use(self) -> CacheUse:
        """A script caches nothing."""
        return CacheUse()

    async def reply(self, policy: str, messages: Sequence[Message], sampling: Sampling) -> Reply:
        """Some words of the conversation, drawn by the policy, the conversation and the seed."""
        rng = _rng(self._weights(policy), list(messages), sampling.seed, sampling.temperature)
        async with self._gate:
            await asyncio.sleep(REPLY_SECONDS)
        words = " ".join(m["content"] for m in messages).split()
        text = " ".join(rng.choice(words) for _ in range(rng.randint(3, 9)))
        ids = [ord(c) for c in text[: sampling.max_tokens]]
        return Reply(text, ids, [-rng.random() for _ in ids], "stop", len(words), len(ids), policy)

    async def choose(self, policy: str, messages: Sequence[Message], choices: Sequence[str]) -> Choice:
        """Probabilities that add up to one, drawn by the policy and the conversation."""
        rng = _rng(self._weights(policy), list(messages), list(choices))
        raw = [rng.random() ** 3 for _ in choices]
        words = sum(len(m["content"].split()) for m in messages)
        return Choice({c: r / sum(raw) for c, r in zip(choices, raw, strict=True)}, words)

    async def prompt_logprobs(self, policy: str, texts: Sequence[Sequence[int]]) -> list[list[float]]:
        return logprobs(self._weights(policy), texts)

    async def served(self) -> list[str]:
        return [] if self._asleep else list(self._policies)

    async def _answer(self, visit: Visit) -> AsyncIterator[Part]:
        """As `reply`, a word at a time."""
        if visit.policy not in await self.served():
            yield not_served(visit.policy, await self.served())
            return
        given = [{"role": "user", "content": f"{list(visit.ids)}"}] if visit.ids is not None else list(visit.messages)
        asked, length = visit.sampling, len(" ".join(m["content"] for m in given).split())
        if fault := too_long(length, asked.max_tokens if visit.limited else 1, CONTEXT):
            yield fault
            return
        reply = await self.reply(visit.policy, given, replace(asked, max_tokens=CONTEXT))
        words = [" " * (n > 0) + word for n, word in enumerate(reply.text.split(" "))]
        most = asked.max_tokens if visit.limited else len(words)
        for n, word in enumerate(words[:most], 1):
            told = [] if visit.logprobs is None else [Told(word, -0.5, [(word, -0.5)][: visit.logprobs])]
            yield Part(word, told, None, length, n)
            await asyncio.sleep(REPLY_SECONDS)
        yield Part(finish="length" if most < len(words) else "stop", prompt_tokens=length, completion_tokens=n)

    async def publish(self, policy: str, path: str, how: str) -> float:
        """Serve the fingerprint at `path`; any path without one is the base."""
        folder = Path(path)
        weights = read_weights(folder) if (folder / WEIGHTS_FILE).exists() else base_weights()
        async with self._alone():
            self._policies = (self._policies if how == "lora" else {}) | {policy: weights}
        return 0.0

    async def sleep(self) -> None:
        """Refuse requests until it wakes."""
        async with self._alone():
            self._asleep = True

    async def wake(self) -> None:
        self._asleep = False

    async def retire(self) -> None:
        self._policies = {BASE_POLICY: base_weights()}

    async def stop(self) -> None:
        """There is nothing to stop."""

    def _weights(self, policy: str) -> str:
        if self._asleep:
            raise RuntimeError("the engine sleeps")
        if policy not in self._policies:
            raise ChatError(f"policy {policy!r} is not served; served now: {', '.join(self._policies)}")
        return self._policies[policy]
