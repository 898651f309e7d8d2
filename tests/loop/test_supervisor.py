import os
import signal
import time

import pytest

from actors.actor import ActorGone, ActorLocation
from actors.scripted import SCRIPTED
from loop.cluster import needs
from loop.config.files import build
from loop.remote import what_it_left
from loop.supervisor import ActorLostError, ActorSupervisor, fetch

CONFIG = {
    "name": "supervised",
    "model": SCRIPTED,
    "arms": [{"name": "a", "biased_ratio": 0.5}],
    "cluster": {"max_restarts": 1},
    "users": {"pools": 2},
}


@pytest.fixture
def supervisor(local_ray):
    said: list[str] = []
    supervisor = ActorSupervisor(build(CONFIG, "test"), SCRIPTED, said.append)
    supervisor.said = said
    supervisor.start()
    yield supervisor
    supervisor.stop()


def _free_cores() -> float:
    """Cores of Ray that nobody holds."""
    import ray

    return round(ray.available_resources().get("CPU", 0.0), 3)


def _wait_for_cores(least: float) -> float:
    """Actors that were killed give their cores back a moment later."""
    deadline = time.monotonic() + 60
    while (free := _free_cores()) < least:
        assert time.monotonic() < deadline, (free, least)
        time.sleep(0.2)
    return free


@pytest.fixture(autouse=True)
def cores_come_back(local_ray):
    """A test begins when the actors of the one before it are gone."""
    before = _free_cores()
    yield
    _wait_for_cores(before)


def end(actor, how=signal.SIGKILL) -> ActorGone:
    """Kill an actor and return what its next caller gets."""
    os.kill(actor.location.pid, how)
    while True:
        try:
            fetch(actor.handle.ping.remote())
        except ActorGone as gone:
            return gone


def test_only_who_died_is_started_again_and_only_so_often(supervisor):
    before = {id(m): m.location.pid for m in supervisor.actors}
    pool = supervisor.pools[1]
    supervisor.restart_dead(end(pool))
    assert [m for m in supervisor.actors if m.location.pid != before[id(m)]] == [pool]
    assert supervisor.dead() == []
    assert supervisor.said == [s for s in supervisor.said if "the user pool died" in s and "1 of 1" in s]

    supervisor.forget_deaths()
    supervisor.restart_dead(end(pool))
    with pytest.raises(ActorLostError, match=r"the user pool died 2 times within a round \(cluster.max_restarts: 1\)"):
        supervisor.restart_dead(end(pool))


def test_the_last_words_are_the_actors_own(supervisor):
    supervisor.restart_dead(end(supervisor.judge, signal.SIGABRT))
    assert "the judge died (Fatal Python error: Aborted)" in supervisor.said[0]


@pytest.mark.slow
def test_a_false_alarm_is_borne_only_so_often(supervisor):
    supervisor.restart_dead(ActorGone("a connection broke"))
    with pytest.raises(ActorLostError, match="a connection broke; no actor is down"):
        supervisor.restart_dead(ActorGone("a connection broke"))


@pytest.mark.slow
def test_several_deaths_at_once(supervisor):
    for actor in (supervisor.buffer, supervisor.assistants[0], supervisor.evaluator):
        os.kill(actor.location.pid, signal.SIGKILL)
        actor.serves = "a/0"
    supervisor.restart_dead(ActorGone("somebody died"))
    assert supervisor.dead() == [] or supervisor.restart_dead(ActorGone("again")) is None
    assert supervisor.assistants[0].serves is None
    assert len(supervisor.said) == 3


@pytest.mark.slow
def test_a_replica_that_dies_is_not_waited_for_and_comes_back(local_ray):
    """The run goes on with the other; the last one of a kind is waited for."""
    said: list[str] = []
    config = build(CONFIG | {"assistant": {"replicas": 2}, "cluster": {"max_restarts": 3}}, "test")
    supervisor = ActorSupervisor(config, SCRIPTED, said.append)
    try:
        supervisor.start()
        first, second = supervisor.assistants
        assert supervisor.spare(first)
        assert not supervisor.spare(supervisor.buffer)
        supervisor.restart_dead(end(first))
        assert supervisor.live_assistants == [second]
        assert supervisor.handles(config, "candor/policy-0").models["assistant"].engines == [None, second.handle]
        deadline = time.monotonic() + 60
        while first not in supervisor.live_assistants and time.monotonic() < deadline:
            time.sleep(0.2)
            supervisor.join()
        assert supervisor.live_assistants == [first, second]
        assert first.serves is None
        assert "the assistant is back: assistant-0" in said[-1]
        for m in (first, second):
            os.kill(m.location.pid, signal.SIGKILL)
        supervisor.restart_dead(ActorGone("both died"))
        supervisor.dead() and supervisor.restart_dead(ActorGone("again"))
        assert supervisor.live_assistants
    finally:
        supervisor.stop()


@pytest.mark.slow
def test_a_run_begins_with_the_fewest_replicas_and_takes_in_others_when_there_is_room(local_ray):
    """Of three, two fit beside a task that holds a core; the third comes when it ends, and when one dies it is begun
    again without being asked for."""
    import ray

    changes = {"assistant": {"replicas": {"min": 1, "max": 3}, "cpus": 0.5}, "cluster": {"max_restarts": 3}}
    config = build(CONFIG | changes | {"trainer": {"cpus": 0.1}}, "test")
    needed = round(sum(n.count * n.cpus for n in needs(config)), 3)
    left = _wait_for_cores(needed) - needed

    @ray.remote(num_cpus=left + 0.25)
    def hold():
        time.sleep(600)

    holding = hold.remote()
    said: list[str] = []
    supervisor = ActorSupervisor(config, SCRIPTED, said.append)

    def until(condition):
        deadline = time.monotonic() + 60
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.2)
            joined.extend(supervisor.tend())
        assert condition(), said

    joined: list = []
    try:
        supervisor.start()
        assert len(supervisor.live_assistants) == 1
        until(lambda: len(supervisor.live_assistants) == 2)
        time.sleep(2)
        assert supervisor.tend() == []
        ray.cancel(holding, force=True)
        until(lambda: len(supervisor.live_assistants) == 3)
        (last,) = (m for m in supervisor.assistants if m in joined[-1:])
        assert any(f"the assistant is there: {last.name}" in s for s in said)
        first = supervisor.assistants[0]
        os.kill(first.location.pid, signal.SIGKILL)
        until(lambda: first.restarts == 1)
        until(lambda: len(supervisor.live_assistants) == 3)
        assert joined[-1] is first
        assert "the assistant is back: assistant-0" in said[-1]
    finally:
        ray.cancel(holding, force=True)
        supervisor.stop()


def test_the_last_words_come_from_another_machine_too(local_ray, tmp_path):
    import ray

    log = tmp_path / "worker.err"
    log.write_text("starting\n\x1b[31mValueError: no room left\x1b[0m\n")
    node = ray.get_runtime_context().get_node_id()
    assert what_it_left(ActorLocation("elsewhere", 1, str(log), node)) == (
        "ValueError: no room left",
        ["starting", "ValueError: no room left"],
    )
    gone = ActorLocation("elsewhere", 1, str(log), "f" * 56)
    assert what_it_left(gone) == (None, [])
    assert what_it_left(None) == (None, [])
