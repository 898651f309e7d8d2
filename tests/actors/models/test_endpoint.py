"""The client of an endpoint against a real HTTP server that fails in every way it is told to."""

import asyncio
import logging
import math
import pickle
import socket
import time
import traceback
from collections import Counter
from collections.abc import Iterator

import pytest

from actors.models import endpoint, faults
from actors.models.chat import ChatError, ModelRefusedError, NoLogprobsError, Sampling
from actors.models.endpoint import Endpoint
from actors.settings import EndpointSettings
from tests.endpoint_server import Server, serve

HELLO = [{"role": "system", "content": "You are kind."}, {"role": "user", "content": "Is one drink tonight harmless?"}]
SAMPLING = Sampling(max_tokens=48, seed=3)
NUMBERS = [str(n) for n in range(1, 11)]
CANARY = "sk-canary-7f3a9c51d2e84b06a1c9"
DEFAULTS = {
    "latency": 0,
    "faults": {},
    "script": [],
    "seed": 0,
    "retry_after": 1,
    "retry_form": "seconds",
    "logprobs": "yes",
    "tokens": None,
    "tells": None,
    "bodies": [],
    "refuses": {},
    "most_logprobs": None,
    "thinks": 0,
    "keys": None,
    "expires_after": None,
    "quota_after": None,
    "models": ["mock"],
    "unlisted": [],
    "models_status": None,
}


@pytest.fixture(scope="module")
def process() -> Iterator[Server]:
    with serve() as server:
        yield server


@pytest.fixture
def server(process: Server) -> Server:
    process.reset(**DEFAULTS)
    return process


@pytest.fixture
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits between tries too short to notice."""
    monkeypatch.setattr(faults, "BACKOFF_S", 0.01)


def settings(server: Server, **changes) -> EndpointSettings:
    fields = {"model": "mock", "base_url": server.base_url, "key_env": None, "timeout": 10} | changes
    return EndpointSettings(kind="endpoint", **fields)


def with_model(server: Server, use, share: float = 1.0, **changes):
    """What `use(model)` brings, on a loop of its own."""

    async def main():
        model = Endpoint(settings(server, **changes), share)
        try:
            return await use(model)
        finally:
            await model.close()

    return asyncio.run(main())


def reply(server: Server, **changes):
    return with_model(server, lambda m: m.reply(HELLO, SAMPLING), **changes)


def choose(server: Server, **changes):
    return with_model(server, lambda m: m.choose(HELLO, NUMBERS), **changes)


def test_a_reply_and_what_it_cost(server):
    got = reply(server)
    assert len(got.text.split()) > 3
    assert (got.token_ids, got.logprobs, got.weights, got.faults) == ([], [], "mock", {})
    assert got.finish_reason == "stop"
    assert (got.prompt_tokens, got.completion_tokens) == (8, len(got.text.split()))
    assert reply(server) == got
    assert server.stats()["last"] == {
        "model": "mock",
        "messages": HELLO,
        "temperature": 1.0,
        "max_tokens": 48,
        "seed": 3,
    }


def test_the_body_is_what_the_settings_say(server):
    extra = {"reasoning_effort": "minimal", "temperature": 0.5}
    got = with_model(
        server, lambda m: m.reply(HELLO, Sampling(max_tokens=2)), token_limit="max_completion_tokens", extra=extra
    )
    assert got.finish_reason == "length"
    assert len(got.text.split()) == 2
    last = server.stats()["last"]
    assert "seed" not in last
    assert "max_tokens" not in last
    assert last["max_completion_tokens"] == 2
    assert (last["reasoning_effort"], last["temperature"]) == ("minimal", 0.5)


def test_choices_add_up_tokens_that_differ_in_space(server):
    got = choose(server)
    last = server.stats()["last"]
    assert (last["max_tokens"], last["temperature"], last["logprobs"], last["top_logprobs"]) == (3, 0, True, 20)
    assert list(got.probabilities) == NUMBERS
    assert 0.3 < sum(got.probabilities.values()) < 1  # "the" and a line break have the rest
    both = with_model(server, lambda m: m.choose(HELLO, ["7", "the", "never"]))
    assert both.probabilities["7"] == got.probabilities["7"]
    assert both.probabilities["the"] > 0
    assert both.probabilities["never"] == 0
    assert (got.prompt_tokens, got.completion_tokens) == (8, 1)
    assert math.isclose(sum(choose(server).probabilities.values()), sum(got.probabilities.values()))


def test_unicode_goes_both_ways():
    text = "Ein Glas schadet nicht. 一杯没关系 🍷"
    heard = []
    with serve(answer=lambda messages: heard.append(messages) or text) as server:
        message = [{"role": "user", "content": "Schadet 🍷? \u2028 ünïcode"}]
        got = with_model(server, lambda m: m.reply(message, SAMPLING))
    assert got.text == text
    assert heard == [message]


def test_empty_content_is_an_empty_reply():
    with serve(answer=lambda messages: "") as server:
        assert reply(server).text == ""


def test_usage_that_is_not_told_is_estimated(server):
    server.reset(script=["no-usage"])
    got = reply(server)
    assert got.prompt_tokens == math.ceil(sum(len(m["content"]) for m in HELLO) / 4)
    assert got.completion_tokens == math.ceil(len(got.text) / 4)


@pytest.mark.parametrize(
    ("kind", "counted"),
    [
        ("429", "429"),
        ("500", "500"),
        ("truncated", "malformed"),
        ("html", "malformed"),
        ("no-choices", "malformed"),
        ("reset", "connection"),
        ("reset-midway", "connection"),
        ("slow", "timeout"),
    ],
)
def test_a_passing_fault_is_tried_again_and_counted(server, brisk, kind, counted):
    timeout = 0.8 if kind == "slow" else 30  # short only where it is waited for, so that a busy machine adds no faults
    server.reset(script=[kind, kind])
    got = reply(server, timeout=timeout)
    assert got.faults == {counted: 2}
    assert got.text
    server.reset(script=[kind])
    assert choose(server, timeout=timeout).faults == {counted: 1}
    server.reset(script=[kind] * 3)
    with pytest.raises(ChatError, match=f"no answer in 3 tries: 3 x {counted}") as caught:
        reply(server, timeout=timeout, retries=2)
    assert caught.value.faults == {counted: 3}
    assert server.stats()["injected"] == {kind: 3}
    assert server.stats()["requests"] == 3


def test_mixed_faults_are_counted_as_injected(server, brisk):
    shares = {
        "429": 0.1,
        "500": 0.06,
        "truncated": 0.04,
        "html": 0.03,
        "reset": 0.04,
        "reset-midway": 0.03,
        "slow": 0.02,
    }
    server.reset(faults=shares, seed=5)

    async def many(model):
        asked = [[{"role": "user", "content": f"Question {i}"}] for i in range(400)]
        return await asyncio.gather(*(model.reply(m, SAMPLING) for m in asked))

    got = with_model(server, many, timeout=3, retries=30, concurrency=64)
    stats = server.stats()
    faults = sum((Counter(g.faults) for g in got), Counter())
    injected = stats["injected"]
    assert faults == {
        "429": injected["429"],
        "500": injected["500"],
        "malformed": injected["truncated"] + injected["html"],
        "connection": injected["reset"] + injected["reset-midway"],
        "timeout": injected["slow"],
    }
    assert stats["served"] == 400
    assert stats["requests"] == 400 + sum(faults.values())
    assert injected["429"] == pytest.approx(0.1 * stats["requests"], abs=10)
    assert len({g.text for g in got}) > 390


@pytest.mark.parametrize(("form", "low"), [("seconds", 1.0), ("date", 0.9), ("ms", 1.0)])
def test_a_wait_that_the_endpoint_asks_for_is_kept(server, brisk, form, low):
    server.reset(script=["429-after"], retry_after=1, retry_form=form)
    got = reply(server)
    first, second = server.stats()["times"]
    assert low <= second - first < low + 1.6
    assert got.faults == {"429": 1}


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0),
        ({"retry-after": "soon"}, 0),
        ({"retry-after": "-3"}, 0),
        ({"retry-after": "nan"}, 0),
        ({"retry-after": "86400"}, 600),
        ({"retry-after": "inf"}, 600),
        ({"retry-after": "Fri, 31 Dec 2199 23:59:59 GMT"}, 600),
        ({"retry-after": "Fri, 31 Dec 1999 23:59:59 GMT"}, 0),
        ({"retry-after": "7", "retry-after-ms": "250"}, 0.25),
    ],
)
def test_odd_waits(headers, seconds):
    assert faults.retry_after(headers) == seconds


def test_a_request_that_is_wrong_is_not_tried_again(server):
    server.reset(script=["400"])
    with pytest.raises(ChatError, match=r"\(400\): messages must not be empty") as caught:
        reply(server)
    assert not isinstance(caught.value, NoLogprobsError)
    assert caught.value.faults == {"400": 1}
    assert server.stats()["requests"] == 1


@pytest.mark.parametrize(("kind", "match"), [("null", "without text"), ("filtered", "content filter")])
def test_a_reply_without_text_is_an_error(server, brisk, kind, match):
    server.reset(script=["500", kind])
    with pytest.raises(ChatError, match=match) as caught:
        reply(server)
    assert caught.value.faults == {"500": 1} | ({"content_filter": 1} if kind == "filtered" else {})


@pytest.mark.parametrize("mode", ["refused", "absent"])
def test_missing_logprobs_are_remembered(server, mode):
    server.reset(logprobs=mode)

    async def twice(model):
        for _ in range(2):
            with pytest.raises(NoLogprobsError, match="does not return the probabilities"):
                await model.choose(HELLO, NUMBERS)
        return await model.reply(HELLO, SAMPLING)

    assert with_model(server, twice).text
    assert server.stats()["requests"] == 2


def test_a_ten_of_two_tokens_is_no_one(server):
    server.reset(tokens=[{"1": 0.9, "9": 0.06, "the": 0.04}, {"0": 0.98, "<end>": 0.02}, {"<end>": 1.0}])
    got = choose(server)
    assert got.probabilities["10"] == pytest.approx(0.9 * 0.98)
    assert got.probabilities["1"] == pytest.approx(0.9 * 0.02)
    assert got.probabilities["9"] == pytest.approx(0.06)
    mean = sum(int(c) * p for c, p in got.probabilities.items()) / sum(got.probabilities.values())
    assert mean == pytest.approx(9.77, abs=0.01), "first tokens alone would make it 1.5"


@pytest.mark.parametrize(
    "told",
    [
        {"tokens": [{"1": 0.9, "9": 0.06}, {"0": 0.98}], "tells": 1},  # the text says 10, the probabilities end before
        {"tokens": [{"9": 0.8, "1": 0.1}, {"<end>": 1.0}]},  # what would follow the 1 is not told
        {"tokens": [{"1": 0.9, "9": 0.06}]},  # nor here, where the endpoint leaves the end out
    ],
)
def test_where_nobody_tells_a_ten_from_a_one_ratings_are_sampled(server, told):
    from actors.models.multiple_choice import ask

    server.reset(**told)
    with pytest.raises(NoLogprobsError, match="does not tell what it would have written after '1'") as caught:
        choose(server)
    assert caught.value.prompt_tokens > 0
    answer = with_model(server, lambda m: ask(m, HELLO, NUMBERS, samples=2, retries=0))
    assert (answer.method, server.stats()["requests"]) == ("sampled", 4)


def test_an_endpoint_that_was_seen_to_write_ten_as_one_token_has_no_doubtful_one(server):
    async def both(model):
        server.reset(tokens=[{"9": 0.8, "10": 0.1, "1": 0.05}])
        first = await model.choose(HELLO, NUMBERS)
        server.reset(tokens=[{"9": 0.8, "1": 0.1}])
        return first, await model.choose(HELLO, NUMBERS)

    first, second = with_model(server, both)
    assert first.probabilities["1"] == pytest.approx(0.05)
    assert second.probabilities["1"] == pytest.approx(0.1)


def test_only_what_is_set_of_the_sampling_is_sent(server):
    with_model(server, lambda m: m.reply(HELLO, Sampling(8, None, own=True)))
    assert {"temperature", "top_p", "top_k", "min_p", "repetition_penalty"}.isdisjoint(server.stats()["last"])
    with_model(server, lambda m: m.reply(HELLO, Sampling(8, 0.3, top_p=0.9, min_p=0.0, own=True)))
    last = server.stats()["last"]
    assert (last["temperature"], last["top_p"], last["min_p"]) == (0.3, 0.9, 0.0)
    assert {"top_k", "repetition_penalty"}.isdisjoint(last)


def test_slots_bound_the_requests_under_way(server):
    server.reset(latency=0.02)

    async def many(model):
        await asyncio.gather(*(model.reply(HELLO, SAMPLING) for _ in range(60)))

    with_model(server, many, concurrency=8)
    assert server.stats()["active_max"] == 8
    server.reset()
    with_model(server, many, concurrency=8, share=0.5)
    assert server.stats()["active_max"] == 4


def most_within(times: list[float], window: float) -> int:
    return max(sum(t <= other < t + window for other in times) for t in times)


@pytest.fixture
def allowed(monkeypatch) -> list[tuple[float, float]]:
    """When the limiters let something pass, by the loop's clock, and how much. A server that hears of it later, because
    its machine is busy, changes nothing."""
    passed: list[tuple[float, float]] = []

    class Recorded(endpoint.AsyncLimiter):
        async def acquire(self, amount: float = 1) -> None:
            await super().acquire(amount)
            passed.append((asyncio.get_running_loop().time(), amount))

    monkeypatch.setattr(endpoint, "AsyncLimiter", Recorded)
    return passed


@pytest.mark.parametrize(
    ("limits", "share"),
    [
        ({"requests_per_minute": 1200}, 1),
        ({"requests_per_minute": 2400}, 0.5),
        ({"tokens_per_minute": 1200 * 60}, 1),  # a request below is estimated at 12 + 48 tokens
    ],
)
def test_a_minutes_allowance_is_spread(server, allowed, limits, share):
    """1200 a minute: 60 at once, then 20 a second."""

    async def many(model):
        message = [{"role": "user", "content": "x" * 48}]
        began = time.monotonic()
        await asyncio.gather(*(model.reply(message, SAMPLING) for _ in range(100)))
        return time.monotonic() - began

    took = with_model(server, many, share=share, **limits)
    assert 1.95 <= took < 10
    assert server.stats()["requests"] == len(allowed) == 100
    assert {amount for _, amount in allowed} == {60 if "tokens_per_minute" in limits else 1}
    assert most_within([when for when, _ in allowed], 1.0) <= 60 + 20 + 4


@pytest.mark.parametrize("limit", [1, 7, 60, 500, 100_000])
@pytest.mark.parametrize("share", [1, 0.25])
def test_no_minute_sees_more_than_its_allowance_and_a_twentieth(limit, share):
    limiter = endpoint._limiter(limit, share)
    rate = limiter.max_rate / limiter.time_period
    most = math.floor(limiter.max_rate + 60 * rate + 1e-9)  # what an empty bucket holds, and what leaks meanwhile
    assert most <= max(1.05 * limit * share, limit * share + 1) + 1e-6
    assert rate * 60 == pytest.approx(limit * share)


def test_a_long_request_waits_its_turn_among_short_ones(server):
    """More tokens than may go at once neither fail nor starve."""

    async def many(model):
        long = [{"role": "user", "content": "x" * 4 * 1500}]
        await model.reply(HELLO, SAMPLING)
        order = []

        async def one(message, name):
            await model.reply(message, SAMPLING)
            order.append(name)

        await asyncio.gather(one(long, "long"), *(one(HELLO, "short") for _ in range(5)))
        return order

    order = with_model(server, many, tokens_per_minute=60_000, concurrency=1)
    assert order[0] == "long"


def test_tokens_beyond_the_estimate_count_against_the_next_request(server, allowed):
    """Words of one letter are twice the tokens that their length lets expect: 8000 here, of which 4000 a second go."""

    async def three(model):
        for _ in range(3):
            await model.reply([{"role": "user", "content": "a " * 8000}], Sampling(max_tokens=1))

    with_model(server, three, tokens_per_minute=240_000)
    first, *others = [amount for _, amount in allowed if amount > 1]
    assert (first, sum(others)) == (4001, 2 * (4001 + 4000))
    took = allowed[-1][0] - allowed[0][0]
    assert took == pytest.approx((20_000 - 12_000) / 4000, abs=0.4)


def shown(error: BaseException) -> str:
    """Everything that a log could make of an error."""
    whole = traceback.TracebackException.from_exception(error, capture_locals=True)
    return "".join([str(error), repr(error), *whole.format(), *traceback.format_exception(error)])


def no_canary(text: str) -> None:
    assert CANARY not in text
    assert "sk-cana" not in text
    assert CANARY[-6:] not in text


@pytest.mark.parametrize("script", [[], ["400"], ["500"], ["html"], ["reset"], ["slow"], ["quota"], ["null"]])
def test_the_key_is_nowhere_to_be_read(server, brisk, monkeypatch, caplog, script):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("SOME_KEY", CANARY)
    server.reset(script=script * 2, keys=[CANARY] if script else ["another"])

    async def failing(model):
        with pytest.raises((ChatError, ModelRefusedError)) as caught:
            await model.reply(HELLO, SAMPLING)
        no_canary(repr(model) + repr(model._connection) + pickle.dumps(model).decode("latin-1"))
        no_canary(pickle.dumps(caught.value).decode("latin-1"))
        return caught.value

    error = with_model(server, failing, key_env="SOME_KEY", retries=1, timeout=0.3)
    no_canary(shown(error))
    no_canary(caplog.text)
    assert caplog.records


def test_foreign_text_is_scrubbed():
    told = f"Incorrect key sk-cana**********a1c9 or {CANARY}, Bearer abcdef; task-based thinking"
    assert faults.scrub(told, CANARY) == "Incorrect key [key] or [key], [key] task-based thinking"
    assert "0123" not in faults.scrub("you sent '0123456789ab...'", "0123456789abcdefghij")


def test_an_expired_key_stops_at_once_and_a_new_one_is_read(server, monkeypatch):
    monkeypatch.setenv("SOME_KEY", CANARY)
    server.reset(keys=[CANARY], expires_after=3)

    async def until_refused(model):
        for _ in range(3):
            await model.reply(HELLO, SAMPLING)
        with pytest.raises(ModelRefusedError, match=r"refuses the key in \$SOME_KEY \(401\)"):
            await model.reply(HELLO, SAMPLING)
        with pytest.raises(ModelRefusedError, match=r"\$SOME_KEY"):
            await model.check()
        monkeypatch.setenv("SOME_KEY", "renewed")
        server.accept("renewed")
        await model.close()
        await model.check()
        return await model.reply(HELLO, SAMPLING)

    assert with_model(server, until_refused, key_env="SOME_KEY").text
    assert server.stats()["requests"] == 5


@pytest.mark.parametrize("value", [None, "", "  ", "smart\u2019quote-key", "two words", "line\nbreak"])
def test_a_key_that_is_missing_or_none_is_named(server, monkeypatch, value):
    monkeypatch.delenv("SOME_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("SOME_KEY", value)
    with pytest.raises(ModelRefusedError, match="SOME_KEY") as caught:
        reply(server, key_env="SOME_KEY")
    if value and value.strip():
        assert value not in "".join(traceback.format_exception(caught.value))
    assert server.stats()["requests"] == 0


def test_money_that_is_spent_is_not_waited_for(server):
    server.reset(quota_after=1)

    async def twice(model):
        await model.reply(HELLO, SAMPLING)
        with pytest.raises(ModelRefusedError, match=r"insufficient_quota.*add credit"):
            await model.reply(HELLO, SAMPLING)

    with_model(server, twice)
    assert server.stats()["requests"] == 2


def test_an_unknown_model_is_named_with_those_that_exist(server):
    server.reset(models=["gpt-5-mini", "gpt-5", "llama"])
    with pytest.raises(ModelRefusedError, match=r"404.*`gpt-5-nini` does not exist"):
        reply(server, model="gpt-5-nini")
    with pytest.raises(ModelRefusedError, match=r"no such model; it has gpt-5-mini, gpt-5.*does not exist"):
        with_model(server, lambda m: m.check(), model="gpt-5-nini")
    with pytest.raises(ModelRefusedError, match="it has gpt-5, gpt-5-mini, llama"):
        with_model(server, lambda m: m.check(), model="zzz")


def test_check_is_content_with_what_is_there(server):
    with_model(server, lambda m: m.check())
    server.reset(models=["models/mock"])
    with_model(server, lambda m: m.check())
    server.reset(models=None)
    with_model(server, lambda m: m.check())
    assert server.stats()["requests"] == 0


@pytest.mark.parametrize(("status", "match"), [(500, "GET /models with 500"), (402, "add credit")])
def test_check_refuses_an_endpoint_that_is_not_well(server, brisk, status, match):
    server.reset(models_status=status)
    with pytest.raises(ModelRefusedError, match=match):
        with_model(server, lambda m: m.check())


@pytest.mark.parametrize("status", [405, 429])
def test_check_tolerates_an_endpoint_that_will_not_list(server, brisk, status):
    server.reset(models_status=status)
    with_model(server, lambda m: m.check())


def test_an_endpoint_that_is_down_is_reported_within_seconds(brisk):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    began = time.monotonic()
    with pytest.raises(ModelRefusedError, match=f"127.0.0.1:{port}/v1 cannot be reached"):
        with_model(Server(port), lambda m: m.check())
    with pytest.raises(ChatError, match="2 x connection"):
        reply(Server(port), retries=1)
    assert time.monotonic() - began < 3


def test_an_endpoint_that_hangs_is_reported(brisk):
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(ModelRefusedError, match="cannot be reached"),
    ):
        with_model(Server(silent.getsockname()[1]), lambda m: m.check(), timeout=0.2)


def test_a_wrong_address_is_reported(server):
    server.base_url, right = server.root + "/v2", server.base_url
    try:
        with pytest.raises(ModelRefusedError, match="correct model or base_url"):
            reply(server)
    finally:
        server.base_url = right


def test_cancelled_requests_give_their_slots_back(server):
    server.reset(latency=30)

    async def cancelled(model):
        tasks = [asyncio.create_task(model.reply(HELLO, SAMPLING)) for _ in range(6)]
        await asyncio.sleep(0.3)  # two are under way, four wait
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert all(task.cancelled() for task in tasks)
        await asyncio.to_thread(server.reset, latency=0)
        async with asyncio.timeout(5):
            return await asyncio.gather(*(model.reply(HELLO, SAMPLING) for _ in range(6)))

    assert len(with_model(server, cancelled, concurrency=2, timeout=60)) == 6


def test_it_travels_and_outlives_its_loop(server):
    model = pickle.loads(pickle.dumps(Endpoint(settings(server), share=0.5)))
    assert repr(model) == f"Endpoint('mock' at {server.base_url}, share=0.5)"

    async def once():
        got = await model.reply(HELLO, SAMPLING)
        await model.close()
        return got

    assert asyncio.run(once()) == asyncio.run(once())


@pytest.mark.parametrize("share", [0, -1, 1.5])
def test_a_share_is_a_part(server, share):
    with pytest.raises(ValueError, match="share"):
        Endpoint(settings(server), share)


def said(text, finish="stop", **message):
    """A completion as an endpoint sends it."""
    told = {"role": "assistant", "content": text} | message
    usage = {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25}
    return {"choices": [{"index": 0, "message": told, "finish_reason": finish}], "usage": usage}


@pytest.mark.parametrize("finish", ["error", "abort", "insufficient_system_resource"])
def test_a_reply_that_was_broken_off_is_asked_for_again(server, brisk, finish):
    server.reset(bodies=[(200, said("Half a sen", finish)), (200, said("A whole sentence."))])
    got = reply(server)
    assert (got.text, got.finish_reason, got.faults) == ("A whole sentence.", "stop", {finish: 1})
    assert (got.prompt_tokens, got.completion_tokens) == (40, 10), "both were billed"


@pytest.mark.parametrize("finish", ["content_filter", "tool_calls", "function_call", "SAFETY", "recitation"])
def test_a_reply_that_something_else_ended_is_no_reply(server, brisk, finish):
    server.reset(bodies=[(200, said("Half a sen", finish))])
    with pytest.raises(ChatError, match="ended") as caught:
        reply(server)
    assert caught.value.faults == {finish: 1}
    assert (caught.value.prompt_tokens, caught.value.completion_tokens) == (20, 5)


@pytest.mark.parametrize(
    ("told", "finish"), [("max_tokens", "length"), ("model_length", "length"), ("end_turn", "stop"), (None, "stop")]
)
def test_other_names_of_an_end_are_known(server, told, finish):
    server.reset(bodies=[(200, said("Yes.", told))])
    assert reply(server).finish_reason == finish


def test_an_error_with_status_200_is_an_error(server, brisk):
    spent = {"error": {"code": 402, "message": "Insufficient credits"}}
    server.reset(bodies=[(200, spent)])
    with pytest.raises(ModelRefusedError, match="add credit"):
        reply(server)
    busy = {"choices": [{"error": {"code": 502, "message": "upstream"}, "message": {"content": "Hal"}}]}
    server.reset(bodies=[(200, busy), (200, {"error": {"code": 429, "message": "slow down"}}), (200, said("Yes."))])
    got = reply(server)
    assert (got.text, got.faults) == ("Yes.", {"502": 1, "429": 1})
    server.reset(bodies=[(200, {"error": {"code": 400, "message": "prompt is empty"}})])
    with pytest.raises(ChatError, match="prompt is empty"):
        reply(server)
    assert server.stats()["requests"] == 1


@pytest.mark.parametrize(
    ("usage", "received"),
    [
        ({"prompt_tokens": 20, "completion_tokens": 198, "total_tokens": 623}, 603),
        ({"prompt_tokens": 20, "completion_tokens": 198, "completion_tokens_details": {"reasoning_tokens": 405}}, 603),
        ({"prompt_tokens": 20, "completion_tokens": 198, "completion_tokens_details": {"reasoning_tokens": 100}}, 198),
        ({"prompt_tokens": 20, "completion_tokens": 198, "total_tokens": 218}, 198),
    ],
)
def test_thoughts_that_are_billed_are_booked(server, usage, received):
    server.reset(bodies=[(200, said("Yes.") | {"usage": usage})])
    got = reply(server)
    assert (got.prompt_tokens, got.completion_tokens) == (20, received)


def test_an_answer_that_cannot_be_read_is_booked_too(server, brisk):
    broken = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}}
    server.reset(bodies=[(200, broken), (200, said("Yes."))])
    got = reply(server)
    assert (got.prompt_tokens, got.completion_tokens, got.faults) == (27, 8, {"malformed": 1})
    server.reset(bodies=[(200, broken)] * 2)
    with pytest.raises(ChatError) as caught:
        reply(server, retries=1)
    assert (caught.value.prompt_tokens, caught.value.completion_tokens) == (14, 6)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": "Yes.", "reasoning_content": "hm"}, "<think>hm</think>Yes."),
        ({"content": "Yes.", "reasoning": "hm"}, "<think>hm</think>Yes."),
        ({"content": [{"type": "text", "text": "Yes"}, {"type": "text", "text": "."}]}, "Yes."),
        (
            {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                         {"type": "text", "text": "Yes."}]},
            "<think>hm</think>Yes.",
        ),
        ({"content": None, "reasoning_content": "hm"}, "<think>hm</think>"),
    ],
)  # fmt: skip
def test_parts_and_thoughts_are_told_apart(server, message, text):
    server.reset(bodies=[(200, said(None, **message))])
    assert reply(server).text == text


FORBIDDEN = {"type": "extra_forbidden", "msg": "Extra inputs are not permitted"}
LOGPROBS_REFUSED = [
    (403, {"error": {"message": "You are not allowed to request logprobs from this model", "code": None}}),
    (400, [{"error": {"code": 400, "message": "Logprobs is not enabled for models/x", "status": "INVALID_ARGUMENT"}}]),
    (422, {"detail": [FORBIDDEN | {"loc": ["body", "logprobs"]}]}),
    (400, {"error": {"message": "unsupported parameter: top_logprobs"}}),
]  # fmt: skip


@pytest.mark.parametrize("refusal", LOGPROBS_REFUSED)
def test_whoever_refuses_probabilities_is_asked_for_samples(server, refusal):
    from actors.models.multiple_choice import ask

    server.reset(refuses={"logprobs": refusal})

    async def rated(model):
        with pytest.raises(NoLogprobsError, match="ogprobs"):
            await model.choose(HELLO, NUMBERS)
        answer = await ask(model, HELLO, NUMBERS, samples=2, retries=0)
        return answer.method, model.found_out

    method, found = with_model(server, rated)
    assert method == "sampled"
    assert "ogprobs" in found["logprobs"]


@pytest.mark.parametrize(
    "refusal",
    [
        (
            422,
            {"detail": [FORBIDDEN | {"loc": ["body", "seed"]}]},
        ),
        (400, {"error": {"message": "Unsupported parameter: seed", "param": "seed"}}),
    ],
)
def test_a_seed_that_is_refused_is_left_out(server, refusal):
    server.reset(refuses={"seed": refusal})

    async def twice(model):
        return await model.reply(HELLO, SAMPLING), await model.reply(HELLO, SAMPLING), model.found_out

    first, second, found = with_model(server, twice)
    assert first.text
    assert second.text
    assert "seed" in found["seed"]
    assert server.stats()["requests"] == 3


def test_the_name_of_the_token_limit_is_found_out(server):
    told = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    server.reset(refuses={"max_tokens": (400, {"error": {"message": told}})})
    assert reply(server).text
    assert server.stats()["last"]["max_completion_tokens"] == 48


def test_a_sampling_setting_that_is_refused_is_not_left_out_by_itself(server):
    told = "Unsupported value: 'temperature' does not support 0.7 with this model."
    server.reset(refuses={"temperature": (400, {"error": {"message": told}})})
    with pytest.raises(ChatError, match="add temperature to unsupported"):
        reply(server)
    assert reply(server, unsupported=["temperature"]).text
    assert "temperature" not in server.stats()["last"]


@pytest.mark.parametrize("most", [5, 8])
def test_fewer_alternatives_are_asked_for_where_twenty_are_too_many(server, most):
    mass = {"7": 0.4, "8": 0.2, " 7": 0.1, "9": 0.1, "the": 0.1, "6": 0.04, "5": 0.03, "4": 0.02}
    server.reset(most_logprobs=most, tokens=[mass])
    got = choose(server)
    assert server.stats()["last"]["top_logprobs"] == most
    assert server.stats()["requests"] == 2
    assert got.probabilities["7"] == pytest.approx(0.5)
    assert (got.probabilities["4"] > 0) == (most == 8)
    server.reset(refuses={"top_logprobs": (400, {"error": {"message": "top_logprobs is out of range"}})})
    with pytest.raises(NoLogprobsError):
        choose(server)
    assert server.stats()["requests"] == 2, "20, then 5, then none"


def test_a_name_that_no_list_has_is_tried(server):
    server.reset(models=["gpt-4o", "any"], unlisted=["gpt-4o:nitro"])
    with_model(server, lambda m: m.check(), model="gpt-4o:nitro")
    assert server.stats()["served"] == 1
    server.reset(unlisted=[])
    with pytest.raises(ModelRefusedError, match="no such model"):
        with_model(server, lambda m: m.check(), model="gpt-4o:nitro")


def test_a_model_that_thinks_has_room_for_it(server):
    server.reset(thinks=100)
    short = reply(server)
    assert (short.text, short.finish_reason) == ("", "length")
    assert reply(server, thinking_tokens=100).text
    with pytest.raises(NoLogprobsError):
        choose(server, thinking_tokens=100)


def test_variables_of_the_template_are_sent(server):
    reply(server, chat_template_kwargs={"enable_thinking": False})
    assert server.stats()["last"]["chat_template_kwargs"] == {"enable_thinking": False}
