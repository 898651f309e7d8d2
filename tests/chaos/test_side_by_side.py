"""Arms that are at work side by side find what arms that take turns find, bit for bit, whatever dies meanwhile."""

import random
import signal
import time

import pytest

from loop.rundir import RunDir, read_json
from tests.chaos.harness import Life, check_whole, content, until

BESIDE = """
assistant: {cpus: 0.05}
users: {pools: 2, concurrency: 8, cpus: 0.05, engine: {cpus: 0.05}}
judge: {cpus: 0.05}
"""
"""Room for two sets on two cores, without other settings of the trainer and the evaluator, which are recorded."""


@pytest.fixture
def life(untouched, tmp_path):
    """A run of the same config with both arms at once."""
    text = untouched[0].read_text().replace("users: {pools: 2, concurrency: 8}\n", BESIDE)
    text = text.replace("cluster: {", "cluster: {arms_at_once: 2, ")
    config = tmp_path / "beside.yaml"
    config.write_text(text)
    made = Life(config, tmp_path / "out", random.Random(0))
    yield made
    if made.running():
        made.process.kill()


def heartbeat(life):
    return read_json(RunDir(life.out).heartbeat)


def same(life, expected):
    """The run found what it should; how its actors were placed is not part of that."""
    out = RunDir(life.out)
    check_whole(out)
    found = content(out)
    changes = found["summary"].pop("changes", [])
    expected = {**expected, "summary": {k: v for k, v in expected["summary"].items() if k != "changes"}}
    assert [k for k in expected if found[k] != expected[k]] == []
    return changes


@pytest.mark.slow
def test_arms_at_once_find_what_arms_in_turn_find(untouched, life):
    life.start()

    def both_at_work():
        return {"benign", "biased"} <= {s.get("arm") for s in heartbeat(life).get("stages", [])}

    until(life, both_at_work)
    names = [a["name"] for a in heartbeat(life)["actors"]]
    assert len(names) == len(set(names))
    assert {"trainer-0", "trainer-1", "user-pool-3"} <= set(names)
    assert life.wait(300) == 0, life.said()[-3000:]
    assert "biased waits for benign" in life.said()
    assert same(life, untouched[1]) == []


@pytest.mark.slow
def test_actors_of_either_arm_may_die(untouched, life):
    life.start()
    roles = ("trainer", "user pool", "engine", "buffer", "evaluator")
    for role in roles:
        until(life, lambda: life.stage() not in ("start", "plan"))
        until(life, lambda role=role: life.kill(role))
        time.sleep(0.7)
    assert {role for role, _ in life.kills} == set(roles)
    assert life.wait(300) == 0, life.said()[-3000:]
    same(life, untouched[1])


@pytest.mark.slow
def test_a_run_that_is_stopped_goes_on_one_arm_at_a_time(untouched, life):
    life.start()
    until(life, lambda: (RunDir(life.out).policy("benign", 1)).exists())
    life.process.send_signal(signal.SIGTERM)
    assert life.wait(60) == 130, life.said()[-3000:]
    assert life.left_behind() == []
    life.config.write_text(life.config.read_text().replace("arms_at_once: 2", "arms_at_once: 1"))
    life.start()
    assert life.wait(300) == 0, life.said()[-3000:]
    assert [row["key"] for row in same(life, untouched[1])] == ["cluster.arms_at_once"]
