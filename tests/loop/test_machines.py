import json
import time

import pytest

from loop.config.explain import ConfigError
from loop.config.files import build
from loop.machines import Looked, Machine, check_machines, look, plan
from tests.loop.conftest import candor

SMALL = {"name": "test", "arms": [{"name": "a", "biased_ratio": 0.5}]}


def machine(name="a", cpus=8.0, gpus=0.0, free=None):
    total = {"CPU": cpus, "GPU": gpus}
    return Machine(name, f"host-{name}", total, total if free is None else free)


def looked(name="a", shared=True, ahead=0.0, gpu_memory=(), **versions):
    return Looked(
        f"host-{name}", {"python": "3.12.1", "ray": "2.60.0", **versions}, 0.0, list(gpu_memory), shared, ahead
    )


def test_machines_that_fit_together_are_let_be():
    said = []
    check_machines([machine("a"), machine("b")], {"a": looked("a"), "b": looked("b", ahead=2.0)}, said.append)
    assert said == []


def test_a_machine_with_other_versions_is_named():
    other = {"a": looked("a"), "b": looked("b", ray="2.59.0", vllm="0.33.0")}
    told = r"host-b has ray 2\.59\.0 \(host-a: 2\.60\.0\), vllm 0\.33\.0 \(host-a: missing\); install the same"
    with pytest.raises(ConfigError, match=told):
        check_machines([machine("a"), machine("b")], other, print)


def test_a_machine_that_does_not_see_the_run_directory_is_named():
    with pytest.raises(ConfigError, match="host-b cannot read and write the run directory; put --out on storage that"):
        check_machines([machine("a"), machine("b")], {"a": looked("a"), "b": looked("b", shared=False)}, print)


def test_clocks_and_machines_that_do_not_answer_are_said():
    said = []
    check_machines(
        [machine("a"), machine("b"), machine("c")], {"a": looked("a"), "b": looked("b", ahead=-40.0)}, said.append
    )
    assert "host-c does not answer" in said[0]
    assert "the clock of host-b is 40 s or more behind the driver's" in said[1]


def test_a_folder_is_shared_where_what_the_driver_wrote_can_be_read(tmp_path):
    (tmp_path / ".probe-x").write_text("x")
    assert look(str(tmp_path), "x").shared
    assert len(list(tmp_path.glob(".probe-x-*"))) == 1
    assert not look(str(tmp_path), "y").shared
    assert not look(str(tmp_path / "nowhere"), "x").shared
    assert look(None, "x").versions["candor-loop"]


def test_the_plan_places_actors_on_what_is_free():
    config = build(SMALL | {"assistant": {"gpus": 4, "tensor_parallel": 4, "replicas": 2, "sync": "lora"}}, "test")
    room = plan(config, [machine("a", gpus=8), machine("b", cpus=2)], {})
    assert room["homeless"] == []
    assert room["asked"]["gpus"] == 8
    assert room["machines"][0]["actors"]["assistant"] == 2
    busy = plan(config, [machine("a", gpus=8, free={"CPU": 8.0, "GPU": 5.0}), machine("b", cpus=2)], {})
    assert busy["homeless"] == ["assistant"]
    assert busy["machines"][0]["gpus"] == [5.0, 8]
    assert plan(config, None, {})["machines"] is None


def test_replicas_that_may_come_later_have_no_need_of_a_place_now():
    changes = {"assistant": {"gpus": 1, "replicas": {"min": 1, "max": 8}, "sync": "lora"}, "trainer": {"gpus": 2}}
    config = build(SMALL | changes, "test")
    small = plan(config, [machine("a", gpus=3)], {})
    assert small["homeless"] == []
    assert (small["machines"][0]["actors"]["assistant"], small["machines"][0]["actors"]["trainer"]) == (1, 1)
    assert plan(config, [machine("a", gpus=10)], {})["machines"][0]["actors"]["assistant"] == 8
    assert plan(config, [machine("a", gpus=2)], {})["homeless"] == ["assistant"]


@pytest.mark.parametrize(
    ("gpus", "parallel", "right"),
    [(1, {"tensor_parallel": 4}, 4), (4, {"tensor_parallel": 4, "pipeline_parallel": 2}, 8)],
)
def test_a_replica_that_is_split_asks_for_all_its_gpus(gpus, parallel, right):
    with pytest.raises(ConfigError, match=rf"one replica is split over {right} GPUs, so set gpus to {right}"):
        build(SMALL | {"assistant": {"gpus": gpus, **parallel}}, "test")
    assert build(SMALL | {"assistant": {"gpus": right, **parallel}}, "test").assistant.gpus == right


@pytest.mark.slow
def test_an_address_at_which_nobody_answers_is_said_within_half_a_minute(tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text(json.dumps(SMALL | {"model": "scripted"}))
    began = time.monotonic()
    done = candor("plan", config, "--address", "127.0.0.1:9")
    assert done.returncode == 2, done.stdout
    assert "cluster.address 127.0.0.1:9: no Ray cluster answers within 30 s" in done.stderr
    assert "Traceback" not in done.stderr
    assert time.monotonic() - began < 60  # with the start of two processes on a machine that has others
