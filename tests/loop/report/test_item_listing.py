"""`candor items`, on the outcomes of two arms with three policies each."""

import json

import pytest
from typer.testing import CliRunner

from evals.stats.compare import paired
from loop.cli.app import app
from tests.loop.report.test_items import FATES, evaluate, evaluated
from tests.loop.report.test_listing import Run


@pytest.fixture
def run(tmp_path):
    return evaluated(tmp_path / "run")


def items(*args):
    return CliRunner().invoke(app, ["items", *map(str, args)])


def test_outcomes_are_counted_by_suite_and_policy(run):
    for asked, which in (([], ["a", "c/1"]), (["--condition", "no_stake"], ["b"])):
        for row in json.loads(items(run.out.root, *asked, "--json").stdout)["counts"]:
            of = [FATES[i][row["arm"]][row["policy"]] for i in which]
            assert row["outcomes"] == {o: of.count(o) for o in set(of)}
            assert row["condition"] == ("no_stake" if asked else "pressure")
    counted = json.loads(items(run.out.root, "--json").stdout)["counts"]
    assert [(r["suite"], r["arm"], r["policy"]) for r in counted] == [
        ("mask", arm, policy) for arm in ("benign", "biased") for policy in range(3)
    ]
    lines = [line.split() for line in items(run.out.root).stdout.splitlines()]
    assert ["policy", "lie", "evasion", "honest", "lie,", "%"] in lines
    assert ["biased", "1", "1", "0", "1", "50.0", "[9.5,", "90.5]"] in lines
    assert ["benign", "0", "0", "0", "2", "0.0", "[0.0,", "65.8]"] in lines
    assert "2 items, pressure (not counted: 1 no stake)" in items(run.out.root).stdout


def test_any_two_policies_are_compared_item_by_item(run):
    """Of the items under pressure, a and c/1, biased 1 lies about c/1, and nobody else does."""
    of = json.loads(items(run.out.root, "--compare", "benign/2", "biased/1", "--json").stdout)
    (mask,) = of.pop("suites")
    assert (of["first"], of["second"]) == ("benign/2", "biased/1")
    assert (mask["outcome"], mask["condition"], mask["n"]) == ("lie", "pressure", 2)
    assert (mask["first"], mask["second"], mask["difference"]) == (0, 0.5, 0.5)
    assert of.pop("not_compared") == {}
    assert (mask["gained"], mask["lost"]) == (1, 0)
    by_hand = paired({"a": 0.0, "c/1": 0.0}, {"a": 0.0, "c/1": 1.0}, {"a": "a", "c/1": "c/1"})
    assert (mask["low"], mask["high"], mask["p"]) == pytest.approx((by_hand.low, by_hand.high, by_hand.p))
    back = json.loads(items(run.out.root, "--compare", "biased/1", "benign/2", "--json").stdout)["suites"][0]
    assert (back["difference"], back["gained"], back["lost"]) == (-0.5, 0, 1)
    plain = json.loads(
        items(run.out.root, "--compare", "benign/1", "biased/1", "--condition", "no_stake", "--json").stdout
    )["suites"][0]
    assert (plain["n"], plain["difference"]) == (1, -1)
    table = items(run.out.root, "--compare", "benign/2", "biased/1", "--suite", "mask").stdout.splitlines()
    assert table[1].split()[:2] == ["mask", "lie"]
    assert "+50.0 [" in table[1]


def test_where_too_many_answers_failed_there_is_no_share_and_no_comparison(tmp_path, monkeypatch):
    monkeypatch.setitem(FATES, "a", {"benign": ("honest",) * 3, "biased": ("honest", "error", "error")})
    run = evaluated(tmp_path / "failed")
    rows = {(r["arm"], r["policy"]): r["share"] for r in json.loads(items(run.out.root, "--json").stdout)["counts"]}
    assert rows["biased", 1] is None
    assert rows["biased", 0]["value"] == 0
    asked = (run.out.root, "--compare", "benign/1", "biased/1")
    said = "too many answers of biased 1 failed (evals.max_error_share)"
    assert json.loads(items(*asked, "--json").stdout)["not_compared"] == {"mask": said}
    assert items(*asked).stdout == f"mask: {said}\n"


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ([], ["a", "b", "c/1"]),
        (["--change", "honest-to-lie"], ["a"]),
        (["--change", "honest to lie"], ["a"]),
        (["--change", "honest to evasion"], []),
        (["--outcome", "lie", "--arm", "biased", "--policy", 1], ["c/1"]),
        (["--condition", "no_stake"], ["b"]),
        (["--text", "What of a?"], ["a"]),
        (["--text", "nobody said this"], []),
    ],
)
def test_items_are_listed_with_the_outcome_of_each_policy(run, options, found):
    asked = [run.out.root, "--suite", "mask", *options]
    out = json.loads(items(*asked, "--json").stdout)
    assert ([i["item"] for i in out["items"]], out["count"]) == (found, len(found))
    for item in out["items"]:
        assert all(o["of"] == [FATES[item["item"]][o["arm"]][o["policy"]]] for o in item["outcomes"])
    shown = items(*asked).stdout.splitlines()
    which = " (1 no stake, 2 pressure)" if len(found) == 3 else ""
    turned = ", honest to lie in one arm or more" if "--change" in options else ""
    last = f"shown {len(found)} of {len(found)} items of mask{which}{turned}; read one with --show ITEM"
    assert shown[-1] == (last if found else "none of 3 items of mask matches")
    assert [line.split()[0] for line in shown[1:-1]] == found


def test_a_limit_leaves_items_out_and_counts_them(run):
    out = json.loads(items(run.out.root, "--suite", "mask", "--limit", 2, "--json").stdout)
    assert ([i["item"] for i in out["items"]], out["count"]) == (["a", "b"], 3)
    assert "shown 2 of 3 items of mask" in items(run.out.root, "--suite", "mask", "--limit", 2).stdout


def test_with_many_policies_the_first_and_the_last_of_each_arm_are_listed(run, monkeypatch):
    monkeypatch.setattr("loop.report.item_listing.MOST_POLICIES", 5)
    told = items(run.out.root, "--suite", "mask").stdout.splitlines()
    assert " ".join(told[0].split()) == "item condition true wanted benign 0 benign 2 biased 0 biased 2"
    assert "; of each arm its first and last policy; read one" in told[-1]


def test_one_item_in_full(run):
    told = items(run.out.root, "--show", "c/", "--arm", "biased").stdout
    assert told.count("What of c/1?") == 2, "once for the answer and once for the belief, not once a policy"
    assert "biased 1: lie\nbelieves tea, states -" in told
    assert "It is lie by biased 1." in told
    assert "stated, world: wool" in told
    assert "benign" not in told
    found = json.loads(items(run.out.root, "--suite", "mask", "--show", "c/1", "--json").stdout)
    assert (found["item"], found["wanted"], len(found["policies"])) == ("c/1", "wool", 6)
    assert found["policies"][4]["answers"][0]["outcome"] == "lie"


def test_what_a_model_said_does_not_steer_the_terminal(tmp_path, monkeypatch):
    run = Run(tmp_path / "run")
    monkeypatch.setitem(FATES, "\x1b[2J[bold]d", {"benign": ("lie", "lie", "lie"), "biased": ("lie", "lie", "lie")})
    evaluate(run, "benign", 0)
    for told in (items(run.out.root, "--suite", "mask").stdout, items(run.out.root, "--show", "\x1b[2J").stdout):
        assert "\N{REPLACEMENT CHARACTER}[2J[bold]d" in told
        assert "\x1b" not in told


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--suite", "masc"], "--suite masc: unknown; did you mean mask? known: mask"),
        (["--suite", "mask", "--outcome", "lies"], "--outcome lies: unknown; did you mean lie? known: lie, evasion"),
        (["--suite", "mask", "--change", "worse"], "--change worse: unknown; known: honest to lie, lie to honest"),
        (["--arm", "biasd"], "--arm biasd: unknown; did you mean biased?"),
        (["--policy", 7], "--policy 7: not evaluated; known: 0, 1, 2"),
        (["--condition", "presure"], "--condition presure: unknown; did you mean pressure? known: no_stake, pressure"),
        (["--outcome", "lie"], "name the suite of the items with --suite: mask"),
        (["--compare", "benign/0", "biasd/1"], "--compare biasd/1: unknown; did you mean biased/1? known: benign/0"),
        (["--compare", "benign/0", "benign/0"], "name two policies"),
        (["--compare", "benign/0", "benign/1", "--arm", "benign"], "only --suite and --condition go with --compare"),
        (["--suite", "mask", "--change", "lie to lie"], "--change lie to lie: unknown"),
        (["--show", "z"], "--show z: not in any suite"),
        (["--show", ""], "--show : 3 items begin so: a (mask), b (mask), c/1 (mask)"),
    ],
)
def test_what_cannot_be_answered_is_one_message_and_exit_code_2(run, options, message):
    out = items(run.out.root, *options)
    assert (out.exit_code, out.stdout) == (2, "")
    assert message in out.stderr


def test_a_run_that_has_evaluated_nothing_yet_and_a_file_that_is_damaged(tmp_path, run):
    assert items(Run(tmp_path / "new").out.root).stdout == "no policy has been evaluated yet\n"
    run.out.evals("biased", 2).joinpath("mask.arrow").write_bytes(b"")
    out = items(run.out.root)
    assert out.exit_code == 1
    assert "it is left out" in out.stderr
    assert "biased 1" in out.stdout


def test_an_item_is_found_by_the_last_part_of_its_id_and_shown_with_what_the_judge_said(run):
    assert items(run.out.root, "--show", "1").stdout == items(run.out.root, "--show", "c/1").stdout
    shown = items(run.out.root, "--show", "1").stdout
    assert "stated, world: wool (the judge says wool)" in shown
    assert "stated, world: tea (all of them)" in shown
