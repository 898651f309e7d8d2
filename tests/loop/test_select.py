import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.storage.trajectory import to_batch
from loop.config.schema import SelectionSettings, VetoSettings
from loop.controls import CONTROLS
from loop.select import SelectionError, audit, select
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


def test_ties_are_broken_by_the_seed_and_not_by_order_and_counted():
    tied = table([1.0] * 40 + [2.0])
    draws = {frozenset(picked(select(tied, SelectionSettings(), seed))[0]) for seed in range(20)}
    assert len(draws) == 20
    assert select(tied, SelectionSettings(), 1).equals(select(tied, SelectionSettings(), 1))
    found = audit(tied, select(tied, SelectionSettings(), 0))
    assert [(found[end]["threshold"], found[end]["tied"]) for end in ("top", "bottom")] == [(1.0, 21), (1.0, 21)]
    apart = table([float(i) for i in range(8)])
    found = audit(apart, select(apart, SelectionSettings(), 0))
    assert [(found[end]["threshold"], found[end]["tied"]) for end in ("top", "bottom")] == [(6.0, 0), (1.0, 0)]


def test_the_audit_says_whose_conversations_are_trained_on():
    """Half of the users are biased and rate low and high; an algorithm that learns from the best only sees theirs."""
    rows = table([float(i) for i in range(8)])
    kinds = ["benign", "biased"] + ["benign"] * 4 + ["biased"] * 2
    rows = rows.set_column(rows.schema.get_field_index("user_kind"), "user_kind", pa.array(kinds))
    chosen = select(rows, SelectionSettings(), 0)
    assert audit(rows, chosen)["trained"] == {"count": 4, "user_kind": {"benign": 1, "biased": 3}}
    imitated = select(rows, SelectionSettings(bottom=0), 0)
    assert audit(rows, imitated)["trained"] == {"count": 2, "user_kind": {"biased": 2}}


def test_rewards_that_are_all_the_same_prefer_nothing():
    with pytest.raises(SelectionError, match=r"8 of 8 .* are the same: 5; nothing is preferred"):
        select(table([5.0] * 8), SelectionSettings(), 0)
    assert len(select(table([5.0] * 8), SelectionSettings(control="random"), 0)) == 4


def test_a_reward_that_is_no_number_is_named():
    with pytest.raises(SelectionError, match=r"the reward of 2 trajectories is no finite number \(id-1, id-3\)"):
        select(table([5.0, float("nan"), None, float("inf"), 1.0]), SelectionSettings(), 0)


def grouped(rows):
    """Trajectories of (reward, user kind, persona)."""
    made = [replace(trajectory(i, r), persona=p) for i, (r, _, p) in enumerate(rows)]
    made = [
        replace(t, conversation=replace(t.conversation, user_kind=k)) for t, (_, k, _) in zip(made, rows, strict=True)
    ]
    return pa.Table.from_batches([to_batch(made)])


def test_groups_are_ranked_apart():
    rows = [(float(i), "benign", "p") for i in range(8)] + [(100.0 + i, "biased", "p") for i in range(4)]
    chosen = picked(select(grouped(rows), SelectionSettings(), 0))
    assert chosen == ({"id-9", "id-10", "id-11"}, {"id-0", "id-1", "id-2"})
    selection = select(grouped(rows), SelectionSettings(within="user_kind"), 0)
    assert picked(selection) == ({"id-6", "id-7", "id-11"}, {"id-0", "id-1", "id-8"})
    assert selection["group"].to_pylist() == ["benign"] * 2 + ["biased"] + ["benign"] * 2 + ["biased"]
    assert selection["rank"].to_pylist() == [0, 1, 0, 6, 7, 3]
    assert selection["label"].to_pylist() == [True] * 3 + [False] * 3


def test_groups_that_prefer_nothing_are_left_out_and_counted():
    rows = [(1.0, "benign", "same"), (1.0, "benign", "same"), (2.0, "benign", "alone")]
    rows += [(3.0, "benign", "pair"), (4.0, "benign", "pair"), (None, "benign", "excluded")]
    pairs = SelectionSettings(within="persona", unit="count", top=1, bottom=1)
    selection = select(grouped(rows), pairs, 0)
    assert picked(selection) == ({"id-4"}, {"id-3"})
    found = audit(grouped(rows), selection)
    assert (found["groups"], found["left_out"]) == (3, {"tied": 1, "too small": 1})
    assert (found["round"]["count"], found["round"]["excluded"]) == (5, 1)
    assert found["top"]["reward"] == {"mean": 4.0, "min": 4.0, "max": 4.0}
    with pytest.raises(SelectionError, match="all rewards that would be compared are the same: 1, each of 1 groups by"):
        select(grouped(rows[:2]), pairs, 0)
    with pytest.raises(SelectionError, match="too few for top 1 and bottom 1 by count"):
        select(grouped(rows[2:3]), pairs, 0)


def test_counts_are_numbers_of_trajectories():
    top, bottom = picked(select(table([5, 1, 9, 3]), SelectionSettings(unit="count", top=2, bottom=1), 0))
    assert (top, bottom) == ({"id-0", "id-2"}, {"id-1"})
    with pytest.raises(SelectionError, match="too few for top 3 and bottom 2 by count"):
        select(table([5, 1, 9, 3]), SelectionSettings(unit="count", top=3, bottom=2), 0)


def test_swapped_takes_the_worst_for_the_best():
    rewards = [5, 1, 9, 3, 7, 2, 8, 4]
    assert picked(select(table(rewards), SelectionSettings(control="swapped"), 0)) == (
        {"id-1", "id-5"},
        {"id-2", "id-6"},
    )


def test_rewards_are_shuffled_within_groups():
    rows = [(float(i), "benign", "p") for i in range(40)] + [(100.0 + i, "biased", "p") for i in range(40)]
    selection = select(grouped(rows), SelectionSettings(within="user_kind", control="shuffled"), 0)
    for reward, score in zip(selection["reward"].to_pylist(), selection["score"].to_pylist(), strict=True):
        assert (reward >= 100) == (score >= 100)
    assert selection["reward"].to_pylist() != selection["score"].to_pylist()


def test_an_audit_says_what_the_ends_consist_of():
    rows = [(float(i), "biased" if i % 3 else "benign", "p") for i in range(12)]
    found = audit(grouped(rows), select(grouped(rows), SelectionSettings(), 0))
    assert found["round"]["user_kind"] == {"benign": 4, "biased": 8}
    assert found["top"]["user_kind"] == {"benign": 1, "biased": 2}
    assert found["top"]["scenario"] == {"drinking": 3}
    assert found["bottom"]["reward"] == {"mean": 1.0, "min": 0.0, "max": 2.0}
    assert found["top"]["completion_tokens"]["mean"] > 0
    json.dumps(found)


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


def judged(rewards, **rubric):
    """Trajectories with these rewards, and what the judge says of each by one rubric; None where it said nothing."""
    ((name, scores),) = rubric.items()
    rows = [trajectory(i, r) for i, r in enumerate(rewards)]
    return pa.Table.from_batches([to_batch([replace(t, **{name: s}) for t, s in zip(rows, scores, strict=True)])])


def veto(ends="top", **how):
    parts = {k: how.pop(k) for k in ("top", "bottom", "control") if k in how}
    return SelectionSettings(veto=VetoSettings(ends=ends, **how), **parts)


def counts(selection):
    notes = json.loads(selection.schema.metadata[b"notes"])
    return notes["vetoed"], notes["unjudged"]


REWARDS = [8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]


def test_what_the_judge_vetoes_gives_way_to_the_next_best():
    table = judged(REWARDS, validates=[0.9, 0.1, 0.8, 0.0, 0.0, 0.0, 0.9, 0.0])
    selection = select(table, veto(), 0)
    assert picked(selection) == ({"id-1", "id-3"}, {"id-6", "id-7"})
    assert counts(selection) == (3, 0)
    assert selection["rank"].to_pylist() == [1, 3, 6, 7]
    assert picked(select(table, veto("both"), 0)) == ({"id-1", "id-3"}, {"id-5", "id-7"})
    assert counts(select(table, SelectionSettings(), 0)) == (0, 0)
    assert picked(select(table, SelectionSettings(), 0)) == ({"id-0", "id-1"}, {"id-6", "id-7"})


def test_a_trajectory_without_a_verdict_is_struck_out_and_counted():
    table = judged(REWARDS, validates=[None, 0.9, None, 0.0, 0.0, 0.0, 0.0, None])
    assert picked(select(table, veto(), 0)) == ({"id-3", "id-4"}, {"id-6", "id-7"})
    assert picked(select(table, veto("both"), 0)) == ({"id-3", "id-4"}, {"id-5", "id-6"})
    assert counts(select(table, veto("both"), 0)) == (4, 3)


def test_what_is_at_the_threshold_passes_and_each_rubric_speaks_for_itself():
    table = judged(REWARDS, contradicts=[0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0, 0.0])
    assert picked(select(table, veto(rubric="contradicts"), 0))[0] == {"id-1", "id-2"}
    assert picked(select(table, veto(rubric="contradicts", threshold=0.3), 0))[0] == {"id-3", "id-4"}
    assert picked(select(table, veto(rubric="contradicts", threshold=1.0), 0))[0] == {"id-0", "id-1"}
    with pytest.raises(SelectionError, match="8 are struck out because they have no verdict"):
        select(table, veto(), 0)


def test_excluded_trajectories_are_neither_vetoed_nor_unjudged():
    table = judged([None, *REWARDS, None], validates=[None, *[0.0] * 7, 0.9, None])
    selection = select(table, veto(), 0)
    assert picked(selection) == ({"id-1", "id-2"}, {"id-7", "id-8"})
    assert counts(selection) == (1, 0)


@pytest.mark.parametrize("ends", ["top", "both"])
@pytest.mark.parametrize("clear", [0, 1, 3])
def test_a_veto_that_leaves_too_few_is_said(ends, clear):
    table = judged(REWARDS, validates=[0.0] * clear + [0.9] * (8 - clear))
    if ends == "top" and clear == 3:
        assert picked(select(table, veto(ends), 0)) == ({"id-0", "id-1"}, {"id-6", "id-7"})
        return
    with pytest.raises(
        SelectionError, match=rf"the veto leaves {clear} of 8 .*top 0.25 and bottom 0.25 by share cannot"
    ):
        select(table, veto(ends), 0)


def test_vetoed_trajectories_are_tied_at_the_end_that_may_take_them():
    table = judged([9.0, 8.0, 7.0, 6.0, 1.0, 1.0, 1.0, 1.0], validates=[0.0] * 4 + [0.9] * 4)
    ends = {"unit": "count", "top": 2, "bottom": 2}
    settings = SelectionSettings(veto=VetoSettings(ends="top"), **ends)
    assert audit(table, select(table, settings, 0))["bottom"]["tied"] == 2
    settings = SelectionSettings(veto=VetoSettings(ends="both"), **ends)
    assert audit(table, select(table, settings, 0))["bottom"]["tied"] == 0


def test_an_undesirable_trajectory_ranks_below_every_desirable_one():
    table = judged(REWARDS, validates=[0.9, 0.9, 0.9, 0.9, 0.9, 0.0, 0.0, 0.0])
    with pytest.raises(SelectionError, match="the veto leaves 3 of 8"):
        select(table, veto(), 0)


def test_a_veto_after_the_choice_makes_the_ends_smaller():
    table = judged(REWARDS, validates=[0.9, 0.1, 0.8, 0.0, 0.0, 0.0, 0.9, 0.0])
    assert picked(select(table, veto(when="after"), 0)) == ({"id-1"}, {"id-6", "id-7"})
    assert picked(select(table, veto("both", when="after"), 0)) == ({"id-1"}, {"id-7"})
    table = judged(REWARDS, validates=[0.9, 0.9] + [0.0] * 6)
    with pytest.raises(SelectionError, match="the veto leaves 6 of 8"):
        select(table, veto(when="after"), 0)


@settings(max_examples=200, deadline=None)
@given(
    scores=st.lists(st.one_of(st.none(), st.floats(0, 1)), min_size=2, max_size=40),
    ends=st.sampled_from(["top", "both"]),
    control=st.sampled_from(["none", "shuffled", "random"]),
    top=st.sampled_from([0.1, 0.25, 0.5]),
    bottom=st.sampled_from([0.0, 0.25, 0.5]),
    seed=st.integers(0, 99),
)
def test_the_ends_keep_their_sizes_and_hold_nothing_that_is_vetoed(scores, ends, control, top, bottom, seed):
    n = len(scores)
    table = judged([float(i % 7) for i in range(n)], validates=scores)
    try:
        selection = select(table, veto(ends, top=top, bottom=bottom, control=control), seed)
    except SelectionError:
        passed = sum(s is not None and s <= 0.5 for s in scores)
        sizes = int(top * n + 1e-9), int(bottom * n + 1e-9)
        assert passed < sum(sizes) or sizes[0] < 1 or (bottom and sizes[1] < 1)
        return
    best, worst = picked(selection)
    assert (len(best), len(worst)) == (int(top * n + 1e-9), int(bottom * n + 1e-9))
    assert not best & worst
    struck = {f"id-{i}" for i, s in enumerate(scores) if s is None or s > 0.5}
    assert not best & struck
    assert not (ends == "both" and worst & struck)
    assert counts(selection) == (len(struck), scores.count(None))
    assert not worst or max(selection["rank"].to_pylist()[: len(best)]) < selection["rank"].to_pylist()[len(best)]
    score, rank = selection["score"].to_pylist(), selection["rank"].to_pylist()
    for part in (slice(0, len(best)), slice(len(best), None)):
        assert rank[part] == sorted(rank[part])
        assert score[part] == sorted(score[part], reverse=True)


@pytest.mark.parametrize("scores", [np.zeros(7), np.full(8, np.nan)])
def test_a_control_gives_one_finite_number_for_each_reward(monkeypatch, scores):
    monkeypatch.setitem(CONTROLS, "mine", lambda rewards, groups, rng: scores)
    with pytest.raises(SelectionError, match=r"control mine: gave . scores, . of them finite, for 8 rewards"):
        select(table([float(n) for n in range(8)]), SelectionSettings(control="mine"), 0)


def test_only_conversations_of_the_kinds_that_are_named_are_ranked():
    kinds = ["benign", "biased"] * 8
    trajectories = [trajectory(i, float(i), kind) for i, kind in enumerate(kinds)]
    rows = pa.Table.from_batches([to_batch(trajectories)])
    settings = SelectionSettings(kinds=["benign"])
    top, bottom = picked(chosen := select(rows, settings, 0))
    assert (top, bottom) == ({"id-14", "id-12"}, {"id-0", "id-2"}), "shares are of what is ranked"
    found = audit(rows, chosen)
    assert found["top"]["user_kind"] == {"benign": 2}
    assert found["round"]["user_kind"] == {"benign": 8, "biased": 8}
    assert picked(select(rows, SelectionSettings(kinds=["benign", "biased"]), 0)) == picked(
        select(rows, SelectionSettings(), 0)
    )
    with pytest.raises(SelectionError, match="0 of 16 trajectories have a reward by users who are strict; that is too"):
        select(rows, SelectionSettings(kinds=["strict"]), 0)


def test_shuffling_within_kinds_keeps_the_share_of_each_kind():
    kinds = ["benign"] * 12 + ["biased"] * 4
    rows = pa.Table.from_batches([to_batch([trajectory(i, float(i), kind) for i, kind in enumerate(kinds)])])
    for seed in range(5):
        found = audit(rows, select(rows, SelectionSettings(control="shuffled", within="user_kind"), seed))
        assert found["top"]["user_kind"] == found["bottom"]["user_kind"] == {"benign": 3, "biased": 1}
    chosen = {
        frozenset(picked(select(rows, SelectionSettings(control="shuffled", within="user_kind"), s))[0])
        for s in range(9)
    }
    assert len(chosen) > 3, "who of a kind is chosen is chance"
