"""Against scipy, statsmodels and published examples, and by simulation."""

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_1samp
from statsmodels.stats.proportion import proportion_confint

from evals.stats.compare import (
    ComparisonError,
    change_over_clusters,
    detectable_change,
    paired,
    spread,
    trend,
)
from evals.stats.families import correct
from evals.stats.inference import t_p, t_quantile
from evals.stats.intervals import share

SIMULATIONS = 4000


def hits(values):
    return {f"i{n}": bool(v) for n, v in enumerate(values)}


def alone(n):
    return {f"i{k}": f"i{k}" for k in range(n)}


def fours(n):
    return {f"i{k}": str(k // 4) for k in range(n)}


def test_mcnemar_is_the_binomial_test_of_the_items_that_changed():
    first = hits([1] * 30 + [0] * 12 + [1] * 3 + [0] * 55)
    second = hits([1] * 30 + [1] * 12 + [0] * 3 + [0] * 55)
    found = paired(first, second, alone(100))
    assert (found.gained, found.lost, found.n) == (12, 3, 100)
    assert found.difference == pytest.approx(0.09)
    assert found.mcnemar_p == pytest.approx(binomtest(3, 15).pvalue)
    assert found.low < found.difference < found.high
    assert paired(first, first, alone(100)).mcnemar_p == paired(first, first, alone(100)).p == 1


def test_it_is_the_t_test_of_changes_where_items_are_independent_and_wider_where_they_are_not():
    rng = np.random.default_rng(1)
    before = rng.random(400) < 0.5
    after = np.where(rng.random(400) < 0.12, True, before)
    usual = ttest_1samp(after.astype(float) - before, 0)
    found = paired(hits(before), hits(after), alone(400))
    assert found.p == pytest.approx(usual.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(usual.confidence_interval()))
    rows = np.repeat(rng.random(40) < 0.12, 10)  # whole clusters change together
    tens = {f"i{k}": str(k // 10) for k in range(400)}
    clustered = paired(hits(before), hits(np.where(rows, True, before)), tens)
    apart = paired(hits(before), hits(np.where(rows, True, before)), alone(400))
    assert clustered.high - clustered.low > 1.5 * (apart.high - apart.low)
    assert clustered.clusters == 40


def test_a_large_effect_stays_significant_however_many_comparisons_there_are():
    """70 points among 264 comparisons of which none but this is any: a bootstrap of 5,000 draws gives 0.053 at best."""
    rng = np.random.default_rng(2)
    before = rng.random(300) < 0.1
    found = paired(hits(before), hits(before | (rng.random(300) < 0.78)), fours(300))
    assert 0.65 < found.difference < 0.75
    family = {0: found.p} | dict.fromkeys(range(1, 264), 0.5)
    assert correct(family, list(family))[0].p < 1e-10


def test_items_that_only_one_has_are_left_out():
    found = paired({"a": True, "b": False, "c": True}, {"b": True, "c": True, "d": False}, {"b": "b", "c": "c"})
    assert (found.n, found.gained, found.lost) == (2, 1, 0)
    with pytest.raises(ComparisonError, match="no item in common"):
        paired({"a": True}, {"b": True}, {})


def test_where_nothing_changed_an_interval_still_has_a_width():
    """Each cluster counts as one: 60 that did not change leave room for five points."""
    found = paired(hits([1] * 240), hits([1] * 240), fours(240))
    assert (found.difference, found.p) == (0, 1)
    assert 0.02 < found.high < 0.06
    assert found.low == -found.high
    assert 0.02 < found.detectable < 0.2


def changes(rng, clusters, noise, effect, alike=0.0, size=4):
    """Sum of changes of each cluster's items: a share `noise` turns one way or the other, and `effect` more one way.

    Args:
        alike: How much clusters differ in their noise, as the coefficient of variation.
    """
    shape = (SIMULATIONS, clusters)
    odds = noise * (rng.gamma(1 / alike**2, alike**2, shape) if alike else np.ones(shape))
    side = rng.random(shape) < 0.5 if alike else None  # a cluster leans one way
    up = np.where(side, 0.9, 0.1) * odds if alike else odds / 2
    p = np.stack([np.clip(up + effect, 0, 0.5), np.clip(odds - up, 0, 0.5)], -1)
    drawn = rng.multinomial(size, np.concatenate([p, 1 - p.sum(-1, keepdims=True)], -1))
    return drawn[..., 0], drawn[..., 1]


DESIGNS = [(7, 0.4, 0.7), (12, 0.3, 0.0), (12, 0.3, 0.7), (60, 0.02, 0.0), (60, 0.1, 0.7), (144, 0.05, 0.5)]


@pytest.mark.parametrize(("clusters", "noise", "alike"), DESIGNS)
def test_the_test_rejects_one_true_null_in_twenty_and_intervals_hold_the_truth(clusters, noise, alike):
    rng = np.random.default_rng(3)
    up, down = changes(rng, clusters, noise, 0, alike)
    sizes = np.full(up.shape, 4)
    change, se, df = change_over_clusters(up - down, sizes)
    assert np.mean(t_p(change, se, df) < 0.05) == pytest.approx(0.05, abs=0.01)
    up, down = changes(rng, clusters, noise, 0.05, alike)
    change, se, df = change_over_clusters(up - down, sizes)
    assert np.mean(np.abs(change - 0.05) <= t_quantile(df) * se) == pytest.approx(0.95, abs=0.015)


def test_the_test_is_careful_where_hardly_anything_changes():
    up, down = changes(np.random.default_rng(4), 20, 0.005, 0)
    assert np.mean(t_p(*change_over_clusters(up - down, np.full(up.shape, 4))) < 0.05) < 0.02


@pytest.mark.parametrize(
    ("clusters", "noise", "alike"), [(30, 0.2, 0.0), (60, 0.03, 0.0), (144, 0.1, 0.7), (180, 0.005, 0.0)]
)
def test_the_detectable_difference_is_found_in_four_of_five_tries(clusters, noise, alike):
    """It is stated from comparisons in which there is no difference, and is the power of others in which it is."""
    rng = np.random.default_rng(5)
    up, down = changes(rng, clusters, noise, 0, alike)
    turn = np.arange(4)
    each = np.where(turn < up[..., None], 1, np.where(turn < (up + down)[..., None], -1, 0)).reshape(len(up), -1)
    stated = [detectable_change(e, np.repeat(np.arange(clusters), 4)) for e in each[:400]]
    up, down = changes(rng, clusters, noise, np.mean(stated), alike)
    power = np.mean(t_p(*change_over_clusters(up - down, np.full(up.shape, 4))) < 0.05)
    assert power == pytest.approx(0.8, abs=0.05)


def test_a_paired_comparison_sees_less_than_two_samples_would():
    """Three items of 300 turned each way: two samples of that size would show 10.5 points, this shows 4."""
    before = np.arange(300) < 75
    after = before.copy()
    after[[0, 1, 2]], after[[297, 298, 299]] = False, True
    assert paired(hits(before), hits(after), alone(300)).detectable < 0.04


def test_wilson_without_clusters_is_that_of_statsmodels():
    for k, n in ((0, 10), (7, 10), (131, 274), (274, 274)):
        found = share([i < k for i in range(n)], [str(i) for i in range(n)])
        assert found.ci95 == pytest.approx(proportion_confint(k, n, method="wilson"), abs=1e-12)


def test_a_trend_is_logistic_regression_and_knows_clusters():
    import statsmodels.api as sm

    rng = np.random.default_rng(4)
    x = np.repeat([0.0, 0.1, 0.2, 0.5, 1.0], 80)
    y = rng.random(400) < 1 / (1 + np.exp(-(-1 + 1.5 * x)))
    found = trend(x, y, [str(k) for k in range(400)])
    usual = sm.Logit(y.astype(float), sm.add_constant(x)).fit(disp=0)
    assert found.slope == pytest.approx(usual.params[1], abs=1e-6)
    assert (found.low, found.high) == pytest.approx(usual.conf_int()[1], abs=0.1)
    doubled = trend(np.tile(x, 4), np.tile(y, 4), [str(k) for k in range(400)] * 4)  # the same answers four times over
    assert (doubled.low, doubled.high) == pytest.approx((found.low, found.high), abs=0.01)
    for at, said in (([1, 1], [True, False]), ([0, 1], [True, True])):
        with pytest.raises(ComparisonError, match="at least two points"):
            trend(at, said, ["a", "b"])


def test_the_spread_of_seeds_and_replicates():
    """A balanced table by hand: mean squares 24 between and 1 within four replicates, so (24 - 1) / 4 between."""
    found = spread([[1, 2, 3, 2], [4, 5, 6, 5], [2.5, 3.5, 4.5, 3.5]])
    within = 2 / 3
    between = 4 * np.var([2, 5, 3.5], ddof=1)
    assert found.within == pytest.approx(within)
    assert found.between == pytest.approx((between - within) / 4)
    assert found.mean == pytest.approx(3.5)
    rng = np.random.default_rng(5)
    many = [rng.normal(s, 0.5, rng.integers(2, 6)) for s in rng.normal(0, 2, 3000)]
    assert spread(many).between == pytest.approx(4, rel=0.1)
    assert spread(many).within == pytest.approx(0.25, rel=0.1)
    assert spread([[1, 3], [2, 2]]).between == 0
    for scores in ([[1, 2]], [[1], [2]]):
        with pytest.raises(ComparisonError, match="two training seeds"):
            spread(scores)
