import os
import signal

import pytest

from actors.lifeline import ActorGone
from actors.scripted import SCRIPTED
from loop.config import build
from loop.crew import ActorLostError, Crew, fetch

CONFIG = {
    "name": "crew",
    "model": SCRIPTED,
    "arms": [{"name": "a", "biased_ratio": 0.5}],
    "cluster": {"max_restarts": 1},
    "users": {"pools": 2},
}


@pytest.fixture
def crew(local_ray):
    said: list[str] = []
    crew = Crew(build(CONFIG, "test"), SCRIPTED, said.append)
    crew.said = said
    crew.start()
    yield crew
    crew.stop()


def end(member, how=signal.SIGKILL) -> ActorGone:
    """Kill an actor and return what its next caller gets."""
    os.kill(member.where.pid, how)
    while True:
        try:
            fetch(member.handle.ping.remote())
        except ActorGone as gone:
            return gone


def test_only_who_died_is_started_again_and_only_so_often(crew):
    before = {id(m): m.where.pid for m in crew.members}
    pool = crew.pools[1]
    crew.heal(end(pool))
    assert [m for m in crew.members if m.where.pid != before[id(m)]] == [pool]
    assert crew.dead() == []
    assert crew.said == [s for s in crew.said if "the user pool died" in s and "1 of 1" in s]

    crew.all_is_well()
    crew.heal(end(pool))
    with pytest.raises(ActorLostError, match=r"the user pool died 2 times within a round \(cluster.max_restarts: 1\)"):
        crew.heal(end(pool))


def test_the_last_words_are_the_actors_own(crew):
    crew.heal(end(crew.judge, signal.SIGABRT))
    assert "the judge died (Fatal Python error: Aborted)" in crew.said[0]


def test_a_false_alarm_is_borne_only_so_often(crew):
    crew.heal(ActorGone("a connection broke"))
    with pytest.raises(ActorLostError, match="a connection broke; no actor is down"):
        crew.heal(ActorGone("a connection broke"))


def test_several_deaths_at_once(crew):
    for member in (crew.buffer, crew.assistants[0], crew.evaluator):
        os.kill(member.where.pid, signal.SIGKILL)
        member.serves = "a/0"
    crew.heal(ActorGone("somebody died"))
    assert crew.dead() == [] or crew.heal(ActorGone("again")) is None
    assert crew.assistants[0].serves is None
    assert len(crew.said) == 3
