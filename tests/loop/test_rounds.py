"""The loop without an actor: stages that only write down that they were reached, and leave what the real ones leave."""

import contextlib
import io

import pytest
from rich.console import Console

from actors.actor import ActorGone
from actors.storage.store import StorageError
from evals.evaluator import RECORD
from loop import rounds
from loop.arm import Arm
from loop.config.files import build
from loop.report.terminal import Stages
from loop.rundir import RunDir, read_json, write_json
from loop.supervisor import ClusterGoneError

CONVERSES = {"name": "a", "biased_ratio": 0.5}
ON_DATA = {"name": "a", "set": {"data.base.source": "world", "data.base.part": "talk/normal"}}


class Supervisor:
    """Starts nobody; remembers what it was told."""

    engine = "none"
    actors = pools = ()

    def __init__(self):
        self.told = []

    def restart_dead(self, gone):
        self.told.append(f"restart after {gone}")

    def forget_deaths(self):
        self.told.append("forget")


class Metrics:
    def __init__(self, folder, begin):
        self.begin = begin

    def about(self, settings, results):
        self.settings = settings

    def arrange(self, panels):
        pass

    def flush(self):
        pass

    def close(self):
        pass


class Evaluation:
    """Says what it is asked, and leaves an evaluation at its end."""

    def __init__(self, arm):
        self.arm = arm
        self.arm.reached.append("evaluation")

    def begin(self, r):
        self.arm.reached.append(f"begin {r}")

    def attend(self, r):
        self.arm.reached.append(f"attend {r}")

    def end(self, r):
        self.arm.reached.append(f"end {r}")
        evaluated(self.arm.out, r)


def evaluated(out, r):
    write_json(out.evals("a", r) / RECORD, {"suites": {}})


@pytest.fixture
def arm(tmp_path, monkeypatch):
    """Makes an arm of two rounds whose stages only say that they were reached; `fails` are those that fail once."""

    def make(settings=CONVERSES, rounds_=2, fails=(), **more):
        config = build(
            {"name": "r", "model": "scripted", "arms": [settings], "rounds": rounds_, "evals": {"suites": []}} | more,
            "test",
        )
        out = RunDir(tmp_path / "run")
        made = Arm(config, config.arms[0], "scripted", Supervisor(), out, Stages(Console(file=io.StringIO())))
        made.reached, left = [], list(fails)

        def stage(name):
            def reached(arm, r, *_, meanwhile=None):
                made.reached.append(f"{name} {r}")
                if f"{name} {r}" in left:
                    left.remove(f"{name} {r}")
                    raise ActorGone(f"{name} {r}")
                if meanwhile:
                    meanwhile()
                if name == "train":
                    out.policy("a", r + 1).mkdir(parents=True)

            return reached

        for name in ("planned", "publish", "rollout", "select_trajectories", "compose_rows", "train"):
            monkeypatch.setattr(rounds, name, stage(name.split("_")[0]))
        monkeypatch.setattr(rounds, "Evaluation", Evaluation)
        monkeypatch.setattr("loop.arm.open_metrics", Metrics)
        return made

    return make


def test_a_round_goes_through_its_stages_in_order(arm):
    a = arm()
    rounds.run_arm(a)
    one = ["planned {r}", "publish {r}", "begin {r}", "rollout {r}", "attend {r}", "end {r}", "select {r}", "train {r}"]
    last = ["publish 2", "begin 2", "end 2"]
    assert a.reached == ["evaluation", *(s.format(r=r) for r in (0, 1) for s in one), *last]
    assert a.supervisor.told == ["forget"] * 3


def test_an_arm_on_data_composes_its_rows_and_holds_no_conversation(arm):
    a = arm(ON_DATA, 1, trainer={"algorithm": "sft"})
    rounds.run_arm(a)
    assert a.reached == [
        *("evaluation", "publish 0", "begin 0", "end 0", "compose 0", "train 0"),
        *("publish 1", "begin 1", "end 1"),
    ]


def test_what_lies_on_disk_is_not_done_again(arm):
    a = arm()
    a.out.policy("a", 1).mkdir(parents=True)
    evaluated(a.out, 0)
    rounds.run_arm(a)
    assert a.reached[:3] == ["evaluation", "planned 1", "publish 1"]
    assert a.monitor._metrics.begin == 1
    assert a.monitor._metrics.settings["arm"] == "a"
    again = arm()
    rounds.run_arm(again)
    assert again.reached == [], "a finished arm is not entered"


def test_a_policy_that_is_made_and_not_evaluated_is_only_evaluated(arm):
    a = arm()
    a.out.policy("a", 1).mkdir(parents=True)
    rounds.run_arm(a)
    assert a.reached[:5] == ["evaluation", "publish 0", "begin 0", "end 0", "planned 1"]


@pytest.mark.parametrize("stage", ["publish", "rollout", "train"])
def test_an_actor_that_dies_is_started_again_and_its_round_goes_on(arm, stage):
    a = arm(fails=[f"{stage} 1"])
    rounds.run_arm(a)
    assert a.supervisor.told == ["forget", f"restart after {stage} 1", "forget", "forget"]
    assert a.reached.count(f"{stage} 1") == 2
    assert a.reached.count("planned 1") == 2, "the round is entered from its beginning"
    assert a.reached.count("evaluation") == 1, "an evaluation under way outlives the round that is entered again"
    assert a.reached.count(f"{stage} 0") == 1


def test_an_evaluation_that_is_done_is_waited_for_once_only(arm):
    a = arm(fails=["train 0"])
    rounds.run_arm(a)
    assert a.reached.count("end 0") == 2
    assert a.done(0)


@pytest.fixture
def lost(arm, monkeypatch):
    """Makes runs whose cluster is lost: each entry is what a start leaves before that, None for the end."""

    def run(starts, max_restarts=2):
        a, left, slept, firsts = arm(cluster={"max_restarts": max_restarts}), iter(starts), [], []

        def start(config, model, out, ui, first, keep_going):
            firsts.append(first)
            policy = next(left)
            if policy is not None:
                if policy:
                    out.policy("a", policy).mkdir(parents=True, exist_ok=True)
                raise ClusterGoneError("no machine is left")
            write_json(out.summary, {"status": "finished"})
            for r in range(3):
                evaluated(out, r)

        monkeypatch.setattr(rounds, "run_arms", start)
        monkeypatch.setattr(rounds, "check_models", lambda *_: None)
        monkeypatch.setattr("loop.rounds.ray.shutdown", lambda: None)
        monkeypatch.setattr("loop.rounds.time.sleep", slept.append)
        a.out.root.mkdir(exist_ok=True)
        rounds.run(a.run_config, "scripted", a.out, a.ui)
        assert [i for i, first in enumerate(firsts) if first] in ([0], []), "only the first is timed from the command"
        return slept

    return run


def test_a_lost_cluster_is_started_again_and_progress_clears_the_count(lost):
    assert len(lost([0, 0, None])) == 2
    assert lost([]) == [], "a finished run starts nobody"


def test_a_cluster_that_is_lost_again_and_again_without_progress_ends_the_run(lost):
    with pytest.raises(ClusterGoneError):
        lost([0, 0, 0, None])


def test_a_cluster_that_is_lost_after_each_policy_goes_on(lost):
    assert len(lost([0, 0, 1, 2, None])) == 4


class AllActors(Supervisor):
    """Stands for a supervisor of actors that are all up."""

    def __init__(self, *_):
        super().__init__()

    def find_room(self):
        pass

    def start(self, update):
        pass

    def begin_anew(self):
        self.told.append("begin anew")

    def stop(self):
        self.told.append("stop")


@pytest.fixture
def several(tmp_path, monkeypatch):
    """Holds three arms, of which some fail; returns those that were entered and what the supervisor was told."""

    def run(failing, error, keep_going, at_once=1):
        arms = [{"name": name, "biased_ratio": 0.5} for name in "abc"]
        raw = {"name": "r", "model": "scripted", "arms": arms, "evals": {"suites": []}}
        more = {"models": {"other": {"kind": "engine", "model": "scripted"}}, "cluster": {"arms_at_once": at_once}}
        config = build(raw | more, "test")
        out, entered, supervisor = RunDir(tmp_path / "run"), [], AllActors()
        out.root.mkdir(exist_ok=True)
        out.pin_model("scripted")

        def run_arm(arm, turns):
            entered.append(arm.name)
            if arm.name in failing:
                raise error

        monkeypatch.setattr(rounds, "connect", lambda *_, **__: None)
        monkeypatch.setattr(rounds, "ActorSupervisor", lambda *_, **named: supervisor)
        monkeypatch.setattr(rounds, "Heartbeat", lambda *_: contextlib.nullcontext())
        monkeypatch.setattr(rounds, "run_arm", run_arm)
        ui = Stages(Console(file=io.StringIO()))
        try:
            rounds.run_arms(config, "scripted", out, ui, keep_going=keep_going)
        except type(error) as raised:
            return entered, supervisor.told, raised, read_json(out.summary)["status"]
        return entered, supervisor.told, None, read_json(out.summary)["status"]

    return run


@pytest.mark.parametrize("keep_going", [False, True])
def test_arms_side_by_side_are_each_entered_once(several, keep_going):
    wrong = ValueError("nothing to be trained on")
    entered, told, raised, status = several("b", wrong, keep_going, at_once=2)
    assert raised is wrong
    assert len(set(entered)) == len(entered)
    assert ("c" in entered) >= keep_going
    assert told.count("stop") == 2, "each set of actors"
    assert told.count("begin anew") == keep_going
    assert status == "running"
    assert several("", wrong, keep_going, at_once=3)[3] == "finished"


def test_an_arm_waits_for_those_of_which_it_takes_something_over():
    arms = [
        {"name": "a", "biased_ratio": 0.0},
        {"name": "b", "biased_ratio": 0.5},
        {"name": "told", "biased_ratio": 0.5, "set": {"conversation.turns": 1, "evals.mask.items": 10}},
        {"name": "asked", "biased_ratio": 0.5, "set": {"evals.mask.items": 10}},
    ]
    config = build({"name": "r", "model": "scripted", "arms": arms}, "test")
    assert rounds._in_common(config) == {"a": [], "b": ["a"], "told": [], "asked": ["a", "b", "told"]}


def test_an_arm_that_fails_ends_a_run(several):
    wrong = ValueError("nothing to be trained on")
    assert several("b", wrong, keep_going=False)[:2] == (["a", "b"], ["stop"])


def test_in_a_sweep_the_other_arms_have_their_turn_and_the_error_is_raised_after_them(several):
    wrong = ValueError("nothing to be trained on")
    entered, told, raised, status = several("ab", wrong, keep_going=True)
    assert (entered, told, raised) == (["a", "b", "c"], ["begin anew", "begin anew", "stop"], wrong)
    assert status == "running", "it is not finished"


@pytest.mark.parametrize("error", [StorageError("disk"), OSError(28, "full"), ClusterGoneError("gone")])
def test_what_no_arm_could_do_better_with_ends_a_run_at_once(several, error):
    assert several("a", error, keep_going=True)[0] == ["a"]
