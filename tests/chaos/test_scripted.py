"""kill -9 on every actor, the driver and the raylet, at random moments of every stage, with models that answer from a
script: the run that was killed ends like the one that was not, bit for bit."""

import random
import time

import pytest

from loop.rundir import RunDir
from tests.chaos.harness import ACTORS, TOTALS, Life, check_halfway, check_whole, content


def live_through(life: Life, roles: list[str], most: int) -> None:
    """Kill something a random while after each stage begins, go on after every death of the driver, to the end."""
    rng, seen = life.rng, ""
    life.start()
    while True:
        if not life.running():
            if life.process.returncode == 0:
                return
            starting = ("raylet", "start") in life.kills[-2:]  # Ray itself was not up yet
            assert life.process.returncode < 0 or starting, life.said()[-3000:]
            assert life.left_behind() == []
            if (life.out / "config.yaml").exists():
                check_halfway(RunDir(life.out))
            life.start()
            seen = ""
        stage = life.stage()
        if stage == seen or len(life.kills) >= most:
            time.sleep(0.005)
            if len(life.kills) >= most:
                life.wait(300)
            continue
        seen = stage
        if stage == "start" and rng.random() < 0.6:  # every restart begins there; the other stages want their share
            continue
        time.sleep(rng.uniform(0, {"start": 12, "rollout": 2.5, "evaluate": 2, "train": 0.4}.get(stage, 0.05)))
        if life.running():
            life.kill(rng.choice(roles))
            if rng.random() < 0.4:  # and something else while the first is being mended
                time.sleep(rng.uniform(0, 2))
                life.running() and life.kill(rng.choice(roles))


def ends_the_same(untouched, tmp_path, seed: int, roles: list[str], most: int) -> Life:
    config, expected = untouched
    life = Life(config, tmp_path / "out", random.Random(seed))
    try:
        live_through(life, roles, most)
    finally:
        TOTALS.update(life.kills)
        if life.running():
            life.process.kill()
    out = RunDir(life.out)
    check_whole(out)
    assert life.left_behind() == []
    found = content(out)
    assert found.keys() == expected.keys()
    differs = [what for what in expected if found[what] != expected[what]]
    assert not differs, f"after {life.kills}: {[(expected[w], found[w]) for w in differs[-1:]]}"
    return life


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3])
def test_actors_die_at_every_stage(untouched, tmp_path, seed):
    life = ends_the_same(untouched, tmp_path, seed, sorted(ACTORS), most=24)
    assert life.starts == 1, life.said()
    assert len(life.kills) >= 8


@pytest.mark.slow
def test_driver_and_raylet_die_and_the_run_is_continued(untouched, tmp_path):
    ends_the_same(untouched, tmp_path, 4, ["driver", "driver", "raylet", "buffer", "trainer"], most=12)


def killed_in_the_rollout(config, out, role: str) -> Life:
    life = Life(config, out, random.Random(0))
    life.start()
    deadline = time.monotonic() + 120
    folder = RunDir(life.out).trajectories("biased", 0)
    while not (life.stage() == "rollout" and len(folder.names()) > 2 and life.kill(role)):
        assert life.running(), life.said()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    TOTALS.update(life.kills)
    return life


@pytest.mark.slow
def test_ray_itself_dies_and_is_started_again(small_untouched, tmp_path):
    config, expected = small_untouched
    slowly = tmp_path / "slowly.yaml"  # actors outlive their raylet by some seconds, in which the run must not end
    one_by_one = config.read_text().replace("pools: 2, concurrency: 8", "pools: 1, concurrency: 1")
    slowly.write_text(one_by_one.replace("capability: 20, concurrency: 16", "capability: 20, concurrency: 1"))
    life = killed_in_the_rollout(slowly, tmp_path / "out", "raylet")
    assert life.wait(300) == 0, life.said()[-3000:]
    assert life.starts == 1
    assert "no machine of the Ray cluster is left; starting again, 1 of 50" in life.said()
    assert content(RunDir(life.out)) == expected
    assert life.left_behind() == []


@pytest.mark.slow
def test_a_torn_file_of_a_killed_run_is_set_aside_and_its_conversations_held_again(small_untouched, tmp_path):
    config, expected = small_untouched
    life = killed_in_the_rollout(config, tmp_path / "out", "driver")
    life.process.wait(60)
    assert life.left_behind() == []
    torn = next((life.out / "rounds/biased/0/trajectories").glob("segment-*"))
    torn.write_bytes(torn.read_bytes()[:-100])
    life.start()
    assert life.wait(300) == 0, life.said()[-3000:]
    assert f"{torn.name}: torn, damaged or renamed" in life.said()
    assert (torn.parent / "set-aside" / torn.name).exists()
    check_whole(RunDir(life.out))
    assert content(RunDir(life.out)) == expected
