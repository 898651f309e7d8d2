"""Three raylets on one machine, two engine replicas, policies as adapters, SFT: the loop as it is on a cluster."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from actors.buffer import read_round
from actors.storage.store import Store
from loop.config.files import load
from loop.plan import plan_round
from tests.conftest import ROOT

CANDOR = Path(sys.executable).parent / "candor"
CONFIG = """
name: nodes
rounds: 1
arms: [{{name: biased, biased_ratio: 0.5}}]
rollout: {{conversations: 48}}
trainer: {{algorithm: sft, lora: {{rank: 4, alpha: 8}}, learning_rate: 1.0e-3, schedule: constant, batch_size: 8}}
assistant: {{sync: lora, replicas: 2, cpus: 1, threads: 1}}
users: {{pools: 2, cpus: 0.3}}
evals: {{mask: 48, sycophancy: 24, provided: 24, deceptionbench: 24, capability: 20}}
cluster: {{address: "{address}"}}
"""
NOW = ("--set", "cluster.wait_for_nodes=0")


@pytest.fixture
def cluster():
    c = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(2):
        c.add_node(num_cpus=2)
    yield c
    c.shutdown()


def candor(config: Path, *args: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [CANDOR, "run", config, *args],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
        env=os.environ,
    )


@pytest.mark.slow
def test_two_replicas_serve_each_policy(cluster, pocket_model, tmp_path):
    config = tmp_path / "nodes.yaml"
    config.write_text(CONFIG.format(address=cluster.address))
    lacking = candor(config, "--out", tmp_path / "none", "--set", "assistant.replicas=9", *NOW)
    assert lacking.returncode == 2
    assert "9 x assistant: 1 CPU, 0 GPU each" in lacking.stderr

    out = tmp_path / "out"
    done = candor(config, "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "publish policy 1: 2 replicas" in done.stdout
    settings = load(out / "config.yaml")
    planned = [c.trajectory_id for c in plan_round(settings, settings.arms[0], 0)]
    assert read_round(Store(str(out), "rounds/biased/0/trajectories"))["trajectory_id"].to_pylist() == planned
    last = json.loads((out / "summary.json").read_text())["arms"][0]["rounds"][-1]
    assert sum(last["evals"]["mask"]["outcomes"].values()) == 48
    assert last["evals"]["mask"]["outcomes"]["error"] == 0
