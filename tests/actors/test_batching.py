import asyncio
import itertools
import time

import pytest

from actors.actor import ActorGone
from actors.batching import TICK_SECONDS, BatchedClient, BatchedServer


class Method:
    """A method of an actor, called as Ray would call it."""

    def __init__(self, method):
        self.method, self.times = method, []

    def remote(self, *args):
        self.times.append(time.monotonic())
        return self.method(*args)


class Handle:
    def __init__(self, actor):
        self.submit, self.exchange = Method(actor.submit), Method(actor.exchange)


class Teller(BatchedServer):
    async def double(self, number, seconds=0.0):
        await asyncio.sleep(seconds)
        return 2 * number

    async def wait(self, event):
        await event.wait()

    async def fail(self):
        raise ValueError("not today")


@pytest.fixture
def handle():
    return Handle(Teller())


def test_what_is_asked_together_goes_and_comes_in_one_call(handle):
    async def ask():
        client = BatchedClient(handle, "teller")
        return await asyncio.gather(*(client.call("double", n) for n in range(500)))

    assert asyncio.run(ask()) == [2 * n for n in range(500)]
    assert (len(handle.exchange.times), len(handle.submit.times)) == (1, 0)


def test_a_lone_call_waits_for_nobody(handle, monkeypatch):
    monkeypatch.setattr("actors.batching.TICK_SECONDS", 1.0)

    async def ask():
        client = BatchedClient(handle, "teller")
        began = time.monotonic()
        assert await client.call("double", 4) == 8
        return time.monotonic() - began

    assert asyncio.run(ask()) < 0.5


def test_calls_of_a_stream_are_a_tick_apart(handle):
    async def ask():
        client = BatchedClient(handle, "teller")

        async def one(n):
            await asyncio.sleep(n * 0.002)
            return await client.call("double", n, 0.01)

        return await asyncio.gather(*map(one, range(200)))

    assert asyncio.run(ask()) == [2 * n for n in range(200)]
    assert len(handle.exchange.times) < 20
    assert len(handle.submit.times) < 3, "they go along with exchanges"
    gaps = [b - a for a, b in itertools.pairwise(handle.exchange.times[1:])]
    assert all(gap > 0.9 * TICK_SECONDS for gap in gaps)


def test_an_answer_does_not_wait_for_a_slower_one(handle):
    async def ask():
        client = BatchedClient(handle, "teller")
        event = asyncio.Event()
        slow = asyncio.ensure_future(client.call("wait", event))
        await asyncio.sleep(0.2)
        assert await asyncio.wait_for(client.call("double", 2), 0.5) == 4
        assert not slow.done()
        event.set()
        await slow

    asyncio.run(ask())
    assert len(handle.submit.times) == 1


def test_a_dead_actor_fails_whoever_waits_and_whoever_asks_later(handle):
    async def gone(*_):
        await asyncio.sleep(0.1)
        raise ActorGone("it died")

    async def ask():
        client = BatchedClient(handle, "teller")
        slow = asyncio.ensure_future(client.call("double", 1, 0.3))
        await asyncio.sleep(0.1)
        handle.exchange = handle.submit = Method(gone)
        return await asyncio.gather(slow, client.call("double", 2), client.call("double", 3), return_exceptions=True)

    first, *others = asyncio.run(ask())
    assert first == 2, "its exchange was under way before"
    assert all(isinstance(error, ActorGone) for error in others)


def test_an_error_is_its_callers_alone(handle):
    async def ask():
        client = BatchedClient(handle, "teller")
        return await asyncio.gather(client.call("fail"), client.call("double", 3), return_exceptions=True)

    failed, fine = asyncio.run(ask())
    assert isinstance(failed, ValueError)
    assert str(failed) == "not today"
    assert fine == 6
