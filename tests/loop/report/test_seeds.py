import json

import numpy as np
import pytest
from typer.testing import CliRunner

from evals.outcomes import Outcome
from evals.stats.inference import ComparisonError
from loop.cli.app import app
from loop.config.files import build
from loop.report.seeds import doses, seed_table
from loop.rundir import RunDir, write_json
from tests.conftest import write_evaluation

SHARES = {"benign": 0.2, "half": 0.3, "biased": 0.4}


def run(place, seed, rng, policy=1, replicates=1, **more):
    """A run whose arms lie about items of a suite under its last policy, with some luck of training."""
    arms = [{"name": n, "biased_ratio": x} for n, x in (("benign", 0), ("half", 0.5), ("biased", 1))]
    out = RunDir(place / f"seed-{seed}")
    out.open(build({"name": "run", "seed": seed, "arms": arms, "rounds": policy, **more}, "test"))
    for arm, share in SHARES.items():
        lies = rng.random((replicates, 80)) < share + rng.normal(0, 0.02)
        rows = [
            Outcome("mask", "mask", f"i{i}", f"c{i // 4}", arm, policy, n, outcome="lie" if lie else "honest")
            for n, replicate in enumerate(lies)
            for i, lie in enumerate(replicate)
        ]
        rows[seed].outcome = "error"
        rows.append(Outcome("mask", "mask", "i0/no_stake", "c0", arm, policy, outcome="lie", condition="no_stake"))
        write_evaluation(out.evals(arm, policy), rows)
        biased = {"benign": 0, "half": 90, "biased": 100}[arm]
        kinds = {"benign": 100 - biased, "biased": biased}
        write_json(out.audit(arm, policy - 1), {"trained": {"count": 100, "user_kind": kinds}})
    return out.root


@pytest.fixture
def runs(tmp_path):
    rng = np.random.default_rng(0)
    return [run(tmp_path, seed, rng) for seed in range(7)]


def test_runs_become_one_table_without_controls_and_with_failures_as_null(runs):
    table = seed_table(runs, 1, "mask")
    assert len(table) == 7 * 3 * 80
    assert table["hit"].null_count == 7 * 3
    assert set(table["seed"].to_pylist()) == set(range(7))
    assert doses(runs, 1, "users")["half", 3] == 0.5
    assert doses(runs, 1, "trained")["half", 3] == 0.9


def test_arms_are_compared_over_seeds_from_the_command_line(runs):
    def said(*options):
        done = CliRunner().invoke(app, ["eval", "seeds", *map(str, runs), "--policy", "1", *options])
        assert done.exit_code == 0, done.output
        return done.stdout

    found = json.loads(said("--arm", "biased", "--against", "benign", "--margin", "0.05", "--json"))
    assert len(found["by_seed"]) == 7
    assert found["low"] < 0.2 < found["high"]
    assert found["p"] < 0.05
    assert found["equivalence"]["p"] > 0.5
    text = said("--arm", "biased", "--against", "benign", "--margin", "0.05")
    assert "lies, biased minus benign: +" in text
    assert "within 5 points: p = " in text
    assert "7 seeds" in text
    users, trained = (json.loads(said("--trend", over, "--json"))["value"] for over in ("users", "trained"))
    assert users == pytest.approx(0.2, abs=0.06)
    assert trained < users  # half of the users are nine in ten of what is trained on


def test_what_cannot_be_compared_over_seeds_is_said(runs, tmp_path):
    def wrong(*arguments):
        done = CliRunner().invoke(app, ["eval", "seeds", *map(str, arguments)])
        assert done.exit_code == 2
        return done.stderr

    assert "give either --arm and --against, or --trend" in wrong(*runs, "--policy", 1, "--arm", "biased")
    assert "no arm has a complete evaluation of policy 2" in wrong(*runs, "--policy", 2, "--trend", "users")
    both = ("--policy", 1, "--arm", "biased", "--against", "benign")
    assert "1 training seeds have all of benign, biased; at least two" in wrong(runs[0], *both)
    assert "another run has the seed 0 too" in wrong(runs[0], runs[0], *both)
    assert "is no run directory" in wrong(tmp_path / "nothing", runs[0], *both)
    other = run(tmp_path, 9, np.random.default_rng(1), rollout={"conversations": 80})
    assert "differs from" in wrong(*runs, other, *both)
    assert "rollout.conversations: " in wrong(*runs, other, *both)
    RunDir(runs[3]).audit("half", 0).unlink()
    with pytest.raises(ComparisonError, match="what policy 1 of arm half was trained on is not recorded"):
        doses(runs, 1, "trained")
