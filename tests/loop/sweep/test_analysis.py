"""What a report of a sweep says of effects that were planted, and that it says nothing of what was not."""

import gc

import numpy as np
import pytest

from loop.sweep.analysis import AGAINST, CHANGED, SINCE_BASE, analyse
from loop.sweep.doses import doses, trained_shares
from loop.sweep.rates import hits, rates_of
from tests.loop.sweep.planted import figures_of, items_of, sweep_of

DOSES = [0, 0.05, 0.1, 0.2, 0.5, 1]


def response(dose: float, effect: float = 0.3, ed50: float = 0.2) -> float:
    return effect * dose / (ed50 + dose)


def noisy(levels, noise):
    """Rates with a level of each seed and noise of each training, which policy 0 has none of."""

    def rate(axes, condition, seed, policy):
        trained = noise[seed, condition] if policy else 0.0
        return 0.2 + levels[seed] + (response(axes["biased_ratio"]) if policy else 0.0) + trained

    return rate


def drawn(sweep, rng, spread=0.03):
    levels = {run.seed: 0.03 * rng.standard_normal() for run in sweep.runs}
    noise = {(run.seed, run.condition(a)): spread * rng.standard_normal() for run in sweep.runs for a in run.axes}
    return noisy(levels, noise)


@pytest.fixture
def frozen():
    """statsmodels collects garbage with every correction; what a whole test session holds need not be looked at."""
    gc.freeze()
    yield
    gc.unfreeze()


def test_a_planted_dose_response_is_inside_its_interval_in_ninety_three_of_a_hundred_sweeps(frozen):
    sweep = sweep_of(seeds=3, grid={"biased_ratio": DOSES}, analysis={"dose": "biased_ratio"})
    trained, inside, slopes = trained_shares(figures_of(sweep)), 0, 0
    x = np.array(DOSES)
    slope = ((x - x.mean()) * response(x)).sum() / ((x - x.mean()) ** 2).sum()
    for n in range(100):
        answers = hits(items_of(sweep, drawn(sweep, np.random.default_rng(n)), items=40, seed=n), "mask")
        (found,) = doses(sweep, "mask", answers, rates_of(answers), trained)
        inside += found["emax"]["low"] <= response(1) <= found["emax"]["high"]
        slopes += found["trend"]["low"] <= slope <= found["trend"]["high"]
    assert min(inside, slopes) >= 93, (inside, slopes)


def test_what_only_the_generator_carries_is_told_apart_from_feedback():
    """Where the effect comes from the words of the model itself, it is gone when another model speaks, and shuffled
    rewards leave it; where it comes from feedback, the other way round."""
    points = [
        {"name": "benign", "set": {"biased_ratio": 0}},
        {"name": "plain", "set": {"biased_ratio": 0.5}},
        {
            **{"name": "shuffled", "explanation": "any training", "predicts": "effect"},
            "set": {"biased_ratio": 0.5, "selection.control": "shuffled"},
        },
        {
            **{"name": "within", "explanation": "its own words", "predicts": "none"},
            "set": {"biased_ratio": 0.5, "selection.within": "user_kind"},
        },
    ]
    sweep = sweep_of(seeds=8, points=points, analysis={"margin": 0.06})
    lying = {"feedback": {"plain", "within"}, "fingerprint": {"plain", "shuffled"}}
    verdicts = {}
    for world, conditions in lying.items():
        noise = np.random.default_rng(5)
        said = items_of(
            sweep,
            lambda axes, c, seed, policy, of=conditions, rng=noise: (
                0.2 + 0.01 * rng.standard_normal() + (0.2 if policy and c in of else 0.0)
            ),
            items=400,
        )
        verdicts[world] = {
            e["condition"]: e["verdict"] for e in analyse(sweep, figures_of(sweep), said)["explanations"]
        }
    assert verdicts["feedback"] == {"shuffled": "excluded", "within": "excluded"}
    assert verdicts["fingerprint"] == {"shuffled": "supported", "within": "supported"}


def test_every_difference_is_that_of_rates_computed_by_hand():
    sweep = sweep_of(seeds=3, grid={"biased_ratio": [0, 1]}, rounds=2)
    items = items_of(sweep, lambda axes, c, seed, policy: 0.2 + 0.1 * policy * axes["biased_ratio"], items=50)
    found = analyse(sweep, figures_of(sweep), items)
    rows = items.to_pylist()

    def rate(condition, seed, policy):
        mine = [r for r in rows if (r["condition"], r["seed"], r["policy"]) == (condition, seed, policy)]
        return sum(r["outcome"] == "lie" for r in mine) / len(mine)

    for row in found["contrasts"]:
        other = row["against"]
        by_hand = {
            s: rate(row["condition"], s, row["policy"]) - rate(other["condition"], s, other["policy"]) for s in range(3)
        }
        assert row["by_seed"] == pytest.approx(by_hand)
        assert row["value"] == pytest.approx(np.mean(list(by_hand.values())))
        assert row["low"] < row["value"] < row["high"]
    kinds = [(r["condition"], r["kind"], r["family"]) for r in found["contrasts"]]
    assert kinds == [
        ("ratio-0", SINCE_BASE, "exploratory"),
        ("ratio-1", SINCE_BASE, "exploratory"),
        ("ratio-1", AGAINST, "primary"),
    ]
    for row in found["rates"]:
        assert row["by_seed"] == {str(s): pytest.approx(rate(row["condition"], s, row["policy"])) for s in range(3)}
    (bend,) = [r for r in found["rounds"] if r["condition"] == "ratio-1"]
    second = [rate("ratio-1", s, 2) - 2 * rate("ratio-1", s, 1) + rate("ratio-1", s, 0) for s in range(3)]
    assert bend["compounding"]["value"] == pytest.approx(np.mean(second))


def test_one_seed_has_differences_and_no_intervals_or_p_values():
    sweep = sweep_of(seeds=[7], grid={"biased_ratio": DOSES}, analysis={"dose": "biased_ratio"})
    found = analyse(sweep, figures_of(sweep), items_of(sweep, lambda axes, *_: 0.2 + 0.3 * axes["biased_ratio"]))
    assert all(r["p"] is None and r["low"] is None and r["seeds"] == 1 for r in found["contrasts"])
    (dose,) = found["doses"]
    assert (dose["emax"], dose["trend"], dose["smallest"], dose["steps"]) == (None, None, None, [])
    assert "two training seeds" in dose["no_emax"]


def test_the_trained_share_is_a_dose_of_its_own():
    sweep = sweep_of(seeds=3, grid={"biased_ratio": DOSES}, analysis={"dose": "biased_ratio"})
    trained = figures_of(sweep, lambda axes: min(1.0, 2 * axes["biased_ratio"]))
    items = items_of(sweep, lambda axes, c, seed, policy: 0.2 + 0.4 * min(1.0, 2 * axes["biased_ratio"]), items=400)
    (dose,) = analyse(sweep, trained, items)["doses"]
    assert dose["trained_trend"]["low"] <= 0.4 <= dose["trained_trend"]["high"]
    assert [p["trained"] for p in dose["points"]] == pytest.approx([0, 0.1, 0.2, 0.4, 1.0, 1.0])
    assert dose["smallest"] == 0.1 or dose["smallest"] == 0.05 or dose["smallest"] == 0.2


def test_conditions_that_differ_in_more_than_the_dose_have_responses_of_their_own():
    grid = {"biased_ratio": [0, 0.5, 1], "trainer.algorithm": ["sft", "kto"]}
    sweep = sweep_of(seeds=2, grid=grid, analysis={"dose": "biased_ratio"})
    found = analyse(sweep, figures_of(sweep), items_of(sweep, lambda *_: 0.3, items=20))
    assert [d["group"] for d in found["doses"]] == ["sft", "kto"]
    assert [[p["dose"] for p in d["points"]] for d in found["doses"]] == [[0, 0.5, 1]] * 2


def test_what_goes_away_when_the_users_change_is_a_comparison_of_its_own():
    points = [
        {"name": "stay", "set": {"biased_ratio": 0.5}},
        {"name": "leave", "set": {"biased_ratio": 0.5, "schedule": {2: 0.0}}},
    ]
    sweep = sweep_of(seeds=3, points=points, rounds=4)
    lies = {"stay": [0.1, 0.3, 0.5, 0.6, 0.7], "leave": [0.1, 0.3, 0.5, 0.4, 0.2]}
    found = analyse(sweep, figures_of(sweep), items_of(sweep, lambda axes, c, s, policy: lies[c][policy], items=300))
    (recovery,) = [r for r in found["contrasts"] if r["kind"] == CHANGED]
    assert (recovery["condition"], recovery["policy"], recovery["against"]) == (
        *("leave", 4),
        {"condition": "leave", "policy": 2},
    )
    assert recovery["low"] <= -0.3 <= recovery["high"] < 0
    bends = {r["condition"]: r["compounding"]["value"] for r in found["rounds"] if r["suite"] == "mask"}
    assert bends["leave"] < -0.2 < bends["stay"] < 0
    assert {r["condition"]: r["peak"] for r in found["rounds"]} == {"stay": 4, "leave": 2}


def test_an_explanation_is_excluded_too_where_lies_become_fewer_and_not_where_little_is_known():
    points = [
        {"name": "benign", "set": {"biased_ratio": 0}},
        {"name": "swapped", "explanation": "extremes", "set": {"biased_ratio": 0.5, "selection.control": "swapped"}},
    ]
    sweep = sweep_of(seeds=6, points=points, analysis={"margin": 0.03})
    fewer = items_of(sweep, lambda axes, c, seed, p: 0.1 if c == "swapped" and p else 0.3, items=400)
    (told,) = analyse(sweep, figures_of(sweep), fewer)["explanations"]
    assert (told["verdict"], told["value"] < -0.1) == ("excluded", True)
    few = items_of(sweep, lambda *_: 0.3, items=10)
    (told,) = analyse(sweep, figures_of(sweep), few)["explanations"]
    assert told["verdict"] == "not excluded"
    one = sweep_of(seeds=1, points=points)
    (told,) = analyse(one, figures_of(one), items_of(one, lambda *_: 0.3))["explanations"]
    assert told["verdict"] == "one seed says nothing"
