import json
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from actors.scripted import WEIGHTS_FILE
from evals.evaluator import RECORD
from loop.config.files import build
from loop.retention import PRUNED, keep_small, prunable, prune
from loop.rundir import DamagedError, RunDir
from tests.chaos.harness import content
from tests.conftest import ROOT
from tests.loop.conftest import CANDOR, SCRIPTED, candor

ARM = {"name": "a", "biased_ratio": 0.5}


def run_with(root: Path, rounds: int, trained: int, evaluated: int, **changes):
    """A run directory with the files that matter, up to these policies."""
    config = build({"name": "test", "model": "scripted", "rounds": rounds, "arms": [ARM], **changes}, "test")
    out = RunDir(root)
    for v in range(1, trained + 1):
        folder = out.policy("a", v)
        folder.mkdir(parents=True)
        (folder / "candor_policy.json").write_text("{}")
        (folder / "adapter_config.json").write_text("{}")
        (folder / "adapter_model.safetensors").write_bytes(bytes(100))
    for v in range(evaluated + 1):
        out.evals("a", v).mkdir(parents=True)
        (out.evals("a", v) / RECORD).write_text("{}")
        if v < rounds:
            out.rollout("a", v).parent.mkdir(parents=True, exist_ok=True)
            out.rollout("a", v).write_text(json.dumps({"usage": []}))
            folder = out.trajectories("a", v).local
            folder.mkdir(parents=True)
            (folder / "segment-000000-000000-00000000.arrow").write_bytes(bytes(50))
    return config, out


def gone(found):
    return sorted({removal.path.parent.name for removal in found})


def test_the_newest_keep_their_weights_and_the_others_their_lineage(tmp_path):
    config, out = run_with(tmp_path, rounds=5, trained=5, evaluated=5)
    found = prunable(config, out, keep=2)
    assert gone(found) == ["1", "2", "3"]
    assert sum(r.size for r in found) == 300
    prune(found, out)
    left = [PRUNED, "adapter_config.json", "candor_policy.json"]
    assert [sorted(p.name for p in out.policy("a", v).iterdir()) for v in (1, 2, 3)] == [left] * 3
    assert (out.policy("a", 4) / "adapter_model.safetensors").exists()
    assert prunable(config, out, keep=2) == []


@pytest.mark.parametrize(
    ("trainer", "stay"),
    [({}, ["3", "4"]), ({"reference": "previous"}, ["3", "4"]), ({"reference": 1}, ["1", "3", "4"])],
)
def test_what_the_next_training_or_evaluation_needs_stays(tmp_path, trainer, stay):
    config, out = run_with(tmp_path, rounds=6, trained=4, evaluated=2, trainer=trainer)
    assert gone(prunable(config, out, keep=1)) == [v for v in "1234" if v not in stay]


def test_conversations_go_only_when_asked_and_only_of_rounds_that_are_done(tmp_path):
    config, out = run_with(tmp_path, rounds=4, trained=3, evaluated=3)
    found = prunable(config, out, keep=9, segments=True)
    assert {r.path.parent.parent.name for r in found} == {"0", "1", "2"}
    assert prunable(config, out, keep=9) == []


def test_a_run_that_trains_every_round_on_the_first_keeps_its_conversations(tmp_path):
    config, out = run_with(tmp_path, rounds=4, trained=2, evaluated=2, selection={"control": "frozen"})
    assert {r.path.parent.parent.name for r in prunable(config, out, keep=9, segments=True)} == {"1"}


@pytest.mark.parametrize("reference", ["base", "previous", 1])
def test_a_run_that_is_done_keeps_what_further_rounds_would_need(tmp_path, reference):
    config, out = run_with(tmp_path, rounds=4, trained=4, evaluated=4, trainer={"reference": reference})
    assert gone(prunable(config, out, keep=1)) == (["2", "3"] if reference == 1 else ["1", "2", "3"])


def test_retention_is_off_unless_it_is_asked_for_and_then_says_what_went(tmp_path):
    config, out = run_with(tmp_path, rounds=5, trained=4, evaluated=4)
    assert keep_small(config, out) is None
    config, _ = run_with(tmp_path / "other", rounds=5, trained=4, evaluated=4, cluster={"keep_policies": 2})
    told = keep_small(config, out)
    assert told == "removed the weights of policy 1 of a, policy 2 of a, 0.0 MiB (cluster.keep_policies 2)"
    assert (out.policy("a", 3) / "adapter_model.safetensors").exists()
    assert keep_small(config, out) is None


def test_a_policy_without_weights_cannot_be_published_and_that_is_said(tmp_path):
    from loop.publish import check_weights

    _, out = run_with(tmp_path, rounds=2, trained=2, evaluated=2)
    check_weights(out.policy("a", 1))
    (out.policy("a", 1) / PRUNED).touch()
    with pytest.raises(
        DamagedError, match=r"policies/a/1 is asked for again, and its weights were removed \(candor prune"
    ):
        check_weights(out.policy("a", 1))


@pytest.mark.slow
def test_a_run_that_removes_old_policies_and_is_killed_ends_as_one_that_keeps_all(tmp_path):
    """Four rounds, killed in the middle; lineage of every policy stays, and further rounds can be added."""
    config = tmp_path / "run.yaml"
    config.write_text(SCRIPTED.replace("rounds: 1", "rounds: 4"))
    whole, small = tmp_path / "whole", tmp_path / "small"
    assert candor("run", config, "--out", whole).returncode == 0
    words = ["run", config, "--out", small, "--set", "cluster.keep_policies=1"]
    process = subprocess.Popen([CANDOR, *words], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not (small / "policies/biased/3").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait()
    done = candor(*words)
    assert done.returncode == 0, done.stderr
    assert "removed the weights of policy" in done.stdout
    kept = {v: (small / f"policies/biased/{v}/{WEIGHTS_FILE}").exists() for v in range(1, 5)}
    assert kept == {1: False, 2: False, 3: False, 4: True}
    copy = shutil.copytree(small, tmp_path / "copy" / "small")
    for note in copy.glob(f"policies/*/*/{PRUNED}"):
        note.unlink()
    found, expected = content(RunDir(copy)), content(RunDir(whole))
    weights = expected.keys() - found.keys()
    assert weights == {f"biased/{v}/{WEIGHTS_FILE}" for v in range(1, 4)}
    assert found == {key: value for key, value in expected.items() if key not in weights}
    more = candor(*words, "--set", "rounds=5")
    assert more.returncode == 0, more.stderr
    assert (small / f"policies/biased/5/{WEIGHTS_FILE}").exists()
    assert not (small / f"policies/biased/4/{WEIGHTS_FILE}").exists()
