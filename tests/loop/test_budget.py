"""The budget of a run, over what lies on disk and what the buffer knows."""

import pytest

from loop.budget import Budget
from loop.config.files import build
from loop.rundir import RunDir, write_json

PRICED = {"kind": "endpoint", "model": "m", "price": {"prompt": 1_000_000, "completion": 0}}


def row(tokens, role="user", model="m"):
    return {"role": role, "model": model, "requests": 1, "prompt_tokens": tokens, "completion_tokens": 0}


class Supervisor:
    """Two pools, and a buffer that holds conversations which cost this much."""

    pools = ("one", "two")

    def __init__(self, usage):
        held = type("Usage", (), {"remote": staticmethod(lambda: usage)})
        self.buffer = type("Buffer", (), {"handle": type("Handle", (), {"usage": held})})


@pytest.fixture
def budget(tmp_path, monkeypatch):
    monkeypatch.setattr("loop.budget.fetch", lambda work: work)

    def make(held=(), budget=100, **more):
        config = build(
            {
                "name": "r",
                "world": "support",
                "model": "scripted",
                "models": {"m": PRICED},
                "roles": {"user": "m"},
                "arms": [{"name": "a", "biased_ratio": 0.5}],
                "budget": budget,
                "evals": {"suites": []},
            }
            | more,
            "test",
        )
        return Budget(config, config.for_arm(config.arms[0]), "a", RunDir(tmp_path), Supervisor(list(held)))

    return make


def finished(folder, r, *usage):
    write_json(RunDir(folder).rollout("a", r), {"usage": list(usage)})


def test_what_is_left_is_shared_by_the_pools(budget, tmp_path):
    finished(tmp_path, 0, row(30))
    b = budget(held=[row(10)])
    b.read_disk()
    assert b.spent(1) == 40
    assert b.for_pool(1) == 30
    assert b.for_judges(alone=True) is None, "nobody who judges costs anything"


def test_judges_that_cost_something_get_as_much_as_a_pool(budget):
    b = budget(budget=90, evals={"suites": ["canary_mask"], "judges": ["m"]})
    assert b.for_pool(0) == 30
    assert (b.for_judges(alone=False), b.for_judges(alone=True)) == (30, 90)


def test_a_budget_that_is_spent_leaves_nothing_and_is_said(budget):
    b = budget(held=[row(120)])
    assert b.for_pool(0) == 0
    assert str(b.exhausted(0, "conversation")).startswith("the budget is spent: 120 of 100, and the next conversation")


def test_without_a_budget_there_is_no_limit(budget):
    assert budget(budget=None).for_pool(0) is None


def test_the_cost_is_told_by_role_and_a_finished_round_is_not_counted_twice(budget, tmp_path):
    b = budget(held=[row(10), row(2, "rater"), row(5)])
    assert b.line(0) == "user 15, rater 2; 17 of 100 spent"
    finished(tmp_path, 0, row(17))
    b.read_disk()
    assert b.spent(0) == 17
    assert b.line(0) == "; 17 of 100 spent"


def test_without_prices_tokens_are_told(budget):
    free = {"models": {"m": {**PRICED, "price": None}}}
    assert budget(held=[row(12_000)], budget=None, **free).line(0) == "user 12k tokens"
