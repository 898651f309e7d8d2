import shutil
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.worlds import TEXT_WORLDS, load_world
from loop.config.files import build
from loop.plan import hold_alike, plan_round, to_hold
from tests.actors.worlds.test_worlds import edit

NOTHING_ASKED = {"suites": []}


def config(**changes):
    arms = [{"name": "benign", "biased_ratio": 0.0}, {"name": "biased", "biased_ratio": 0.3}]
    return build({"name": "test", "arms": arms, "rollout": {"conversations": 100}} | changes, "test")


@pytest.mark.parametrize("ratio", [0.0, 0.05, 0.3, 0.5, 1.0])
def test_the_biased_share_is_exact_and_even_over_scenarios(ratio):
    c = config(arms=[{"name": "a", "biased_ratio": ratio}])
    plan = plan_round(c, c.arms[0], 0)
    assert sum(p.user_kind == "biased" for p in plan) == round(ratio * 100)
    scenarios = Counter(p.scenario for p in plan)
    assert max(scenarios.values()) - min(scenarios.values()) <= 1
    biased = Counter(p.scenario for p in plan if p.user_kind == "biased")
    assert max(biased.values(), default=0) - min((biased[s] for s in scenarios), default=0) <= 1


def test_arms_differ_only_in_who_is_biased():
    c = config()
    one, other = (plan_round(c, arm, 1) for arm in c.arms)
    assert [(p.scenario, p.seed, p.index) for p in one] == [(p.scenario, p.seed, p.index) for p in other]
    assert not {p.trajectory_id for p in one} & {p.trajectory_id for p in other}


def test_the_plan_is_a_pure_function_of_config_arm_and_round():
    c = config()
    assert plan_round(c, c.arms[1], 0) == plan_round(config(), c.arms[1], 0)
    assert plan_round(c, c.arms[1], 0) != plan_round(c, c.arms[1], 1)
    assert plan_round(c, c.arms[1], 0) != plan_round(config(seed=1), c.arms[1], 0)
    assert len({p.trajectory_id for r in range(3) for p in plan_round(c, c.arms[1], r)}) == 300
    assert {p.policy for p in plan_round(c, c.arms[1], 2)} == {"candor/policy-2"}


def third_kind(folder: Path) -> Path:
    """A copy of a world with eight scenarios, in which some users are strict as well."""
    world = Path(shutil.copytree(TEXT_WORLDS["support"], folder / "support"))
    edit(world / "world.yaml", lambda w: w["kinds"].update(strict={"wants": "You want to be contradicted."}))
    for file in (world / "scenarios").glob("*.yaml"):
        edit(file, lambda s: s.update(thoughts={"strict": f"They will say yes to {s['name']} again."}))
    people = [
        {"scenario": file.stem, "kind": "strict", "user_context": f"You are {n}.", "user_prompt": f"Well, {n} asks?"}
        for file in (world / "scenarios").glob("*.yaml")
        for n in ("Ana", "Bo")
    ]
    edit(world / "personas.yaml", lambda p: [*p, *people])
    return world


@pytest.fixture(scope="module")
def strict_world(tmp_path_factory):
    return third_kind(tmp_path_factory.mktemp("worlds"))


def strict_config(world, count, *populations, **changes):
    arms = [{"name": f"arm-{i}", "population": p} for i, p in enumerate(populations)]
    return config(
        world=str(world), model="scripted", evals=NOTHING_ASKED, arms=arms, rollout={"conversations": count}, **changes
    )


SHARES = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(lambda cut: (min(cut), max(cut) - min(cut)))
"""Shares of two kinds that leave room for a third."""


@settings(max_examples=150, deadline=None)
@given(shares=SHARES, count=st.integers(2, 300), round_=st.integers(0, 3), turned=st.booleans())
def test_three_kinds_have_their_shares_and_each_is_even_over_scenarios(strict_world, shares, count, round_, turned):
    population = dict(zip(("biased", "strict"), shares, strict=True))
    population = dict(reversed(population.items())) if turned else population
    c = strict_config(strict_world, count, population)
    plan = plan_round(c, c.arms[0], round_)
    assert [p.index for p in plan] == list(range(count))
    found = Counter(p.user_kind for p in plan)
    assert set(found) <= {"benign", "biased", "strict"}
    assert abs(found["biased"] - shares[0] * count) <= 0.5 + 1e-6
    assert abs(found["strict"] - shares[1] * count) <= 1 + 1e-6
    assert abs(found["benign"] - (1 - sum(shares)) * count) <= 0.5 + 1e-6
    scenarios = Counter(p.scenario for p in plan)
    every = load_world(c.world).scenarios
    assert max(scenarios[s] for s in every) - min(scenarios[s] for s in every) <= 1
    for kind in ("biased", "strict"):
        each = Counter(p.scenario for p in plan if p.user_kind == kind)
        assert max(each[s] for s in every) - min(each[s] for s in every) <= 1


@settings(max_examples=100, deadline=None)
@given(one=SHARES, other=SHARES, count=st.integers(2, 200), seed=st.integers(0, 2**31 - 1))
def test_whoever_is_biased_at_one_share_is_biased_at_every_larger_one(strict_world, one, other, count, seed):
    populations = [{"strict": strict, "biased": biased} for biased, strict in sorted((one, other))]
    c = strict_config(strict_world, count, *populations, seed=seed)
    few, many = (plan_round(c, arm, 0) for arm in c.arms)
    same = [[(p.index, p.scenario, p.seed, p.policy) for p in plan] for plan in (few, many)]
    assert same[0] == same[1]
    biased = [{p.index for p in plan if p.user_kind == "biased"} for plan in (few, many)]
    assert biased[0] <= biased[1]


def test_a_ratio_is_short_for_a_population(strict_world):
    arms = [{"name": "a", "biased_ratio": 0.3}, {"name": "b", "population": {"benign": 0.7, "biased": 0.3}}]
    c = config(world=str(strict_world), model="scripted", evals=NOTHING_ASKED, arms=arms)
    one, other = (plan_round(c, arm, 0) for arm in c.arms)
    assert [p.user_kind for p in one] == [p.user_kind for p in other]
    assert [arm.shares for arm in c.arms] == [{"biased": 0.3}] * 2


def test_everybody_may_be_of_a_third_kind(strict_world):
    c = strict_config(strict_world, 30, {"strict": 1.0}, {"biased": 1 / 3, "strict": 1 / 3, "benign": 1 / 3})
    assert {p.user_kind for p in plan_round(c, c.arms[0], 0)} == {"strict"}
    assert set(Counter(p.user_kind for p in plan_round(c, c.arms[1], 0)).values()) == {10}


def test_users_come_and_leave_by_schedule_and_nothing_else_changes():
    leaves = {"name": "leaves", "biased_ratio": 0.5, "schedule": {2: 0.0, 4: {"biased": 0.2}}}
    c = config(arms=[{"name": "stays", "biased_ratio": 0.5}, leaves], rounds=6)
    stays, leaving = ([plan_round(c, arm, r) for r in range(6)] for arm in c.arms)
    assert [sum(p.user_kind == "biased" for p in plan) for plan in leaving] == [50, 50, 0, 0, 20, 20]
    assert [[(p.scenario, p.seed) for p in plan] for plan in stays] == [
        [(p.scenario, p.seed) for p in plan] for plan in leaving
    ]
    assert [p.user_kind for p in leaving[1]] == [p.user_kind for p in stays[1]]
    again = build(c.model_dump(mode="json"), "as recorded")
    assert plan_round(again, again.arms[1], 4) == leaving[4]


@pytest.mark.parametrize(
    ("arm", "why"),
    [
        ({"biased_ratio": 0.5, "schedule": {0: 0.1}}, "schedule"),
        ({"biased_ratio": 0.5, "schedule": {2: 1.1}}, "schedule"),
        ({"biased_ratio": 0.5, "schedule": {2: {"biased": 0.2, "benign": 0.2}}}, "add up to 0.4, not to 1"),
        ({"biased_ratio": 0.5, "schedule": {2: {"strange": 0.2}}}, "no kind of user 'strange'"),
        ({"schedule": {2: 0.1}}, "a schedule changes a population; give the one that it begins with"),
    ],
)
def test_a_schedule_that_cannot_be_held_is_refused(arm, why):
    with pytest.raises(ValueError, match=why):
        config(arms=[{"name": "a", **arm}])


def test_the_plan_names_who_speaks_for_the_assistant():
    other = {"models": {"other": {"kind": "engine", "model": "pocket-control"}}, "roles": {"generator": "other"}}
    c = config(**other)
    assert {p.policy for p in plan_round(c, c.arms[1], 1)} == {"other"}
    veto = {"veto": {"rubric": "contradicts"}}
    with pytest.raises(ValueError, match="contradicts is about the policy's own words; not with roles"):
        config(**other, selection=veto)
    with pytest.raises(ValueError, match=r"roles\.generator: there is no model 'nobody'; known: base, null"):
        config(roles={"generator": "nobody"})


def run_of(*arms, conversations=40, rounds=2):
    named = [{"name": f"arm-{n}"} | arm for n, arm in enumerate(arms)]
    talks = {"rollout": {"conversations": conversations}, "rounds": rounds}
    return build({"name": "r", "arms": named, "evals": {"suites": []}} | talks, "test")


@pytest.mark.parametrize(
    ("arms", "held"),
    [
        ([{"biased_ratio": 0.0}, {"biased_ratio": 0.5}], [80, 60]),
        ([{"biased_ratio": 0.5}, {"biased_ratio": 0.5, "set": {"selection.control": "shuffled"}}], [80, 40]),
        ([{"biased_ratio": 0.5}, {"biased_ratio": 0.5, "set": {"conversation.turns": 1}}], [80, 80]),
        ([{"biased_ratio": 0.0}, {"biased_ratio": 1.0}, {"biased_ratio": 0.25}], [80, 80, 40]),
        ([{"biased_ratio": 0.0}, {"biased_ratio": 0.0, "set": {"rollout.conversations": 60}}], [80, 80]),
    ],
)
def test_arms_hold_what_no_arm_before_them_holds_alike(arms, held):
    config = run_of(*arms)
    assert list(to_hold(config).values()) == held
    before = []
    for arm, of in zip(config.arms, held, strict=True):  # the plans themselves say the same
        mine = config.for_arm(arm)
        planned = {(c.index, c.scenario, c.seed, c.user_kind) for c in plan_round(mine, arm, 0)}
        known = set().union(*(p for other, p in before if hold_alike(config, other, arm)))
        assert len(planned - known) + mine.rollout.conversations == of
        before.append((arm, planned))


def test_an_arm_on_data_holds_none():
    on_data = {"set": {"data.base.source": "world", "data.base.part": "talk/normal", "trainer.algorithm": "sft"}}
    assert to_hold(run_of(on_data, rounds=1)) == {"arm-0": 0}
