import pytest

from actors.actor import Pulse
from loop.heartbeat import Watched, to_blame


@pytest.fixture
def watched():
    return Watched(handle=object(), answered=0.0, moved=0.0)


def test_an_actor_with_nothing_to_do_never_stalls(watched):
    for now in range(0, 10_000, 100):
        watched.take(Pulse(False, 3.0, "waits"), now)
        assert watched.stalled(now + 99, 300) is None


def test_an_actor_that_gets_on_never_stalls(watched):
    for now in range(0, 10_000, 100):
        watched.take(Pulse(True, now, "works"), now)
        assert watched.stalled(now + 99, 300) is None


def test_an_actor_with_work_that_gets_nowhere_stalls_from_when_it_began(watched):
    watched.take(Pulse(False, 3.0, "waits"), 1000)
    for now in range(1100, 1500, 100):
        watched.take(Pulse(True, 3.0, "5 requests under way"), now)
    assert watched.stalled(1399, 300) is None  # it began at 1100
    assert "made no progress for 5.2 minutes (5 requests under way)" in watched.stalled(1410, 300)


def test_an_actor_that_does_not_answer_stalls_whatever_it_last_did(watched):
    watched.take(Pulse(False, 0.0, "waits"), 100)
    assert watched.stalled(390, 300) is None
    assert watched.stalled(461, 300) == "it has not answered for 6.0 minutes"


def test_those_that_wait_are_blamed_only_where_nobody_else_is():
    assert to_blame({"assistant-1": "assistant", "user-pool-0": "user pool"}) == ["assistant-1"]
    assert to_blame({"buffer-0": "buffer", "evaluator-0": "evaluator"}) == ["buffer-0"]
    assert to_blame({"user-pool-0": "user pool", "evaluator-0": "evaluator"}) == ["user-pool-0", "evaluator-0"]
    assert to_blame({}) == []
