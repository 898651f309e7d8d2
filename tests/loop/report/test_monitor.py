import contextlib
import io
import sys

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from actors.metrics import TensorBoard
from loop.report.monitor import Monitor
from loop.report.terminal import Stages, Stopped


def quiet():
    return Stages(Console(file=io.StringIO()))


def test_a_stage_leaves_one_line_when_it_ends_well():
    out = io.StringIO()
    with Stages(Console(file=out)) as ui, ui.stage("rollout", 20, "conversations") as stage:
        stage.update(20)
    assert out.getvalue().startswith("✓ rollout: 20 conversations in ")
    assert "conversations/s" in out.getvalue()


def test_a_stage_that_fails_leaves_none():
    out = io.StringIO()
    with pytest.raises(OSError, match="gone"), Stages(Console(file=out)) as ui, ui.stage("rollout", 20, "c"):
        raise OSError("gone")
    assert out.getvalue() == ""


def test_a_stop_that_was_swallowed_is_raised_again():
    ui = quiet()
    with contextlib.suppress(Stopped):  # as in a callback whose exceptions are dropped
        ui.stop()
    with ui, pytest.raises(Stopped), ui.stage("train", 2, "steps") as stage:
        stage.update(1)


def test_a_stop_that_python_drops_is_raised_again_and_not_reported(monkeypatch):
    """As a signal does that arrives while Python runs a finalizer or a hook of `os.fork`."""
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", lambda dropped: reported.append(dropped.exc_type))

    class Holder:
        def __init__(self, at_end):
            self.at_end = at_end

        def __del__(self):
            self.at_end()

    with quiet() as ui:
        Holder(ui.stop)
        Holder(lambda: 1 / 0)
        with pytest.raises(Stopped), ui.stage("train", 2, "steps"):
            pytest.fail("the stage began")
    assert reported == [ZeroDivisionError]


def test_the_ends_of_a_selection_are_shown(tmp_path):
    spread = {"mean": 7.5, "min": 7.0, "max": 8.0}
    end = {"count": 4, "threshold": 7.0, "tied": 2, "reward": spread, "completion_tokens": spread}
    monitor = Monitor(TensorBoard(tmp_path))
    top = end | {"user_kind": {"benign": 1, "biased": 3}}
    trained = {"count": 20, "user_kind": {"benign": 2, "biased": 18}}
    monitor.selection({"vetoed": 5, "top": top, "bottom": {"count": 0}, "trained": trained}, 3)
    monitor.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    shown = {tag: (events.Scalars(tag)[0].step, events.Scalars(tag)[0].value) for tag in events.Tags()["scalars"]}
    assert shown["selection/vetoed"] == (3, 5)
    assert shown["selection/top/share_biased"] == (3, 0.75)
    assert shown["selection/trained/share_biased"] == (3, pytest.approx(0.9))
    assert (shown["selection/top/reward"], shown["selection/top/tied"]) == ((3, 7.5), (3, 2))
    assert not any("bottom" in tag for tag in shown)


def test_a_second_signal_does_not_disturb_the_clean_up():
    ui = quiet()
    with pytest.raises(Stopped):
        ui.stop()
    ui.stop()


def lines_of(updates, monkeypatch):
    """What a log gets of these updates (seconds since the beginning, conversations, replies)."""
    now = [100.0]
    monkeypatch.setattr("loop.report.terminal.time.monotonic", lambda: now[0])
    out = io.StringIO()
    with Stages(Console(file=out)) as ui, ui.stage("rollout", 48, "conversations") as stage:
        for seconds, done, replies in updates:
            now[0] = 100.0 + seconds
            stage.beside(replies, 10 * replies)
            stage.update(done)
    return out.getvalue().splitlines()[:-1]


def test_a_log_gets_a_line_only_when_something_changed(monkeypatch):
    stuck = [(30 * n, 0, 0) for n in range(1, 20)]
    assert lines_of(stuck, monkeypatch) == []
    assert lines_of([*stuck, (600, 1, 2), (630, 1, 2), (660, 1, 2)], monkeypatch) == [
        "  rollout: 1 of 48 conversations, 2 replies, 0 tokens/s, 28200 s left"
    ]


def test_replies_are_progress_while_no_conversation_has_ended(monkeypatch):
    lines = lines_of([(30, 0, 20), (35, 0, 30), (60, 0, 60)], monkeypatch)
    assert lines == [
        "  rollout: 0 of 48 conversations, 20 replies, 7 tokens/s",
        "  rollout: 0 of 48 conversations, 60 replies, 10 tokens/s",
    ]
