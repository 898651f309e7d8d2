"""A real pretrained model in every role, in small: SmolLM2 is fetched, talks, rates, is trained and evaluated."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from actors.storage.segments import read_table
from tests.conftest import ROOT

SMALL = ("rollout.conversations=8", "evals.canary_mask=6", "users.concurrency=8", "conversation.max_tokens=96")
LEARNING = ("trainer.epochs=2", "trainer.learning_rate=1e-3")


def candor(*args: str, timeout: int) -> subprocess.CompletedProcess:
    command = [str(Path(sys.executable).parent / "candor"), *args]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=timeout)


@pytest.mark.slow
def test_a_small_run_of_smollm2_talks_learns_and_is_scored(smollm2, tmp_path):
    out = tmp_path / "run"
    changes = [word for s in (*SMALL, *LEARNING) for word in ("--set", s)]
    done = candor("run", "configs/smollm2.yaml", *changes, "--out", str(out), timeout=1500)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "expected:" in done.stdout
    summary = json.loads((out / "summary.json").read_text())
    assert summary["status"] == "finished"
    for arm in ("benign", "biased"):
        files = sorted((out / "rounds" / arm / "0" / "trajectories").glob("segment-*.arrow"))
        rows = [r for f in files for r in read_table(f).to_pylist()]
        assert [r["error"] for r in rows] == [None] * 8
        replies = [m for r in rows for m in r["messages"] if m["role"] == "assistant"]
        assert len({m["rating"] for m in replies}) > 8, "it tells replies apart"
        delivery = json.loads((out / "rounds" / arm / "1" / "delivery.json").read_text())
        assert delivery, "policy 1 was proved to be what was trained"
        outcomes = read_table(out / "evals" / arm / "1" / "canary_mask.arrow")["outcome"].to_pylist()
        assert len(outcomes) == 6
        assert "error" not in outcomes
