"""A machine of a cluster dies in the middle of a run: its actors are started again on the machines that are left."""

import random
import time

import pytest
from ray.cluster_utils import Cluster

from loop.rundir import RunDir
from tests.chaos.harness import Life, check_whole, content


@pytest.fixture
def cluster():
    c = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(2):
        c.add_node(num_cpus=2)
    yield c
    c.shutdown()


@pytest.mark.slow
def test_a_machine_dies_and_the_run_goes_on_with_the_others(small_untouched, cluster, tmp_path):
    config, expected = small_untouched
    joined = tmp_path / "joined.yaml"
    joined.write_text(config.read_text().replace("max_restarts: 50", f'max_restarts: 50, address: "{cluster.address}"'))
    life = Life(joined, tmp_path / "out", random.Random(0))
    life.start()
    deadline = time.monotonic() + 120
    while life.stage() != "rollout":
        assert life.running(), life.said()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
    assert life.wait(400) == 0, life.said()[-3000:]
    assert "died" in life.said()
    assert life.starts == 1
    check_whole(RunDir(life.out))
    assert content(RunDir(life.out)) == expected
