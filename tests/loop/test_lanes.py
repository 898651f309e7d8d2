"""Arms at work side by side: their order at the beginning, and how all end when one fails."""

import io
import threading
import time

import pytest
from rich.console import Console

from loop.lanes import Turns, side_by_side
from loop.report.terminal import Stages, Stopped
from loop.supervisor import ClusterGoneError


@pytest.fixture
def ui():
    return Stages(Console(file=io.StringIO()))


def busy(ui, ended):
    """A job without an end of its own, that looks at times whether it is to stop."""
    try:
        while True:
            ui.heed()
            time.sleep(0.01)
    except Stopped:
        ended.append(threading.current_thread().name)
        raise


def test_jobs_are_at_work_at_the_same_time(ui):
    both = threading.Barrier(2, timeout=10)  # neither gets past it alone
    side_by_side([both.wait, both.wait], ui)
    ui.heed()


def test_a_single_job_stays_in_the_main_thread_which_signals_reach(ui):
    at = []
    side_by_side([lambda: at.append(threading.current_thread())], ui)
    assert at == [threading.main_thread()]


def test_where_one_fails_the_others_end_and_its_error_is_raised(ui):
    ended, wrong = [], ValueError("nothing to be trained on")

    def fails():
        raise wrong

    with pytest.raises(ValueError, match="nothing to be trained on"):
        side_by_side([lambda: busy(ui, ended), fails, lambda: busy(ui, ended)], ui)
    assert ended == ["arms-0", "arms-2"] or ended == ["arms-2", "arms-0"]
    ui.heed()  # what comes after it is not stopped


def test_that_the_cluster_is_gone_comes_before_what_follows_from_it(ui):
    both = threading.Barrier(2, timeout=10)

    def fails(error, after):
        both.wait()
        time.sleep(after)
        raise error

    jobs = [lambda: fails(RuntimeError("died too often"), 0), lambda: fails(ClusterGoneError("gone"), 0.05)]
    with pytest.raises(ClusterGoneError):
        side_by_side(jobs, ui)


def test_a_stop_ends_them_all(ui):
    ended = []

    def asks_to_stop():
        with pytest.raises(Stopped):
            ui.stop()
        busy(ui, ended)

    with pytest.raises(Stopped):
        side_by_side([asks_to_stop, lambda: busy(ui, ended)], ui)
    assert len(ended) == 2


def test_one_that_does_not_look_is_left_behind_and_ends_when_it_does(ui, monkeypatch):
    monkeypatch.setattr("loop.lanes.END_SECONDS", 0.2)
    goes_on, ended = threading.Event(), []

    def stuck():
        goes_on.wait(10)
        busy(ui, ended)

    def fails():
        raise ValueError("no rows")

    with pytest.raises(ValueError, match="no rows"):
        side_by_side([stuck, fails], ui)
    ui.heed()  # whoever comes after it is not stopped
    side_by_side([ui.heed, ui.heed], ui)
    goes_on.set()
    deadline = time.monotonic() + 10
    while not ended and time.monotonic() < deadline:
        time.sleep(0.01)
    assert ended == ["arms-0"]


def test_arms_begin_in_their_order(ui):
    turns, began = Turns({"a": [], "b": ["a"], "c": ["a", "b"]}), []

    def arm(name):
        with turns.over_at_last(name):
            turns.wait_for(name, ui)
            began.append(name)
            time.sleep(0.05)

    side_by_side([lambda: arm("c"), lambda: arm("b"), lambda: arm("a")], ui)
    assert began == ["a", "b", "c"]


def test_arms_with_nothing_in_common_wait_for_nobody(ui):
    Turns({"a": [], "b": []}).wait_for("b", ui)


def test_an_arm_that_fails_keeps_nobody_waiting(ui):
    turns, went_on = Turns({"a": [], "b": ["a"]}), []
    with pytest.raises(ValueError, match="no rows"), turns.over_at_last("a"):
        raise ValueError("no rows")

    def waits():
        turns.wait_for("b", ui)
        went_on.append("b")

    other = threading.Thread(target=waits, daemon=True)
    other.start()
    other.join(5)
    assert went_on == ["b"]


def test_who_waits_for_a_turn_can_be_stopped(ui):
    turns = Turns({"a": [], "b": ["a"]})
    with pytest.raises(Stopped):
        ui.stop()
    with pytest.raises(Stopped):
        turns.wait_for("b", ui)
