"""Delivery of a policy to engines that are plain objects."""

from pathlib import Path

import pytest

from loop.publish import PolicyDelivery, _parent, deliver
from loop.rundir import RunDir
from trainers.policy import DeliveryError

BASE, NEW = [[-1.0, -2.0]], [[-0.5, -1.0]]


class Remote:
    """An actor handle whose methods answer at once."""

    def __init__(self, target):
        self._target = target

    def __getattr__(self, name):
        method = getattr(self._target, name)
        return type("Method", (), {"remote": staticmethod(method)})


class Trainer:
    def __init__(self):
        self.merged = []

    def probe(self):
        return [[1, 2, 3]]

    def base_logprobs(self):
        return BASE

    def merge(self, policy, target):
        self.merged.append((policy, target))


class Replica:
    """Serves whatever was published last; `stuck` never leaves the base."""

    def __init__(self, stuck=False):
        self.calls, self.serves, self.stuck = [], BASE, stuck

    def publish(self, policy, path, how):
        self.calls.append((policy, path, how))
        self.serves = BASE if self.stuck or policy.endswith("-0") else NEW
        return 0.1 * len(self.calls)

    def retire(self):
        self.calls.append("retire")
        self.serves = BASE

    def prompt_logprobs(self, policy, texts):
        return self.serves


class Read:
    probe, probe_parent = NEW, BASE


@pytest.fixture
def delivered(monkeypatch):
    monkeypatch.setattr("loop.publish.fetch", lambda work: work)
    monkeypatch.setattr("loop.publish.read_lineage", lambda folder: Read)

    def make(delivery, *replicas, trainer=None, tolerance=0.2, before=None):
        handles = [Remote(r) for r in replicas]
        return deliver(delivery, Remote(trainer or Trainer()), handles, tolerance, before and [before] * len(handles))

    return make


def test_an_adapter_is_published_as_it_lies_and_every_replica_proves_it(delivered):
    one, two = Replica(), Replica()
    report = delivered(PolicyDelivery(3, Path("/p/3"), "base", "lora", None), one, two)
    assert one.calls == two.calls == [("candor/policy-3", "/p/3", "lora")]
    assert [p.error for p in report.proofs] == [0.0, 0.0]
    assert set(report.seconds) == {"publish", "load", "prove"}


def test_whole_weights_are_merged_first_and_published_from_there(delivered):
    replica, trainer = Replica(), Trainer()
    report = delivered(
        PolicyDelivery(1, Path("/p/1"), "base", "merged", Path("/p/.1.merged")), replica, trainer=trainer
    )
    assert trainer.merged == [("/p/1", "/p/.1.merged")]
    assert replica.calls == [("candor/policy-1", "/p/.1.merged", "merged")]
    assert "merge" in report.seconds


@pytest.mark.parametrize(("sync", "calls"), [("lora", ["retire"]), ("merged", [("candor/policy-0", "base", "merged")])])
def test_the_base_comes_back_without_adapters_or_with_its_own_weights(delivered, sync, calls):
    replica = Replica()
    delivered(PolicyDelivery(0, None, "base", sync, None), replica)
    assert replica.calls == calls


def test_a_replica_that_still_serves_the_parent_stops_the_run(delivered):
    with pytest.raises(DeliveryError, match="candor/policy-1 is not what the engine serves"):
        delivered(PolicyDelivery(1, Path("/p/1"), "base", "lora", None), Replica(), Replica(stuck=True))


def test_a_replica_that_still_serves_the_parent_is_found_within_a_wide_tolerance_too(delivered, monkeypatch):
    """Bases and policies that are as near to each other as engine and trainer are."""
    near = [[-0.98, -2.02]]
    monkeypatch.setattr(
        "loop.publish.read_lineage", lambda folder: type("Near", (), {"probe": near, "probe_parent": BASE})
    )
    stuck, policy = Replica(stuck=True), PolicyDelivery(1, Path("/p/1"), "base", "lora", None)
    stuck.asked = []
    stuck.prompt_logprobs = lambda name, _: stuck.asked.append(name) or [[-1.02, -1.99]]
    assert not delivered(policy, stuck).proofs[0].tells_apart
    with pytest.raises(DeliveryError, match="to the last digit"):
        delivered(policy, stuck, before=("a/0", [[-1.02, -1.99]]))
    assert stuck.asked == ["candor/policy-1", "candor/policy-0", "candor/policy-1"]


@pytest.mark.parametrize(("parents", "serves"), [([], "a/0"), (["policies/a/1", "policies/a/2"], "a/2")])
def test_the_parent_is_the_policy_that_a_training_began_with(tmp_path, monkeypatch, parents, serves):
    monkeypatch.setattr("loop.publish.read_lineage", lambda folder: type("Of", (), {"parents": parents}))
    arm = type("Arm", (), {"name": "a", "out": RunDir(tmp_path)})
    assert _parent(arm, 3) == serves
    assert _parent(arm, 0) is None
