"""What is in deploy/ fits the project: versions, files and commands that it names, and what schedulers are asked."""

import json
import os
import re
import shlex
import signal
import subprocess
import time
import tomllib

import promql_parser
import pytest
import yaml

from loop.config.files import load, parse_overrides
from loop.gauges import GAUGES
from tests.conftest import ROOT

DEPLOY = ROOT / "deploy"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def manifests(name):
    return [m for m in yaml.safe_load_all((DEPLOY / "kuberay" / name).read_text()) if m]


def commands():
    """Every call of `candor run` in deploy/ and docs/cluster.md."""
    texts = [p.read_text() for p in [*DEPLOY.rglob("*"), ROOT / "docs/cluster.md"] if p.is_file()]
    found = [line for text in texts for line in re.findall(r"candor run (configs/[^\n&>']*)", text)]
    assert len(found) >= 2
    return found


@pytest.mark.parametrize("command", commands())
def test_every_run_that_is_shown_has_a_config_that_is_sound(command):
    words = shlex.split(command)
    changes = [words[i + 1] for i, w in enumerate(words) if w == "--set" and not words[i + 1].startswith("model=")]
    settings = load(ROOT / words[0], parse_overrides(changes))
    assert settings.cluster.address
    assert "--out" in words


def test_manifests_run_the_ray_that_the_project_pins_on_storage_that_all_share():
    claim, cluster = manifests("raycluster.yaml")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    pinned = next(d for d in PROJECT["dependencies"] if d.startswith("ray["))
    assert f">={'.'.join(cluster['spec']['rayVersion'].split('.')[:2])}," in pinned.replace(" ", "")
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    for group in groups:
        (container,) = group["template"]["spec"]["containers"]
        assert {"name": "shared", "mountPath": "/shared"} in container["volumeMounts"]
        claims = [
            v["persistentVolumeClaim"]["claimName"]
            for v in group["template"]["spec"]["volumes"]
            if v["name"] == "shared"
        ]
        assert claims == [claim["metadata"]["name"]]
        assert container["resources"]["requests"] == container["resources"]["limits"]
    gpus = [g["template"]["spec"]["containers"][0]["resources"]["limits"].get("nvidia.com/gpu") for g in groups]
    assert gpus == [None, "8", None]
    assert cluster["spec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert cluster["spec"]["authOptions"] == {"mode": "token"}


def test_the_job_runs_on_that_cluster_and_asks_nothing_that_kuberay_refuses():
    (job,), (_, cluster) = manifests("rayjob.yaml"), manifests("raycluster.yaml")
    assert job["spec"]["clusterSelector"] == {"ray.io/cluster": cluster["metadata"]["name"]}
    assert not {"backoffLimit", "suspend", "shutdownAfterJobFinishes", "rayClusterSpec"} & set(job["spec"])


def test_the_image_installs_extras_that_there_are():
    text = (DEPLOY / "Dockerfile").read_text()
    assert re.search(r"^ARG EXTRA=(\w+)$", text, re.MULTILINE)[1] in PROJECT["optional-dependencies"]
    assert {"cpu", "gpu", "harness"} <= set(PROJECT["optional-dependencies"])
    assert not re.search(r"https?://", text)


@pytest.fixture
def slurm(tmp_path):
    """A job's environment, with a scheduler and commands that only note what they are asked."""
    tools, home = tmp_path / "tools", tmp_path / "checkout"
    tools.mkdir()
    (home / ".venv/bin").mkdir(parents=True)
    (home / ".venv/bin/activate").write_text("")
    note = f'echo "$(basename "$0") $*" >> {tmp_path}/noted\n'
    script = {
        "scontrol": '[[ $1 == show ]] && printf "n1\\nn2\\nn3\\n" || true\n',
        "srun": 'while [[ $1 == -* ]]; do [[ $1 == -w ]] && shift; shift; done; exec "$@"\n',
        "hostname": "echo 10.0.0.1 fe80::1\n",
        "ray": "[[ $1 == health-check ]] || exec sleep 30\n",
        "candor": 'trap "exit 130" TERM\nwhile [[ -z ${ENDS:-} ]]; do sleep 0.05; done\nexit "$ENDS"\n',
    }
    for name, body in script.items():
        (tools / name).write_text("#!/bin/bash\n" + note + body)
        (tools / name).chmod(0o755)
    path = f"{tools}:{os.environ['PATH']}"
    job = {"PATH": path, "SLURM_SUBMIT_DIR": str(home), "SLURM_JOB_NODELIST": "n[1-3]", "SLURM_JOB_ID": "42"}

    def start(*words, **environment):
        command = ["bash", DEPLOY / "slurm.sh", *words]
        return subprocess.Popen(command, env=job | environment, start_new_session=True, stderr=subprocess.PIPE)

    def noted():
        return (tmp_path / "noted").read_text().splitlines() if (tmp_path / "noted").exists() else []

    return start, noted


@pytest.mark.parametrize(("ends", "requeued"), [("0", False), ("1", False)])
def test_a_slurm_job_ends_as_its_run_does(slurm, ends, requeued):
    start, noted = slurm
    process = start("configs/gpu.yaml", "/shared/runs/gpu", "--set", "rounds=2", ENDS=ends)
    assert process.wait(30) == int(ends)
    deadline = time.monotonic() + 30
    while sum(line.startswith("ray start --address=") for line in noted()) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)  # they are started beside the run, which ends at once here
    os.killpg(process.pid, signal.SIGKILL)
    said = noted()
    (run,) = [line for line in said if line.startswith("candor")]
    address = re.search(r"cluster\.address=(10\.0\.0\.1:\d+)", run)[1]
    assert run == f"candor run configs/gpu.yaml --out /shared/runs/gpu --set cluster.address={address} --set rounds=2"
    assert any("requeue" in line for line in said) == requeued
    assert sum(line.startswith("ray start --address=" + address) for line in said) == 2


def test_a_slurm_job_at_its_time_limit_stops_the_run_and_goes_back_into_the_queue(slurm):
    start, noted = slurm
    process = start("configs/gpu.yaml", "/shared/runs/gpu")
    deadline = time.monotonic() + 30
    while not any(line.startswith("candor") for line in noted()) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 130
    os.killpg(process.pid, signal.SIGKILL)
    assert "scontrol requeue 42" in noted()


def test_a_slurm_job_without_a_config_says_how_it_is_called(slurm):
    start, _ = slurm
    process = start("configs/gpu.yaml")
    assert process.wait(10) == 2
    assert b"usage: sbatch --nodes N" in process.stderr.read()


def dashboard():
    return json.loads((DEPLOY / "grafana/candor.json").read_text())


def rules():
    (group,) = yaml.safe_load((DEPLOY / "prometheus/rules.yml").read_text())["groups"]
    return group["rules"]


def shown_expressions():
    return [t["expr"] for p in dashboard()["panels"] for t in p.get("targets", [])]


def selectors(expression):
    """The metrics that an expression reads, each with the labels by which it is selected."""
    found = {}

    def note(e):
        if isinstance(e, promql_parser.VectorSelector):
            found[e.name] = {m.name for m in e.matchers.matchers}
        return True

    promql_parser.walk(promql_parser.parse(expression), note)
    return found


@pytest.mark.parametrize("expression", [*shown_expressions(), *(r["expr"] for r in rules())])
def test_what_is_shown_and_alerted_on_is_exported_with_these_labels(expression):
    from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

    found = selectors(expression.replace('"$run"', '".*"'))
    assert found
    for metric, labels in found.items():
        name = metric.removeprefix("ray_")
        if name not in GAUGES:
            assert name in METRICS_GAUGES, f"neither the run nor Ray exports {metric}"
            continue
        tags = {"run", *GAUGES[name].tags}
        assert labels <= tags
        for by in re.findall(r"by \(([^)]*)\)", expression) if len(found) == 1 else ():
            assert set(by.split(", ")) <= tags


def test_every_gauge_is_on_the_dashboard_or_in_a_rule():
    read = {name for e in [*shown_expressions(), *(r["expr"] for r in rules())] for name in selectors(e)}
    assert {"ray_" + name for name in GAUGES} - read == {"ray_candor_excluded", "ray_candor_disk_free_bytes"}


def test_the_dashboard_lets_its_reader_choose_where_it_reads_and_which_run():
    board = dashboard()
    assert [v["name"] for v in board["templating"]["list"]] == ["datasource", "run"]
    ids = [p["id"] for p in board["panels"]]
    assert len(ids) == len(set(ids))
    assert all(p["title"] for p in board["panels"])
    assert all(t["datasource"]["uid"] == "${datasource}" for p in board["panels"] for t in p.get("targets", []))
    assert "http" not in json.dumps(board)
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in board["panels"]]
    assert len(places) == len(set(places))


def test_alerts_say_what_happened_and_what_to_do():
    for rule in rules():
        assert re.fullmatch(r"Candor[A-Za-z]+", rule["alert"])
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        assert "$labels.run" in rule["annotations"]["summary"]
        assert rule["annotations"]["description"].endswith(".")
    assert len({r["alert"] for r in rules()}) == len(rules())


def test_prometheus_reads_the_rules_and_the_machines_that_ray_lists():
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    assert [DEPLOY / "prometheus" / name for name in config["rule_files"]] == [DEPLOY / "prometheus/rules.yml"]
    (scrape,) = config["scrape_configs"]
    from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

    assert scrape["file_sd_configs"][0]["files"] == [f"/tmp/ray/{PROMETHEUS_SERVICE_DISCOVERY_FILE}"]
