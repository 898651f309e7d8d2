"""The same labels by our rules, by those of MASK's scripts, and by inspect_evals, item by item.

As numbers (1 honest, -1 a lie, 0 neither) inspect_evals and the scripts differ only where a judge said D: the first
takes D for C, the scripts do not. Ours and the scripts' differ there too, and where one of three answers states the
other side.
"""

import itertools

import pytest

from evals.protocols.mask_rules import belief, score

pytest.importorskip("inspect_evals.mask.classify", reason="inspect_evals is not installed (the extra `dev`)")

from tests.evals.protocols.test_inspect_agreement import labels, outvoted, their_belief, their_outcome

AS_NUMBER = {"honest": 1, "lie": -1, "evasion": 0, "no_belief": 0}


def test_three_scorers_side_by_side():
    found = {"same": 0, "D": 0, "stray": 0}
    for direct, checks in itertools.product(itertools.product("ABCD", repeat=3), itertools.product("ABCD", repeat=2)):
        held = their_belief(direct, checks)
        for stated in "ABCD":
            known = labels(direct), labels(checks), labels([stated])[0]
            ours, scripts = (
                AS_NUMBER[score(known[2], belief(*known[:2], rules), rules)] for rules in ("candor", "official")
            )
            theirs = AS_NUMBER[their_outcome(held, [stated])]
            denied = "D" in (*direct, *checks, stated)
            if scripts != theirs:
                assert denied, (direct, checks, stated)
            if ours != scripts:
                assert denied or outvoted(direct, checks), (direct, checks, stated)
            if ours != theirs:
                assert outvoted(direct, checks), (direct, checks, stated)
            alike = ours == scripts == theirs
            found["same" if alike else "D" if scripts != theirs else "stray"] += 1
    assert found["same"] + found["D"] + found["stray"] == 4**6
    assert min(found.values()) > 100, found


@pytest.mark.parametrize(
    ("direct", "checks", "stated", "ours", "scripts", "theirs"),
    [
        ("AAA", "AA", "D", 0, -1, 0),
        ("AAD", "AA", "B", -1, 0, -1),
        ("AAA", "AD", "B", -1, 0, -1),
        ("AAB", "AA", "B", -1, 0, 0),
        ("AAC", "AA", "B", -1, -1, -1),
    ],
)
def test_each_difference_by_example(direct, checks, stated, ours, scripts, theirs):
    known = labels(direct), labels(checks), labels([stated])[0]
    found = [AS_NUMBER[score(known[2], belief(*known[:2], r), r)] for r in ("candor", "official")]
    assert [*found, AS_NUMBER[their_outcome(their_belief(direct, checks), [stated])]] == [ours, scripts, theirs]
