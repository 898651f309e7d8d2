"""An evaluation beside a rollout: what is started, taken over, started again and waited for."""

import io

import pytest
from rich.console import Console

from actors.actor import ActorGone
from actors.models.usage import BudgetError
from evals.evaluator import RECORD
from evals.outcomes import Outcome
from evals.suites.sources import load_all
from loop.arm import Arm
from loop.budget import BudgetSpentError
from loop.config.files import build
from loop.evaluation import Evaluation
from loop.report.terminal import Stages
from loop.rundir import RunDir
from tests.conftest import write_evaluation


class Work:
    """A call under way: it is done when `result` is set, to what it returns or raises."""

    def __init__(self, result=None):
        self.result = result


def fetch(work):
    if isinstance(work, Work):
        if isinstance(work.result, Exception):
            raise work.result
        return work.result
    return work


class Evaluator:
    """Hands out calls that the test ends."""

    def __init__(self, out):
        self.out, self.calls = out, []
        self.handle = self
        self.evaluate = type("Method", (), {"remote": self._evaluate})
        self.progress = type("Method", (), {"remote": staticmethod(lambda: (0, 1))})

    def _evaluate(self, arm, version, access, folder, settings):
        self.calls.append(Work())
        self.allowances = [*getattr(self, "allowances", []), access]
        return self.calls[-1]


class Supervisor:
    engine, engines, pools = "none", (), ("one",)

    def __init__(self, out):
        self.evaluator, self.down, self.replaced = Evaluator(out), [], 0

    def access(self, config, policy, allowance):
        return allowance

    def dead(self):
        return [(d, ActorGone("gone")) for d in self.down]

    def replace(self, actor, error):
        self.replaced += 1

    def tend(self):
        return []


class Monitor:
    def __init__(self):
        self.seen = []

    def evaluation(self, figures, r):
        self.seen.append(r)

    def seconds(self, *_):
        pass

    def close(self):
        pass


@pytest.fixture
def arm(tmp_path, monkeypatch):
    for module in ("loop.evaluation", "loop.arm"):
        monkeypatch.setattr(
            f"{module}.ray.wait", lambda work, **_: ([w for w in work if w.result is not None], []), raising=True
        )
    monkeypatch.setattr("loop.evaluation.fetch", fetch)
    arms = [{"name": n, "biased_ratio": r} for n, r in (("other", 0.0), ("a", 0.5))]
    config = build({"name": "r", "model": "scripted", "arms": arms, "evals": {"suites": ["mask"]}}, "test")
    out = RunDir(tmp_path)
    made = Arm(config, config.arms[1], "scripted", Supervisor(out), out, Stages(Console(file=io.StringIO())))
    made.monitor = Monitor()
    return made


def finish(arm, r, work):
    outcomes = [Outcome("mask", "mask", f"i{n}", f"c{n}", arm.name, r, outcome="honest") for n in range(4)]
    write_evaluation(arm.out.evals(arm.name, r), outcomes)
    work.result = 1.5


def test_an_evaluation_is_started_once_and_shown_at_its_end(arm):
    evaluation, evaluator = Evaluation(arm), arm.supervisor.evaluator
    evaluation.begin(1)
    evaluation.begin(1)
    evaluation.attend(1)
    assert len(evaluator.calls) == 1
    finish(arm, 1, evaluator.calls[0])
    evaluation.end(1)
    assert arm.monitor.seen == [1]
    evaluation.begin(1)
    assert len(evaluator.calls) == 1, "what is complete is not asked again"


def test_policy_0_is_taken_over_from_an_arm_that_asked_the_same(arm):
    outcomes = [Outcome("mask", "mask", f"i{n}", f"c{n}", "other", 0, outcome="lie") for n in range(4)]
    write_evaluation(arm.out.evals("other", 0), outcomes)
    evaluation = Evaluation(arm)
    evaluation.begin(0)
    assert arm.supervisor.evaluator.calls == []
    assert (arm.out.evals("a", 0) / RECORD).exists()
    evaluation.end(0)
    assert arm.monitor.seen == [0]


def test_an_evaluator_that_dies_alone_is_replaced_during_the_rollout(arm):
    evaluation, supervisor = Evaluation(arm), arm.supervisor
    evaluation.begin(1)
    supervisor.evaluator.calls[0].result = ActorGone("gone")
    supervisor.down = [supervisor.evaluator]
    evaluation.attend(1)
    assert (supervisor.replaced, len(supervisor.evaluator.calls)) == (1, 2)


def test_an_engine_that_dies_is_for_the_pools_to_notice(arm):
    evaluation, supervisor = Evaluation(arm), arm.supervisor
    evaluation.begin(1)
    supervisor.evaluator.calls[0].result = ActorGone("an engine died")
    supervisor.down = ["engine"]
    evaluation.attend(1)
    assert (supervisor.replaced, len(supervisor.evaluator.calls)) == (0, 1)
    with pytest.raises(ActorGone, match="the evaluation of policy 1 was cut short"):
        evaluation.end(1)


def test_judges_whose_share_was_too_small_get_the_rest_and_then_the_run_stops(arm, monkeypatch):
    monkeypatch.setattr(type(arm.budget), "judging_costs", True)
    monkeypatch.setattr(arm.budget, "for_judges", lambda alone: "all" if alone else "share")
    monkeypatch.setattr(arm.budget, "exhausted", lambda r, what: BudgetSpentError(what))
    evaluation, evaluator = Evaluation(arm), arm.supervisor.evaluator
    evaluation.begin(1)
    evaluator.calls[0].result = BudgetError("too little")
    evaluation.attend(1)
    started = evaluator._evaluate

    def fails(*args):
        work = started(*args)
        work.result = BudgetError("too little")
        return work

    evaluator.evaluate.remote = fails
    with pytest.raises(BudgetSpentError, match="verdict"):
        evaluation.end(1)
    assert evaluator.allowances == ["share", "all"]


def test_runs_that_differ_in_their_seed_meet_the_same_items():
    """Item ids pair over training seeds and arms; only `evals.seed` draws other items."""
    arms = [{"name": "benign", "biased_ratio": 0}, {"name": "biased", "biased_ratio": 0.5}]

    def met(run_seed, arm, **evals):
        config = build({"name": "run", "seed": run_seed, "arms": arms, "evals": {"mask": 30, **evals}}, "test")
        mine = config.for_arm(config.arms[arm])
        return {s: [i.item_id for i in of.items] for s, of in load_all(mine.world, mine.evals).items()}

    assert met(0, 0) == met(7, 1) == met(8, 0)
    assert not set(met(0, 0)["mask"]) & set(met(0, 0, seed=1)["mask"])
