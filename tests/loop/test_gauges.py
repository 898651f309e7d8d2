"""What a heartbeat knows is what Prometheus is shown: one source, and no gauge that is never set."""

import subprocess
import time
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from loop.gauges import GAUGES, Gauges, readings, totals
from tests.conftest import ROOT
from tests.loop.conftest import CANDOR, SCRIPTED

STAGE = {
    "name": "biased: round 2 rollout", "stage": "rollout", "arm": "biased", "round": 2, "done": 30.0, "of": 40,
    "unit": "conversations", "seconds": 3.0, "beside": "",
    "figures": {
        "conversations_per_second": 10.0, "replies_per_second": 20.0, "tokens_per_second": 400.0, "budget_spent": 1.5
    },
}  # fmt: skip
ACTORS = [
    {"name": "assistant-0", "role": "assistant", "state": "working", "since": 7.5, "memory": 100, "restarts": 1,
     "figures": {"requests": 5, "prompt_tokens": 80, "cached_tokens": 60}},
    {"name": "assistant-1", "role": "assistant", "state": "idle", "since": 90.0, "memory": 200, "restarts": 0,
     "figures": {"requests": 2, "prompt_tokens": 20, "cached_tokens": 0}},
    {"name": "user-pool-0", "role": "user pool", "state": "working", "since": 0.1, "memory": 50, "restarts": 0,
     "figures": {"conversations": 9}},
    {"name": "buffer-0", "role": "buffer", "state": "idle", "since": 0.0, "memory": 60, "restarts": 0,
     "figures": {"planned": 40, "unwritten": 3, "excluded": 2}},
    {"name": "trainer-0", "role": "trainer", "state": "starting", "restarts": 0, "last_error": None},
]  # fmt: skip


def beat(**changes):
    whole = {
        "at": 1000.0, "stages": [STAGE], "actors": ACTORS, "figures": totals(ACTORS), "stalled": 1, "budget": 10.0,
        "disk": {"free": 25, "total": 100},
    }  # fmt: skip
    return whole | changes


def test_actors_together_come_to_what_each_of_them_counts():
    assert totals(ACTORS) == {
        "requests_under_way": 7, "conversations_under_way": 9, "unwritten": 3, "excluded_so_far": 2,
        "excluded_share": 0.05, "prefix_hit_rate": 0.6,
    }  # fmt: skip
    assert "prefix_hit_rate" not in totals([])


def test_every_gauge_is_set_with_the_tags_that_it_has():
    found = readings(beat())
    assert {name for name, _ in found} == set(GAUGES)
    for name, tags in found:
        assert tuple(key for key, _ in tags) == tuple(sorted(GAUGES[name].tags)), name


def shown(found, name, **tags):
    return found[name, tuple(sorted(tags.items()))]


def test_gauges_say_what_the_heartbeat_does():
    found = readings(beat())
    assert shown(found, "candor_tokens_per_second", arm="biased") == 400
    assert shown(found, "candor_round", arm="biased") == 2
    assert shown(found, "candor_stage_active", arm="biased", round="2", stage="rollout") == 1
    assert shown(found, "candor_requests_under_way", actor="assistant-0", role="assistant") == 5
    assert shown(found, "candor_prefix_hit_rate", actor="assistant-0", role="assistant") == 0.75
    assert shown(found, "candor_prefix_hit_rate", actor="assistant-1", role="assistant") == 0
    assert shown(found, "candor_excluded_share") == 0.05
    assert shown(found, "candor_actors", state="working") == 2
    assert shown(found, "candor_disk_free_share") == 0.25
    assert shown(found, "candor_budget_spent") == 1.5


def test_only_an_actor_with_work_stands_still():
    found = readings(beat())
    assert shown(found, "candor_actor_still_seconds", actor="assistant-0", role="assistant") == 7.5
    assert shown(found, "candor_actor_still_seconds", actor="assistant-1", role="assistant") == 0
    assert shown(found, "candor_actor_still_seconds", actor="trainer-0", role="trainer") == 0


def test_a_run_without_a_budget_shows_none():
    found = readings(beat(budget=None, stages=[]))
    assert not any(name in ("candor_budget", "candor_budget_spent") for name, _ in found)


class Noted(Gauges):
    """Gauges that are noted in the place of Ray's, which cannot be read."""

    def __init__(self):
        super().__init__("r")
        self.values = {}

    def _gauge(self, name):
        class One:
            def set(_, value, tags):  # noqa: N805
                self.values[name, *sorted(tags.items())] = value

        return One()


def test_what_is_over_falls_to_nothing_and_what_was_spent_stays():
    gauges = Noted()
    gauges.show(beat())
    active = ("candor_stage_active", ("arm", "biased"), ("round", "2"), ("run", "r"), ("stage", "rollout"))
    rate, spent = ("candor_tokens_per_second", ("arm", "biased"), ("run", "r")), ("candor_budget_spent", ("run", "r"))
    assert [gauges.values[k] for k in (active, rate, spent)] == [1, 400, 1.5]
    gauges.show(beat(stages=[]))
    assert [gauges.values[k] for k in (active, rate, spent)] == [0, 0, 1.5]


def scraped(node):
    """What a machine of a cluster exports: values by name and tags, those that Ray adds left out."""
    at = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(at, timeout=10) as answer:
        text = answer.read().decode()
    own = {"run", "arm", "stage", "round", "actor", "role", "state"}
    return {
        (s.name, tuple(sorted((k, v) for k, v in s.labels.items() if k in own))): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


@pytest.mark.slow
def test_ray_exports_the_gauges_of_a_run_at_work(tmp_path):
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 4, "include_dashboard": True, "dashboard_port": 0}
    )
    config = tmp_path / "run.yaml"
    config.write_text(
        SCRIPTED.replace("conversations: 40", "conversations: 6000")
        + f'cluster: {{address: "{cluster.address}"}}\nbudget: 100\n'
        + "models: {away: {kind: engine, model: scripted, price: {prompt: 1.0}}}\nroles: {rater: away}\n"
    )
    command = [CANDOR, "run", config, "--out", tmp_path / "r1"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        (node,) = cluster.global_state.node_table()
        wanted = {"ray_" + name for name in GAUGES} - {"ray_candor_prefix_hit_rate"}  # a script caches nothing
        found, seen, deadline = {}, set(), time.monotonic() + 240
        while not wanted <= seen and time.monotonic() < deadline and process.poll() is None:
            time.sleep(2)
            found = scraped(node)
            seen |= {name for (name, _), value in found.items() if value or not name.endswith("_per_second")}
        assert wanted <= seen, (wanted - seen, process.poll())
        assert all(("run", "r1") in tags for name, tags in found if name.startswith("ray_candor_"))
        rates = [v for (name, _), v in found.items() if name == "ray_candor_conversations_per_second"]
        assert len(rates) == 1
        assert found["ray_candor_heartbeat_seconds", (("run", "r1"),)] > time.time() - 60
        assert found["ray_candor_budget", (("run", "r1"),)] == 100
        assert {"ray_node_cpu_utilization", "ray_node_mem_used"} <= seen
    finally:
        process.terminate()
        said, _ = process.communicate(timeout=60)
        cluster.shutdown()
    assert "could not set the gauges" not in said
