"""What a person sees of a sweep that is under way."""

import io

import pytest
from rich.console import Console

from loop.report.summary import write_summary
from loop.sweep.folder import SweepDir
from loop.sweep.live import LiveTable
from loop.sweep.schedule import Schedule, Slot
from tests.loop.sweep.planted import sweep_of
from tests.loop.sweep.test_results import finish


@pytest.fixture
def half(tmp_path):
    """A sweep of six runs: two finished, one failed."""
    sweep = sweep_of(seeds=6, grid={"biased_ratio": [0, 1]})
    folder = SweepDir(tmp_path / "sweep")
    folder.open(sweep)
    finish(sweep, folder, {"seed-0", "seed-2", "seed-3"})
    write_summary(folder.run(sweep.runs[3]), sweep.runs[3].config, "failed")
    return sweep, Schedule(folder, sweep.runs, [Slot()])


def shown(half, **console) -> str:
    sweep, schedule = half
    out = Console(file=io.StringIO(), width=120, **console)
    with LiveTable(sweep, schedule, out) as live:
        live.update(now=True)
    return out.file.getvalue()


def test_the_table_has_a_line_for_each_run_and_counts_what_is_done(half):
    text = shown(half, force_terminal=True, color_system=None, height=30)
    lines = [line.split() for line in text.splitlines() if line.startswith("seed-")]
    states = {line[0]: (line[1], line[2]) for line in lines}
    assert states["seed-0"] == ("finished", "4/4")
    assert states["seed-1"] == ("waiting", "0/4")
    assert states["seed-3"] == ("failed", "4/4")
    assert "12 of 24 policies evaluated; runs: 2 finished, 1 failed" in text


def test_where_there_is_no_room_for_all_runs_those_that_matter_are_shown(half):
    text = shown(half, force_terminal=True, color_system=None, height=6)
    assert "seed-3" in text
    assert "seed-0" not in text


def test_where_the_output_is_no_terminal_changes_are_said_once(half):
    text = shown(half)
    assert text.count("seed-0: finished") == 1
    assert f"seed-3: failed (see {half[1].folder.log(half[0].runs[3])})" in text.replace("\n", "")
    assert "seed-1" not in text
