"""A cluster of two machines that others use too: what is free is shown, waited for, and taken."""

import json
import subprocess
import sys
import threading

import pytest
from ray.cluster_utils import Cluster

from loop.rundir import RunDir, read_json
from tests.loop.conftest import SCRIPTED, candor

pytestmark = pytest.mark.slow


OTHERS = """
import sys, ray
ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
@ray.remote(num_cpus=1)
class Other:
    def there(self):
        return True
others = [Other.remote() for _ in range(3)]
ray.get([o.there.remote() for o in others])
print("holding", flush=True)
sys.stdin.read()
"""
"""Holds all cores until nobody writes to it any more: a process of its own, as this one may have a Ray already."""


@pytest.fixture
def cluster():
    c = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    c.add_node(num_cpus=2)
    yield c
    c.shutdown()


def test_a_run_waits_for_what_is_busy_and_begins_when_it_is_free(cluster, tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text(SCRIPTED + f'cluster: {{address: "{cluster.address}", wait_for_nodes: 3}}\n')
    free = candor("plan", config, "--out", tmp_path / "runs", "--json")
    assert free.returncode == 0, free.stdout + free.stderr
    found = json.loads(free.stdout)
    assert len(found["machines"]) == 2
    assert all(m["versions"]["ray"] for m in found["machines"])
    assert list((tmp_path / "runs").iterdir()) == []

    others = subprocess.Popen(
        [sys.executable, "-c", OTHERS, cluster.address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert others.stdout.readline() == "holding\n"
    busy = candor("plan", config, "--json")
    assert busy.returncode == 1, busy.stdout + busy.stderr
    assert json.loads(busy.stdout)["homeless"]
    refused = candor("run", config, "--out", tmp_path / "short", "--set", "cluster.wait_for_nodes=0.02")
    assert refused.returncode == 2
    assert "CPU and 0 GPU free on 2 nodes" in refused.stderr
    assert "Waited 0.02 min (cluster.wait_for_nodes)" in refused.stderr
    threading.Timer(10, others.stdin.close).start()
    done = candor("run", config, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "waiting for room on the cluster" in done.stdout
    assert read_json(RunDir(tmp_path / "run").summary)["status"] == "finished"
    assert others.wait(60) == 0
