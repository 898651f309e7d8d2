import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from loop.cluster import check_resources, needs, socket_folder
from loop.config.explain import ConfigError
from loop.config.files import build
from tests.conftest import ROOT

SMALL = {"name": "test", "arms": [{"name": "a", "biased_ratio": 0.5}]}


def test_the_default_fits_two_cores():
    assert sum(n.count * n.cpus for n in needs(build(SMALL, "test"))) <= 2
    check_resources(build(SMALL, "test"), [{"CPU": 2.0}])


def test_adapters_let_users_share_the_assistants_engine():
    merged, lora = (build(SMALL | {"assistant": {"sync": s}}, "test") for s in ("merged", "lora"))
    assert {n.role for n in needs(merged)} - {n.role for n in needs(lora)} == {"user engine"}


def test_a_judge_runs_where_the_world_has_one_of_its_own():
    text = SMALL | {"world": "support", "model": "scripted", "evals": {"suites": []}}
    counts = [{n.role: n.count for n in needs(build(c, "test"))}["judge"] for c in (SMALL, text)]
    assert counts == [1, 0]


def test_arms_side_by_side_need_room_for_as_many_sets_of_actors():
    arms = [{"name": name, "biased_ratio": 0.5} for name in "abc"]
    taken = {"assistant": {"replicas": {"min": 2, "max": 3}}}
    one, two, all_ = (build(SMALL | taken | {"arms": arms, "cluster": {"arms_at_once": n}}, "test") for n in (1, 2, 9))
    for many, times in ((two, 2), (all_, 3)):
        assert [(n.count, n.later) for n in needs(many)] == [(times * n.count, times * n.later) for n in needs(one)]
    with pytest.raises(ConfigError, match=r"but the cluster has 3 CPU .*\n  4 x assistant"):
        check_resources(two, [{"CPU": 3.0}])


def test_what_the_cluster_lacks_is_said_before_anything_waits():
    config = build(SMALL | {"assistant": {"replicas": 4, "gpus": 1}}, "test")
    with pytest.raises(
        ConfigError, match=r"4 GPU, but the cluster has 8 CPU and 2 GPU on 2 nodes; .*\n  4 x assistant"
    ):
        check_resources(config, [{"CPU": 4.0, "GPU": 1.0}] * 2)
    whole = build(SMALL | {"assistant": {"cpus": 3}}, "test")
    with pytest.raises(ConfigError, match="no node has room left for: assistant"):
        check_resources(whole, [{"CPU": 2.0}] * 4)
    split = build(SMALL | {"assistant": {"cpus": 1.2, "replicas": 3}}, "test")
    with pytest.raises(ConfigError, match="no node has room left for: assistant"):
        check_resources(split, [{"CPU": 3.0}] + [{"CPU": 1.1}] * 4)
    check_resources(split, [{"CPU": 3.0}] * 2)


def test_replicas_that_may_come_later_need_no_room_at_the_start():
    def lacks(assistant, **trainer):
        config = build(SMALL | {"assistant": {"gpus": 1, **assistant}, "trainer": trainer}, "test")
        try:
            check_resources(config, [{"CPU": 8.0, "GPU": 2.0}])
        except ConfigError as error:
            return str(error)
        return ""

    assert "6 GPU, but the cluster has 8 CPU and 2 GPU" in lacks({"replicas": 6})
    assert lacks({"replicas": {"min": 2, "max": 6}}) == ""
    assert "3 GPU, but the cluster has 8 CPU and 2 GPU" in lacks({"replicas": {"min": 3, "max": 6}})


def test_so_do_pools():
    def fit(pools):
        config = build(SMALL | {"users": {"cpus": 1, "pools": pools}}, "test")
        try:
            check_resources(config, [{"CPU": 4.0}])
        except ConfigError:
            return False
        return True

    assert not fit(8)
    assert fit({"min": 1, "max": 8})
    assert not fit({"min": 5, "max": 8})


@pytest.mark.parametrize(
    ("assistant", "told"),
    [
        ({"replicas": {"min": 3, "max": 2}}, "min_replicas 3 is more than replicas 2"),
        ({"replicas": 2, "min_replicas": 3}, "min_replicas 3 is more than replicas 2"),
        ({"replicas": {"most": 2}}, "give a number, or a range as {min: 2, max: 8}"),
        ({"replicas": {"min": 0, "max": 2}}, "assistant.min_replicas"),
    ],
)
def test_a_range_of_replicas_that_makes_no_sense_is_refused(assistant, told):
    for role, words in (("assistant", "replicas"), ("users", "pools")):
        settings = {name.replace("replicas", words): value for name, value in assistant.items()}
        with pytest.raises(ConfigError) as error:
            build(SMALL | {role: settings}, "test")
        assert told.replace("replicas", words).replace("assistant", role) in str(error.value)


@pytest.mark.parametrize("file", ["cluster.yaml", "deploy/ray/gcp.yaml", "deploy/ray/own-machines.yaml"])
def test_rays_own_validation_takes_the_cluster_files(file):
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((ROOT / file).read_text())
    made = prepare_config(copy.deepcopy(config))
    validate_config(made)
    aws = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    for start in ("head_start_ray_commands", "worker_start_ray_commands", "rsync_exclude", "file_mounts"):
        assert config[start] == aws[start]
    if config["provider"]["type"] == "local":
        (machine,) = made["available_node_types"].values()
        assert machine["min_workers"] == machine["max_workers"] == len(config["provider"]["worker_ips"])
        return
    assert config["head_node_type"] == "cpu-head"
    assert {name: t["resources"] for name, t in config["available_node_types"].items()} == {
        name: t["resources"] for name, t in aws["available_node_types"].items()
    }
    assert set(config["available_node_types"]) == {"cpu-head", "gpu-worker", "cpu-worker"}


def test_a_long_folder_for_temporary_files_does_not_stop_rays_sockets(tmp_path):
    long = f"/data/{'x' * 60}"
    assert socket_folder({}) is None
    assert socket_folder({"TMPDIR": "/scratch/me"}) is None
    assert socket_folder({"TMPDIR": long}) == "/tmp/ray"
    assert socket_folder({"TMPDIR": long, "RAY_TMPDIR": "/scratch"}) is None
    with pytest.raises(ConfigError, match=r"RAY_TMPDIR /data/x+ is \d+ characters too long: .*sockets.*shorter name"):
        socket_folder({"RAY_TMPDIR": long})


def test_a_run_hears_sigterm_also_while_ray_starts():
    """Ray has handlers of its own, one of which ends the process at once, and one three seconds later."""
    code = (
        "import signal, threading, time, ray\n"
        "from loop.cluster import start_local_ray\n"
        "own = lambda *_: None\n"
        "signal.signal(signal.SIGTERM, own)\n"
        "seen, over = set(), threading.Event()\n"
        "def look():\n"
        "    while not over.is_set():\n"
        "        seen.add(signal.getsignal(signal.SIGTERM))\n"
        "        time.sleep(0.001)\n"
        "looking = threading.Thread(target=look)\n"
        "looking.start()\n"
        "start_local_ray('heard')\n"
        "over.set()\n"
        "looking.join()\n"
        "print(seen == {own} and signal.getsignal(signal.SIGTERM) is own)\n"
        "signal.raise_signal(signal.SIGTERM)\n"
        "print('alarm in', signal.alarm(0))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-2:] == ["True", "alarm in 0"], done.stdout + done.stderr[-2000:]


@pytest.mark.slow
def test_workers_have_the_drivers_python_also_under_uv_run():
    """Ray, which finds `uv run` among its parents, would give workers a new environment and wait for it."""
    code = (
        "from loop.cluster import start_local_ray; start_local_ray('uv'); import ray, sys; "
        "print(ray.get(ray.remote(lambda: sys.executable).remote(), timeout=60) == sys.executable)"
    )
    uv = Path(sys.executable).parent / "uv"
    command = [uv, "run", "--no-project", "--no-sync", "--python", sys.executable, "python", "-c", code]
    environment = os.environ | {"VIRTUAL_ENV": str(Path(sys.executable).parent.parent)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1:] == ["True"], done.stderr[-2000:]
