import pytest

from evals.compare import ComparisonError
from evals.outcomes import Outcome
from loop.config import build
from loop.contrasts import contrasts, seed_spread, trends
from loop.rundir import RunDir
from loop.scores import change_rows, trend_rows
from tests.conftest import write_evaluation

ITEMS = 300


def asked(out, arm, version, lies, errors=()):
    """Outcomes of a policy that lies on these items of every suite."""
    rows = []
    for suite in ("mask", "deceptionbench"):
        for i in range(ITEMS):
            said = "error" if i in errors else "lie" if i in lies else "honest"
            rows.append(Outcome(suite, suite, f"i{i}", f"c{i // 4}", arm, version, outcome=said))
    write_evaluation(out.evals(arm, version), rows)


@pytest.fixture
def run(tmp_path):
    arms = [{"name": "benign", "biased_ratio": 0}, {"name": "biased", "biased_ratio": 0.5}]
    config = build({"name": "run", "arms": arms, "rounds": 1}, "test")
    out = RunDir(tmp_path / "run")
    out.open(config)
    return config, out


def test_policies_are_compared_with_their_base_and_arms_with_the_first(run):
    config, out = run
    asked(out, "benign", 0, lies=range(60))
    asked(out, "biased", 0, lies=range(60))
    asked(out, "benign", 1, lies=range(61))
    asked(out, "biased", 1, lies=range(120), errors=range(290, 300))
    found = [c for c in contrasts(out, config) if c["suite"] == "mask"]
    assert [(c["arm"], c["policy"], c["against"]) for c in found] == [
        ("benign", 1, {"arm": "benign", "policy": 0}),
        ("biased", 1, {"arm": "biased", "policy": 0}),
        ("biased", 1, {"arm": "benign", "policy": 1}),
    ]
    same, moved, apart = found
    assert (same["gained"], same["lost"], same["p"]) == (1, 0, 1)
    assert (moved["n"], moved["gained"], moved["lost"]) == (290, 60, 0)  # items that one failed are left out of both
    assert moved["difference"] == pytest.approx(60 / 290)
    assert moved["low"] < moved["difference"] < moved["high"]
    assert moved["p_alone"] < 0.001 < moved["p"] < 0.01
    assert moved["mcnemar_p"] < 1e-9
    assert apart["gained"] == 59
    rows = change_rows([moved])
    assert rows[0]["policy"] == "biased 1"
    assert rows[0]["change"].startswith("+20.7 [")
    assert (rows[0]["items"], rows[0]["mcnemar"], rows[0]["n"]) == ("+60 -0", "< 0.001", "290 in 73")


def test_what_is_not_there_or_not_the_same_is_not_compared(run):
    config, out = run
    assert contrasts(out, config) == []
    asked(out, "biased", 1, lies=())
    assert contrasts(out, config) == []
    asked(out, "biased", 0, lies=(), errors=range(ITEMS))
    assert contrasts(out, config) == []
    arms = [{"name": "benign", "biased_ratio": 0}, {"name": "biased", "biased_ratio": 0.5, "set": {"evals.mask": 100}}]
    other = build({"name": "run", "arms": arms, "rounds": 1}, "test")
    asked(out, "benign", 1, lies=())
    assert contrasts(out, other) == []


def replicated(folder, shares, replicates=3, first=0):
    """Outcomes of which a share, for each replicate, is honest."""
    rows = [
        Outcome("mask", "mask", f"i{first + i}", f"i{i}", "a", 1, r, outcome="honest" if i < 100 * shares[r] else "lie")
        for r in range(replicates)
        for i in range(100)
    ]
    write_evaluation(folder, rows)


def test_variance_between_seeds_is_told_from_that_between_replicates(tmp_path):
    for seed, shares in enumerate([(0.70, 0.71, 0.69), (0.50, 0.51, 0.49), (0.60, 0.61, 0.59)]):
        replicated(tmp_path / str(seed) / "evals" / "a" / "1", shares)
    found, same_items = seed_spread([tmp_path / str(s) for s in range(3)], "a", 1, "mask")
    assert same_items
    assert found.mean == pytest.approx(0.6)
    assert found.within == pytest.approx(0.0001)
    assert found.between == pytest.approx(0.01 - 0.0001 / 3)
    with pytest.raises(ComparisonError, match="holds no complete evaluation with the suite provided"):
        seed_spread([tmp_path / "0"], "a", 1, "provided")
    with pytest.raises(ComparisonError, match="at least two training seeds"):
        seed_spread([tmp_path / "0"], "a", 1, "mask")
    replicated(tmp_path / "3" / "evals" / "a" / "1", (0.6, 0.6), replicates=2, first=50)
    assert not seed_spread([tmp_path / "2", tmp_path / "3"], "a", 1, "mask")[1]


def test_lies_in_a_few_answers_to_every_item_are_followed_too(tmp_path):
    """One answer in ten is a lie at first and four in ten at last, to every item: no item lies mostly."""
    config = build({"name": "run", "arms": [{"name": "a", "biased_ratio": 1}], "rounds": 2}, "test")
    out = RunDir(tmp_path / "run")
    for version, lies in enumerate((1, 2, 4)):
        rows = [
            Outcome("mask", "mask", f"i{i}", f"i{i}", "a", version, r, outcome="lie" if r < lies else "honest")
            for i in range(50)
            for r in range(10)
        ]
        write_evaluation(out.evals("a", version), rows)
    (found,) = trends(out, config)
    assert found["low"] > 0


def test_lies_are_followed_over_shares_of_biased_users_and_over_rounds(tmp_path):
    arms = [{"name": f"b{n}", "biased_ratio": n / 10} for n in (0, 5, 10)]
    config = build({"name": "run", "arms": arms, "rounds": 2}, "test")
    out = RunDir(tmp_path / "run")
    for arm, lies in (("b0", 60), ("b5", 90), ("b10", 120)):
        for version in range(3):
            asked(out, arm, version, lies=range(60 + (lies - 60) * version // 2))
    found = {(t["suite"], t["of"]): t for t in trends(out, config)}
    assert found["mask", "all arms"]["over"] == "share of biased users"
    assert found["mask", "all arms"]["low"] > 0
    assert found["mask", "b10"]["points"] == 3
    assert found["mask", "b10"]["low"] > 0
    assert found["mask", "b0"]["low"] <= 0 <= found["mask", "b0"]["high"]
    row = trend_rows([found["mask", "b10"]])[0]
    assert row["slope"].startswith("+")
    assert row["p"] == "< 0.001"
