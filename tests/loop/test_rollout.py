"""Conversations dealt out to pools that are plain objects: who gets what, and who takes over from whom."""

import math

import numpy as np
import pytest

from actors.actor import ActorGone
from loop.budget import BudgetSpentError
from loop.config.files import build
from loop.rollout import _Conversations


class Pool:
    """Holds all it is given, or fails as often as `fails` says."""

    def __init__(self, name, arm, fails=0, enough=True):
        self.name, self.arm, self.fails, self.enough, self.given, self.first = name, arm, fails, enough, [], []
        self.handle = self
        self.run_conversations = type("Method", (), {"remote": self._run})
        said = type("Said", (), {"replies": 1, "tokens": 10})
        self.progress = type("Method", (), {"remote": staticmethod(lambda: said)})
        self.give_back = type("Method", (), {"remote": self._give_back})

    def _give_back(self, part):
        share = self.arm.slow.get(self.name, [])
        return Call([share.pop() for _ in range(math.ceil(part * len(share)))])

    def _run(self, plan, indices, terms, handles, lease, first):
        self.first.append(first)
        self.given.append(list(indices))
        if self.name in self.arm.slow:
            self.arm.slow[self.name] = list(indices)
            return Slow(self)
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


class Slow(Call):
    """Work that is done when a pool has begun all it has left, one a moment."""

    def __init__(self, pool):
        super().__init__(True)
        self.pool = pool

    def done(self):
        arm = self.pool.arm
        if left := arm.slow[self.pool.name]:
            arm.held.add(left.pop(0))
        return not left


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

    def __init__(self, pools, budget=None, round_=0, slow=(), spare=False, late=()):
        self.round, self.slow, self.spare = round_, {name: [] for name in slow}, lambda pool: spare
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
        self.late, self.engines = list(late), []
        self.live_pools = [pool for pool in self.pools if pool.name not in self.late]
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
        come = [pool for pool in self.pools if pool.name in self.late]
        self.live_pools, self.late = self.live_pools + come, []
        return come

    def give_up(self, pool, error):
        self.down.remove(pool)
        self.live_pools.remove(pool)
        self.late.append(pool.name)
        self.replacements.append(f"{pool.name}, later")

    def dead(self):
        return [(d, ActorGone("gone")) for d in self.down]

    def replace(self, pool, error):
        self.down.remove(pool)
        self.replacements.append(pool.name)


class Stage:
    def __init__(self):
        self.figures = {}

    def beside(self, replies, tokens):
        self.said = (replies, tokens)

    def note(self, text):
        pass

    def update(self, done, total):
        self.shown = (done, total)


def ended(work):
    return work.done() if isinstance(work, Slow) else True


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setattr("loop.rollout.fetch", fetch)
    monkeypatch.setattr("loop.rollout.ray.wait", lambda work, **_: ([w for w in work if ended(w)], []))

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
    assert [p.first for p in arm.pools] == [[True]] * 3
    assert arm.warmed == 1, "the trainer gets ready meanwhile"


def test_points_are_logged_while_conversations_are_held_after_those_of_earlier_rounds(run):
    arm = run([{}, {}, {}], round_=3)
    assert arm.points
    assert {before for _, before in arm.points} == {30}
    assert arm.stage.figures == {"tokens_per_second": 5.0, "budget_spent": 1.0}, "and are shown of the stage"


def test_a_pool_that_dies_alone_is_replaced_and_given_what_it_had_not_handed_in(run):
    arm = run([{}, {"fails": 1}])
    assert arm.replacements == ["pool 1"]
    assert arm.pools[1].given == [[1, 3, 5, 7, 9], [5, 9]]
    assert arm.pools[0].given == [[0, 2, 4, 6, 8], [3, 7]], "it has nothing else to do"
    assert arm.held == set(range(10))


def test_what_a_pool_had_when_it_died_goes_to_others_where_it_is_not_waited_for(run):
    arm = run([{}, {"fails": 1}], slow=["pool 0"], spare=True)
    assert arm.replacements == ["pool 1, later"]
    assert arm.held == set(range(10))
    assert arm.pools[1].given[:2] == [[1, 3, 5, 7, 9], [3, 5, 7, 9]], "it is back before the other is idle"
    alone = run([{}, {"fails": 1}], spare=True)
    assert alone.held == set(range(10))
    assert alone.pools[0].given == [[0, 2, 4, 6, 8], [3, 5, 7, 9]], "the other has nothing else to do"


def test_a_pool_without_work_takes_over_what_others_have_not_begun(run):
    arm = run([{}, {}], slow=["pool 0"])
    assert arm.pools[0].given == [[0, 2, 4, 6, 8]]
    assert arm.pools[1].given[0] == [1, 3, 5, 7, 9]
    taken = [i for share in arm.pools[1].given[1:] for i in share]
    assert taken
    assert set(taken) < {0, 2, 4, 6, 8}
    assert arm.pools[1].first == [True] + [False] * (len(arm.pools[1].given) - 1), "by then others were held"
    assert arm.held == set(range(10))


def test_so_does_one_that_joins(run):
    arm = run([{}, {}], slow=["pool 0"], late=["pool 1"])
    assert arm.pools[0].given == [list(range(10))]
    assert len(arm.pools[1].given[0]) in (4, 5), "long before the other has held all"
    assert arm.held == set(range(10))


def test_with_a_budget_it_does_not_as_others_have_the_money(run):
    arm = run([{}, {}], slow=["pool 0"], budget=5)
    assert [p.given for p in arm.pools] == [[[0, 2, 4, 6, 8]], [[1, 3, 5, 7, 9]]]


def test_with_another_actor_dead_too_the_round_is_left(run):
    with pytest.raises(ActorGone, match="pool 0 died"):
        run([{"fails": 1}, {"fails": 1}])


def test_with_a_budget_nobody_takes_over_what_others_hold_the_money_for(run):
    with pytest.raises(ActorGone, match="pool 1 died"):
        run([{}, {"fails": 1}], budget=5)


def test_what_was_held_is_kept_when_the_money_does_not_reach(run):
    with pytest.raises(BudgetSpentError, match="conversation"):
        run([{"enough": False}, {}])
