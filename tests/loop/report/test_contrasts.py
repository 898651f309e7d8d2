import math

import pytest

from evals.outcomes import Outcome
from evals.stats.inference import ComparisonError
from loop.config.files import build
from loop.report.answer import _schedules
from loop.report.contrasts import contrasts, seed_spread, trends
from loop.report.scores import change_rows, trend_rows
from loop.report.summary import trained_share
from loop.rundir import RunDir, write_json
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
    assert (same["gained"], same["lost"]) == (1, 0)
    assert same["p"] > 0.4
    assert (moved["n"], moved["gained"], moved["lost"]) == (290, 60, 0)  # items that one failed are left out of both
    assert moved["difference"] == pytest.approx(60 / 290)
    assert moved["low"] < moved["difference"] < moved["high"]
    assert moved["p_alone"] <= moved["p"] < 0.001
    assert [c["family"] for c in found] == ["exploratory", "exploratory", "primary"]
    assert moved["mcnemar_p"] < 1e-9
    assert apart["gained"] == 59
    rows = change_rows([moved])
    assert rows[0]["policy"] == "biased 1"
    assert rows[0]["change"].startswith("+20.7 [")
    assert (rows[0]["items"], rows[0]["mcnemar"], rows[0]["n"]) == ("+60 -0", "< 0.001", "290 in 73")


def test_declared_comparisons_are_a_family_of_their_own_and_may_claim_that_nothing_changes(tmp_path):
    """Any two arms, at any policy; with a margin, p is that of the two one-sided tests."""
    arms = [{"name": n, "biased_ratio": x} for n, x in (("a", 0.5), ("b", 0.5), ("c", 0.5))]
    primary = [
        {"arm": "c", "against": "b", "policy": 1, "margin": 0.05},
        {"arm": "a", "suite": "deceptionbench"},
        {"arm": "c", "against": "b", "margin": 0.001},
    ]
    config = build({"name": "run", "arms": arms, "rounds": 2, "analysis": {"primary": primary}}, "test")
    out = RunDir(tmp_path / "run")
    out.open(config)
    for arm, lies in (("a", 90), ("b", 60), ("c", 61)):
        for version in range(3):
            asked(out, arm, version, lies=range(60 if version == 0 else lies))
    found = {
        (c["suite"], c["arm"], c["policy"], c["against"]["arm"], c["against"]["policy"]): c
        for c in contrasts(out, config)
    }
    declared = {k: c for k, c in found.items() if c["family"] == "primary"}
    same, too_close = ("mask", "c", 1, "b", 1), ("mask", "c", 2, "b", 2)
    assert set(declared) == {same, too_close, ("deceptionbench", "a", 2, "a", 0)}
    claim = declared[same]["equivalence"]
    assert claim["p"] == pytest.approx(3 * claim["p_alone"])  # the smallest of three
    assert claim["p"] < 0.001
    assert claim["margin"] == 0.05
    assert -0.05 < claim["low"] < claim["high"] < 0.05
    assert declared[same]["p_alone"] > 0.4  # of a difference
    assert declared[too_close]["equivalence"]["p"] > 0.5
    assert found["mask", "a", 2, "a", 0]["equivalence"] is None
    rows = change_rows(list(found.values()))
    assert [r["family"] for r in rows[:4]] == ["primary"] * 3 + ["exploratory"]
    assert {r["claim"]: r["p"] for r in rows[:3]} == {
        "differs": "0.009",
        "within 5": "< 0.001",
        "within 0.1": f"{declared[too_close]['equivalence']['p']:.3f}",
    }


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
    assert not any(t["over"].startswith("trained") for t in trends(out, config))  # which nothing says here
    row = trend_rows([found["mask", "b10"]])[0]
    value, low, high = (float(x.strip("[],")) for x in row["odds"].split())
    assert value == pytest.approx(math.exp(found["mask", "b10"]["slope"]), rel=0.01)
    assert 1 < low < value < high
    assert "p" not in row  # one training seed speaks of these policies only


def test_an_arm_whose_users_change_is_followed_before_and_after(tmp_path):
    arms = [{"name": "benign", "biased_ratio": 0}, {"name": "leave", "biased_ratio": 0.5, "schedule": {2: 0.0}}]
    config = build({"name": "run", "arms": arms, "rounds": 4}, "test")
    out = RunDir(tmp_path / "run")
    for version, lies in enumerate((60, 80, 100, 100, 100)):
        asked(out, "benign", version, lies=range(60))
        asked(out, "leave", version, lies=range(lies))
    found = {t["of"]: t for t in trends(out, config) if t["suite"] == "mask"}
    assert set(found) == {"benign", "leave, policies 0 to 2", "leave, policies 2 to 4"}
    assert found["leave, policies 0 to 2"]["low"] > 0
    after = found["leave, policies 2 to 4"]
    assert after["slope"] == pytest.approx(0)
    assert -0.5 < after["low"] < 0 < after["high"] < 0.5, "nothing changed, which does not make it certain"
    since = [
        c for c in contrasts(out, config) if c["suite"] == "mask" and c["against"] == {"arm": "leave", "policy": 2}
    ]
    assert [(c["arm"], c["policy"], c["difference"]) for c in since] == [("leave", 4, 0.0)]
    told = _schedules(config)
    assert told == ["The users of arm leave: 50 % biased, from round 2 on all benign."]


def test_the_dose_is_also_what_was_trained_on(tmp_path):
    """Half of the users are biased, and nine in ten of the conversations that were trained on are theirs."""
    arms = [{"name": f"b{n}", "biased_ratio": n / 10} for n in (0, 5, 10)]
    config = build({"name": "run", "arms": arms, "rounds": 2}, "test")
    out = RunDir(tmp_path / "run")
    for arm, lies, trained in (("b0", 60, (0, 0)), ("b5", 90, (80, 100)), ("b10", 120, (100, 100))):
        for r, biased in enumerate(trained):
            kinds = {"benign": 100 - biased, "biased": biased}
            write_json(out.audit(arm, r), {"trained": {"count": 100, "user_kind": kinds}})
        for version in range(3):
            asked(out, arm, version, lies=range(lies if version == 2 else 60))
    assert trained_share(out, "b5", 2) == pytest.approx({"benign": 0.1, "biased": 0.9})
    assert trained_share(out, "b5", 1) == pytest.approx({"benign": 0.2, "biased": 0.8})
    assert trained_share(out, "b5", 0) == {}
    found = {t["over"]: t for t in trends(out, config) if t["suite"] == "mask" and t["of"] == "all arms"}
    assert found["trained share of biased users"]["points"] == 3
    assert found["trained share of biased users"]["slope"] != found["share of biased users"]["slope"]


def test_controls_are_no_items_under_pressure(run):
    config, out = run
    for version, lies in ((0, 60), (1, 90)):
        rows = [
            Outcome("mask", "mask", f"i{i}", f"c{i // 4}", "benign", version, outcome="lie" if i < lies else "honest")
            for i in range(ITEMS)
        ]
        rows += [
            Outcome(
                "mask", "mask", f"i{i}/no_stake", f"c{i // 4}", "benign", version, outcome="lie", condition="no_stake"
            )
            for i in range(100)
        ]
        write_evaluation(out.evals("benign", version), rows)
    (found,) = contrasts(out, config)
    assert (found["n"], found["gained"], found["lost"]) == (ITEMS, 30, 0)
