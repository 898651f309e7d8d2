"""Conversations dealt out to pools that are plain objects: who gets what, and who takes over from whom."""

import numpy as np
import pytest

from actors.actor import ActorGone
from loop.budget import BudgetSpentError
from loop.config.files import build
from loop.rollout import _Conversations


class Pool:
    """Holds all it is given, or fails as often as `fails` says."""

    def __init__(self, name, arm, fails=0, enough=True):
        self.name, self.arm, self.fails, self.enough, self.given = name, arm, fails, enough, []
        self.handle = self
        self.run_conversations = type("Method", (), {"remote": self._run})
        said = type("Said", (), {"replies": 1, "tokens": 10})
        self.progress = type("Method", (), {"remote": staticmethod(lambda: said)})

    def _run(self, plan, indices, terms, handles, lease):
        self.given.append(list(indices))
        if self.fails:
            self.fails -= 1
            self.arm.held.update(indices[:1])  # what it had handed in before it died
            self.arm.down.append(self)
            return Call(ActorGone(f"{self.name} died"))
        self.arm.held.update(indices)
        return Call(self.enough)


class Call:
    def __init__(self, result):
        self.result = result


def fetch(work):
    if isinstance(work, list):
        return [fetch(w) for w in work]
    if isinstance(work, Call):
        if isinstance(work.result, Exception):
            raise work.result
        return work.result
    return work


def answers(value):
    return type("Method", (), {"remote": staticmethod(value)})


class Fake:
    """An arm and its supervisor in one: ten conversations, and a buffer that knows which were handed in."""

    name = "a"

    def __init__(self, pools, budget=None, round_=0):
        self.round = round_
        self.held, self.down, self.flushed, self.replacements = set(), [], 0, []
        prices = {"kind": "endpoint", "model": "m", "price": {"prompt": 1}}
        self.config = build(
            {
                "name": "r",
                "world": "support",
                "model": "scripted",
                "arms": [{"name": "a", "biased_ratio": 0.5}],
                "rollout": {"conversations": 10},
                "evals": {"suites": []},
                **({"budget": budget, "models": {"m": prices}, "roles": {"user": "m"}} if budget else {}),
            },
            "test",
        )
        self.supervisor = self.budget = self.out = self.buffer = self.trainer = self.handle = self.monitor = self
        self.points, self.figures = [], {"budget_spent": 1.0}
        self.warmed = 0
        self.warm = answers(self._warm)
        self.pools = [Pool(f"pool {n}", self, **of) for n, of in enumerate(pools)]
        self.count = answers(lambda: len(self.held))
        self.missing = answers(lambda: np.array(sorted({*range(10)} - self.held)))
        self.flush = answers(self._flush)

    def _warm(self):
        self.warmed += 1

    def _flush(self):
        self.flushed += 1

    def progress(self, done, replies, tokens, before, beside):
        self.points.append((done, before))
        return {"tokens_per_second": 5.0, **beside}

    def plan(self, arm, r):
        return "plan.arrow"

    def handles(self, config, policy):
        return None

    def for_pool(self, r):
        return None

    def line(self, r):
        return ""

    def exhausted(self, r, what):
        return BudgetSpentError(what)

    def tend(self):
        return []

    def dead(self):
        return [(d, ActorGone("gone")) for d in self.down]

    def replace(self, pool, error):
        self.down.remove(pool)
        self.replacements.append(pool.name)

    def watch(self, work, stage, count, all_):
        count()


class Stage:
    def __init__(self):
        self.figures = {}

    def beside(self, replies, tokens):
        self.said = (replies, tokens)

    def note(self, text):
        pass


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setattr("loop.rollout.fetch", fetch)
    monkeypatch.setattr("loop.rollout.ray.wait", lambda work, **_: (work, []))

    def of(pools, **more):
        arm, beside = Fake(pools, **more), []
        arm.stage = Stage()
        try:
            _Conversations(arm, arm.round, arm.stage).run(np.arange(10), lambda: beside.append(1))
        finally:
            arm.beside = len(beside)
        return arm

    return of


def test_pools_take_turns_and_something_goes_on_beside(run):
    arm = run([{}, {}, {}])
    assert [p.given for p in arm.pools] == [[[0, 3, 6, 9]], [[1, 4, 7]], [[2, 5, 8]]]
    assert arm.held == set(range(10))
    assert arm.beside == 1
    assert arm.warmed == 1, "the trainer gets ready meanwhile"


def test_points_are_logged_while_conversations_are_held_after_those_of_earlier_rounds(run):
    arm = run([{}, {}, {}], round_=3)
    assert arm.points
    assert {before for _, before in arm.points} == {30}
    assert arm.stage.figures == {"tokens_per_second": 5.0, "budget_spent": 1.0}, "and are shown of the stage"


def test_a_pool_that_dies_alone_is_replaced_and_given_what_it_had_not_handed_in(run):
    arm = run([{}, {"fails": 1}])
    assert arm.replacements == ["pool 1"]
    assert arm.pools[1].given == [[1, 3, 5, 7, 9], [3, 5, 7, 9]]
    assert arm.held == set(range(10))


def test_with_another_actor_dead_too_the_round_is_left(run):
    with pytest.raises(ActorGone, match="pool 0 died"):
        run([{"fails": 1}, {"fails": 1}])


def test_with_a_budget_nobody_takes_over_what_others_hold_the_money_for(run):
    with pytest.raises(ActorGone, match="pool 1 died"):
        run([{}, {"fails": 1}], budget=5)


def test_what_was_held_is_kept_when_the_money_does_not_reach(run):
    with pytest.raises(BudgetSpentError, match="conversation"):
        run([{"enough": False}, {}])
