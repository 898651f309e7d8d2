import numpy as np
import pytest
from scipy.stats import ttest_1samp
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import DescrStatsW

from evals.stats.inference import ComparisonError, detectable, equivalence, needed, t_interval, t_p, unbiased


def test_p_values_and_intervals_are_those_of_the_t_test():
    x = np.random.default_rng(0).normal(0.3, 1, 9)
    se = x.std(ddof=1) / 3
    usual = ttest_1samp(x, 0)
    assert t_p(x.mean(), se, 8) == pytest.approx(usual.pvalue)
    assert t_interval(x.mean(), se, 8) == pytest.approx(tuple(usual.confidence_interval()))


def test_a_p_value_has_no_floor():
    assert 0 < t_p(0.7, 0.02, 50) < 1e-30
    assert t_p(0.0, 0.0, 5) == 1
    assert t_p(0.1, 0.05, 0) == 1  # one cluster says nothing of another
    assert t_interval(0.1, 0.05, 0) == (-np.inf, np.inf)


@pytest.mark.parametrize("df", [3, 7, 59, 500])
def test_the_detectable_effect_is_that_of_statsmodels(df):
    power = TTestPower().power(needed(df) / (df + 1) ** 0.5, df + 1, 0.05)
    assert power == pytest.approx(0.8, abs=2e-3)
    errors = np.sqrt(np.random.default_rng(2).chisquare(df, 20_000) / df)
    assert errors.mean() == pytest.approx(float(unbiased(df)), rel=0.01)
    assert detectable(0.02, df) == pytest.approx(0.02 * needed(df) / unbiased(df))


def test_two_one_sided_tests_are_those_of_statsmodels():
    x = np.random.default_rng(1).normal(0.05, 0.3, 30)
    usual = DescrStatsW(x).ttost_mean(-0.2, 0.2)[0]
    found = equivalence(x.mean(), x.std(ddof=1) / 30**0.5, 29, 0.2)
    assert found.p == pytest.approx(usual)
    assert (found.p < 0.05) == (found.low > -0.2 and found.high < 0.2)
    assert equivalence(0.3, 0.01, 20, 0.2).p > 0.99
    with pytest.raises(ComparisonError, match="margin: found 0; a number above 0"):
        equivalence(0, 1, 3, 0)
