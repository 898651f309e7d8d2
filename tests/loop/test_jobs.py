"""Runs as jobs of a Ray cluster: what is sent, what is refused, and a whole run on a real head."""

import json
import os
import shlex
import sys
import time
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from loop.cli.app import app
from loop.config.explain import ConfigError
from loop.config.files import build, load
from loop.jobs import CONFIG, entrypoint, job_server, keys_of, submit
from loop.rundir import RunDir, read_json
from tests.conftest import ROOT
from tests.loop.conftest import SCRIPTED, candor

HEAD = "http://127.0.0.1:9"


def refused(*words):
    done = CliRunner().invoke(app, ["submit", *map(str, words)])
    assert done.exit_code == 2, done.output
    return done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "give one of CONFIG, --list, --stop ID and --logs ID, not none"),
        (("--list", "--stop", "a"), "not --list and --stop"),
        (("configs/scripted.yaml", "--list"), "not CONFIG and --list"),
        (("--list",), "--address http://HEAD:8265, or RAY_API_SERVER_ADDRESS"),
        (("configs/scripted.yaml", "--address", HEAD), "give --out, the run directory"),
        (("--list", "--address", "10.0.0.4:6379"), "--address 10.0.0.4:6379: give the address of Ray's dashboard"),
        (("none.yaml", "--address", HEAD, "--out", "/shared/x"), "none.yaml: there is no such config"),
    ],
)
def test_what_does_not_make_sense_is_said_before_anybody_is_asked(words, said, monkeypatch):
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    monkeypatch.chdir(ROOT)
    assert said in refused(*words)


def test_a_run_directory_that_every_machine_would_look_for_elsewhere_is_refused():
    with pytest.raises(ConfigError, match="--out runs/x: give an absolute path, on storage that every machine"):
        submit(None, build({"name": "t", "arms": [{"name": "a", "biased_ratio": 0}]}, "test"), Path("runs/x"))


def test_the_job_runs_the_config_in_its_directory_whatever_that_is_called():
    words = shlex.split(entrypoint(Path("/shared/my runs/$x")))
    assert words == ["candor", "run", CONFIG, "--out", "/shared/my runs/$x", "--set", "cluster.address=auto"]


def test_keys_are_known_by_the_names_of_their_variables():
    assert keys_of(load(ROOT / "configs/therapist.yaml")) == ["OPENAI_API_KEY"]
    assert keys_of(load(ROOT / "configs/pocket.yaml")) == []


@pytest.mark.heavy
def test_an_address_at_which_no_job_server_answers_is_said():
    with pytest.raises(ConfigError, match=r"--address http://127\.0\.0\.1:9: no Ray job server answers"):
        job_server(HEAD)


@pytest.fixture
def head(monkeypatch):
    """A cluster of one machine with a dashboard, on which a key is set; its address for jobs."""
    from ray.cluster_utils import Cluster

    tools = Path(sys.executable).parent
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("SOME_API_KEY", "the-secret-itself")
    c = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "include_dashboard": True, "dashboard_port": 0})
    monkeypatch.delenv("SOME_API_KEY")
    yield f"http://{c.head_node.webui_url}"
    c.shutdown()


def listed(address):
    return {j["id"]: j for j in json.loads(candor("submit", "--list", "--address", address, "--json").stdout)}


def until(condition, seconds, what):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.5)


@pytest.mark.slow
def test_a_run_is_submitted_followed_stopped_and_continued(head, tmp_path):
    config, out = tmp_path / "run.yaml", tmp_path / "out"
    text = SCRIPTED.replace("conversations: 40", "conversations: 4000").replace("concurrency: 8", "concurrency: 4")
    config.write_text(text)
    where = ("--address", head)
    sent = candor("submit", config, *where, "--out", out, "--json")
    assert sent.returncode == 0, sent.stdout + sent.stderr
    first = json.loads(sent.stdout)["id"]
    again = candor("submit", config, *where, "--out", out)
    assert again.returncode == 2
    assert f"job {first} is at work there; stop it first" in again.stderr
    rounds = RunDir(out)
    segments = rounds.trajectories("biased", 0).local
    until(
        lambda: segments.exists() and len(list(segments.glob("segment-*"))) > 2,
        180,
        lambda: candor("submit", "--logs", first, *where).stdout,
    )
    stopped = candor("submit", "--stop", first, *where)
    assert stopped.returncode == 0, stopped.stderr
    assert stopped.stdout.strip() == f"{first}: stopped"
    assert read_json(rounds.summary)["status"] == "stopped"  # it ended by itself, and was not killed
    held = {p.name for p in segments.glob("segment-*")}
    config.write_text(text.replace("pools: 2, concurrency: 4", "pools: 2, concurrency: 64"))
    followed = candor("submit", config, *where, "--out", out, "--follow")
    assert followed.returncode == 0, followed.stdout + followed.stderr
    assert "✓ biased: round 0 rollout: 4000 conversations" in followed.stdout
    assert read_json(rounds.summary)["status"] == "finished"
    assert held
    found = listed(head)
    assert sorted(j["status"] for j in found.values()) == ["STOPPED", "SUCCEEDED"]
    assert {j["out"] for j in found.values()} == {str(out)}
    unknown = candor("submit", "--stop", "other", *where)
    assert unknown.returncode == 2
    assert f"there is no run with the id other; known: {first}" in unknown.stderr


@pytest.mark.slow
def test_a_key_is_read_where_the_job_runs_and_is_written_nowhere(head, tmp_path, monkeypatch):
    """The endpoint is not there, so the run ends by saying so; that a key is missing would be said before."""
    config, out = tmp_path / "run.yaml", tmp_path / "out"
    models = {
        "away": {"kind": "endpoint", "model": "m", "base_url": "http://127.0.0.1:9/v1", "key_env": "SOME_API_KEY"}
    }
    raw = yaml.safe_load(SCRIPTED) | {"models": models, "roles": {"rater": "away"}}
    config.write_text(yaml.safe_dump(raw))
    done = candor("submit", config, "--address", head, "--out", out, "--follow")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "keys: SOME_API_KEY must be set where Ray was started; they are not sent" in done.stdout
    assert "models.away: m at http://127.0.0.1:9/v1 cannot be reached" in done.stdout
    assert "needs a key" not in done.stdout
    (job,) = listed(head).values()
    assert job["status"] == "FAILED"
    written = [p for p in out.rglob("*") if p.is_file() and b"the-secret-itself" in p.read_bytes()]
    assert written == []
    assert "the-secret-itself" not in done.stdout + done.stderr + json.dumps(job)
