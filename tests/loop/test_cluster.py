import pytest
import yaml

from loop.cluster import check_resources, needs
from loop.config import ConfigError, build
from tests.conftest import ROOT

SMALL = {"name": "test", "arms": [{"name": "a", "biased_ratio": 0.5}]}


def test_the_default_fits_two_cores():
    assert sum(n.count * n.cpus for n in needs(build(SMALL, "test"))) <= 2
    check_resources(build(SMALL, "test"), [{"CPU": 2.0}])


def test_adapters_let_users_share_the_assistants_engine():
    merged, lora = (build(SMALL | {"assistant": {"sync": s}}, "test") for s in ("merged", "lora"))
    assert {n.role for n in needs(merged)} - {n.role for n in needs(lora)} == {"user engine"}


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


def test_rays_own_validation_takes_the_cluster_file():
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    validate_config(prepare_config(config))
    assert config["head_node_type"] == "cpu-head"
    assert set(config["available_node_types"]) == {"cpu-head", "gpu-worker", "cpu-worker"}
