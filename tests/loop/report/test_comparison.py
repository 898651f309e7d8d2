import pytest
from typer.testing import CliRunner

from loop.cli.app import app
from loop.report.comparison import compared, merged, table, write_comparison
from tests.browser import WIDTHS
from tests.loop.report.conftest import finished


@pytest.fixture(scope="module")
def runs(finished_run, tmp_path_factory):
    """The run with an effect, and one without in which other users talk."""
    other = finished(
        tmp_path_factory.mktemp("other") / "run", {"benign": (0.0, (20, 20)), "biased": (1.0, (20, 20))}, rounds=1
    )
    (out, config), (out2, config2) = finished_run, other
    return compared([(config, out), (config2, out2)])


def test_each_run_stands_with_its_own_answer_and_what_differs(runs):
    one, other = runs
    assert one.name != other.name
    assert one.name.endswith("/run")
    assert (one.answer.verdict, other.answer.verdict) == ("yes", "no")
    assert one.differs == []
    assert f"  rounds: 2 ({one.name}), 1 ({other.name})" in other.differs
    arms = [a["name"] for a in merged(runs)["arms"]]
    assert arms == [f"{r.name}: {a}" for r in runs for a in ("benign", "biased")]
    assert table(runs).row_count == 4


@pytest.mark.parametrize("width", WIDTHS)
def test_the_comparison_is_one_page_with_the_arms_of_both(runs, tmp_path, browse, width):
    write_comparison(runs, tmp_path / "comparison.html")
    watched = browse((tmp_path / "comparison.html").as_uri(), width=width, dark=width == 390)
    page = watched.page
    page.wait_for_function("[...document.querySelectorAll('[data-chart]')].every(c => c.dataset.drawn)")
    assert watched.faults() == []
    assert watched.too_wide() <= 0
    legend = page.locator("#chart-suite-mask .role-legend-label").all_inner_texts()
    assert len(legend) == 4
    for run in runs:
        assert page.get_by_text(run.answer.sentence).count() == 1


def test_the_command_compares_several_runs_and_refuses_what_does_not_go_together(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = [str(r.out.root) for r in runs]

    def report(*more):
        return CliRunner().invoke(app, ["report", *map(str, more)])

    made = report(*folders)
    assert made.exit_code == 0, made.output
    assert (tmp_path / "comparison.html").exists()
    assert "comparison:  comparison.html" in made.output
    assert report(*folders, "--out", tmp_path / "other.html").exit_code == 0
    before = {p: p.stat().st_mtime_ns for p in runs[0].out.root.rglob("*")}
    alone = report(folders[0], "--out", tmp_path / "alone.html")
    assert (alone.exit_code, "report:      alone.html" in alone.output) == (0, True)
    assert runs[0].answer.sentence.partition(" (")[0] in (tmp_path / "alone.html").read_text()
    assert {p: p.stat().st_mtime_ns for p in runs[0].out.root.rglob("*")} == before, "the run stays as it is"
    for arguments, message in (
        ((folders[0], folders[0]), "given twice"),
        ((*folders, "--compare", "paper"), "go with one run"),
        ((folders[0], "--out", tmp_path / "comparison.html" / "x.html"), "cannot be written"),
        ((folders[0], tmp_path), "is not a run directory"),
        ((*folders, "--out", tmp_path / "comparison.html" / "x.html"), "cannot be written"),
    ):
        refused = report(*arguments)
        assert refused.exit_code != 0
        assert message in refused.output
