import asyncio
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.models.chat import ChatError, Choice, Reply, Sampling
from actors.models.usage import MARGIN, TOKENS_PER_MESSAGE, BudgetError, BudgetLease, MeteredModel, UsageLedger, cost_of
from actors.settings import Prices

QUESTION = [{"role": "user", "content": "Grüezi"}]


async def settle():
    """Let everybody go on who can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def spend(allowance, rng, workers, conversations, requests, largest):
    """Hold conversations whose requests cost at most what is put aside for each, in an order that the seed decides.

    Returns:
        The lease, the costs of what was finished, and what was given up.
    """
    lease, todo, finished, given_up = BudgetLease(allowance), iter(range(conversations)), [], []

    async def request():
        most = rng.uniform(0, largest)
        await lease.reserve(most)
        for _ in range(rng.randrange(4)):
            await asyncio.sleep(0)
        price = rng.choice([0.0, rng.uniform(0, most), most])
        lease.pay(most, price)
        assert lease.spent <= allowance + 1e-9
        return price

    async def work():
        while await lease.begin():
            cost, i = 0.0, next(todo, None)
            try:
                if i is None:
                    return
                for _ in range(rng.randint(1, requests)):
                    cost += sum(await asyncio.gather(*(request() for _ in range(rng.randint(1, 3)))))
                finished.append(cost)
            except BudgetError:
                given_up.append(i)
                return
            finally:
                lease.end(cost)

    await asyncio.wait_for(asyncio.gather(*(work() for _ in range(workers))), 20)
    return lease, finished, given_up


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    allowance=st.floats(0, 50),
    workers=st.integers(1, 12),
    conversations=st.integers(0, 40),
    requests=st.integers(1, 6),
    largest=st.floats(0.01, 3),
)
def test_a_lease_is_never_overdrawn_and_nobody_waits_for_ever(
    seed, allowance, workers, conversations, requests, largest
):
    rng = random.Random(seed)
    lease, finished, given_up = asyncio.run(spend(allowance, rng, workers, conversations, requests, largest))
    assert 0 <= lease.spent <= allowance + 1e-9
    assert len(finished) + len(given_up) <= conversations
    assert sum(finished) <= lease.spent + 1e-9


def test_what_is_enough_for_all_is_given_to_all():
    for seed in range(20):
        _, finished, given_up = asyncio.run(spend(1e4, random.Random(seed), 8, 30, 4, 1))
        assert (len(finished), given_up) == (30, [])


def test_rounding_errors_are_no_request_to_wait_for():
    async def run():
        lease = BudgetLease(1.0)
        for most in (0.1, 0.2, 0.3):
            await lease.reserve(most)
        for most in (0.1, 0.2, 0.3):
            lease.pay(most, 0.0)
        with pytest.raises(BudgetError):
            await asyncio.wait_for(lease.reserve(1.5), 1)
        await asyncio.wait_for(lease.reserve(1.0), 1)  # all of it, to the last bit

    asyncio.run(run())


def test_a_request_waits_while_another_is_under_way_and_fails_only_when_alone():
    async def run():
        lease = BudgetLease(10)
        await lease.reserve(6)
        waiting = asyncio.ensure_future(lease.reserve(6))
        await settle()
        assert not waiting.done()
        lease.pay(6, 2)  # it has turned out cheaper
        await asyncio.wait_for(waiting, 1)
        too_much = asyncio.ensure_future(lease.reserve(6))
        await settle()
        assert not too_much.done()
        lease.pay(6, 6)
        with pytest.raises(BudgetError):
            await asyncio.wait_for(too_much, 1)
        assert lease.spent == 8

    asyncio.run(run())


def test_the_first_conversation_is_held_alone_and_the_others_while_the_dearest_fits():
    async def run():
        lease = BudgetLease(10)
        assert await lease.begin()
        second = asyncio.ensure_future(lease.begin())
        third = asyncio.ensure_future(lease.begin())
        await settle()
        assert not second.done()
        await lease.reserve(1)
        lease.pay(1, 1)
        lease.end(3)
        assert await asyncio.wait_for(second, 1)  # 9 are left for 3 * 1.25 and a request of 1
        await settle()
        assert 2 * 3 * MARGIN + 1 <= 9
        assert await asyncio.wait_for(third, 1)
        fourth = asyncio.ensure_future(lease.begin())
        await settle()
        assert not fourth.done()
        for _ in range(2):
            await lease.reserve(3)
            lease.pay(3, 3)
            lease.end(3)
        assert await asyncio.wait_for(fourth, 1) is False  # 3 are left

    asyncio.run(run())


def test_a_lease_without_a_limit_only_counts():
    async def run():
        lease = BudgetLease(None)
        for _ in range(1000):
            assert await lease.begin()
            await lease.reserve(1e9)
        for _ in range(1000):
            lease.pay(1e9, 2.0)
            lease.end(2.0)
        return lease.spent

    assert asyncio.run(run()) == 2000.0


class Told:
    """A model that answers with what it is given; errors are raised."""

    def __init__(self, *answers):
        self.answers = list(answers)

    async def reply(self, messages, sampling):
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def choose(self, messages, choices):
        return await self.reply(messages, None)


def reply(text="Hm.", sent=10, received=3, **faults):
    return Reply(text, [], [], "stop", sent, received, "m", faults)


def metered(model, ledger, role="user", name="gpt", lease=None, price=None, keep=False):
    return MeteredModel(model, name, role, ledger, lease or BudgetLease(None), price, keep)


def say(model, *, times=1, max_tokens=8):
    async def run():
        return [await model.reply(QUESTION, Sampling(max_tokens)) for _ in range(times)]

    return asyncio.run(run())


def test_a_bill_has_a_line_for_each_role_and_model():
    ledger = UsageLedger()
    say(metered(Told(reply(), reply(sent=20, received=4)), ledger), times=2)
    say(metered(Told(reply()), ledger, role="rater"))
    say(metered(Told(reply()), ledger, role="rater", name="other"))
    assert [tuple(u.values()) for u in ledger.usage()] == [
        ("user", "gpt", 2, 30, 7),
        ("rater", "gpt", 1, 10, 3),
        ("rater", "other", 1, 10, 3),
    ]
    assert ledger.faults() == []


def test_faults_are_on_the_bill_whether_an_answer_came_at_last_or_not():
    ledger = UsageLedger()
    model = metered(Told(reply(**{"429": 2}), ChatError("gone", {"429": 1, "500": 3}), reply()), ledger)
    say(model)
    with pytest.raises(ChatError):
        say(model)
    say(model)
    assert [tuple(u.values()) for u in ledger.usage()] == [("user", "gpt", 2, 20, 6)]
    assert {(f["role"], f["kind"]): f["count"] for f in ledger.faults()} == {("user", "429"): 3, ("user", "500"): 3}


def test_prompts_and_answers_are_kept_only_where_no_transcript_has_them():
    ledger = UsageLedger()
    say(metered(Told(reply()), ledger))
    say(metered(Told(reply("7")), ledger, role="rater", keep=True))
    chosen = metered(Told(Choice({"1": 0.25, "2": 1 / 3}, 5)), ledger, role="judge", keep=True)
    asyncio.run(chosen.choose(QUESTION, ["1", "2"]))
    with pytest.raises(ChatError):
        say(metered(Told(ChatError("gone")), ledger, keep=True))
    assert [(a.role, a.messages) for a in ledger.asked] == [("rater", QUESTION), ("judge", QUESTION)]
    assert ledger.asked[0].answer == "7"
    assert json.loads(ledger.asked[1].answer) == {"1": 0.25, "2": 0.333333}


def test_a_request_is_paid_with_its_price_and_nothing_stays_put_aside():
    lease, price = BudgetLease(1.0), Prices(prompt=1e4, completion=1e5)
    model = metered(Told(reply(), ChatError("gone"), reply()), UsageLedger(), lease=lease, price=price)
    # Grüezi has 7 bytes, so 7 + 16 tokens at most are sent
    most = ((7 + TOKENS_PER_MESSAGE) * 1e4 + 3 * 1e5) / 1e6
    say(model, max_tokens=3)
    assert lease.spent == pytest.approx(10 * 1e4 / 1e6 + 3 * 1e5 / 1e6) == pytest.approx(0.4)
    with pytest.raises(ChatError):
        say(model, max_tokens=3)
    assert lease.spent == pytest.approx(0.4)
    assert 0.4 + most < 1 < 0.4 + most + 2 * 1e5 / 1e6
    with pytest.raises(BudgetError):
        say(model, max_tokens=5)
    say(model, max_tokens=3)
    assert lease.spent == pytest.approx(0.8)


def test_a_model_without_a_price_is_asked_when_the_money_is_spent():
    lease = BudgetLease(0.5)
    lease.spent = 0.5
    say(metered(Told(reply()), UsageLedger(), lease=lease))
    assert lease.spent == 0.5
    with pytest.raises(BudgetError):
        say(metered(Told(reply()), UsageLedger(), lease=lease, price=Prices(prompt=1, completion=1)))


def test_money_is_what_the_tokens_of_models_with_a_price_cost():
    ledger = UsageLedger()
    say(metered(Told(reply(sent=1000, received=100)), ledger))
    say(metered(Told(reply(sent=500, received=50)), ledger, role="rater"))
    say(metered(Told(reply()), ledger, role="assistant", name="assistant"))
    say(metered(Told(reply()), ledger, role="judge", name="free"))
    prices = {"gpt": Prices(prompt=2, completion=8), "free": None}
    assert cost_of(ledger.usage(), prices) == pytest.approx((1500 * 2 + 150 * 8) / 1e6)
    assert cost_of([], prices) == 0.0


def test_a_lease_lets_many_begin_where_conversations_cost_nothing():
    async def main():
        lease = BudgetLease(5.0)
        assert await lease.begin()
        lease.end(0.0)
        return [await asyncio.wait_for(lease.begin(), 1) for _ in range(5)]

    assert asyncio.run(main()) == [True] * 5


def test_an_answer_that_is_of_no_use_is_paid_for():
    class Silent:
        async def reply(self, messages, sampling):
            raise ChatError("a content filter cut the reply", {"500": 1}, 1000, 20)

    ledger, lease = UsageLedger(), BudgetLease(1.0)
    model = MeteredModel(Silent(), "gpt", "user", ledger, lease, Prices(prompt=10, completion=100), keep=False)
    with pytest.raises(ChatError):
        asyncio.run(model.reply([{"role": "user", "content": "Hello"}], Sampling(20)))
    assert lease.spent == pytest.approx(0.012)
    (line,) = ledger.usage()
    assert (line["requests"], line["prompt_tokens"], line["completion_tokens"]) == (1, 1000, 20)
