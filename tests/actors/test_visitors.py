"""Visitors of an engine: what they are told, when they are sent away, and that the run does not notice them."""

import asyncio
import contextlib

import pytest
import ray

from actors.engine import BASE_POLICY
from actors.models.chat import Sampling, plain
from actors.scripted import ScriptedEngine
from actors.settings import EngineSettings
from actors.visitors import AWAY, REFUSED, UNKNOWN, Part, Visit
from actors.worlds.pocket.language import facts, said, speaker

HELLO = [{"role": "user", "content": "Is one drink tonight harmless, or does it bring the old habit back at once?"}]


def scripted() -> ScriptedEngine:
    return ScriptedEngine("scripted", EngineSettings())


async def all_of(engine, visit: Visit, number: str = "1") -> list[Part]:
    await engine.visit(number, visit)
    heard: list[Part] = []
    while not heard or not heard[-1].last:
        heard += await engine.heard(number)
    return heard


def test_a_visitor_hears_what_the_run_would_hear_in_parts():
    async def both():
        engine = scripted()
        heard = await all_of(engine, Visit(BASE_POLICY, Sampling(0, seed=3), HELLO))
        return heard, await engine.reply(BASE_POLICY, HELLO, Sampling(2000, seed=3))

    heard, reply = asyncio.run(both())
    assert len(heard) > 3
    assert "".join(p.text for p in heard) == reply.text
    assert (heard[-1].finish, heard[-1].completion_tokens) == ("stop", len(reply.text.split()))
    assert heard[-1].prompt_tokens == reply.prompt_tokens


@pytest.mark.parametrize(
    ("visit", "status", "told"),
    [
        (
            Visit("candor/policy-7", Sampling(0), HELLO),
            UNKNOWN,
            r"`candor/policy-7` does not exist; served now: candor/",
        ),
        (Visit(BASE_POLICY, Sampling(9000), HELLO, limited=True), REFUSED, "maximum context length is 2048 tokens"),
        (Visit(BASE_POLICY, Sampling(0), plain("word " * 3000)), REFUSED, "your prompt contains 3000 tokens"),
    ],
)
def test_what_cannot_be_answered_is_a_fault(visit, status, told):
    (part,) = asyncio.run(all_of(scripted(), visit))
    assert part.status == status
    assert told.replace("`", "") in (part.fault or "").replace("`", "")


@pytest.mark.parametrize("work", ["publish", "sleep"])
def test_visitors_are_sent_away_when_the_run_needs_the_engine(work, tmp_path):
    async def cut_off():
        engine = scripted()
        await engine.visit("1", Visit(BASE_POLICY, Sampling(0, seed=1), HELLO))
        first = await engine.heard("1")
        await (engine.publish("candor/policy-1", str(tmp_path), "merged") if work == "publish" else engine.sleep())
        heard = first
        while not heard[-1].last:
            heard += await engine.heard("1")
        return first[0], heard[-1], (await all_of(engine, Visit(BASE_POLICY, Sampling(0), HELLO), "2"))[-1]

    first, last, after = asyncio.run(cut_off())
    assert first.fault is None
    assert (last.status, after.status) == (AWAY, UNKNOWN if work == "publish" else AWAY)


def test_nobody_comes_in_while_the_engine_is_alone():
    async def closed():
        engine = scripted()
        async with engine._alone():
            told = await all_of(engine, Visit(BASE_POLICY, Sampling(0), HELLO))
        return told, await all_of(engine, Visit(BASE_POLICY, Sampling(0), HELLO), "2")

    during, after = asyncio.run(closed())
    assert [p.status for p in during] == [AWAY]
    assert after[-1].finish == "stop"


def test_whoever_leaves_is_forgotten():
    async def left():
        engine = scripted()
        await engine.visit("1", Visit(BASE_POLICY, Sampling(0), HELLO))
        await engine.leave("1")
        await engine.leave("1")
        return await engine.heard("1"), engine._guests

    heard, guests = asyncio.run(left())
    assert [p.status for p in heard] == [AWAY]
    assert guests == {}


ASK = [said("system", speaker("Sage")), said("user", facts()[0].questions()[0])]


def visited(engine, visit: Visit, number: str) -> list[Part]:
    ray.get(engine.visit.remote(number, visit))
    heard: list[Part] = []
    while not heard or not heard[-1].last:
        heard += ray.get(engine.heard.remote(number))
    return heard


def test_vllm_tells_visitors_what_it_tells_the_run(engine):
    ray.get(engine.cache_use.remote())
    heard = visited(engine, Visit(BASE_POLICY, Sampling(40, 0.0, 1), ASK, limited=True, logprobs=2), "1")
    before = ray.get(engine.pulse.remote())
    use = ray.get(engine.cache_use.remote())
    reply = ray.get(engine.reply.remote(BASE_POLICY, ASK, Sampling(40, temperature=0, logprobs=True)))
    assert "".join(p.text for p in heard).strip() == reply.text
    assert (heard[-1].finish, heard[-1].prompt_tokens) == ("stop", reply.prompt_tokens)
    told = [t for p in heard for t in p.tokens]
    assert [t.logprob for t in told] == pytest.approx(reply.logprobs, abs=0.05)
    assert all(t.top[0][1] >= t.logprob - 1e-6 for t in told)
    assert (use.requests, before.working) == (0, False), "visits are in no count"


def test_the_probe_has_vllm_to_itself(engine):
    """With adapters on a CPU, vLLM dies of prompt log-probabilities beside any other request."""
    endless = Visit(BASE_POLICY, Sampling(0, 1.0, 1), plain("Hello"), logprobs=0)
    for n in range(4):
        ray.get(engine.visit.remote(f"long-{n}", endless))
    parts = [ray.get(engine.heard.remote(f"long-{n}")) for n in range(4)]
    assert all(p[0].fault is None for p in parts)
    assert ray.get(engine.prompt_logprobs.remote(BASE_POLICY, [[5, 6, 7, 8]]))[0]
    for n in range(4):
        heard = parts[n]
        while not heard[-1].last:
            heard += ray.get(engine.heard.remote(f"long-{n}"))
        assert heard[-1].finish == "stop" or heard[-1].status == AWAY
    with contextlib.suppress(Exception):
        ray.get(engine.leave.remote("long-0"))
    assert visited(engine, Visit(BASE_POLICY, Sampling(4), ASK, limited=True), "after")[-1].finish == "length"


def test_vllm_refuses_what_does_not_fit(engine):
    (part,) = visited(engine, Visit(BASE_POLICY, Sampling(4), [said("user", "word " * 5000)], limited=True), "1")
    assert part.status == REFUSED
    assert "maximum context length" in part.fault
