"""The sentence that opens a sweep's report, from answers whose rates are known."""

import pytest

from loop.sweep.analysis import analyse
from loop.sweep.answer import answer
from tests.loop.sweep.planted import figures_of, items_of, sweep_of


def said(sweep, rate, items=200):
    return answer(analyse(sweep, figures_of(sweep), items_of(sweep, rate, items)))


def test_a_dose_response_names_its_size_and_the_smallest_dose_that_is_seen():
    sweep = sweep_of(seeds=6, grid={"biased_ratio": [0, 0.5, 1]}, analysis={"dose": "biased_ratio"})
    up = said(sweep, lambda axes, c, s, p: 0.1 + 0.4 * axes["biased_ratio"] * (p > 0))
    assert up.verdict == "yes"
    assert "from biased_ratio 0 to 1" in up.sentence
    assert up.sentence.startswith("Lies rise by 3"), "40 points, less what noise leaves"
    assert "0.5 is the smallest biased_ratio that can be told from 0" in up.sentence
    assert ", over 6 seeds. By the Emax curve through all doses it is +3" in up.certainty
    assert "points), nearly along a straight line. Trend: p" in up.certainty
    flat = said(sweep, lambda axes, c, s, p: 0.3)
    assert (flat.verdict, flat.sentence[:23]) == ("unclear", "This sweep cannot tell:")


def test_the_change_is_that_between_the_ends_also_where_a_curve_runs_past_them():
    """At the highest dose there are fewer lies than at the one before, which no Emax curve can follow."""
    doses = [0, 0.1, 0.2, 0.5, 1]
    sweep = sweep_of(seeds=8, grid={"biased_ratio": doses}, analysis={"dose": "biased_ratio"})
    lies = dict(zip(doses, (0.1, 0.2, 0.4, 0.6, 0.3), strict=True))
    found = analyse(sweep, figures_of(sweep), items_of(sweep, lambda axes, c, s, p: lies[axes["biased_ratio"]], 400))
    (dose,) = (d for d in found["doses"] if d["suite"] == "mask")
    ends = [next(p["value"] for p in dose["points"] if p["dose"] == x) for x in (0, 1)]
    told = answer(found)
    assert f"rise by {100 * (ends[1] - ends[0]):.1f} points from biased_ratio 0 to 1" in told.sentence
    assert dose["emax"]["effect"] > ends[1] - ends[0] + 0.1, "what the curve makes of it"
    assert "No Emax curve goes through the doses (lack of fit: p < 0.001)" in told.certainty
    assert f"It is largest at 0.5: {100 * dose['steps'][2]['value']:+.1f} points" in told.certainty


def test_a_figure_that_falls_has_a_smallest_dose_too():
    sweep = sweep_of(seeds=8, grid={"biased_ratio": [0, 0.5, 1]}, analysis={"dose": "biased_ratio"})
    found = analyse(
        sweep, figures_of(sweep), items_of(sweep, lambda axes, c, s, p: 0.5 - 0.3 * axes["biased_ratio"], 400)
    )
    (dose,) = (d for d in found["doses"] if d["suite"] == "mask")
    assert dose["smallest"] == 0.5
    told = answer(found)
    assert (told.verdict, told.sentence[:12]) == ("fewer", "Lies fall by")


def test_explanations_are_counted_by_their_verdict():
    points = [
        {"name": "benign", "set": {"biased_ratio": 0.0}},
        {"name": "plain", "set": {"biased_ratio": 0.5}},
        *(
            {"name": name, "explanation": name, "set": {"biased_ratio": 0.5, "selection.control": name}}
            for name in ("shuffled", "random")
        ),
    ]
    sweep = sweep_of(seeds=8, points=points, analysis={"margin": 0.06})
    found = said(sweep, lambda axes, c, s, p: 0.1 + 0.3 * (p > 0) * (c in ("plain", "random")), 400)
    assert found.verdict == "yes"
    assert "points more frequent in plain than in benign" in found.sentence
    assert "of 2 other explanations: excluded 1 (shuffled), supported 1 (random)" in found.sentence
    none = said(sweep, lambda axes, c, s, p: 0.2, 400)
    assert none.sentence.startswith("There is no effect to explain: plain differs from benign by")


@pytest.mark.parametrize(
    ("rate", "verdict", "opening"),
    [
        (lambda p: 0.1 + 0.01 * p**2, "yes", "They compound"),
        (lambda p: 0.5 - 0.4 * 0.5**p, "fewer", "They fade"),
    ],
)
def test_many_rounds_are_asked_whether_effects_grow(rate, verdict, opening):
    points = [{"name": "a", "set": {"biased_ratio": 0.5}}, {"name": "b", "set": {"biased_ratio": 0.0}}]
    sweep = sweep_of(seeds=6, rounds=6, points=points)
    found = said(sweep, lambda axes, c, s, p: rate(p) if c == "a" else 0.1, 800)
    assert (found.verdict, found.sentence.partition(":")[0]) == (verdict, opening)
    assert "a round of a adds" in found.sentence


def test_conditions_differ_or_do_not_or_it_cannot_be_told():
    points = [{"name": "a", "set": {"biased_ratio": 0.0}}, {"name": "b", "set": {"biased_ratio": 0.5}}]
    sweep = sweep_of(seeds=6, points=points, analysis={"margin": 0.1})
    more = said(sweep, lambda axes, c, s, p: 0.1 + 0.3 * (c == "b"))
    assert (more.verdict, more.sentence[:14]) == ("yes", "Yes: lies are ")
    assert "more frequent in b than in a" in more.sentence
    same = said(sweep, lambda axes, c, s, p: 0.1, 400)
    assert (same.verdict, same.sentence) == ("no", "No: they differ by less than 10 points.")
    noisy = sweep_of(seeds=2, points=points, analysis={"margin": 0.01})
    assert said(noisy, lambda axes, c, s, p: 0.4 + 0.1 * s * (c == "b"), 30).verdict == "unclear"


def test_one_seed_and_no_answers_give_no_answer():
    points = [{"name": "a", "set": {"biased_ratio": 0.0}}, {"name": "b", "set": {"biased_ratio": 0.5}}]
    one = said(sweep_of(seeds=1, points=points), lambda axes, c, s, p: 0.1)
    assert (one.verdict, one.sentence[:29]) == ("none", "One training seed cannot tell")
    sweep = sweep_of(seeds=2, points=points)
    nothing = answer(analyse(sweep, figures_of(sweep), items_of(sweep, lambda *_: 0.1).slice(0, 0)))
    assert nothing.verdict == "none"
