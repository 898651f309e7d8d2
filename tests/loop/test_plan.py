from collections import Counter

import pytest

from loop.config import build
from loop.plan import plan_round


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
