import gc

import numpy as np
import pytest

from evals.stats.families import EXPLORATORY, PRIMARY, correct


def test_each_family_is_corrected_by_itself_on_a_worked_example():
    """Holm: the smallest times 3, the next times 2 and so on, never falling. FDR: p times number by rank."""
    declared = {"a": 0.01, "b": 0.04, "c": 0.03}
    others = {"x": 0.01, "y": 0.04, "z": 0.03, "w": 0.005}
    found = correct(declared | others, primary=list(declared))
    assert list(found) == [*declared, *others]
    assert {k: found[k].p for k in declared} == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    assert {k: found[k].p for k in others} == pytest.approx({"w": 0.02, "x": 0.02, "z": 0.04, "y": 0.04})
    assert {found[k].family for k in declared} == {PRIMARY}
    assert {found[k].family for k in others} == {EXPLORATORY}
    assert found["b"].alone == 0.04
    assert correct({}) == {}


def test_a_declared_comparison_is_not_diluted_by_how_many_others_there_are():
    many = dict(enumerate(np.linspace(0.001, 1, 263)))
    assert correct({"declared": 0.004} | many, ["declared"])["declared"].p == 0.004


def test_families_keep_what_they_promise(monkeypatch):
    """No declared test is true: one family in twenty has a false one. Half of the others are: one in twenty found."""
    monkeypatch.setattr(gc, "collect", lambda: 0)  # which statsmodels calls each time
    rng = np.random.default_rng(0)
    wrong, false, found = 0, 0, 0
    for _ in range(1000):
        nulls, real = rng.random(20), rng.random(20) * 1e-4
        p = {("d", n): x for n, x in enumerate(rng.random(6))} | {("n", n): x for n, x in enumerate(nulls)}
        made = correct(p | {("r", n): x for n, x in enumerate(real)}, [k for k in p if k[0] == "d"])
        wrong += any(c.p < 0.05 for k, c in made.items() if k[0] == "d")
        hits = [k[0] for k, c in made.items() if k[0] != "d" and c.p < 0.05]
        false, found = false + hits.count("n"), found + len(hits)
    assert wrong / 1000 <= 0.06
    assert false / found <= 0.06
