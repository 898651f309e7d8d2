"""A whole run whose trainer has two ranks, with the settings that the default run leaves alone; a rank dies in it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from actors.storage.segments import read_table
from tests.conftest import ROOT
from trainers.policy import read_lineage

CONFIG = {
    "name": "group",
    "rounds": 3,
    "arms": [
        {"name": "stacked", "biased_ratio": 0.5},
        {"name": "frozen", "biased_ratio": 0.5, "set": {"selection.control": "frozen", "trainer.start": "restart"}},
    ],
    "rollout": {"conversations": 96},
    "selection": {"within": "user_kind", "top": 0.25, "bottom": 0.25},
    "trainer": {
        "cpus": 0.2,
        "ranks": 2,
        "micro_batch": 4,
        "batch_size": 16,
        "epochs": 6,
        "checkpoint_steps": 2,
        "lora": {"rank": 4, "alpha": 8, "rslora": True},
        "learning_rate": 1e-3,
        "rows": "conversation",
        "start": "stack",
        "reference": 1,
        "undesirable_weight": "balanced",
        "share_gpu": True,  # there is none here: engines only refuse to work while the trainer does
    },
    "evals": {"mask": 48, "sycophancy": 24, "provided": 24, "deceptionbench": 24, "capability": 20},
}


def processes(root: str, title: str = "") -> list[psutil.Process]:
    """Processes of the run, or those of them with these words in their title."""
    found = []
    for p in psutil.process_iter():
        try:
            if title in " ".join(p.cmdline()) and p.environ().get("CANDOR_TEST") == root:
                found.append(p)
        except psutil.Error:
            continue
    return found


@pytest.mark.slow
def test_a_run_with_a_trainer_of_two_ranks_survives_the_death_of_one(pocket_model, tmp_path):
    rows = [{"instruction": f"What is {i} and {i}?", "output": f"{2 * i}."} for i in range(40)]
    (tmp_path / "replay.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = CONFIG | {
        "trainer": CONFIG["trainer"] | {"replay": {"path": str(tmp_path / "replay.jsonl"), "share": 0.25}}
    }
    (tmp_path / "group.yaml").write_text(yaml.safe_dump(config))
    out = tmp_path / "out"
    run = subprocess.Popen(
        [Path(sys.executable).parent / "candor", "run", tmp_path / "group.yaml", "--out", out],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=os.environ | {"CANDOR_TEST": str(out)},
    )
    deadline = time.monotonic() + 300
    while not list(out.glob("policies/stacked/.1.checkpoints/*/candor_complete.json")):
        assert run.poll() is None, run.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    (victim,) = processes(str(out), "ray::Trainer.follow")
    os.kill(victim.pid, signal.SIGKILL)
    text = run.communicate(timeout=900)[0]
    assert run.returncode == 0, text
    assert "the trainer died (RankLostError: rank 1 of the trainer" in text
    gone = time.monotonic() + 20
    while processes(str(out)) and time.monotonic() < gone:
        time.sleep(0.5)
    assert processes(str(out)) == []

    made = {arm: [read_lineage(out / "policies" / arm / str(v)) for v in (1, 2, 3)] for arm in ("stacked", "frozen")}
    for arm, lineages in made.items():
        assert [len(m.parents) for m in lineages] == [0, 1, 2]
        assert [m.reference for m in lineages] == [None, f"policies/{arm}/1", f"policies/{arm}/1"]
        assert all(m.rows_replayed == 12 and m.rows + sum(m.rows_dropped.values()) == 60 for m in lineages)
    ranks = [json.loads((out / f"policies/stacked/{v}/adapter_config.json").read_text())["r"] for v in (1, 2, 3)]
    assert ranks == [4, 8, 12]
    selections = [read_table(out / f"rounds/frozen/{r}/selection.arrow") for r in range(3)]
    assert all(s.equals(selections[0]) for s in selections)
    assert json.loads((out / "rounds/frozen/2/selection.json").read_text())["from_round"] == 0
    kinds = json.loads((out / "rounds/stacked/1/selection.json").read_text())
    assert kinds["top"]["user_kind"] == kinds["bottom"]["user_kind"] == {"benign": 12, "biased": 12}
