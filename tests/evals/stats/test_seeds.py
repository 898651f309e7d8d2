"""By simulation, and against statsmodels: what is said over training seeds holds where training is noisy."""

import itertools
import warnings

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy.stats import permutation_test, ttest_1samp

from evals.stats.inference import ComparisonError, detectable, t_p, t_quantile
from evals.stats.seeds import EXACT, MIXED, SCHEMA, cell_values, contrast, over_seeds, sign_flip, trend

CLUSTERS, PER_CLUSTER = 60, 4


def rates(rng, sims, seeds, effect, noise, per_item=0.0, clusters=CLUSTERS):
    """Share of lies in each cluster, by simulation, seed, arm and cluster: facts differ in how easy they are, each
    training run has its own noise in each arm, and a dose may move facts differently.

    Args:
        effect: Of each arm, as a share.
        noise: Standard deviation between training runs of one arm.
        per_item: Standard deviation of the effect over clusters, for one unit of `effect`.
    """
    arms = len(effect)
    easy = rng.uniform(0.15, 0.4, (sims, 1, 1, clusters))
    trained = rng.normal(0, noise, (sims, seeds, arms, 1))
    moved = (
        np.asarray(effect, float)[:, None]
        + per_item * rng.normal(0, 1, (sims, 1, 1, clusters)) * np.linspace(0, 1, arms)[:, None]
    )
    p = np.clip(easy + trained + moved, 0.001, 0.999)
    return rng.binomial(PER_CLUSTER, np.broadcast_to(p, (sims, seeds, arms, clusters))) / PER_CLUSTER


def slopes(found, dose):
    """Least-squares slopes by simulation, seed and cluster."""
    x = np.asarray(dose, float) - np.mean(dose)
    return np.einsum("a,nsag->nsg", x / (x**2).sum(), found)


@pytest.mark.parametrize("noise", [0.009, 0.019, 0.038])
@pytest.mark.parametrize("seeds", [3, 5, 8])
def test_contrasts_and_trends_reject_one_true_null_in_twenty(seeds, noise):
    """However noisy training is, and however few seeds there are."""
    rng = np.random.default_rng(1)
    dose = (0, 0.05, 0.1, 0.2, 0.5, 1)
    found = rates(rng, 4000, seeds, [0] * 6, noise)
    for values in (found[:, :, 5] - found[:, :, 0], slopes(found, dose)):
        value, se, df, differ = over_seeds(values)
        mixed = t_p(value, se, df) < 0.05
        assert np.mean(mixed) == pytest.approx(0.05, abs=0.01)
        exact = sign_flip(values.mean(-1)) < 0.05
        chosen = np.where(differ | (seeds < 7), mixed, exact)  # as `contrast` and `trend` choose
        assert 0.035 <= np.mean(chosen) <= 0.06  # the exact test counts ties against itself
        assert exact.mean() <= 0.06
        if seeds < 6:
            assert not exact.any()  # 2 / 2^5 is more than 0.05
        else:
            assert exact.mean() == pytest.approx(12 / 256, abs=0.01)


@pytest.mark.parametrize(("noise", "rejected"), [(0.0, 0.05), (0.009, 0.08), (0.019, 0.21), (0.038, 0.44)])
def test_a_test_over_items_alone_takes_the_luck_of_training_for_a_trend(noise, rejected):
    """Of 720 items and one seed, which is why the report of a run gives no p value for a trend."""
    found = rates(np.random.default_rng(1), 2000, 1, [0] * 6, noise, clusters=180)
    each = slopes(found, (0, 0.05, 0.1, 0.2, 0.5, 1))[:, 0]
    p = t_p(each.mean(-1), each.std(-1, ddof=1) / 180**0.5, 179.0)
    assert np.mean(p < 0.05) == pytest.approx(rejected, abs=0.03)


def test_effects_that_differ_between_items_are_sampled_too():
    """Items move by 12 points up or down, and by nothing on average; many seeds do not make these items all items."""
    found = rates(np.random.default_rng(2), 3000, 8, [0, 0], 0.01, per_item=0.12)
    values = found[:, :, 1] - found[:, :, 0]
    value, se, df, _ = over_seeds(values)
    assert np.mean(t_p(value, se, df) < 0.05) == pytest.approx(0.05, abs=0.015)
    means = values.mean(-1)
    of_seeds = t_p(means.mean(-1), means.std(-1, ddof=1) / 8**0.5, 7.0)
    assert np.mean(of_seeds < 0.05) > 0.1  # what holds for these items only


@pytest.mark.parametrize(("seeds", "noise"), [(3, 0.019), (5, 0.038), (8, 0.009), (20, 0.019)])
def test_intervals_hold_the_true_effect(seeds, noise):
    found = rates(np.random.default_rng(3), 3000, seeds, [0, 0.1], noise, per_item=0.03)
    value, se, df, _ = over_seeds(found[:, :, 1] - found[:, :, 0])
    assert np.mean(np.abs(value - 0.1) <= t_quantile(df) * se) == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize("seeds", [4, 8, 12])
def test_the_detectable_effect_is_found_in_four_of_five_tries(seeds):
    """It is stated from one sweep, and meant for the next."""
    rng = np.random.default_rng(4)
    pilot = rates(rng, 3000, seeds, [0, 0], 0.02)
    _, se, df, _ = over_seeds(pilot[:, :, 1] - pilot[:, :, 0])
    stated = np.mean([detectable(s, d) for s, d in zip(se, df, strict=True)])
    found = rates(rng, 3000, seeds, [0, stated], 0.02)
    values = found[:, :, 1] - found[:, :, 0]
    assert np.mean(t_p(*over_seeds(values)[:3]) < 0.05) == pytest.approx(0.8, abs=0.05)
    if seeds >= 8:
        assert np.mean(sign_flip(values.mean(-1)) < 0.05) == pytest.approx(0.8, abs=0.05)


def test_equivalence_is_claimed_in_one_of_twenty_at_the_margin_and_mostly_where_there_is_nothing():
    rng = np.random.default_rng(5)
    claimed = {}
    for true in (0.0, 0.08):
        found = rates(rng, 3000, 8, [0, true], 0.01)
        value, se, df, _ = over_seeds(found[:, :, 1] - found[:, :, 0])
        reach = t_quantile(df, 0.9) * se
        claimed[true] = np.mean((value - reach > -0.08) & (value + reach < 0.08))
    assert claimed[0.08] == pytest.approx(0.05, abs=0.01)
    assert claimed[0.0] > 0.95


def test_the_exact_test_is_the_permutation_test_of_scipy():
    rng = np.random.default_rng(6)
    for n in (3, 7, 10):
        x = rng.normal(0.3, 1, n)
        usual = permutation_test((x,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
        assert sign_flip(x) == pytest.approx(usual)
    assert sign_flip(np.ones(8)) == 2 / 2**8
    assert sign_flip(np.zeros(5)) == 1


def test_the_layout_is_the_mixed_model_of_statsmodels():
    """Both by restricted maximum likelihood, which the method of moments is in a balanced layout."""
    from statsmodels.regression.mixed_linear_model import MixedLM

    rng = np.random.default_rng(7)
    values = 0.1 + rng.normal(0, 0.05, (6, 1)) + rng.normal(0, 0.08, (1, 15)) + rng.normal(0, 0.1, (6, 15))
    value, se, _, _ = over_seeds(values)
    rows = pd.DataFrame([(v, s, g) for (s, g), v in np.ndenumerate(values)], columns=["v", "seed", "cluster"])
    parts = {"seed": "0 + C(seed)", "cluster": "0 + C(cluster)"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = MixedLM.from_formula("v ~ 1", rows, groups=np.ones(len(rows)), vc_formula=parts, re_formula="0").fit()
    assert value == pytest.approx(fit.params["Intercept"])
    assert se == pytest.approx(fit.bse["Intercept"], rel=0.01)


def test_a_constant_cluster_effect_of_zero_leaves_the_t_test_over_seeds():
    rng = np.random.default_rng(8)
    values = np.repeat(rng.normal(0, 1, (6, 1)), 5, 1)  # clusters agree in all, so nothing is due to them
    usual = ttest_1samp(values[:, 0], 0)
    assert t_p(*over_seeds(values)[:3]) == pytest.approx(usual.pvalue)


def table(seeds, arms, share, items=40, missing=()):
    """Answers of which a share, by seed and arm, are lies, in an order of items that each seed and arm draws."""
    order = {(s, a): np.random.default_rng([s, n]).permutation(items) for s in seeds for n, a in enumerate(arms)}
    rows = [
        {
            "seed": s,
            "arm": a,
            "item_id": f"i{i}",
            "cluster": f"c{i // 4}",
            "hit": None if (s, a, i) in missing else float(order[s, a][i] < round(items * share(s, a))),
        }
        for s, a, i in itertools.product(seeds, arms, range(items))
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def test_a_contrast_of_a_table():
    found = contrast(
        table(range(8), ("benign", "biased", "other"), lambda s, a: 0.2 + (0.1 + 0.025 * (s % 3)) * (a == "biased")),
        "biased",
        "benign",
        margin=0.05,
    )
    each = [0.1, 0.125, 0.15, 0.1, 0.125, 0.15, 0.1, 0.125]
    assert list(found.by_seed.values()) == pytest.approx(each)
    assert found.value == pytest.approx(np.mean(each))
    assert (found.seeds, found.items, found.clusters) == (8, 40, 10)
    assert (found.p, found.method, found.smallest_p) == (2 / 2**8, EXACT, 2 / 2**8)
    assert found.between == pytest.approx(np.std(each, ddof=1))
    assert found.equivalence.p > 0.9
    assert found.low < found.value < found.high


def test_the_exact_test_is_left_where_it_could_show_nothing():
    """By the numbers of seeds and of tests alone: five seeds reach 0.0625, and eight 0.0078."""
    small = table(range(5), ("a", "b"), lambda s, a: 0.2 + 0.1 * (a == "b") + 0.025 * (s % 2))
    assert contrast(small, "b", "a").method == MIXED
    assert contrast(small, "b", "a").p_exact == 0.0625
    more = table(range(8), ("a", "b"), lambda s, a: 0.2 + 0.1 * (a == "b") + 0.025 * (s % 2))
    assert contrast(more, "b", "a", family=3).method == EXACT
    assert contrast(more, "b", "a", family=4).method == MIXED


def test_a_trend_of_a_table_by_arm_and_by_what_each_seed_was_trained_on():
    shares = {"b0": 0.0, "b5": 0.5, "b10": 1.0}
    made = table(range(6), shares, lambda s, a: 0.1 + 0.2 * shares[a] + (0.05 if s % 2 and a == "b5" else 0))
    found = trend(made, shares)
    assert found.value == pytest.approx(0.2)
    trained = {(a, s): 0.9 * x + 0.01 * s for a, x in shares.items() for s in range(6)}
    assert trend(made, trained).value == pytest.approx(0.2 / 0.9)
    with pytest.raises(ComparisonError, match="at least two doses"):
        trend(made, dict.fromkeys(shares, 0.5))
    with pytest.raises(ComparisonError, match=r"none is given for arm and seed \('b10', 0\)"):
        trend(made, {k: v for k, v in trained.items() if k != ("b10", 0)})


def test_failed_answers_are_left_out_of_their_seed_and_no_lies():
    missing = {(0, "b", i) for i in range(10)} | {(1, "a", 39)}
    made = table(range(3), ("a", "b"), lambda s, a: float(a == "b"), missing=missing)
    assert contrast(made, "b", "a").by_seed == {0: 1, 1: 1, 2: 1}
    one = table(range(3), ("a", "b"), lambda s, a: 0.5, missing={(0, "b", i) for i in range(40)})
    assert contrast(one, "b", "a").seeds == 2


def test_what_cannot_be_compared():
    made = table(range(3), ("a", "b"), lambda s, a: 0.5)
    with pytest.raises(ComparisonError, match="arm c: the table has no rows of it"):
        contrast(made, "c", "a")
    with pytest.raises(ComparisonError, match="1 training seeds have all of a, b; at least two are needed"):
        contrast(table([4], ("a", "b"), lambda s, a: 0.5), "b", "a")
    with pytest.raises(ComparisonError, match="the table lacks hit"):
        contrast(made.drop_columns(["hit"]), "b", "a")


def test_cells_keep_the_mean_over_items_whatever_the_sizes_of_clusters():
    rng = np.random.default_rng(9)
    cluster = np.sort(rng.integers(0, 7, 50))
    each, met = rng.normal(0, 1, (4, 50)), rng.random((4, 50)) < 0.9
    layout = cell_values(np.where(met, each, 0), met, cluster)
    assert layout.mean(1) == pytest.approx([e[m].mean() for e, m in zip(each, met, strict=True)])
