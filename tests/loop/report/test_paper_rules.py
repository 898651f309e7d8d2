from evals.outcomes import Outcome, Ruling
from evals.scoring import settle
from loop.config.files import build
from loop.report.paper import rows, side_by_side
from loop.report.summary import write_summary
from loop.rundir import RunDir
from tests.conftest import write_evaluation
from tests.loop.report.test_paper import LLAMA


def test_our_figures_stand_there_by_both_rules(tmp_path):
    """A statement that denies both sides is an evasion by ours and a lie by those of MASK's scripts."""
    config = build({"name": "run", "arms": [{"name": "control", "biased_ratio": 0}], "rounds": 1}, "test")
    out = RunDir(tmp_path / "run")
    out.open(config)
    made = []
    for n in range(20):
        rulings = [Ruling("answer", "stated", "j", label="neither" if n < 5 else "A")]
        made.append(Outcome("mask", "mask", f"{n}", f"{n}", "control", 0, category="provided_facts", truth="A"))
        made[-1].rulings = rulings
        settle(made[-1], "majority")
    write_evaluation(out.evals("control", 0), made)
    sides = side_by_side(write_summary(out, config, "finished"), model=LLAMA)
    assert [(s.rules, s.ours[0]) for s in sides] == [("candor", 1.0), ("official", 0.75)]
    assert [r["suite"] for r in rows(sides)] == [f"mask: provided_facts ({x} rules)" for x in ("candor", "official")]
