"""Conversations of round 0 that an arm takes over from another, in run directories with a buffer that is no actor."""

import io

import pytest
from rich.console import Console

from actors.buffer import RoundData, RoundPlan, TrajectoryBuffer, read_round
from actors.storage.segments import read_table
from actors.storage.trajectory import Conversation, Trajectory, Turn, to_batch
from loop.arm import Arm
from loop.config.files import build
from loop.report.summary import RolloutFigures
from loop.report.terminal import Stages
from loop.rollout import planned
from loop.rundir import RunDir
from loop.takeover import take_over_conversations

COUNT = 20
USAGE = [{"role": "assistant", "model": "m", "requests": 1, "prompt_tokens": 5, "completion_tokens": 3}]
FAULTS = [{"role": "user", "model": "m", "kind": "timeout", "count": 1}]


class Supervisor:
    """Has a buffer that answers at once."""

    def __init__(self):
        self.kept = TrajectoryBuffer(4, 1.0)
        self.buffer = self.handle = self
        self.take_over = type("Method", (), {"remote": self.kept.take_over})
        self.missing = type("Method", (), {"remote": self.kept.missing})


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Makes the arms `first`, `second` and so on of a run, each with the settings given."""
    monkeypatch.setattr("loop.takeover.fetch", lambda work: work)

    def make(*settings):
        arms = [{"name": name} | of for name, of in zip(("first", "second", "third"), settings, strict=False)]
        talks = {"rollout": {"conversations": COUNT}, "evals": {"suites": []}}
        config = build({"name": "r", "model": "scripted", "arms": arms} | talks, "test")
        make.said = io.StringIO()
        ui = Stages(Console(file=make.said, width=120))
        return [Arm(config, arm, "scripted", Supervisor(), RunDir(tmp_path), ui) for arm in config.arms]

    return make


def open_round(arm):
    plan = planned(arm, 0)
    ids = RoundPlan("r", arm.name, 0, len(plan))
    return plan, arm.supervisor.kept.open_round(arm.out.trajectories(arm.name, 0), ids).missing


def hold(arm, indices=None, fails=()):
    """Have an arm hold conversations that say whose they are; the round is closed where none is missing."""
    plan, missing = open_round(arm)
    for row in plan.to_pylist():
        if row["index"] not in (missing if indices is None else indices):
            continue
        said = [Turn("user", "Hi."), Turn("assistant", f"{arm.name} {row['index']}", rating=5.0, rating_mass=1.0)]
        error = "timeout: too late" if row["index"] in fails else None
        held = Trajectory(
            *(Conversation(**row), "", said, [], None if error else 5.0, "engine", 0.0, 1.0),
            **{"usage": USAGE, "faults": FAULTS, "error": error},
        )
        arm.supervisor.kept.append(to_batch([held]))
    return arm.supervisor.kept.close_round()


def take(arm):
    plan, missing = open_round(arm)
    left = take_over_conversations(arm, plan, missing)
    arm.supervisor.kept.close_round()
    return left


def biased(arm):
    return {c["index"] for c in read_table(arm.out.plan(arm.name, 0)).to_pylist() if c["user_kind"] == "biased"}


SAME = {"biased_ratio": 0.5}
SHUFFLED = {"biased_ratio": 0.5, "set": {"selection.control": "shuffled", "trainer.learning_rate": 0.1}}


def test_arms_that_differ_after_the_conversations_share_all_of_them(run):
    first, second = run(SAME, SHUFFLED)
    assert hold(first) == 0
    assert list(take(second)) == []
    data = RoundData(second.out.trajectories("second", 0))
    assert data.closed()
    rows = read_round(data.store).to_pylist()
    assert [r["messages"][1]["content"] for r in rows] == [f"first {n}" for n in range(COUNT)]
    assert [r["trajectory_id"] for r in rows] == RoundPlan("r", "second", 0, COUNT).ids(range(COUNT))
    assert {r["arm"] for r in rows} == {"second"}
    assert [(r["usage"], r["faults"]) for r in rows] == [([], [])] * COUNT, "what it cost was counted once already"
    assert RolloutFigures.of(data.scan()).summary(COUNT)["trajectories"]["taken_over"] == COUNT
    assert "20 conversations of round 0 are those of first" in run.said.getvalue()


def test_of_other_users_those_are_shared_whom_both_have(run):
    first, second = run({"biased_ratio": 0.0}, SAME)
    hold(first)
    assert set(take(second)) == biased(second)
    rows = read_round(second.out.trajectories("second", 0)).to_pylist()
    assert {r["user_kind"] for r in rows} == {"benign"}
    assert len(rows) == COUNT // 2


@pytest.mark.parametrize(
    "other",
    [
        {"conversation.turns": 1},
        {"conversation.show_user_kind": "full"},
        {"rating.samples": 3},
    ],
)
def test_arms_that_talk_or_rate_in_another_way_share_nothing(run, other):
    first, second = run(SAME, SAME | {"set": other})
    hold(first)
    assert len(take(second)) == COUNT


def test_a_round_that_is_not_complete_is_not_taken(run):
    first, second = run(SAME, SHUFFLED)
    assert hold(first, range(5)) == COUNT - 5
    assert len(take(second)) == COUNT


def test_what_was_excluded_there_is_tried_here(run):
    first, second = run(SAME, SHUFFLED)
    hold(first, fails=(3, 7))
    assert list(take(second)) == [3, 7]
    found = RolloutFigures.of(RoundData(first.out.trajectories("first", 0)).scan()).summary(COUNT)
    assert found["trajectories"] == {"planned": COUNT, "finished": COUNT - 2, "excluded": 2, "taken_over": 0}


def test_after_a_crash_what_is_there_stays_and_the_rest_is_taken(run):
    first, second = run(SAME, SHUFFLED)
    hold(first)
    hold(second, [2, 4])
    assert list(take(second)) == []
    said = [r["messages"][1]["content"] for r in read_round(second.out.trajectories("second", 0)).to_pylist()]
    assert said == [f"{'second' if n in (2, 4) else 'first'} {n}" for n in range(COUNT)]


def test_later_arms_take_from_all_before_them(run):
    first, second, third = run({"biased_ratio": 0.0}, {"biased_ratio": 1.0}, SAME)
    hold(first)
    hold(second)
    assert list(take(third)) == []
    rows = read_round(third.out.trajectories("third", 0)).to_pylist()
    assert {(r["user_kind"], r["messages"][1]["content"].split()[0]) for r in rows} == {
        *(("benign", "first"), ("biased", "second")),
    }
