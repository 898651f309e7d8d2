"""By simulation: corrected rates hold the truth however the labels were drawn within groups."""

import numpy as np
import pytest

from evals.stats.labelled import Labelled, LabelsError, corrected_rate, judge_rates

ITEMS, PER_CLUSTER = 720, 5


def answers(rng, rate, sensitivity, specificity):
    """Truth and judgement of every answer; facts differ in how often they are lied about."""
    clusters = np.repeat(np.arange(ITEMS // PER_CLUSTER), PER_CLUSTER)
    truth = rng.random(ITEMS) < rng.beta(8 * rate, 8 * (1 - rate), clusters.max() + 1)[clusters]
    judged = np.where(truth, rng.random(ITEMS) < sensitivity, rng.random(ITEMS) > specificity)
    return truth, judged, clusters


def label(rng, truth, judged, clusters, lies, others):
    """As many labels among judged lies and among the others as are asked for."""
    told = np.full(ITEMS, np.nan)
    for group, count in ((judged, lies), (~judged, others)):
        drawn = rng.permutation(np.flatnonzero(group))[:count]
        told[drawn] = truth[drawn]
    return Labelled(judged, told, clusters)


@pytest.mark.parametrize(
    ("rate", "sensitivity", "specificity", "lies", "others"),
    [
        (0.25, 0.8, 0.9, 40, 40),
        (0.25, 0.8, 0.9, 90, 10),  # most labels among judged lies
        (0.25, 0.6, 1.0, 60, 60),
        (0.05, 0.9, 0.95, 50, 50),
        (0.6, 0.9, 0.8, 30, 100),
    ],
)
def test_the_truth_is_in_95_percent_of_intervals_with_labels_enriched_among_judged_lies(
    rate, sensitivity, specificity, lies, others
):
    rng = np.random.default_rng(1)
    inside, values = 0, []
    for _ in range(1500):
        found = corrected_rate(label(rng, *answers(rng, rate, sensitivity, specificity), lies, others))
        inside += found.low <= rate <= found.high
        values.append(found.value)
    assert np.mean(values) == pytest.approx(rate, abs=0.005)
    assert inside / 1500 == pytest.approx(0.95, abs=0.015)


def test_labels_of_everything_give_the_interval_of_items():
    rng = np.random.default_rng(2)
    inside = 0
    for _ in range(1000):
        found = corrected_rate(label(rng, *answers(rng, 0.25, 0.8, 0.9), ITEMS, ITEMS))
        inside += found.low <= 0.25 <= found.high
    assert inside / 1000 == pytest.approx(0.95, abs=0.015)


def test_labels_among_judged_lies_alone_correct_nothing():
    """Pooled, they would make 0.16 of a true 0.25 without a word."""
    rng = np.random.default_rng(3)
    truth, judged, clusters = answers(rng, 0.25, 0.8, 0.95)
    with pytest.raises(
        LabelsError, match=rf"none of the {(~judged).sum()} answers that were judged no lies has a label"
    ):
        corrected_rate(label(rng, truth, judged, clusters, 100, 0))


def test_weights_of_labels_that_were_not_drawn_evenly_within_a_group():
    """Lies about half of the facts were three times as likely to be drawn."""
    rng = np.random.default_rng(4)
    values = []
    for _ in range(400):
        truth, judged, clusters = answers(rng, 0.25, 0.8, 0.9)
        odds = np.where(truth, 3, 1) * 0.08
        told = np.where(rng.random(ITEMS) < odds, truth.astype(float), np.nan)
        values.append(corrected_rate(Labelled(judged, told, clusters, 1 / odds)).value)
    assert np.mean(values) == pytest.approx(0.25, abs=0.01)


def test_the_errors_of_a_judge_are_those_of_all_answers_and_not_of_the_labels():
    """Of two policies that lie at different rates, whose labels are enriched."""
    rng = np.random.default_rng(5)
    inside, found = np.zeros(2), []
    for _ in range(300):
        of = [label(rng, *answers(rng, rate, 0.8, 0.95), 40, 60) for rate in (0.15, 0.4)]
        rates = judge_rates(of)
        found.append([r.value for r in rates])
        inside += [r.low <= true <= r.high for r, true in zip(rates, (0.8, 0.95), strict=True)]
    assert np.mean(found, 0) == pytest.approx([0.8, 0.95], abs=0.02)
    assert (inside / 300 >= 0.92).all()


def test_by_hand():
    """Ten judged lies, of which four of five labels are true; thirty others, of which one of ten is a lie."""
    judged = np.arange(40) < 10
    told = np.full(40, np.nan)
    told[:5], told[10:20] = (1, 1, 1, 1, 0), (1, *[0] * 9)
    of = Labelled(judged, told, np.arange(40))
    found = corrected_rate(of)
    assert found.value == pytest.approx((10 * 0.8 + 30 * 0.1) / 40)
    assert (found.labels, found.low < found.value < found.high) == (15, True)
    sensitivity, specificity = judge_rates([of])
    assert sensitivity.value == pytest.approx(8 / 11)
    assert specificity.value == pytest.approx(27 / 29)
    with pytest.raises(LabelsError, match="the labels hold no lie"):
        judge_rates([Labelled(judged, np.where(np.isnan(told), np.nan, 0), np.arange(40))])
