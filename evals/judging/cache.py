"""Judges' answers kept by content: the same question to the same judge is asked once, in whatever run.

A SQLite file, which several processes of one machine can share. What is in it can be thrown away at any time.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from actors.models.chat import ChatModel, Choice, Reply, Sampling
from actors.storage.cache import cache_folder
from actors.worlds.base import Message

BUSY_SECONDS = 30


def default_file() -> Path:
    return cache_folder() / "judged.sqlite"


class ReplyCache:
    """Replies by what was asked of whom.

    Raises:
        OSError: The file cannot be opened or is not an SQLite file; the message names it.
    """

    def __init__(self, file: Path) -> None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(file, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute("CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, text TEXT, finish_reason TEXT)")
        except sqlite3.Error as error:
            raise OSError(
                f"the cache {file}: {error}; delete it, set CANDOR_CACHE to another folder, or evals.cache to false"
            ) from None

    def get(self, key: str) -> Reply | None:
        """What was answered before; it has cost nothing now."""
        try:
            row = self._db.execute("SELECT text, finish_reason FROM replies WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error:  # locked by many processes, or damaged: as good as empty
            return None
        return None if row is None else Reply(row[0], [], [], row[1], 0, 0, "cache")

    def put(self, key: str, reply: Reply) -> None:
        with suppress(sqlite3.Error):  # a full disk, for example; then it is not kept
            self._db.execute("INSERT OR REPLACE INTO replies VALUES (?, ?, ?)", (key, reply.text, reply.finish_reason))


class Cached:
    """A `ChatModel` whose replies are kept.

    Args:
        identity: What tells this model from every other: its weights, or where it is served and how it is called.
    """

    def __init__(self, model: ChatModel, identity: str, cache: ReplyCache) -> None:
        self._model = model
        self._identity = identity
        self._cache = cache
        self._asked: dict[str, asyncio.Future[Reply]] = {}

    async def reply(self, messages: Sequence[Message], sampling: Sampling) -> Reply:
        asked = [self._identity, list(messages), sampling.max_tokens, sampling.temperature, sampling.seed]
        asked += [given for given in [sampling.given()] if given.keys() - {"temperature"}]
        key = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
        if (kept := self._cache.get(key)) is not None:
            return kept
        if key not in self._asked:  # who asks the same meanwhile waits for the same answer
            self._asked[key] = asyncio.ensure_future(self._model.reply(messages, sampling))
            try:
                reply = await self._asked[key]
            finally:
                del self._asked[key]
            self._cache.put(key, reply)
            return reply
        return await asyncio.shield(self._asked[key])

    async def choose(self, messages: Sequence[Message], choices: Sequence[str]) -> Choice:
        return await self._model.choose(messages, choices)
