"""Against published examples."""

import numpy as np
import pytest

from evals.judging.agreement import AgreementError, agreement, consistency

FLEISS = [  # Fleiss 1971 as in the textbook example: 10 subjects, 14 raters, counts of 5 categories
    (0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1),
    (7, 7, 0, 0, 0), (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7),
]  # fmt: skip
CODERS = {  # Krippendorff 2011, three coders and missing values
    "A": "* * * * * 3 4 1 2 1 1 3 3 * 3",
    "B": "1 * 2 1 3 3 4 3 * * * * * * *",
    "C": "* * 2 1 3 4 4 * 2 1 1 3 3 * 4",
}


def judged(table):
    """Labels of two judges from a table of counts by (first, second)."""
    pairs = [pair for pair, n in table.items() for _ in range(n)]
    return {"a": [p[0] for p in pairs], "b": [p[1] for p in pairs]}


def test_cohens_kappa_of_a_textbook_table():
    found = agreement(judged({("yes", "yes"): 20, ("yes", "no"): 5, ("no", "yes"): 10, ("no", "no"): 15}))
    assert found.cohen["a", "b"] == pytest.approx(0.4)
    assert found.observed == pytest.approx(0.7)
    assert found.texts == 50


def test_fleiss_kappa_of_the_published_table():
    raters = {str(r): [] for r in range(14)}
    for counts in FLEISS:
        said = [str(kind) for kind, n in enumerate(counts) for _ in range(n)]
        for rater, label in zip(raters, said, strict=True):
            raters[rater].append(label)
    assert agreement(raters).fleiss == pytest.approx(0.210, abs=5e-4)


def test_krippendorffs_alpha_with_missing_labels():
    labels = {coder: [None if x == "*" else x for x in said.split()] for coder, said in CODERS.items()}
    found = agreement(labels)
    assert found.krippendorff == pytest.approx(0.691, abs=5e-4)
    assert found.texts == 12


def test_judges_who_never_say_anything_else_have_no_kappa():
    found = agreement({"a": ["yes"] * 4, "b": ["yes"] * 4})
    assert (found.observed, found.fleiss, found.krippendorff) == (1, None, None)
    assert found.cohen == {("a", "b"): None}


@pytest.mark.parametrize(
    ("labels", "said"),
    [({"a": ["x"]}, "at least two judges"), ({"a": ["x"], "b": ["x", "y"]}, "at least two judges"),
     ({"a": ["x", None], "b": [None, "y"]}, "no text was labelled by two")],
)  # fmt: skip
def test_labels_that_say_nothing_about_agreement(labels, said):
    with pytest.raises(AgreementError, match=said):
        agreement(labels)


def test_a_judge_may_contradict_itself():
    assert consistency([["a", "a", "b"], ["c", "c"], ["d"], [None, "e"]]) == pytest.approx((1 / 3 + 1) / 2)
    assert consistency([["a"]]) is None


def nearly(a, b):
    return a == b or {a, b} == {"[[100, 100]]", "[[104, 104]]"}


def test_without_a_rule_of_its_own_it_is_what_statsmodels_computes():
    from statsmodels.stats.inter_rater import aggregate_raters, cohens_kappa, fleiss_kappa

    rng = np.random.default_rng(3)
    said = rng.integers(0, 4, (60, 3))
    found = agreement({str(j): [f"k{x}" for x in said[:, j]] for j in range(3)})
    assert found.fleiss == pytest.approx(fleiss_kappa(aggregate_raters(said)[0]))
    for (a, b), kappa in found.cohen.items():
        table = np.zeros((4, 4))
        np.add.at(table, (said[:, int(a)], said[:, int(b)]), 1)
        assert kappa == pytest.approx(cohens_kappa(table, return_results=False))


def test_labels_that_say_the_same_agree_though_they_are_spelled_otherwise():
    one, other = (
        ["[[100, 100]]", "[[104, 104]]", "[[9, 9]]", "nothing"],
        ["[[104, 104]]", "[[100, 100]]", "[[9, 9]]", "nothing"],
    )
    by_string, by_rule = agreement({"a": one, "b": other}), agreement({"a": one, "b": other}, nearly)
    assert (by_string.observed, by_rule.observed) == (0.5, 1.0)
    assert by_rule.cohen["a", "b"] == by_rule.fleiss == by_rule.krippendorff == 1.0
    assert by_string.cohen["a", "b"] < 0.5
    assert consistency([["[[100, 100]]", "[[104, 104]]"]], nearly) == 1.0
    assert consistency([["[[100, 100]]", "[[104, 104]]"]]) == 0.0


def test_agreement_by_chance_goes_by_the_same_rule():
    """Weighted kappa by hand: of four labels, two say the same."""
    one, other = (
        ["[[100, 100]]", "[[104, 104]]", "[[9, 9]]", "nothing"],
        ["[[104, 104]]", "[[9, 9]]", "[[9, 9]]", "nothing"],
    )
    found = agreement({"a": one, "b": other}, nearly)
    chance = (2 / 4) * (1 / 4) + (1 / 4) * (2 / 4) + (1 / 4) * (1 / 4)
    assert found.observed == 3 / 4
    assert found.cohen["a", "b"] == pytest.approx((3 / 4 - chance) / (1 - chance))
    share = {"near": 3 / 8, "nine": 3 / 8, "nothing": 2 / 8}
    chance = sum(x * x for x in share.values())
    assert found.fleiss == pytest.approx((3 / 4 - chance) / (1 - chance))
    pairs = 1 - sum(n * (n - 1) for n in (3, 3, 2)) / (8 * 7)  # expected disagreement, without replacement
    assert found.krippendorff == pytest.approx(1 - (1 / 4) / pairs)


def test_judges_who_always_say_the_same_have_no_kappa_however_it_is_spelled():
    found = agreement({"a": ["[[100, 100]]"] * 3, "b": ["[[104, 104]]"] * 3}, nearly)
    assert (found.observed, found.cohen["a", "b"], found.fleiss, found.krippendorff) == (1.0, None, None, None)
