import numpy as np
import pytest
from scipy.stats import binomtest

from evals.stats.clusters import ratio
from evals.stats.intervals import degrees, design_effect, share, wilson


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (3, 10), (10, 10), (131, 274)])
def test_without_clusters_it_is_wilsons_interval(hits, n):
    s = share([i < hits for i in range(n)], [str(i) for i in range(n)])
    expected = binomtest(hits, n).proportion_ci(method="wilson")
    assert s.value == hits / n
    assert s.ci95 == pytest.approx([expected.low, expected.high], abs=1e-9)


def test_items_that_repeat_each_other_count_once():
    rng = np.random.default_rng(0)
    facts = rng.random(100) < 0.6
    s = share(np.repeat(facts, 8), np.repeat([str(i) for i in range(100)], 8))
    alone = share(facts, [str(i) for i in range(100)])
    assert s.n == 800
    assert s.n_effective == pytest.approx(100, rel=0.03)
    assert s.ci95 == pytest.approx(alone.ci95, abs=0.01)


def test_an_interval_always_holds_its_value_and_stays_within_bounds():
    for hits in range(21):
        s = share([i < hits for i in range(20)], [str(i % 4) for i in range(20)])
        assert 0 <= s.low <= s.value <= s.high <= 1


def test_no_items_no_share():
    assert share([], []) is None


def test_one_cluster_says_nothing_of_others():
    assert share([True, False, True], ["a", "a", "a"]).ci95 == pytest.approx([0, 1], abs=1e-6)


SIMULATIONS = 4000


@pytest.mark.parametrize("unequal", [False, True])
@pytest.mark.parametrize(("clusters", "a", "b"), [(7, 1.5, 0.5), (12, 3, 1), (12, 1.5, 0.5), (30, 8, 2), (144, 3, 1)])
def test_intervals_cover_the_truth_in_95_percent_of_draws_down_to_seven_clusters(clusters, a, b, unequal):
    """Items of a cluster are alike: the share of hits in a cluster has a beta distribution."""
    rng = np.random.default_rng(clusters)
    shape = (SIMULATIONS, clusters)
    sizes = rng.integers(1, 16, shape) if unequal else np.full(shape, 8)
    sums = rng.binomial(sizes, rng.beta(a, b, shape))
    p, n = sums.sum(1) / sizes.sum(1), sizes.sum(1) / design_effect(sums, sizes)
    _, low, high = wilson(p, n, 0.95, degrees(sums, sizes))
    truth = a / (a + b)
    assert np.mean((low <= truth) & (truth <= high)) == pytest.approx(0.95, abs=0.015)
    _, low, high = wilson(p, n)
    narrow = np.mean((low <= truth) & (truth <= high))
    assert narrow < (0.935 if clusters < 12 else 0.965)  # without Student's quantiles


@pytest.mark.parametrize(("a", "b"), [(0.6, 0.2), (16, 4), (30, 1.5)])
def test_seven_clusters_are_never_far_too_few(a, b):
    """Where clusters are nearly all or nothing, coverage is a little lower; where they are hardly alike, it is more."""
    rng = np.random.default_rng(1)
    sizes = rng.integers(1, 20, (SIMULATIONS, 7))
    sums = rng.binomial(sizes, rng.beta(a, b, sizes.shape))
    p, n = sums.sum(1) / sizes.sum(1), sizes.sum(1) / design_effect(sums, sizes)
    _, low, high = wilson(p, n, 0.95, degrees(sums, sizes))
    assert 0.92 <= np.mean((low <= a / (a + b)) & (a / (a + b) <= high)) <= 0.99


def test_the_jackknife_is_the_sandwich_where_clusters_are_of_one_size():
    rng = np.random.default_rng(2)
    sums, sizes = rng.binomial(8, 0.4, 20), np.full(20, 8)
    mean, se, df = ratio(sums, sizes)
    assert se == pytest.approx(((sums / 8).var(ddof=1) / 20) ** 0.5)
    assert (mean, df) == (pytest.approx(sums.sum() / 160), pytest.approx(19))
    left_out = [(sums.sum() - sums[g]) / (160 - 8) for g in range(20)]
    assert se == pytest.approx((19 / 20 * np.sum((left_out - mean) ** 2)) ** 0.5)


def test_where_nothing_shows_how_alike_the_items_of_a_cluster_are_each_counts_as_one():
    assert design_effect(np.array([1.0]), np.array([2])) == 2.0
    assert design_effect(np.full(54, 10.0), np.full(54, 10)) == 10.0
    ten_times, once = (
        share([True] * 540, [str(i // 10) for i in range(540)]),
        share([True] * 54, [*map(str, range(54))]),
    )
    assert ten_times.low == pytest.approx(once.low)
    assert ten_times.low < 0.94
