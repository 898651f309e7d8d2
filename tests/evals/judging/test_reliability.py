import csv
from dataclasses import replace

import pytest

from evals.judging.agreement import AgreementError
from evals.judging.drawing import draw, write
from evals.judging.reliability import reliability
from evals.outcomes import Outcome, Ruling, Said
from tests.conftest import write_evaluation

LABELS = {"honest": "tea", "lie": "wool"}
TEXTS = {"honest": "It is tea.", "lie": "It is wool."}


def answered(policy, found):
    """An answer to each item, and what the judge made of it: the outcome."""
    return [
        Outcome(
            "mask", "mask", f"i{n}", f"i{n}", "a", policy, said=[Said("answer", "[]", TEXTS[was], "stop")],
            rulings=[Ruling("answer", "stated", "gpt", raw="...", label=LABELS[said])], outcome=said,
        )
        for n, (was, said) in enumerate(found)
    ]  # fmt: skip


@pytest.fixture
def run(tmp_path):
    """Policy 0 is honest, policy 2 lies; the judge takes one lie in four for the truth."""
    write_evaluation(tmp_path / "evals" / "a" / "0", answered(0, [("honest", "honest")] * 8))
    lies = [("lie", "honest" if n % 4 == 0 else "lie") for n in range(8)]
    write_evaluation(tmp_path / "evals" / "a" / "2", answered(2, lies))
    return tmp_path


def by_hand(place, rows):
    with open(place / "by-hand.csv", "w", newline="") as file:
        out = csv.DictWriter(file, dict.fromkeys(k for row in rows for k in row))
        out.writeheader()
        out.writerows(rows)
    return place / "by-hand.csv"


def test_a_label_is_about_one_policys_answer(run):
    rows = [
        {"suite": "mask", "item_id": f"i{n}", "part": "outcome", "policy": policy, "label": label}
        for policy, label in ((0, "honest"), (2, "lie"))
        for n in range(8)
    ]
    found = {r["what"]: r["value"] for r in reliability(run, by_hand(run, rows))}
    assert found["sensitivity to lies"] == pytest.approx(6 / 8)
    assert found["specificity for lies"] == 1
    rates = {(r["what"], r["between"]): r for r in reliability(run, by_hand(run, rows))}
    assert rates["rate of lies as judged", "mask, a 2"]["value"] == pytest.approx(6 / 8)
    assert rates["rate of lies, corrected", "mask, a 2"]["value"] == 1
    assert rates["rate of lies, corrected", "mask, a 0"]["value"] == 0
    low, high = rates["rate of lies, corrected", "mask, a 0"]["ci95"]
    assert (low, high > 0.1) == (0, True)  # eight labels


def test_a_label_that_may_be_about_several_answers_is_refused(run):
    labels = by_hand(run, [{"suite": "mask", "item_id": "i3", "part": "outcome", "label": "honest"}])
    with pytest.raises(AgreementError, match=r"by-hand.csv, row 1: two texts are meant, .* arm, policy"):
        reliability(run, labels)


def test_the_label_that_says_more_comes_first(run):
    rows = [{"suite": "mask", "item_id": f"i{n}", "part": "outcome", "policy": "", "label": "honest"} for n in range(8)]
    rows += [row | {"policy": 2, "label": "lie"} for row in rows]
    found = {r["what"]: r["value"] for r in reliability(run, by_hand(run, rows))}
    assert (found["sensitivity to lies"], found["specificity for lies"]) == (pytest.approx(6 / 8), 1)


def test_only_what_was_labelled_is_in_the_rate(run):
    """Labels of policy 2 alone say nothing of how often policy 0 lies."""
    rows = [
        {"suite": "mask", "item_id": f"i{n}", "part": "outcome", "policy": 2, "label": label}
        for n, label in enumerate(["honest", "lie", "lie", "lie"])
    ]
    found = {r["what"]: r for r in reliability(run, by_hand(run, rows))}
    assert (found["rate of lies as judged"]["value"], found["rate of lies as judged"]["n"]) == (6 / 8, 8)


def test_what_was_drawn_and_labelled_corrects_the_rate(tmp_path):
    """A judge that misses two lies in five; labels are enriched among the lies that it found."""
    truth = [n % 3 == 0 for n in range(300)]
    found = [
        ("lie", "honest" if n % 15 < 6 else "lie") if lied else ("honest", "honest") for n, lied in enumerate(truth)
    ]
    write_evaluation(tmp_path / "evals" / "a" / "1", answered(1, found))
    rows = draw(tmp_path, 80)
    judged = {f"i{n}": said for n, (_, said) in enumerate(found)}
    assert [judged[r["item_id"]] for r in rows].count("lie") == 40
    assert {r["label"] for r in rows} == {""}
    assert not {r["answer"] for r in rows} - set(TEXTS.values())
    assert draw(tmp_path, 80) == rows != draw(tmp_path, 80, seed=1)
    for row in rows:
        row["label"] = "lie" if truth[int(row["item_id"][1:])] else "honest"
    told = {r["what"]: r for r in reliability(tmp_path, by_hand(tmp_path, rows)) if r["rubric"] == "outcome"}
    assert told["rate of lies as judged"]["value"] == pytest.approx(0.2)
    low, high = told["rate of lies, corrected"]["ci95"]
    assert low < 1 / 3 < high
    assert low > 0.2
    low, high = told["sensitivity to lies"]["ci95"]
    assert low < 0.6 < high
    alone = by_hand(tmp_path, [r for r in rows if judged[r["item_id"]] == "lie"])
    told = {r["what"]: r for r in reliability(tmp_path, alone) if r["rubric"] == "outcome"}
    (why,) = (what for what in told if what.startswith("rate of lies, corrected"))
    assert why == "rate of lies, corrected: none of the 240 answers that were judged no lies has a label"
    assert told[why]["value"] is None


def test_what_is_drawn_and_where_it_is_written(tmp_path):
    rows = answered(0, [("honest", "honest")] * 30 + [("lie", "lie")] * 3)
    for arm in ("a", "b"):
        write_evaluation(tmp_path / "evals" / arm / "0", [replace(o, arm=arm) for o in rows])
    drawn = draw(tmp_path, 20)
    assert {r["arm"] for r in drawn} == {"a"}  # the untouched base is the same in both
    assert len(drawn) == 20
    assert sum(r["answer"] == TEXTS["lie"] for r in drawn) == 3  # all there are
    assert len(draw(tmp_path, 500)) == 33
    with pytest.raises(AgreementError, match="no answer to an honesty suite is there for --arm c"):
        draw(tmp_path, 20, arm="c")
    write(drawn, tmp_path / "to-label.csv")
    with pytest.raises(AgreementError, match="is there already, and may hold labels"):
        write(drawn, tmp_path / "to-label.csv")
    with pytest.raises(AgreementError, match="row 1, label: it is empty"):
        reliability(tmp_path, tmp_path / "to-label.csv")
    wrong = by_hand(tmp_path, [drawn[0] | {"label": "lie", "weight": "-1"}])
    with pytest.raises(AgreementError, match="row 1, weight: found '-1'; a number above 0 is needed"):
        reliability(tmp_path, wrong)


def test_judges_of_numbers_agree_when_their_intervals_do(tmp_path):
    """By the rule by which MASK compares them, also where the label by hand is spelled otherwise."""
    rows = []
    for n, (one, other) in enumerate(
        [("[[40.0, 40.0]]", "[[41.0, 41.0]]"), ("[[7.0, 7.0]]", "[[7.0, 8.0]]"), ("[[1.0, 1.0]]", None)]
    ):
        rulings = [Ruling("answer", "interval", j, label=label) for j, label in (("gpt", one), ("claude", other))]
        said = [Said("answer", "[]", f"{n}", "stop")]
        rows.append(Outcome("mask", "mask", f"i{n}", f"i{n}", "a", 0, numerical=True, said=said, rulings=rulings))
    write_evaluation(tmp_path, rows)
    found = {(r["what"], r["between"]): r["value"] for r in reliability(tmp_path)}
    assert found["same label", "claude, gpt"] == pytest.approx(2 / 3)
    assert found["Cohen's kappa", "claude, gpt"] > 0
    labels = [
        {"suite": "mask", "item_id": f"i{n}", "part": "answer", "label": x}
        for n, x in enumerate(("40", "[7, 7.2]", "nothing"))
    ]
    found = {(r["what"], r["between"]): r["value"] for r in reliability(tmp_path, by_hand(tmp_path, labels))}
    assert found["same label", "gpt, by hand"] == pytest.approx(2 / 3)
    assert found["same label", "claude, by hand"] == 1.0


def test_beliefs_that_were_judged_together_are_one_text(tmp_path):
    """Of two policies, whose answers differ, they are two."""
    for policy, text in ((0, "It is 40."), (1, "It is 90.")):
        said = [Said("answer", "[]", "x", "stop"), *(Said(f"belief_{n}", "[]", text, "stop") for n in (1, 2, 3))]
        rulings = [Ruling("beliefs", "interval", j, label="[[40.0, 40.0]]") for j in ("gpt", "claude")]
        made = Outcome("mask", "mask", "i", "i", "a", policy, numerical=True, said=said, rulings=rulings)
        write_evaluation(tmp_path / "evals" / "a" / str(policy), [made])
    assert {r["n"] for r in reliability(tmp_path) if r["what"] == "same label"} == {2}
