"""The report as a reader sees it, in a real browser."""

import csv
import json

import pytest

from loop.report.page import write_report
from tests.browser import WIDTHS

NARROW, WIDE = WIDTHS


@pytest.fixture(scope="module")
def page(finished_run):
    """The address of a report whose transcripts and items hold markup that wants to run."""
    out, config = finished_run
    write_report(out, config)
    return out.report.as_uri()


def drawn(watched):
    """Wait until every chart is drawn."""
    watched.page.wait_for_function("[...document.querySelectorAll('[data-chart]')].every(c => c.dataset.drawn)")
    return watched.page


@pytest.mark.parametrize(("width", "dark"), zip(WIDTHS, (True, False), strict=True))
def test_the_report_is_readable_at_any_width_light_and_dark(page, browse, width, dark):
    watched = browse(page, width=width, dark=dark)
    shown = drawn(watched)
    for folded in shown.query_selector_all("details"):
        folded.evaluate("d => { d.open = true; }")
    assert watched.faults() == []
    assert watched.too_wide() <= 0
    assert shown.locator(".drawing svg").count() == 7
    back = shown.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (back != "rgb(255, 255, 255)") == dark
    label = shown.evaluate("getComputedStyle(document.querySelector('.drawing svg text')).fill")
    assert label == shown.evaluate("getComputedStyle(document.body).color")  # text of charts follows the page


def test_question_and_answer_come_first_and_the_first_chart_is_on_the_first_screen(page, browse):
    shown = drawn(browse(page, width=WIDE))
    assert shown.locator(".question").bounding_box()["y"] < 150
    assert "41.7 points more often" in shown.locator(".sentence").inner_text()
    assert shown.locator("#chart-suite-mask svg").bounding_box()["y"] < 900


def test_nothing_that_somebody_wrote_runs(page, browse):
    shown = drawn(browse(page))
    assert shown.title() == "Candor: run"
    assert shown.locator("img").count() == 0
    shown.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert (
        "</script><script>document.title='taken'</script>"
        in shown.locator("#conversations ~ .talk").all_inner_texts()[2]
    )


def test_a_point_tells_its_figures_and_a_legend_picks_an_arm(page, browse):
    shown = drawn(browse(page))
    chart = shown.locator("#chart-suite-mask")
    chart.locator("path[aria-roledescription='point']").last.hover()
    tip = shown.locator("#vg-tooltip-element")
    tip.wait_for()
    assert "biased" in tip.inner_text()
    assert "41.7%" in tip.inner_text()

    def faint():
        return chart.locator("path[aria-roledescription='point'][opacity='0.12']").count()

    assert faint() == 0
    chart.locator(".role-legend-symbol path").first.click()
    shown.wait_for_timeout(200)
    assert faint() == 3


def test_figures_and_charts_can_be_saved(page, browse, tmp_path):
    shown = drawn(browse(page))

    def saved(locator):
        with shown.expect_download() as found:
            locator.click()
        path = tmp_path / found.value.suggested_filename
        found.value.save_as(path)
        return path

    chart = shown.locator("#chart-suite-mask")
    with open(saved(chart.get_by_text("data (CSV)")), newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["score"][:5] for r in rows if r["arm"] == "biased"] == ["0.833", "0.666", "0.416"]
    assert saved(chart.get_by_text("SVG")).read_text().startswith("<svg")
    assert saved(chart.get_by_text("PNG")).read_bytes().startswith(b"\x89PNG")
    shown.locator("#table-changes summary").click()
    with open(saved(shown.locator("#table-changes .save a")), newline="") as file:
        assert {"suite", "policy", "against"} <= set(next(csv.reader(file)))
    summary = json.loads(saved(shown.get_by_text("every figure (JSON)")).read_text())
    assert summary["run"] == "run"


def test_everything_is_unfolded_on_paper(page, browse):
    shown = drawn(browse(page))
    assert not shown.locator("#table-figures table").is_visible()
    shown.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert shown.locator("#table-figures table").is_visible()
    shown.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert not shown.locator("#table-figures table").is_visible()
