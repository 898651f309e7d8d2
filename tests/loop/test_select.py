import pyarrow as pa
import pytest

from actors.trajectory import to_batch
from loop.config import SelectionSettings
from loop.select import SelectionError, select
from tests.conftest import trajectory


def table(rewards):
    return pa.Table.from_batches([to_batch([trajectory(i, r) for i, r in enumerate(rewards)])])


def picked(selection):
    ids = selection["trajectory_id"].to_pylist()
    labels = selection["label"].to_pylist()
    return (
        {i for i, good in zip(ids, labels, strict=True) if good},
        {i for i, g in zip(ids, labels, strict=True) if not g},
    )


def test_the_ends_of_the_rewards_are_taken():
    top, bottom = picked(select(table([5, 1, 9, 3, 7, 2, 8, 4]), SelectionSettings(), 0))
    assert top == {"id-2", "id-6"}
    assert bottom == {"id-1", "id-5"}


def test_excluded_trajectories_take_no_part():
    top, bottom = picked(select(table([5, None, 9, None, 1, 7]), SelectionSettings(), 0))
    assert top == {"id-2"}
    assert bottom == {"id-4"}


def test_ties_are_broken_by_the_seed_and_not_by_order():
    draws = {frozenset(picked(select(table([1.0] * 40), SelectionSettings(), seed))[0]) for seed in range(20)}
    assert len(draws) == 20
    assert select(table([1.0] * 40), SelectionSettings(), 1).equals(select(table([1.0] * 40), SelectionSettings(), 1))


@pytest.mark.parametrize("control", ["shuffled", "random"])
def test_controls_do_not_follow_the_reward(control):
    rewards = [float(i) for i in range(400)]
    selection = select(table(rewards), SelectionSettings(control=control), 0)
    means = {
        good: sum(
            r for r, g in zip(selection["reward"].to_pylist(), selection["label"].to_pylist(), strict=True) if g == good
        )
        / 100
        for good in (True, False)
    }
    assert abs(means[True] - means[False]) < 40
    if control == "shuffled":
        assert set(selection["score"].to_pylist()) <= set(rewards)
        assert min(selection["score"].to_pylist()[:100]) >= 300


def test_top_only():
    top, bottom = picked(select(table([1, 2, 3, 4]), SelectionSettings(bottom=0), 0))
    assert (top, bottom) == ({"id-3"}, set())


@pytest.mark.parametrize("rewards", [[], [None, None], [1.0]])
def test_too_few_rewards_are_said(rewards):
    with pytest.raises(SelectionError, match="have a reward"):
        select(table(rewards), SelectionSettings(), 0)


@pytest.mark.parametrize("n", range(2, 40))
def test_the_two_ends_never_meet(n):
    top, bottom = picked(select(table([float(i) for i in range(n)]), SelectionSettings(top=0.5, bottom=0.5), 0))
    assert len(top) == len(bottom) == n // 2
    assert not top & bottom
