"""Commands as a user calls them, in their own process."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest
import typer
from safetensors import SafetensorError
from typer.testing import CliRunner

from loop.cli import exits
from loop.cli.app import app
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


@pytest.mark.slow  # alone on the machine, as it measures seconds
def test_help_answers_at_once():
    seconds = []
    for _ in range(3):
        started = time.monotonic()
        assert candor("--help").returncode == 0
        seconds.append(time.monotonic() - started)
    assert min(seconds) < 1.5, "the goal is 1 s on an idle machine"


def test_the_command_line_and_the_config_import_no_heavy_library():
    heavy = ("torch", "ray", "vllm", "transformers", "openai", "scipy.stats", "pandas")
    code = f"import sys, loop.cli.app, loop.config.files, loop.damage; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"


def commands(group, words=()):
    """Every command and group of commands, with the words that call it."""
    yield words, group
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*words, name))


COMMANDS = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example_of_itself(words):
    said = CliRunner().invoke(app, [*words, "--help"])
    assert said.exit_code == 0
    example = COMMANDS[words].epilog
    called = " ".join(w for i, w in enumerate(words) if (w, i) != ("model", 1))  # candor eval MODEL
    assert example.startswith(f"Example: candor {called}".rstrip())
    assert "Example:" in said.stdout
    assert all(p.help for p in COMMANDS[words].params if p.name not in ("help", "install_completion"))


WITHOUT_FIGURES = {
    "config schema",
    "config docs",
    "eval draw",
    "model fetch",
    "prune",
    "world personas",
    "world review",
    "view",
    "serve",
    "chat",
}
"""Commands that make or show something which is no figure."""


def test_every_command_that_prints_figures_prints_them_as_json_too():
    without = {
        " ".join(words)
        for words, command in COMMANDS.items()
        if not hasattr(command, "commands") and not any("--json" in p.opts for p in command.params)
    }
    assert without - WITHOUT_FIGURES == set()


def test_the_figures_of_small_commands_as_json(tmp_path):
    (tmp_path / "t.csv").write_text("name,value,n\nprovided facts,48.00,274\n")
    (tmp_path / "d.jsonl").write_text(
        '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
    )

    def said(*words):
        return json.loads(CliRunner().invoke(app, [*map(str, words), "--json"]).stdout)

    assert said("eval", "grim", tmp_path / "t.csv")["percentages"][0]["nearest"] == ["47.81", "48.18"]
    found = said("dataset", tmp_path / "d.jsonl")
    assert [m["role"] for m in found["conversations"][0]] == ["user", "assistant"]
    assert said("world", "check", "support")["problems"] == []
    assert said("model", "list")["smollm2"]["licence"]
    assert said("doctor")["findings"]["cores"]["good"]


def test_the_page_about_commands_has_every_exit_code():
    page = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    table = page.partition("## Exit codes")[2].partition("## ")[0]
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
    assert codes == {exits.DONE, exits.FAILED, exits.USAGE, exits.STOPPED}


def test_every_command_is_on_the_page_about_commands():
    page = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    named = {" ".join(w for i, w in enumerate(words) if (w, i) != ("model", 1)) for words in COMMANDS if words}
    groups = {" ".join(words) for words, command in COMMANDS.items() if hasattr(command, "commands")} - {"eval"}
    assert [n for n in sorted(named - groups) if f"`candor {n}" not in page and f"candor {n}" not in page] == []


def test_the_version_is_told_and_shells_complete_commands():
    assert CliRunner().invoke(app, ["--version"]).stdout == f"candor {version('candor-loop')}\n"
    words = {"COMP_WORDS": "candor wor", "COMP_CWORD": "1", "_CANDOR_COMPLETE": "complete_bash"}
    assert "world" in candor(**words).stdout.split()


def test_impossible_percentages_are_listed(tmp_path):
    (tmp_path / "t.csv").write_text("name,value,n\nprovided facts,48.00,274\ndisinformation,48.00,125\n")
    out = candor("eval", "grim", str(tmp_path / "t.csv"))
    assert out.returncode == 1
    assert out.stdout.startswith("1 of 2 percentages are impossible for their number of items")
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
        (["report", "nowhere"], "nowhere is not a run directory"),
        (["world", "build", "mars"], "known: pocket, pocket-control"),
        (["bench", "nothing"], "there is no benchmark 'nothing'"),
        (["bench", "users", "--widen", "4"], "--widen is for lockstep and rollouts, not for users"),
        (["bench", "rating"], "candor bench rating needs --model"),
        (
            ["bench", "users", "--model", "pocket"],
            "--model is for lockstep, rollouts, rating, eval, judge, train, not for users",
        ),
        (["eval", "mask", "--rescore", "nowhere"], "there is no file named after an archetype and a model"),
        (["eval", "grim", "nowhere.csv"], "nowhere.csv: cannot be read"),
        (["export", "nowhere", "--arm", "a", "--round", "1"], "nowhere is not a run directory"),
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
    assert "is not empty and is not a run directory" in out.stderr
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["thesis.txt"]


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "cache").write_text("")
    out = candor("world", "build", CANDOR_CACHE=str(tmp_path / "cache"))
    assert out.returncode == 1
    assert "set CANDOR_CACHE to a folder that can be written" in out.stderr
    assert "Traceback" not in out.stderr


def test_the_doctor_says_what_would_be_used():
    out = candor("doctor")
    for word in ("vLLM", "cores", "memory", "number format", "amx", "cache", "merged weights"):
        assert word in out.stdout


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("No space left on device")])
def test_a_full_disk_is_named_with_what_to_do(tmp_path, monkeypatch, error):
    def full(*_):
        raise error

    monkeypatch.setattr("actors.worlds.pocket.build.build", full)
    out = CliRunner().invoke(app, ["world", "build", "--out", str(tmp_path / "model")])
    assert out.exit_code == 1
    assert re.search(r"cannot be written: No space left on device; free space there, or\s+give --out a", out.output)


def test_a_build_does_not_replace_what_is_no_model(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    out = candor("world", "build", "--out", tmp_path)
    assert out.returncode == 2
    assert "is not a pocket model; choose another folder" in out.stderr
    assert (tmp_path / "thesis.txt").exists()


@pytest.mark.slow
def test_ctrl_c_while_the_model_is_built_leaves_no_half_model(tmp_path):
    cache = tmp_path / "cache"
    run = subprocess.Popen(
        [CANDOR, "world", "build"],
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
    assert "stopped; nothing of the model was kept" in text
    assert "Traceback" not in text
    assert list((cache / "models").iterdir()) == []
