import numpy as np
import pytest
from scipy.stats import binomtest

from evals.stats import design_effect, share


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


def test_coverage_with_clusters_is_close_to_95_percent():
    rng = np.random.default_rng(1)
    clusters, names = np.repeat(np.arange(60), 8), [str(c) for c in np.repeat(np.arange(60), 8)]
    inside = 0
    for _ in range(1000):
        p = rng.beta(3, 1, 60)
        s = share(rng.random(480) < p[clusters], names)
        inside += s.low <= 0.75 <= s.high
    assert 0.93 <= inside / 1000 <= 0.97


def test_where_nothing_shows_how_alike_the_items_of_a_cluster_are_each_counts_as_one():
    assert design_effect(np.array([1.0, 0.0]), np.array([0, 0])) == 2.0
    assert design_effect(np.ones(540), np.repeat(np.arange(54), 10)) == 10.0
    ten_times, once = (
        share([True] * 540, [str(i // 10) for i in range(540)]),
        share([True] * 54, [*map(str, range(54))]),
    )
    assert ten_times.low == pytest.approx(once.low)
    assert ten_times.low < 0.94
