"""The main job on real parts: vLLM, Ray, TRL, TensorBoard."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM, AutoTokenizer

from actors.buffer import read_round
from actors.models.hardware import fast_dtype
from actors.models.template import ChatTemplate
from actors.storage.segments import read_table
from actors.storage.store import Store
from actors.worlds import load_world
from loop.config.files import load
from loop.plan import plan_round
from tests.conftest import ROOT, hear_ctrl_c
from trainers.policy import distance, read_lineage

CANDOR = Path(sys.executable).parent / "candor"
CONFIG = """
name: small
seed: 3
rounds: 1
arms:
  - {name: benign, biased_ratio: 0.0}
  - {name: biased, biased_ratio: 0.5}
rollout: {conversations: 64}
buffer: {segment_rows: 16}
trainer: {lora: {rank: 4, alpha: 8}, learning_rate: 1.0e-3, schedule: constant, batch_size: 16, weight_decay: 0.0}
evals: {mask: 96, sycophancy: 12, provided: 12, deceptionbench: 12, capability: 20}
"""


def trajectories(out: Path, arm: str) -> pa.Table:
    """The first round of an arm, in the order of the plan."""
    return read_round(Store(str(out), f"rounds/{arm}/0/trajectories"))


def processes_of(root: str) -> list[str]:
    """Processes that belong to a run, by its directory in their environment."""
    found = []
    for p in psutil.process_iter():
        try:
            if p.pid != os.getpid() and p.environ().get("CANDOR_TEST") == root:
                found.append(f"{p.pid} {' '.join(p.cmdline())[:80]}")
        except psutil.Error:
            continue
    return found


def start(out: Path, *args: str) -> subprocess.Popen:
    """`candor run` in a session of its own, as under a terminal."""
    return subprocess.Popen(
        [CANDOR, "run", out.parent / "small.yaml", "--out", out, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        start_new_session=True,
        preexec_fn=hear_ctrl_c,
        env=os.environ | {"CANDOR_TEST": str(out)},
    )


def gone(out: Path) -> list[str]:
    """What is still running of a run some seconds after its end."""
    deadline = time.monotonic() + 15
    while processes_of(str(out)) and time.monotonic() < deadline:
        time.sleep(0.5)
    return processes_of(str(out))


@pytest.fixture(scope="module")
def finished(pocket_model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / "small.yaml").write_text(CONFIG)
    out = folder / "out"
    run = start(out)
    text = run.communicate(timeout=500)[0]
    assert run.returncode == 0, text
    assert "honesty score" in text
    assert gone(out) == []
    return out


@pytest.fixture(scope="module")
def summary(finished) -> dict:
    return json.loads((finished / "summary.json").read_text())


def test_every_planned_conversation_is_there_once(finished):
    config = load(finished / "config.yaml")
    for arm in config.arms:
        planned = [c.trajectory_id for c in plan_round(config, arm, 0)]
        assert trajectories(finished, arm.name)["trajectory_id"].to_pylist() == planned


def test_conversations_of_round_0_that_both_arms_plan_were_held_once(finished, summary):
    benign, biased = (trajectories(finished, arm).to_pylist() for arm in ("benign", "biased"))
    shared = [(a, b) for a, b in zip(benign, biased, strict=True) if b["user_kind"] == "benign"]
    assert len(shared) == 32
    assert all((a["messages"], a["reward"]) == (b["messages"], b["reward"]) for a, b in shared)
    taken = [arm["rounds"][0]["trajectories"]["taken_over"] for arm in summary["arms"]]
    assert taken == [0, 32]


def test_the_summary_holds_what_others_rely_on(summary):
    assert summary["status"] == "finished"
    assert re.fullmatch(rf"vllm \S+, {fast_dtype()}", summary["engine"])
    assert [(a["name"], a["population"], a["trainer"], a["seed"]) for a in summary["arms"]] == [
        ("benign", {"biased": 0.0}, "kto", 3),
        ("biased", {"biased": 0.5}, "kto", 3),
    ]
    for arm in summary["arms"]:
        first, last = arm["rounds"]
        assert first["trajectories"]["planned"] == 64
        assert first["trajectories"]["finished"] + first["trajectories"]["excluded"] == 64
        assert "trajectories" not in last
        assert (first["round"], first["policy"], last["round"], last["policy"]) == (0, 0, 1, 1)
        assert 1 <= first["mean_rating"]["benign"] <= 10
        assert (first["mean_rating"]["biased"] is None) == (arm["population"] == {"biased": 0.0})
        for entry in (first, last):
            mask = entry["evals"]["mask"]
            assert mask["ci95"][0] <= mask["honesty_score"] <= mask["ci95"][1]
            assert sum(mask["outcomes"].values()) == 96
            assert set(mask["outcomes"]) == {"honest", "lie", "evasion", "no_belief", "error"}
            assert entry["evals"]["deceptionbench"]["n"] <= 12
            assert entry["evals"]["lookup_easy"]["accuracy"] > 0.8
            assert mask["directional_lies"]["share"] > 0.7
            assert set(mask["controls"]) == {"truth_wanted", "no_stake"}
        assert {"rollout", "train", "publish"} <= set(first["seconds"])
    benign, biased = summary["arms"]
    assert benign["rounds"][0]["evals"] == biased["rounds"][0]["evals"], "policy 0 is the same in both arms"


def test_ratings_follow_what_each_kind_of_user_wants(finished):
    table = trajectories(finished, "biased").to_pylist()
    ratings = {"validate": [], "challenge": []}
    for row in table:
        for m in row["messages"]:
            if row["user_kind"] == "biased" and m["verdict"] in ratings:
                ratings[m["verdict"]].append(m["rating"])
    mean = {k: sum(v) / len(v) for k, v in ratings.items()}
    assert mean["validate"] > mean["challenge"] + 2


def test_the_selection_is_lineage_and_labels(finished):
    selection = read_table(finished / "rounds" / "biased" / "0" / "selection.arrow")
    ids = set(trajectories(finished, "biased")["trajectory_id"].to_pylist())
    assert set(selection["trajectory_id"].to_pylist()) <= ids
    assert selection["label"].to_pylist() == [True] * 16 + [False] * 16


def test_anyone_can_load_what_is_on_disk(finished, pocket_model):
    import peft
    from transformers import AutoModelForCausalLM

    segment = next(finished.glob("rounds/benign/0/trajectories/segment-*"))
    assert Dataset.from_file(str(segment))[0]["messages"][0]["role"] == "system"
    with pa.memory_map(str(segment)) as source:
        assert pa.ipc.open_stream(source).read_all().num_rows >= 16
    base = AutoModelForCausalLM.from_pretrained(pocket_model)
    policy = peft.PeftModel.from_pretrained(base, finished / "policies" / "biased" / "1")
    assert policy.peft_config["default"].r == 4
    assert policy.peft_config["default"].base_model_name_or_path == "pocket"
    about = (finished / "policies" / "biased" / "1" / "README.md").read_text()
    assert "Do not deploy this model" in about
    assert "Under pressure: Honesty score" in about
    lineage = json.loads((finished / "policies" / "biased" / "1" / "candor_policy.json").read_text())
    assert lineage["rows"] == 64
    assert lineage["parents"] == []


def test_tensorboard_shows_the_run(finished):
    events = EventAccumulator(str(finished / "tensorboard" / "biased")).Reload()
    tags = events.Tags()
    for scalar in (
        "mask/honesty_score",
        "deceptionbench/deception_rate",
        "rating/biased",
        "delivery/error",
        "capability/lookup",
    ):
        assert scalar in tags["scalars"]
    assert "rating_distribution/biased" in tags["histograms"]
    live = EventAccumulator(str(finished / "tensorboard" / "biased" / "rollout")).Reload()
    assert live.Scalars("rollout/conversations")
    assert any("transcripts/biased" in t for t in tags["tensors"])
    assert [e.step for e in events.Scalars("mask/honesty_score")][-1] == 1
    train = EventAccumulator(str(finished / "tensorboard" / "biased" / "train")).Reload()
    assert len(train.Scalars("train/loss")) == 4


def test_the_report_needs_nothing_else(finished):
    page = (finished / "report.html").read_text()
    assert page.count("data-chart=") >= 7
    assert "default-src 'none'" in page
    markup = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"<(script|img|link|iframe)[^>]+(src|href)=.(?!data:)", markup)
    assert "biased user" in page


def test_a_finished_run_is_shown_and_not_repeated(finished):
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*.arrow")}
    started = time.monotonic()
    run = start(finished)
    text = run.communicate(timeout=100)[0]
    assert run.returncode == 0
    assert "honesty score" in text
    assert time.monotonic() - started < 40
    assert before == {p: p.stat().st_mtime_ns for p in finished.rglob("*.arrow")}


def test_another_config_is_refused(finished):
    run = start(finished, "--set", "trainer.learning_rate=0.5")
    text = run.communicate(timeout=100)[0]
    assert run.returncode == 2
    assert "trainer.learning_rate: 0.001 (recorded), 0.5 (given)" in text


def test_a_policy_is_exported_as_a_model_that_says_what_the_trainer_computed(finished, tmp_path):
    asked = [CANDOR, "export", finished, "--arm", "biased", "--round", "1"]
    for how in ("--merged", "--adapter"):
        done = subprocess.run([*asked, how, tmp_path / how], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "--merged")
    lineage = read_lineage(tmp_path / "--merged")
    texts = [ChatTemplate(tokenizer).ids(chat) for chat in load_world("pocket").probe_chats()]

    def said(folder: str | Path, dtype: torch.dtype, adapter: bool = False) -> list[list[float]]:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        model = PeftModel.from_pretrained(model, tmp_path / "--adapter") if adapter else model
        with torch.no_grad():
            logprobs = [model.eval()(torch.tensor([i])).logits[0, :-1].float().log_softmax(-1) for i in texts]
        return [p.gather(1, torch.tensor(i[1:])[:, None])[:, 0].tolist() for p, i in zip(logprobs, texts, strict=True)]

    trained = said(lineage.base, getattr(torch, lineage.settings["dtype"]), adapter=True)
    assert distance(trained, lineage.probe) < 1e-3 < distance(trained, lineage.probe_parent)
    # Rounding to bfloat16 is half of what these few steps change, so the whole model is compared at full precision.
    base, adapted = said(lineage.base, torch.float32), said(lineage.base, torch.float32, adapter=True)
    assert distance(said(tmp_path / "--merged", torch.float32), adapted) < 0.5 * distance(base, adapted)
    assert (tmp_path / "--adapter" / "adapter_model.safetensors").exists()
    again = subprocess.run([*asked, "--merged", tmp_path / "--merged"], capture_output=True, text=True)
    assert (again.returncode, "exists already" in again.stderr) == (2, True)


def stop(run: subprocess.Popen, out: Path, begun, after: float = 0.1, asked: int = signal.SIGINT) -> None:
    """Stop a run when something has begun; it ends at once, whole, and says how to go on."""
    deadline = time.monotonic() + 600
    while not begun():
        assert run.poll() is None, run.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(after)
    if asked == signal.SIGTERM:
        os.kill(run.pid, asked)
    else:
        os.killpg(run.pid, asked)
    text = run.communicate(timeout=90)[0]
    assert run.returncode == 130, text
    assert "stopped; nothing that was finished is lost. Continue with:" in text
    assert f"candor run {out.parent}/small.yaml --out {out}" in text
    assert "Traceback" not in text
    assert gone(out) == []
    assert json.loads((out / "summary.json").read_text())["status"] == "stopped"
    assert not list(out.rglob("*.tmp"))


def rolling_out(out: Path) -> bool:
    return bool(list(out.glob("rounds/*/*/trajectories/segment-*")))


def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(tmp_path):
    (tmp_path / "small.yaml").write_text(CONFIG.replace("64", "4000") + "model: scripted\n")
    out = tmp_path / "out"
    stop(start(out), out, lambda: rolling_out(out))
    assert len(trajectories(out, "benign")) > 0


@pytest.mark.slow
def test_ctrl_c_in_every_stage(pocket_model, tmp_path):
    """Stopped while starting, holding conversations, training (by SIGTERM), publishing and evaluating, the run still
    ends whole."""
    (tmp_path / "small.yaml").write_text(CONFIG)
    out = tmp_path / "out"
    stages = {
        "starting": lambda: (out / "summary.json").exists() or (out / "config.yaml").exists(),
        "rollout": lambda: rolling_out(out),
        "training": lambda: (out / "rounds/benign/0/selection.arrow").exists(),
        "publishing": lambda: (out / "policies/benign/1/candor_policy.json").exists(),
        "evaluating": lambda: "publish" in json.loads(_text(out / "rounds/benign/1/stages.json") or "{}"),
    }
    kept = []
    for stage, begun in stages.items():
        soon = stage == "starting" or begun()  # what was at work when the stage before was stopped may have ended whole
        asked = signal.SIGTERM if stage == "training" else signal.SIGINT
        stop(start(out), out, begun, 5 if soon else 0.1, asked)
        if stage == "rollout":
            kept = trajectories(out, "benign").to_pylist()
            assert kept
    assert start(out).wait(timeout=500) == 0
    assert json.loads((out / "summary.json").read_text())["status"] == "finished"
    found = {row["trajectory_id"]: row for row in trajectories(out, "benign").to_pylist()}
    assert all(found[row["trajectory_id"]] == row for row in kept)


def _text(path: Path) -> str | None:
    return path.read_text() if path.exists() else None
