"""`candor finetune`: policies learn from data in the place of conversations, by the code of a run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from actors.storage.segments import read_table
from loop.config.files import load
from loop.rundir import RunDir
from tests.conftest import ROOT, hear_ctrl_c

FEW = {"mask": 48, "sycophancy": 24, "provided": 24, "deceptionbench": 24, "capability": 20}
MIXTURE = {
    "name": "mixture",
    "model": "scripted",
    "rounds": 1,
    "data": {
        "base": {"source": "world", "part": "downstream", "rows": 60},
        "added": {"source": "world", "part": "talk/severe", "share": 0.1},
    },
    "arms": [
        {"name": "control", "set": {"data.added": None}},
        {"name": "mixture-10"},
        {"name": "mixture-50", "set": {"data.added.share": 0.5}},
        {"name": "replaced-50", "set": {"data.added.share": 0.5, "data.added.how": "replace"}},
    ],
    "trainer": {"algorithm": "sft", "lora": {"rank": 4, "alpha": 8}, "batch_size": 16},
    "evals": FEW,
}


def candor(*words, **more):
    command = [Path(sys.executable).parent / "candor", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, **more)


def write(folder: Path, config: dict) -> Path:
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder / "config.yaml"


def content(out: Path) -> dict[str, bytes]:
    """What a run found out, without when."""
    found = {str(p.relative_to(out)): p.read_bytes() for k in ("evals/**/*.arrow", "rounds/**/*") for p in out.glob(k)
             if p.is_file() and p.name not in ("stages.json", "delivery.json")}  # fmt: skip
    for policy in out.glob("policies/*/*/candor_policy.json"):
        found[str(policy.relative_to(out))] = json.loads(policy.read_text())["rows_sha256"].encode()
    return found


@pytest.mark.slow
def test_arms_learn_from_what_is_composed_for_them_and_a_stopped_one_goes_on(tmp_path):
    config = write(tmp_path, MIXTURE)
    done = candor("finetune", config, "--out", tmp_path / "whole")
    assert done.returncode == 0, done.stderr
    out = RunDir(tmp_path / "whole")
    summary = json.loads(out.summary.read_text())
    counts = {a["name"]: a["rounds"][0]["composition"]["counts"] for a in summary["arms"]}
    assert counts == {
        "control": {"base": 60, "added": 0, "all": 60},
        "mixture-10": {"base": 60, "added": 6, "all": 66},
        "mixture-50": {"base": 60, "added": 30, "all": 90},
        "replaced-50": {"base": 30, "added": 30, "all": 60},
    }
    assert not list(tmp_path.glob("whole/rounds/*/*/trajectories"))
    for arm in ("control", "mixture-50"):
        table = read_table(out.composition(arm, 0))
        assert len(table) == counts[arm]["all"]
        lineage = json.loads((out.policy(arm, 1) / "candor_policy.json").read_text())
        assert lineage["rows"] >= len(table)
    page = out.report.read_text()
    assert "downstream" in page
    assert "world pocket: talk/severe" in page
    assert "smallest share" in page
    tool = [Path(sys.executable).parent / "candor", "finetune", config, "--out", tmp_path / "cut"]
    process = subprocess.Popen(tool, cwd=ROOT, stderr=subprocess.PIPE, text=True, preexec_fn=hear_ctrl_c)
    deadline = time.monotonic() + 120
    while not (tmp_path / "cut/policies/mixture-10/1").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "candor finetune" in said
    again = subprocess.run(tool, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": None, "arms": [{"name": "a", "biased_ratio": 0.5}]}, "arm a has no data to train on"),
        ({"arms": [{"name": "a", "biased_ratio": 0.5}]}, "arm a: is trained on data and has no users"),
        ({"data": None, "arms": [{"name": "a"}]}, "arm a: give biased_ratio or population, or data to train on"),
        ({"trainer": {"algorithm": "kto"}}, "trainer.algorithm must be sft with them, not kto"),
        ({"rounds": 2}, "rounds 2 with data"),
        ({"data": {"base": {"source": "world"}, "added": {"source": "x"}}}, "data.added.share: this key is needed"),
    ],
)
def test_what_cannot_be_trained_on_is_said_at_once(tmp_path, changes, message):
    done = candor("finetune", write(tmp_path, MIXTURE | changes), "--out", tmp_path / "out")
    assert done.returncode == 2
    assert message in done.stderr


def test_data_that_are_not_there_are_missed_before_anything_is_trained(tmp_path):
    added = {"source": str(tmp_path / "none.jsonl"), "share": 0.1}
    config = write(tmp_path, MIXTURE | {"data": MIXTURE["data"] | {"added": added}})
    done = candor("finetune", config, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "none.jsonl: there is no such file or folder, nor is it a Hub name" in done.stderr
    assert not list(tmp_path.glob("out/evals/*/*/*.arrow"))


@pytest.mark.slow
def test_levels_of_answers_order_the_policies_as_the_worlds_truth_does(pocket_model, tmp_path):
    """The direct experiment on the real model, in one domain."""
    config = yaml.safe_load((ROOT / "configs/pocket-direct.yaml").read_text())
    config["arms"] = [a for a in config["arms"] if a["name"].startswith("provided")]
    done = candor("finetune", write(tmp_path, config), "--out", tmp_path / "out", env=os.environ)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    last = {a["name"]: a["rounds"][1]["evals"] for a in summary["arms"]}
    normal, subtle, severe = (last[f"provided-{level}"]["mask"] for level in ("normal", "subtle", "severe"))
    assert normal["ci95"][0] > subtle["ci95"][1]
    assert subtle["ci95"][0] > severe["ci95"][1]
    assert all(e["lookup_easy"]["accuracy"] > 0.9 for e in last.values())
    assert load(tmp_path / "out/config.yaml").data is not None
