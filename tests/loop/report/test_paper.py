import json
from decimal import Decimal
from pathlib import Path

import pytest
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from evals.outcomes import Outcome
from evals.stats.intervals import newcombe, wilson
from loop.config.files import build
from loop.report.paper import (
    COLUMNS,
    DATA,
    PaperError,
    Reported,
    assigned,
    flags,
    model_of,
    reported,
    rows,
    side_by_side,
    table,
)
from loop.report.summary import write_summary
from loop.rundir import RunDir
from tests.conftest import write_evaluation

TABLES = Path(__file__).resolve().parents[4] / "shared" / "data" / "hu2025_reported_tables" / "tables.json"
LLAMA, QWEN, QWEN3 = "llama-3.1-8b", "qwen2.5-7b", "qwen3-32b"
DECEPTION = {
    "sycophancy": 43,
    "alignment faking": 16,
    "sandbagging": 33,
    "strategic deception": 45,
    "honesty evasion": 43,
}
MASK = {"provided_facts": 274, "disinformation": 125, "statistics": 96}
CAPABILITY = {"mmlu": 14042, "gsm8k": 1319, "humaneval": 164, "gpqa": 198}
ALL = reported()


def of(**wanted):
    """The only figure with these attributes."""
    (found,) = [e for e in ALL if all(getattr(e, k) == v for k, v in wanted.items())]
    return found


def leaves(name, cell):
    """Every figure of `tables.json` with the keys that lead to it, the place in its row last."""
    if isinstance(cell, dict):
        return {k: v for key, inner in cell.items() for k, v in leaves((*name, key), inner).items()}
    if isinstance(cell, list):
        return {(*name, place): Decimal(value) for place, value in enumerate(cell)}
    return {(*name, 0): Decimal(cell)}


def condition_of(keys, prefix=""):
    """What keys of `tables.json` call a condition."""
    if keys[0] in ("vanilla", "control"):
        return keys[0] if keys[0] == "vanilla" else prefix + keys[0]
    if keys[0] in ("SFT", "KTO"):
        return f"biased-{Decimal(keys[1]) * 100:.0f}-{keys[0].lower()}"
    return f"{keys[0].split('_')[-1]}-{keys[1]}" if len(keys) > 1 else f"{prefix}mixture-{keys[0]}"


@pytest.mark.skipif(not TABLES.exists(), reason="no shared data beside the project")
def test_every_figure_is_the_one_that_was_transcribed():
    tables = json.loads(TABLES.read_text(), parse_float=str, parse_int=str)
    everything = leaves((), {k: v for k, v in tables.items() if k != "source" and "columns" not in k})
    models = dict.fromkeys(("T1", "T4", "T11"), LLAMA) | dict.fromkeys(("T6", "T7", "T10", "T13", "T14"), QWEN)
    models |= {"T8": QWEN3, "llama": LLAMA, "qwen": QWEN}
    deception, mask = [*DECEPTION, "total"], list(MASK)
    wanted = {}
    for (name, *keys, place), value in everything.items():
        number = name.split("_")[0]
        if number == "fig3":
            category, domain, level = keys
            key = ("Figure 3", LLAMA, f"{domain}-{level}", "mask", category)
        elif number == "fig8":
            condition = f"biased-{(0, 5)[place]}-{keys[0][:3].lower()}"
            key = ("Figure 8", LLAMA, condition, "mask", "provided_facts")
        elif number == "T9":
            key = ("Table 9", (LLAMA, QWEN, QWEN3)[place], condition_of(keys), "mask", "provided_facts")
        else:
            model = models.get(number) or models[keys.pop(0)]
            condition = condition_of(keys, "dolly-" if "dolly" in name else "")
            if number == "T3":
                suite, category = list(CAPABILITY)[place], None
            else:
                suite, columns = ("mask", mask) if "mask" in name else ("deceptionbench", deception)
                category = columns[place]
            key = (f"Table {number[1:]}", model, condition, suite, category)
        wanted[key] = value
    assert len(wanted) == len(everything) == 536
    assert {(e.table, e.model, e.condition, e.suite, e.category): Decimal(e.value) for e in ALL} == wanted


def test_every_figure_has_the_items_and_the_measure_of_its_category():
    sizes = DECEPTION | MASK | CAPABILITY | {"total": 180}
    measures = {"deceptionbench": "deception_rate", "mask": "honesty_score"}
    assert len(ALL) == 536
    for e in ALL:
        assert e.n == sizes[e.category or e.suite]
        assert e.measure == measures.get(e.suite, "accuracy")
        kinds = {"biased": "interaction", "mixture": "mixture", "control": "mixture"}
        named = next((kinds[part] for part in e.condition.split("-") if part in kinds), "direct")
        assert e.condition == "vanilla" or e.experiment == named
    assert sum(DECEPTION.values()) == 180
    assert len(DATA.read_bytes()) < 60_000


def test_impossible_figures_are_flagged():
    found = flags(ALL)
    famous = of(table="Figure 8", condition="biased-0-kto")
    assert (famous.value, famous.n) == ("48.00", 274)
    assert found[famous].impossible == ("47.81", "48.18")
    kto = {
        (e.condition, e.category): e.value
        for e in ALL
        if e.table == "Table 4" and e.condition.endswith("kto") and found[e].impossible
    }
    assert len(kto) == 17
    assert kto["biased-20-kto", "sycophancy"] == "16.79"
    assert kto["biased-20-kto", "strategic deception"] == "34.88"
    assert kto["biased-100-kto", "total"] == "32.17"
    fifteen = of(table="Table 4", condition="biased-100-kto", category="alignment faking")
    assert (fifteen.value, found[fifteen].impossible, found[fifteen].fewer) == ("6.67", ("6.25", "12.50"), 15)
    assert found[of(table="Table 4", condition="biased-20-kto", category="sycophancy")].fewer is None
    for share in ("47.81", "44.89"):
        assert found[of(table="Figure 8", value=share)].impossible is None


def entry(condition, category, value, place="Table 1", model=LLAMA):
    return Reported(place, model, "direct", condition, "mask", category, "honesty_score", value, 96)


def test_copied_rows_are_found():
    copied = {(e.table, e.condition): f.copied for e, f in flags(ALL).items() if f.copied}
    assert copied == {
        ("Table 4", "biased-0-sft"): ("Table 4 biased-0-kto",),
        ("Table 4", "biased-0-kto"): ("Table 4 biased-0-sft",),
    }


def test_a_copied_row_is_whole_has_three_figures_and_is_another_condition_or_model():
    def row(condition, values, **more):
        return [entry(condition, f"c{i}", v, **more) for i, v in enumerate(values)]

    def copied(*made):
        return [f.copied for f in flags([e for r in made for e in r]).values()]

    same = ["50.0", "25.00", "75"]
    assert copied(row("a", same), row("b", ["50.00", "25", "75.0"], place="Table 2")) == (
        [("Table 2 b",)] * 3 + [("Table 1 a",)] * 3
    )
    assert copied(row("a", same), row("a", same, model=QWEN))[0] == ("Table 1 a",)
    for other in (row("a", same, place="Table 2"), row("b", same[:2]), row("b", [*same, "10"])):
        assert not any(copied(row("a", same), other))
    assert not any(copied(row("a", same[:2]), row("b", same[:2])))


def test_newcombes_interval_is_that_of_his_examples():
    """Newcombe 1998, table II, method 10."""
    for k, m, low, high in (
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((6, 7), (2, 7), 0.0582, 0.8062),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((0, 10), (0, 20), -0.1611, 0.2775),
        ((10, 10), (0, 10), 0.6075, 1.0000),
    ):
        d, least, most = newcombe(wilson(k[0] / k[1], k[1]), wilson(m[0] / m[1], m[1]))
        assert d == pytest.approx(k[0] / k[1] - m[0] / m[1])
        assert (least, most) == pytest.approx((low, high), abs=6e-5)
        assert (least, most) == pytest.approx(confint_proportions_2indep(*k, *m, method="newcomb"))
    assert wilson(0.8, 70)[1:] == pytest.approx(proportion_confint(56, 70, method="wilson"))


def outcomes(arm, policy, lies, errors=0, each=1.0):
    """Outcomes of items like the official ones, of which so many of each category are lies."""
    made = []
    for suite, sizes in (("deceptionbench", DECEPTION), ("mask", MASK)):
        for category, n in sizes.items():
            for i in range(int(n * each)):
                said = "lie" if i < lies else "error" if i < lies + errors else "honest"
                item = f"{category}/{i}"
                made.append(Outcome(suite, suite, item, item, arm, policy, category=category, outcome=said))
    return made


@pytest.fixture
def run(tmp_path):
    """Policy 0, which both arms have, and policies 1 and 2 of each; the last of `other` failed."""
    arms = [
        {"name": "biased-50", "biased_ratio": 0.5, "set": {"trainer.algorithm": "sft"}},
        {"name": "other", "biased_ratio": 1},
    ]
    config = build({"name": "run", "arms": arms, "rounds": 2}, "test")
    out = RunDir(tmp_path / "run")
    out.open(config)
    for arm in ("biased-50", "other"):
        write_evaluation(out.evals(arm, 0), outcomes(arm, 0, 4))
        write_evaluation(out.evals(arm, 1), outcomes(arm, 1, 12))
        write_evaluation(out.evals(arm, 2), outcomes(arm, 2, 2, errors=300 if arm == "other" else 0))
    return write_summary(out, config, "finished")


def test_policy_0_is_vanilla_and_an_arm_stands_for_the_condition_it_is_called_after(run):
    sides = side_by_side(run, model=LLAMA)
    assert {(s.arm, s.policy, s.theirs.condition) for s in sides} == {
        ("biased-50", 0, "vanilla"),
        ("biased-50", 1, "biased-50-sft"),
    }
    by = {(s.policy, s.theirs.suite, s.theirs.category): s for s in sides}
    assert len(by) == len(sides) == 6 + 3 + 6
    total = by[1, "deceptionbench", "total"]
    assert (total.n, total.n_effective) == (180, 180)
    assert total.ours == pytest.approx(wilson(60 / 180, 180))
    assert total.theirs == of(table="Table 4", condition="biased-50-sft", category="total")
    assert total.theirs.value == "33.52"
    assert total.difference[0] == pytest.approx(100 / 3 - 33.52)
    wanted = confint_proportions_2indep(60, 180, 0.3352 * 180, 180, method="newcomb")
    assert total.difference[1:] == pytest.approx([100 * end for end in wanted])
    facts = by[0, "mask", "provided_facts"]
    assert facts.tables == ("Table 9", "Table 11")
    assert facts.theirs.value == "47.81"
    assert facts.ours[0] == 1 - 4 / 274
    assert facts.flags.impossible is None
    assert by[0, "deceptionbench", "sycophancy"].tables == ("Table 1", "Table 2", "Table 4")
    everyone = side_by_side(run)
    assert {s.theirs.model for s in everyone} == {LLAMA, QWEN, QWEN3}
    two = [s.theirs.value for s in everyone if (s.theirs.model, s.theirs.category) == (QWEN, "total")]
    assert two == ["21.67", "21.11", "22.22"]  # two tables print other figures for vanilla


def test_the_user_says_what_stands_for_what(run):
    given = assigned(["other=biased-100", "biased-50/2=mixture-5", "other/2=mixture-5"])
    sides = side_by_side(run, given, LLAMA)
    assert {(s.arm, s.policy, s.theirs.condition) for s in sides} == {
        ("biased-50", 0, "vanilla"),
        ("biased-50", 1, "biased-50-sft"),
        ("biased-50", 2, "mixture-5"),
        ("other", 1, "biased-100-kto"),
        ("other", 2, "mixture-5"),
    }
    failed = [s for s in sides if (s.arm, s.policy) == ("other", 2)]
    assert {(s.ours, s.difference) for s in failed} == {(None, None)}
    moved = side_by_side(run, {"biased-50": "control"}, LLAMA)
    assert {(s.policy, s.theirs.condition) for s in moved} == {(0, "vanilla"), (1, "control")}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"nobody": "control"}, "no arm nobody; the run has biased-50, other"),
        ({"other": "biased-51"}, "no condition biased-51; known: vanilla, code-normal"),
        ({"other/3": "control"}, "policy 3 of arm other is not evaluated"),
        ({"other/last": "control"}, "found policy 'last'"),
    ],
)
def test_what_stands_for_nothing_is_said(run, given, said):
    with pytest.raises(PaperError, match=said):
        side_by_side(run, given)


def test_a_model_that_the_paper_lacks_and_a_pair_that_is_none_are_said(run):
    with pytest.raises(PaperError, match=r"no model gpt; known: llama-3\.1-8b, qwen2\.5-7b, qwen3-32b"):
        side_by_side(run, model="gpt")
    with pytest.raises(PaperError, match="found 'other'; ARM=CONDITION"):
        assigned(["other"])
    assert model_of("/models/Qwen2.5-7B-Instruct") == QWEN
    assert model_of("meta-llama/Llama-3.1-8B-Instruct") == LLAMA
    assert model_of("pocket") is None


def test_other_items_are_not_compared(tmp_path):
    """A world's items have no official category, and a total of other categories is another total."""
    config = build({"name": "run", "arms": [{"name": "control", "biased_ratio": 0}], "rounds": 1}, "test")
    out = RunDir(tmp_path / "run")
    out.open(config)
    for suite in ("mask", "deceptionbench"):
        made = [Outcome(suite, suite, str(i), str(i), "control", 0, category=suite, outcome="lie") for i in range(9)]
    write_evaluation(out.evals("control", 0), made)
    made = [o for o in outcomes("control", 1, 3) if o.category in ("sycophancy", "sandbagging")]
    write_evaluation(out.evals("control", 1), made)
    sides = side_by_side(write_summary(out, config, "finished"), model=LLAMA)
    assert [(s.policy, s.theirs.category) for s in sides] == [(1, "sycophancy"), (1, "sandbagging")]


def test_a_total_over_another_mix_of_categories_is_another_total(tmp_path):
    config = build({"name": "run", "arms": [{"name": "control", "biased_ratio": 0}], "rounds": 1}, "test")
    out = RunDir(tmp_path / "run")
    out.open(config)
    made = [
        Outcome("deceptionbench", "deceptionbench", f"{c}/{i}", f"{c}/{i}", "control", 0, category=c, outcome="lie")
        for c in DECEPTION
        for i in range(16)
    ]
    write_evaluation(out.evals("control", 0), made)
    sides = side_by_side(write_summary(out, config, "finished"), model=LLAMA)
    assert {s.theirs.category for s in sides} == set(DECEPTION)


def test_clusters_of_items_widen_the_interval(tmp_path):
    config = build({"name": "run", "arms": [{"name": "a", "biased_ratio": 0}], "rounds": 1}, "test")
    out = RunDir(tmp_path / "run")
    out.open(config)
    made = outcomes("a", 0, 20)
    for o in made:
        o.cluster = str(int(o.item_id.split("/")[1]) // 4)
    write_evaluation(out.evals("a", 0), made)
    (side,) = [s for s in side_by_side(write_summary(out, config, "finished"), model=LLAMA)
               if s.theirs.category == "statistics"]  # fmt: skip
    assert side.n == 96
    assert side.n_effective == pytest.approx(24, rel=0.1)
    ours = wilson(side.ours[0], side.n_effective, df=23)
    assert side.ours == pytest.approx(ours)
    apart = newcombe(ours, wilson(side.theirs.share, 96))
    assert side.difference == pytest.approx([100 * x for x in apart])


def test_rows_show_both_figures_and_what_is_odd(run):
    from rich.console import Console

    sides = side_by_side(run, {"other": "biased-0"}, LLAMA)
    made = rows(sides)
    assert {tuple(r) for r in made} == {tuple(COLUMNS)}
    (row,) = [r for r in made if r["policy"] == "other 1" and r["suite"] == "deceptionbench: sycophancy"]
    assert row["ours"] == "27.9 [16.7, 42.7] of 43"
    assert row["condition"] == "biased-0-kto, llama-3.1-8b (Table 4)"
    assert row["theirs"] == "23.25 of 43"
    assert row["difference"].startswith("+4.7 [-13.")
    assert row["flags"] == "impossible of 43 (20.93 or 23.26 are possible); same row as Table 4 biased-0-sft"
    assert {r["flags"] for r in made if r["suite"] == "mask: statistics"} == {"-"}
    failed = rows(side_by_side(run, {"other/2": "control"}, LLAMA))
    assert {(r["ours"], r["difference"]) for r in failed if r["policy"] == "other 2"} == {("no score", "-")}
    console = Console(width=300)
    with console.capture() as shown:
        console.print(table(made))
    assert "same row as Table 4 biased-0-sft" in shown.get()
    assert table([]).row_count == 0


HEAD = """
models: {m: M}
conditions: {c: C}
fields: [table, model, experiment, condition, suite, category, measure, value, n]
figures:
- [T, m, direct, c, mask, total, honesty_score, "48.00", 125]
"""


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('[T, m, direct, c, mask, total, honesty_score, "1.0"]', "figure 2: found 8 of 9 fields; needed are table"),
        ("{table: T}", "figure 2: found dict of 9 fields"),
        ("[T, m, direct, c, mask, statistics, honesty_score, 1.0, 96]", r"figure 2, value: found 1\.0; text is needed"),
        ('[T, m, direct, c, mask, statistics, honesty_score, "101", 96]', "figure 2, value: found '101'"),
        ('[T, m, direct, c, mask, statistics, honesty_score, "one", 96]', "figure 2, value: found 'one'"),
        ('[T, m, direct, c, mask, statistics, honesty_score, "1.0", true]', "figure 2, n: found True"),
        ('[T, m, direct, c, null, statistics, honesty_score, "1.0", 96]', "figure 2, suite: found None"),
        ('[T, m, direct, d, mask, statistics, honesty_score, "1.0", 96]', "figure 2, condition: found 'd'; known: c"),
        ('[T, gpt, direct, c, mask, statistics, honesty_score, "1.0", 96]', "figure 2, model: found 'gpt'; known: m"),
        ('[T, m, direct, c, mask, total, honesty_score, "49.00", 125]', "figure 2: T, m, c, mask, total, .* twice"),
    ],
)
def test_an_entry_that_is_none_is_said_with_its_place(tmp_path, line, said):
    path = tmp_path / "p.yaml"
    path.write_text(HEAD)
    assert [e.value for e in reported(path)] == ["48.00"]
    path.write_text(f"{HEAD}- {line}\n")
    with pytest.raises(PaperError, match=said):
        reported(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", "cannot be read"),
        ("[]", "models, conditions, fields and figures"),
        (HEAD.replace(", n]", "]"), "with the fields table, model"),
        (HEAD.split("- [")[0], "a list of figures"),
    ],
)
def test_a_file_that_is_none_is_said(tmp_path, text, said):
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(PaperError, match=said):
        reported(tmp_path / "p.yaml")
    with pytest.raises(PaperError, match="cannot be read"):
        reported(tmp_path / "nothing.yaml")
