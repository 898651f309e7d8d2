"""The Emax curve: its intervals hold as often as they say, with few seeds and with doses that are far apart."""

import numpy as np
import pytest

from evals.stats.inference import ComparisonError
from evals.stats.response import emax

DOSES = [0, 0.05, 0.1, 0.2, 0.5, 1]


def curve(x, effect=0.3, ed50=0.2):
    return effect * np.asarray(x) / (ed50 + np.asarray(x))


def drawn(rng, seeds, noise, **of):
    return {
        s: dict(zip(DOSES, 0.2 + 0.05 * rng.standard_normal() + curve(DOSES, **of) + e, strict=True))
        for s, e in enumerate(noise * rng.standard_normal((seeds, len(DOSES))))
    }


@pytest.mark.parametrize(("seeds", "noise", "ed50"), [(2, 0.02, 0.2), (4, 0.03, 0.1), (3, 0.03, 1.0), (8, 0.05, 0.05)])
def test_effect_and_ed50_are_in_their_intervals_as_often_as_these_say(seeds, noise, ed50):
    rng, inside, middle, tries = np.random.default_rng(1), 0, 0, 800
    for _ in range(tries):
        made = emax(drawn(rng, seeds, noise, ed50=ed50))
        inside += made.low <= curve(1, ed50=ed50) <= made.high
        middle += made.ed50_low <= ed50 <= made.ed50_high
    assert 0.93 <= inside / tries <= 0.985, "more where doses do not tell where half of the effect is"
    assert 0.925 <= middle / tries <= 0.985


def test_without_an_effect_one_is_found_no_more_often_than_it_may_be():
    rng, found, tries = np.random.default_rng(2), 0, 800
    for _ in range(tries):
        made = emax(drawn(rng, 4, 0.03, effect=0.0))
        found += not made.low <= 0 <= made.high
    assert found / tries < 0.06


def test_an_exact_curve_is_found_whatever_the_levels_of_seeds():
    made = emax({s: {x: 0.1 * s + float(curve(x)) for x in DOSES} for s in range(3)})
    assert (made.effect, made.ed50) == (pytest.approx(float(curve(1)), abs=1e-3), pytest.approx(0.2, rel=0.03))
    assert (made.seeds, made.doses, made.misfit) == (3, 6, 1.0)
    at = {round(row[0], 3): row[1] for row in made.curve}
    assert at[0.5] == pytest.approx(float(curve(0.5)), abs=2e-3)
    assert at[0.0] == 0


@pytest.mark.parametrize("seeds", [2, 4, 8])
def test_doses_that_lie_on_a_curve_are_said_to_miss_it_no_more_often_than_in_one_of_twenty(seeds):
    rng, tries = np.random.default_rng(3), 800
    found = sum(emax(drawn(rng, seeds, 0.03)).misfit < 0.05 for _ in range(tries))
    assert 0.03 <= found / tries <= 0.065


def test_doses_that_lie_on_no_curve_are_found_out():
    rng, tries, bent = np.random.default_rng(4), 200, dict(zip(DOSES, (0.1, 0.1, 0.1, 0.3, 0.3, 0.1), strict=True))
    found = 0
    for _ in range(tries):
        noise = 0.03 * rng.standard_normal((4, len(DOSES)))
        found += (
            emax({s: {x: bent[x] + e for x, e in zip(DOSES, row, strict=True)} for s, row in enumerate(noise)}).misfit
            < 0.05
        )
    assert found > 0.95 * tries
    assert emax({s: {0: 0.1, 0.5: 0.2 + 0.01 * s, 1: 0.2} for s in range(2)}).misfit is None


def test_a_straight_line_and_a_step_are_in_the_family():
    line = emax({s: {x: 0.3 * x + 0.01 * s for x in DOSES} for s in range(2)})
    assert line.effect == pytest.approx(0.3, abs=2e-3)
    step = emax({s: {x: 0.3 * (x > 0) + 0.01 * s for x in DOSES} for s in range(2)})
    assert step.effect == pytest.approx(0.3, abs=2e-3)
    assert step.ed50 < 0.01 < 10 < line.ed50


def test_too_little_is_refused():
    with pytest.raises(ComparisonError, match="found 2 doses and 2 seeds"):
        emax({0: {0: 0.1, 1: 0.2}, 1: {0: 0.1, 1: 0.3}})
    with pytest.raises(ComparisonError, match="found 3 doses and 1 seeds"):
        emax({0: {0: 0.1, 0.5: 0.1, 1: 0.2}, 1: {0: 0.1, 1: 0.3}})
