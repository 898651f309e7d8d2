"""Engines and pools that die while conversations are held, or engines while a policy is evaluated, come back and take
part in the same, and the run ends like the one that nobody disturbed."""

import json
import random

import pytest

from actors.buffer import RoundData
from loop.rundir import RunDir
from loop.runlog import read_log
from tests.chaos.conftest import ONE_ARM, run_in_peace
from tests.chaos.harness import Life, check_whole, content, until


@pytest.mark.slow
def test_an_engine_that_dies_in_a_round_is_back_in_the_same_round(tmp_path):
    text = ONE_ARM.replace("conversations: 90", "conversations: 600").replace("concurrency: 8", "concurrency: 4")
    config, expected = run_in_peace(tmp_path, text + "assistant: {replicas: {min: 1, max: 2}, cpus: 0.2}\n")
    life = Life(config, tmp_path / "out", random.Random(0))
    out = RunDir(life.out)
    life.start()
    until(life, lambda: life.stage() == "rollout" and len(out.trajectories("biased", 0).names()) > 3)
    heartbeat = json.loads(out.heartbeat.read_text())
    (victim,) = (a for a in heartbeat["actors"] if a["name"] == "assistant-0")
    (process,) = (p for p in life.find("engine") if p.pid == victim["pid"])
    process.kill()
    until(life, lambda: "the assistant is back: assistant-0" in life.said())
    assert life.stage() == "rollout", "long before the round is over"
    delivered = until(life, lambda: [e for e in read_log(out.log, ("stage",)) if "publish" in e["stage"]][1:])
    assert delivered[-1]["of"] == 1, "the policy was delivered to it alone, and proved"
    assert life.wait(300) == 0, life.said()[-3000:]
    assert life.starts == 1
    check_whole(out)
    assert content(out) == expected
    delivered = json.loads(out.delivery("biased", 0).read_text())
    assert len(delivered["replicas"]) == 2
    assert life.left_behind() == []


@pytest.mark.slow
def test_a_pool_that_dies_is_back_in_the_same_round_and_takes_over_what_others_have_not_begun(tmp_path):
    text = ONE_ARM.replace("conversations: 90", "conversations: 900").replace("pools: 2", "pools: {min: 1, max: 2}")
    config, expected = run_in_peace(tmp_path, text.replace("concurrency: 8", "concurrency: 2"))
    life = Life(config, tmp_path / "out", random.Random(0))
    out = RunDir(life.out)
    life.start()
    until(life, lambda: life.stage() == "rollout" and len(out.trajectories("biased", 0).names()) > 3)

    def pool():
        return next(a for a in json.loads(out.heartbeat.read_text())["actors"] if a["name"] == "user-pool-0")

    before = pool()["pid"]
    (process,) = (p for p in life.find("user pool") if p.pid == before)
    process.kill()
    until(life, lambda: "the user pool is back: user-pool-0" in life.said())

    def takes_part():
        now = pool()
        return now.get("pid", before) != before and now["figures"]["conversations"] > 0

    until(life, takes_part)
    held = sum(of.num_rows for of in RoundData(out.trajectories("biased", 0)).scan(["trajectory_id"]))
    assert held < 450, "long before the other pool has held its half"
    assert life.wait(300) == 0, life.said()[-3000:]
    assert life.starts == 1
    check_whole(out)
    assert content(out) == expected
    assert life.left_behind() == []


@pytest.mark.slow
def test_an_engine_that_dies_in_an_evaluation_is_back_in_the_same_evaluation(tmp_path):
    text = ONE_ARM.replace("mask: 96", "mask: 1000").replace("share: 0.0625", "share: 0.01")
    config, expected = run_in_peace(tmp_path, text + "assistant: {replicas: {min: 1, max: 2}, cpus: 0.2}\n")
    life = Life(config, tmp_path / "out", random.Random(0))
    out = RunDir(life.out)
    life.start()
    until(life, lambda: life.stage() == "evaluate" and out.evals("biased", 1).exists(), 300)

    def victim():
        return next(a for a in json.loads(out.heartbeat.read_text())["actors"] if a["name"] == "assistant-0")

    (process,) = (p for p in life.find("engine") if p.pid == victim()["pid"])
    process.kill()
    until(life, lambda: "the assistant is back: assistant-0" in life.said())
    assert life.stage() == "evaluate", "long before it is over"

    def takes_part():
        now = victim()
        return now.get("pid", process.pid) != process.pid and now["figures"]["requests"] > 0

    until(life, takes_part)
    assert life.stage() == "evaluate"
    assert life.wait(300) == 0, life.said()[-3000:]
    assert life.starts == 1
    check_whole(out)
    assert content(out) == expected
    assert life.left_behind() == []
