"""Commands as a user calls them, in their own process."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT, hear_ctrl_c

CANDOR = Path(sys.executable).parent / "candor"


def candor(*args, cwd=ROOT, **environment):
    return subprocess.run(
        [CANDOR, *map(str, args)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | environment,
        check=False,
    )


def test_help_answers_at_once_without_the_heavy_libraries():
    seconds = []
    for _ in range(3):
        started = time.monotonic()
        assert candor("--help").returncode == 0
        seconds.append(time.monotonic() - started)
    assert min(seconds) < 1.5, "the goal is 1 s on an idle machine"
    code = "import sys, loop.cli, loop.config; print([m for m in ('torch', 'ray', 'vllm') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"


COMMANDS = (
    "run",
    "report",
    "doctor",
    "bench",
    "export",
    "finetune",
    "dataset",
    "eval model",
    "eval rescore",
    "eval agreement",
    "eval spread",
    "eval mask",
    "eval grim",
    "world",
    "world build",
)


@pytest.mark.parametrize("command", [c.split() for c in COMMANDS])
def test_every_command_has_help_with_an_example(command):
    out = candor(*command, "--help")
    assert out.returncode == 0
    assert "Example:" in out.stdout or command == ["world"]


def test_impossible_percentages_are_listed(tmp_path):
    (tmp_path / "t.csv").write_text("name,value,n\nprovided facts,48.00,274\ndisinformation,48.00,125\n")
    out = candor("eval", "grim", str(tmp_path / "t.csv"))
    assert out.returncode == 1
    assert out.stdout.startswith("1 of 2 percentages are no share of their number of items")
    assert "47.81 or 48.18" in out.stdout


def test_results_of_masks_scripts_are_scored_again(tmp_path):
    stated, believed = (
        f"eval({p})_run1_extracted" for p in ("System Prompt + User Prompt", "belief_system_1 + belief_elicit_1")
    )
    head = f"task_id,proposition,formatted_ground_truth,{stated},{believed}\n"
    (tmp_path / "known_facts_m.csv").write_text(head + "1,a or b,A,A,A\n2,a or b,A,B,A\n")
    out = candor("eval", "mask", "--rescore", str(tmp_path), "--json")
    assert json.loads(out.stdout)["m"]["all"]["honesty_score"] == 0.5
    assert "0.500" in candor("eval", "mask", "--rescore", str(tmp_path)).stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["run", "nowhere.yaml"], "nowhere.yaml: there is no such config"),
        (["run", "--set", "colour=red"], "colour: unknown key"),
        (["run", "--set", "arms=[{name: a, biased_ratio: 1.5}]"], "biased_ratio: found 1.5"),
        (["run", "--set", "rounds=0"], "rounds: found 0"),
        (["run", "--set", "rounds"], "expected key=value"),
        (["report", "nowhere"], "nowhere is no run directory"),
        (["world", "build", "mars"], "known: pocket, pocket-control"),
        (["bench", "nothing"], "there is no benchmark 'nothing'"),
        (["bench", "users", "--widen", "4"], "--widen is for lockstep and rollouts, not for users"),
        (["eval", "mask", "--rescore", "nowhere"], "there is no file named after an archetype and a model"),
        (["eval", "grim", "nowhere.csv"], "nowhere.csv: cannot be read"),
        (["export", "nowhere", "--arm", "a", "--round", "1"], "nowhere is no run directory"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(tmp_path, args, message):
    if args[0] == "run":
        args = [*args, "--out", str(tmp_path / "run")]
    out = candor(*args)
    assert out.returncode == 2
    assert message in out.stderr
    assert "Traceback" not in out.stderr
    assert not (tmp_path / "run").exists()


def test_a_model_directory_without_weights(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    out = candor("run", "--set", f"model={tmp_path}/model", "--out", tmp_path / "run")
    assert out.returncode == 2
    assert "has no weights" in out.stderr


def test_an_output_directory_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("")
    out = candor("run", "--out", tmp_path / "file" / "run")
    assert out.returncode == 2
    assert "cannot be written" in out.stderr
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    out = candor("run", "--out", tmp_path / "full")
    assert out.returncode == 2
    assert "is not empty and is no run directory" in out.stderr
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["thesis.txt"]


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "cache").write_text("")
    out = candor("run", "--out", tmp_path / "run", CANDOR_CACHE=str(tmp_path / "cache"))
    assert out.returncode == 2
    assert "set CANDOR_CACHE to a folder that can be written" in out.stderr
    assert "Traceback" not in out.stderr


def test_the_doctor_says_what_would_be_used():
    out = candor("doctor")
    for word in ("vLLM", "cores", "memory", "number format", "amx", "cache", "merged weights"):
        assert word in out.stdout


def test_ctrl_c_while_the_model_is_built_leaves_no_half_model(tmp_path):
    cache, out = tmp_path / "cache", tmp_path / "run"
    run = subprocess.Popen(
        [CANDOR, "run", "--out", out],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=hear_ctrl_c,
        env=os.environ | {"CANDOR_CACHE": str(cache)},
    )
    deadline = time.monotonic() + 60
    while not list(cache.glob("models/.pocket-*.tmp")):
        assert run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(1)
    os.killpg(run.pid, signal.SIGINT)
    text = run.communicate(timeout=60)[0]
    assert run.returncode == 130, text
    assert "Go on with:" in text
    assert "Traceback" not in text
    assert list((cache / "models").iterdir()) == []
