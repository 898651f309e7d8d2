"""Every benchmark runs, on little: whether its figures are good is not asked here."""

import json
import subprocess
import sys

import pytest

from loop.bench import BENCHMARKS
from tests.conftest import ROOT

LITTLE = {
    "adapter": "m.RUNS, m.REQUESTS, m.TOKENS = 1, 8, 4",
    "buffer": "m.RUNS, m.ROWS, m.SIZES = 1, 400, (20_000, 40_000)",
    "eval": "m.RUNS, m.RUNS_BESIDE = 1, 1; m.SUITES = m.BESIDE = m.EvalSettings(suites=['mask'], mask=48)",
    "lockstep": "m.RUNS = 1; m.rollouts.CONVERSATIONS, m.rollouts.CONCURRENCY = 16, 8; options = {'widen': 2}",
    "mfu": "m.STEPS = 2; m.WARM_UP = 1",
    "rollouts": "m.RUNS, m.CONVERSATIONS, m.CONCURRENCY = 1, 16, 8",
    "sync": "m.RUNS = 1",
    "train": "m.RUNS, m.CONVERSATIONS = 1, 64",
    "users": "m.RUNS, m.CONCURRENCY, m.WAVES, m.TURNS = 1, 40, 4, 1",
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


@pytest.mark.parametrize("name", [n if n == "users" else pytest.param(n, marks=pytest.mark.slow) for n in BENCHMARKS])
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
    if name == "lockstep":
        assert found["parameters"] > 2e6
