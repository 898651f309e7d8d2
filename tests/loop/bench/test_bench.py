"""Every benchmark runs, on little: whether its figures are good is not asked here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from loop.bench import BENCHMARKS
from tests.conftest import ROOT

TINY = "from tests.tiny_models import temporary; options = {'model': temporary()}"
LITTLE = {
    "adapter": "m.RUNS, m.REQUESTS, m.TOKENS = 1, 8, 4",
    "buffer": "m.RUNS, m.ROWS, m.SIZES = 1, 400, (20_000, 40_000)",
    "eval": "m.RUNS, m.RUNS_BESIDE = 1, 1; m.SUITES = m.BESIDE = m.EvalSettings(suites=['mask'], mask=48)",
    "judge": f"m.COUNT, m.rating.LONGEST = 8, 4096; {TINY}",
    "lockstep": "r = m.rollouts; m.RUNS, r.POCKET_CONVERSATIONS = 1, 16; options = {'widen': 2}",
    "mfu": "m.STEPS = 2; m.WARM_UP = 1",
    "rating": f"m.COUNT, m.LONGEST = 8, 4096; {TINY}",
    "rollouts": "m.POCKET_RUNS, m.POCKET_CONVERSATIONS, m.POCKET_CONCURRENCY = 1, 16, 8",
    "scale": "m.REPLICAS, m.WAVES, m.FEWEST, m.SIZES = (1, 2), 4, 64, (32, 64); "
    "m.IN_FLIGHT, m.WINDOW, m.SLOWLY = 40, 2, 4; import tempfile; "
    "options = {'plot': m.Path(tempfile.mkdtemp()) / 'scale.svg'}",
    "sync": "m.RUNS = 1",
    "train": "m.POCKET = m.replace(m.POCKET, runs=1, conversations=64)",
    "users": "m.RUNS, m.CONCURRENCY, m.WAVES, m.TURNS = 1, 40, 4, 1",
    "view": "m.RUNS, m.CONVERSATIONS = 1, 2_000",
}
"""By benchmark, what makes it small."""
RUN = """
import importlib, sys
from loop.bench import MODULES, report_benchmark
options, name = {}, sys.argv[1]
m = importlib.import_module(f"loop.bench.{MODULES.get(name, name)}")
exec(sys.argv[2])
report_benchmark(name, True, **options)
"""


OTHERS = {
    "eval": "m.CANARY_RUNS, few = 1, {'canary_mask': m.MaskSettings(items=4)}; "
    f"m.CANARY = m.CANARY.model_copy(update=few); {TINY}",
    "train": f"few = m.load; m.load = lambda n: m.replace(few(n), runs=1, conversations=16, length=2048); {TINY}",
}
"""By benchmark, what makes it small for a model of no world."""


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_a_benchmark_takes_another_model(name):
    done = subprocess.run(
        [sys.executable, "-c", RUN, name, OTHERS[name]], capture_output=True, text=True, cwd=ROOT, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert "/" in found["model"]
    assert 0 < found["ratio"] < 20


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_runs_and_says_what_it_measured(pocket_model, name):
    done = subprocess.run(
        [sys.executable, "-c", RUN, name, LITTLE[name]], capture_output=True, text=True, cwd=ROOT, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert {"ratio", "goal", "runs", "versions", "machine"} <= found.keys()
    assert found["runs"]
    if name == "mfu":  # only a GPU's peak is known
        assert found["sft"]["tokens_per_second"] > 0
        assert found["kto"]["tokens_per_second"] > 0
    else:
        assert 0 < found["ratio"] < 20
    if name == "users":
        assert found["ideal_conversations_per_second"] == 33
        assert 0.3 < found["ratio"] < 1.2
        assert 0.3 < found["ratio_with_everybody_at_the_endpoint"] < 1.2
    if name == "scale":
        assert [p["replicas"] for p in found["replicas"]] == [1, 2]
        assert all(p["milliseconds_by"]["pools"] > 0 for p in found["replicas"])
        assert 0 < found["driver"]["cores"] < 2
        assert found["driver"]["conversations_under_way"] == 40
        assert Path(found["plot"]).read_text().startswith("<svg")
    if name == "lockstep":
        assert found["parameters"] > 2e6
