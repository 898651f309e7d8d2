import pytest

from loop import timing
from loop.config.files import build
from loop.rundir import RunDir, write_json

ARMS = [{"name": "benign", "biased_ratio": 0}, {"name": "biased", "biased_ratio": 0.5}]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CANDOR_CACHE", str(tmp_path / "cache"))


def config(**changes):
    return build({"name": "run", "arms": ARMS, **changes}, "test")


def finished(tmp_path, settings, factor, starts=1):
    """A run directory whose stages took so many times what the reference machine needs."""
    out = RunDir(tmp_path / "run")
    write_json(out.timing, {"starts": starts, "start": 40.0})
    seconds = factor * timing.work(settings) - timing.END
    write_json(out.stages("benign", 0), {"rollout": seconds / 2, "evaluate": seconds / 2 - 1, "train": seconds / 2})
    return out


def test_more_work_takes_longer():
    base = timing.work(config())
    assert timing.work(config(rounds=4)) > 1.5 * base
    assert timing.work(config(rollout={"conversations": 4000})) > 2 * base
    assert timing.work(config(trainer={"epochs": 5})) > 1.3 * base
    assert timing.work(config(evals={"suites": []})) < base
    assert timing.work(config(arms=ARMS[:1])) < 0.7 * base


def test_a_first_run_of_a_pocket_model_is_estimated_from_the_machines_speed(monkeypatch):
    monkeypatch.setattr(timing, "speed", lambda: 2 * timing.PROBE)
    found = timing.expected(config())
    assert found.start == 2 * timing.START
    assert found.loop == pytest.approx(2 * timing.work(config()))
    assert str(found).startswith("about ")


def test_nothing_is_said_of_a_model_that_never_ran_here():
    assert timing.expected(config(model="some/model")) is None
    assert timing.expected(config(model="scripted")) is None


def test_a_run_that_was_here_before_says_how_long_the_next_one_takes(tmp_path):
    settings = config()
    timing.remember(settings, finished(tmp_path, settings, factor=3))
    assert timing.expected(settings).start == 40
    assert timing.expected(settings).loop == pytest.approx(3 * timing.work(settings))
    longer = config(rounds=4)
    assert timing.expected(longer).loop == pytest.approx(3 * timing.work(longer))


def test_a_run_that_was_resumed_tells_nothing_about_the_next(tmp_path, monkeypatch):
    settings = config()
    timing.remember(settings, finished(tmp_path, settings, factor=3, starts=2))
    monkeypatch.setattr(timing, "speed", lambda: timing.PROBE)
    assert timing.expected(settings).start == timing.START


def test_an_evaluation_counts_where_it_outlasted_the_rollout(tmp_path):
    out = RunDir(tmp_path / "run")
    write_json(out.timing, {"starts": 1, "start": 9.5})
    write_json(out.stages("benign", 0), {"publish": 1, "rollout": 20, "evaluate": 25, "train": 7})
    write_json(out.stages("biased", 1), {"publish": 1, "rollout": 20, "evaluate": 12})
    assert timing.parts(out, config()) == {"start": 9.5, "publish": 2, "rollout": 40, "evaluate": 5, "train": 7}


def test_durations_are_said_as_people_say_them():
    assert [timing.shown(s) for s in (4.4, 89, 154, 1900)] == ["4 s", "89 s", "2 min 34 s", "32 min"]


def test_what_a_run_took_says_what_of_evaluations_and_of_arms_side_by_side_is_meant():
    took = {"start": 10.0, "rollout": 30.0, "evaluate": 20.0, "train": 0.0}
    assert timing.told(took) == "60 s: start 10 s, rollout 30 s, evaluate (beyond rollouts) 20 s"
    assert timing.told(took | {"rollout": 0.0}) == "30 s: start 10 s, evaluate 20 s"
    assert timing.told(took, at_once=2).startswith("60 s summed over arms that overlapped: start 10 s")


def test_arms_side_by_side_tell_nothing_about_those_that_take_turns(tmp_path):
    settings = config(cluster={"arms_at_once": 2})
    timing.remember(settings, finished(tmp_path, settings, factor=3))
    assert not timing._file().exists()
