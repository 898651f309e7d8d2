"""How runs share a machine, without one."""

import pytest

from loop.config.files import build, load
from loop.sweep.schedule import Machine, hungriest, slots
from tests.conftest import ROOT
from tests.loop.sweep.planted import sweep_of

POCKET = load(ROOT / "configs/pocket.yaml")
SCRIPTED = load(ROOT / "configs/scripted.yaml")
GPU = build(
    {
        **{"name": "gpu", "model": "some/model", "arms": [{"name": "a", "biased_ratio": 0.5}]},
        **{"assistant": {"gpus": 1, "sync": "lora"}, "trainer": {"gpus": 1, "lora": {"rank": 8}}},
    },
    "test",
)


def test_two_cores_hold_one_run_at_a_time_and_it_gets_all_of_them():
    (only,) = slots(POCKET, Machine(range(2), gib=20), None)
    assert (only.cores, only.gpus) == ((), ())


def test_cores_are_shared_out_and_no_core_twice():
    made = slots(POCKET, Machine(range(9), gib=100), None)
    assert [len(s.cores) for s in made] == [2, 2, 2, 2]
    assert len({core for s in made for core in s.cores}) == 8


def test_memory_is_a_limit_too():
    assert len(slots(POCKET, Machine(range(32), gib=20), None)) == 2
    assert len(slots(POCKET, Machine(range(32), gib=1), None)) == 1


def test_more_than_there_is_room_for_may_be_asked_for_and_shares_all_cores():
    made = slots(SCRIPTED, Machine(range(2), gib=20), 3)
    assert [s.cores for s in made] == [(), (), ()]


def test_each_run_gets_gpus_of_its_own():
    made = slots(GPU, Machine(range(64), ("0", "1", "2", "3", "4"), 500), None)
    assert [s.gpus for s in made] == [("0", "1"), ("2", "3")]
    assert len(made[0].cores) == 32
    shared = build(
        {**GPU.model_dump(), "trainer": {"gpus": 0.3, "lora": {"rank": 8}}} | {"assistant": {"gpus": 0.6}}, "t"
    )
    assert [s.gpus for s in slots(shared, Machine(range(64), ("4", "7"), 500), None)] == [("4",), ("7",)]


@pytest.mark.parametrize(("gpus", "fit"), [([2, 2, 2], 3), ([1, 1, 8], 5), ([1], 1), ([8], 4)])
def test_a_cluster_holds_as_many_runs_as_its_machines_have_room_for(gpus, fit):
    nodes = [{"CPU": 64.0, "GPU": float(n)} for n in gpus]
    made = slots(GPU, Machine(range(2), nodes=nodes), None)
    assert len(made) == fit
    assert {s.gpus for s in made} == {()}, "Ray places their actors"


def test_places_are_made_for_the_run_that_asks_for_most():
    sweep = sweep_of(seeds=1, grid={"assistant.replicas": [1, 3, 2]})
    assert hungriest(sweep.runs).assistant.replicas == 3
