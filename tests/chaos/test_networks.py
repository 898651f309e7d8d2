"""A cluster of machines with addresses of their own: two die, one is cut off and comes back, others take their places,
and the run ends like the one that nobody disturbed."""

import json
import random

import psutil
import pytest

from loop.rundir import RunDir
from tests.chaos.conftest import ONE_ARM, run_in_peace
from tests.chaos.harness import Life, check_whole, content, until
from tests.chaos.networks import TOKEN, machines, why_not


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    if reason := why_not():
        pytest.skip(reason)
    for name, value in TOKEN.items():
        monkeypatch.setenv(name, value)
    with machines(tmp_path) as made:
        made.add(1, cpus=0)
        for number in (2, 3, 4):
            made.add(number, cpus=2)
        yield made


@pytest.mark.slow
def test_machines_die_and_are_cut_off_and_others_take_their_places(cluster, tmp_path):
    text = ONE_ARM.replace("conversations: 90", "conversations: 300").replace("rounds: 1", "rounds: 2")
    _, expected = run_in_peace(tmp_path, text)
    joined = tmp_path / "joined.yaml"
    joined.write_text(text.replace("max_restarts: 50", f'max_restarts: 50, address: "{cluster.address}"'))
    life = Life(joined, tmp_path / "out", random.Random(0), before=cluster.inside(1))
    out = RunDir(life.out)
    life.start()

    def home(actor: str) -> int:
        """The machine on which an actor is, once the heartbeat knows it."""

        def known():
            listed = json.loads(out.heartbeat.read_text())["actors"]
            pid = next(a for a in listed if a["name"] == actor).get("pid")
            return pid and psutil.pid_exists(pid) and cluster.of(pid)

        return until(life, known)

    def at_work(round_: int) -> bool:
        return life.stage() == "rollout" and len(out.trajectories("biased", round_).names()) > 3

    until(life, lambda: at_work(0))
    first = home("user-pool-0")
    cluster.kill(first)
    cluster.start(first, cpus=2)
    until(life, lambda: life.stage() == "train")
    second = home("trainer-0")
    cluster.kill(second)
    assert life.stage() == "train"
    cluster.start(second, cpus=2)
    until(life, lambda: at_work(1))
    third = home("buffer-0")
    dead = life.said().count("died")
    cluster.cut(third)
    until(life, lambda: life.said().count("died") > dead)
    cluster.heal(third)
    # Told that it counts as dead, its raylet ends, and with it the actors that went on there.
    until(life, lambda: not cluster.processes(third))
    assert life.wait(400) == 0, life.said()[-3000:]
    assert life.starts == 1
    check_whole(out)
    assert content(out) == expected
