"""Several ranks train as one does, and none goes on without the others; with gloo, on this machine's cores."""

import os
import signal
import time
from dataclasses import replace

import psutil
import pytest
import ray
import torch
from ray.util import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from actors.worlds import load_world
from tests.trainers.sharded import ShardedOnCpu
from tests.trainers.test_exact import job, settings
from trainers.policy import distance
from trainers.settings import LoraSettings
from trainers.trainer import Trainer


@pytest.fixture(scope="module")
def places(local_ray):
    places = placement_group([{"CPU": 0.5}] * 2)
    yield places
    remove_placement_group(places)


@pytest.fixture
def start_group(places, pocket_model):
    """Starts a trainer of two ranks; all are gone after the test."""
    started = []

    def start(kind=Trainer, waits=False):
        place = PlacementGroupSchedulingStrategy(
            places, placement_group_bundle_index=0, placement_group_capture_child_tasks=True
        )
        first = ray.remote(kind).options(
            num_cpus=0.5,
            max_concurrency=2,
            scheduling_strategy=place,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}},
        )
        started.append(first.remote(pocket_model, "float32", 1, load_world("pocket").probe_chats(), 2, waits))
        ray.get(started[-1].start.remote())
        return started[-1]

    yield start
    for actor in started:
        ray.kill(actor)


def losses(folder):
    return [e.value for e in EventAccumulator(str(folder / "tb")).Reload().Scalars("train/loss")]


@pytest.mark.slow
def test_two_ranks_are_one_with_the_same_batch(start_group, data, tmp_path, pocket_model):
    """Losses, gradients and policies, in one group for round after round; rows that do not divide are left out."""
    group, one = start_group(), Trainer(pocket_model, "float32", 1, load_world("pocket").probe_chats())
    one.start()
    for algorithm, changes in (
        ("kto", {}),
        ("sft", {"max_length": 54}),
        ("kto", {"lora": None, "learning_rate": 1e-3}),
    ):
        name = f"{algorithm}-{len(changes)}"
        s = settings(algorithm=algorithm, ranks=2, micro_batch=2, **changes)
        made = ray.get(group.train.remote(job(data, tmp_path / name / "two"), s))
        alone = settings(algorithm=algorithm, micro_batch=4, **changes)
        expected = one.train(job(data, tmp_path / name / "one"), alone)
        assert made.steps == expected.steps
        assert made.rows == expected.rows
        assert losses(tmp_path / name / "two") == pytest.approx(losses(tmp_path / name / "one"), abs=2e-5)
        assert distance(made.probe, expected.probe) < 1e-3 < distance(made.probe, made.probe_parent)
        if s.lora:
            two, single = (load_file(tmp_path / name / w / "1/adapter_model.safetensors") for w in ("two", "one"))
            assert all(torch.allclose(two[k], single[k], atol=1e-4) for k in single)


@pytest.mark.slow
def test_ranks_that_hold_a_part_of_the_model_each_train_the_same_policy(start_group, data, tmp_path, pocket_model):
    """FSDP2 by torch over gloo, with the adapter, the whole model, and a reference that is another adapter; the base is
    as it was afterwards."""
    group, one = (
        start_group(ShardedOnCpu, True),
        Trainer(pocket_model, "float32", 1, load_world("pocket").probe_chats()),
    )
    one.start()
    parts = {"ranks": 2, "gpus": 1, "sharding": "fsdp2", "checkpoint_steps": 4}
    kinds = {"lora": {}, "stack": {"start": "stack"}, "sft": {"algorithm": "sft"}}
    kinds["whole"] = {"lora": None, "learning_rate": 1e-3}
    for name, changes in kinds.items():
        for k, version in enumerate((1, 2) if name in ("lora", "stack") else (1,)):
            jobs = [
                replace(
                    job(data, tmp_path / name / side),
                    version=version,
                    target=str(tmp_path / name / side / str(version)),
                    parent=str(tmp_path / name / side / "1") if k else None,
                    reference=str(tmp_path / name / side / "1") if k and name == "lora" else None,
                )
                for side in ("parts", "one")
            ]
            made = ray.get(group.train.remote(jobs[0], settings(**parts, **changes)))
            expected = one.train(jobs[1], settings(**changes))
            assert made.steps == expected.steps
            assert distance(made.probe, expected.probe) < 1e-3 < distance(made.probe, made.probe_parent)
        assert losses(tmp_path / name / "parts") == pytest.approx(losses(tmp_path / name / "one"), abs=2e-5)
        assert ray.get(group.base_logprobs.remote()) == one.base_logprobs()


@pytest.mark.slow
@pytest.mark.parametrize("parts", [{}, {"gpus": 1, "sharding": "fsdp2"}], ids=["whole", "sharded"])
def test_a_rank_that_dies_takes_the_group_along_and_a_new_one_goes_on_from_the_checkpoint(
    start_group, data, tmp_path, parts
):
    kind = (ShardedOnCpu, True) if parts else ()
    s = settings(ranks=2, epochs=8, checkpoint_steps=4, lora=LoraSettings(rank=4, alpha=8), **parts)
    group = start_group(*kind)
    whole = ray.get(group.train.remote(job(data, tmp_path / "whole"), s))
    torn = job(data, tmp_path / "torn")
    work = group.train.remote(torn, s)
    while not list(torn.checkpoints.glob("checkpoint-*/candor_complete.json")):
        assert not ray.wait([work], timeout=0.02)[0]
    (follower,) = (p for p in psutil.process_iter(["cmdline"]) if ".follow" in " ".join(p.info["cmdline"]))
    os.kill(follower.pid, signal.SIGKILL)
    began = time.monotonic()
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(work, timeout=60)
    assert time.monotonic() - began < 30
    assert not (tmp_path / "torn/1").exists()

    resumed = ray.get(start_group(*kind).train.remote(torn, s))
    assert resumed.steps == whole.steps == 40
    assert resumed.probe == whole.probe
    weights = [(tmp_path / w / "1/adapter_model.safetensors").read_bytes() for w in ("whole", "torn")]
    assert weights[0] == weights[1]
    assert losses(tmp_path / "torn") == losses(tmp_path / "whole")
