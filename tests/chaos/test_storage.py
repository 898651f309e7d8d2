"""Storage that is full, forbidden or away: the run stops, says where and why, and continues later."""

import random
import subprocess
import time

import pytest

from loop.rundir import RunDir
from tests.chaos.harness import Life, check_whole, content


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, and a way to mount it again with other options."""

    def mount(options: str) -> None:
        subprocess.run(["mount", *options.split(), disk], check=True, capture_output=True)

    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        mount("-t tmpfs -o size=400k tmpfs")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    yield disk, lambda options: mount(f"-o remount,{options}")
    subprocess.run(["umount", "-l", disk], check=False)


def stops(life: Life, *words: str) -> None:
    """The run stops by itself with one clear message, and leaves no process."""
    assert life.wait(200) == 1, life.said()[-3000:]
    said = life.said()
    for word in words:
        assert word in said, said[-3000:]
    assert "continue with:" in said
    assert "Traceback" not in said, said[-3000:]
    assert life.left_behind() == []


def ends_the_same(life: Life, expected: dict, out: RunDir) -> None:
    life.start()
    assert life.wait(300) == 0, life.said()[-3000:]
    check_whole(out)
    assert content(out) == expected


@pytest.mark.slow
def test_a_full_disk_stops_the_run_which_goes_on_when_there_is_room(small_untouched, small_disk):
    config, expected = small_untouched
    disk, remount = small_disk
    life = Life(config, disk / "out", random.Random(0))
    life.log = disk.parent / "log"
    life.start()
    stops(life, "No space left on device", str(disk))
    remount("size=64m")
    ends_the_same(life, expected, RunDir(life.out))


@pytest.mark.slow
def test_permission_that_is_lost_stops_the_run(small_untouched, small_disk, tmp_path):
    config, expected = small_untouched
    disk, remount = small_disk
    remount("size=64m")
    elsewhere = tmp_path / "elsewhere.yaml"
    elsewhere.write_text(config.read_text().replace("segment_rows: 7", f"segment_rows: 7, uri: {disk}"))
    life = Life(elsewhere, tmp_path / "out", random.Random(0))
    out = RunDir(life.out, str(disk))
    life.start()
    wait_for(lambda: len(list((disk / "out/rounds/biased/0/trajectories").glob("segment-*"))) > 2, life)
    remount("ro")
    stops(life, "Read-only file system", str(disk))
    remount("rw")
    ends_the_same(life, expected, out)


@pytest.mark.slow
def test_an_object_store_that_goes_away_stops_the_run(small_untouched, s3_server, tmp_path):
    config, expected = small_untouched
    uri = s3_server.store().root
    elsewhere = tmp_path / "s3.yaml"
    elsewhere.write_text(config.read_text().replace("segment_rows: 7", f'segment_rows: 7, uri: "{uri}"'))
    life = Life(elsewhere, tmp_path / "out", random.Random(0))
    out = RunDir(life.out, uri)
    life.start()
    wait_for(lambda: life.stage() == "rollout" and len(out.trajectories("biased", 0).names()) > 2, life)
    s3_server.stop()
    stops(life, "trajectories/segment-", "cannot be written")
    s3_server.start()
    ends_the_same(life, expected, out)


@pytest.mark.slow
def test_an_actor_that_keeps_dying_stops_the_run_with_what_it_died_of(small_untouched, tmp_path):
    config, expected = small_untouched
    few = tmp_path / "few.yaml"
    few.write_text(config.read_text().replace("max_restarts: 50", "max_restarts: 2"))
    life = Life(few, tmp_path / "out", random.Random(0))
    life.start()
    deadline = time.monotonic() + 200
    while life.running() and time.monotonic() < deadline:
        if life.stage() == "rollout":
            life.kill("judge")
        time.sleep(0.2)
    stops(life, "the judge died 3 times within a round (cluster.max_restarts: 2); its last error: ", "SYSTEM_ERROR")
    ends_the_same(life, expected, RunDir(life.out))


def wait_for(what, life: Life) -> None:
    deadline = time.monotonic() + 120
    while not what():
        assert life.running(), life.said()[-3000:]
        assert time.monotonic() < deadline, life.said()[-3000:]
        time.sleep(0.02)
