"""The report of a sweep as a reader sees it, in a real browser."""

import pytest

from loop.sweep.folder import SweepDir
from loop.sweep.report import write_results
from tests.browser import WIDTHS
from tests.loop.sweep.planted import sweep_of
from tests.loop.sweep.test_results import finish


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The address of the report of a sweep with a dose."""
    sweep = sweep_of(seeds=3, grid={"biased_ratio": [0, 0.5, 1]}, analysis={"dose": "biased_ratio"})
    folder = SweepDir(tmp_path_factory.mktemp("sweep"))
    folder.open(sweep)
    finish(sweep, folder)
    write_results(sweep, folder)
    return folder.report.as_uri()


@pytest.mark.parametrize("width", WIDTHS)
def test_the_answer_comes_first_and_everything_can_be_read(report, browse, width):
    watched = browse(report, width=width, dark=width == 390)
    page = watched.page
    page.wait_for_function("[...document.querySelectorAll('[data-chart]')].every(c => c.dataset.drawn)")
    for folded in page.query_selector_all("details"):
        folded.evaluate("d => { d.open = true; }")
    assert watched.faults() == []
    assert watched.too_wide() <= 0
    assert page.locator(".drawing svg").count() == 4
    assert page.locator(".sentence").bounding_box()["y"] < 200
    assert "from biased_ratio 0 to 1" in page.locator(".sentence").inner_text()


def test_an_item_can_be_followed_from_condition_to_condition(report, browse):
    page = browse(report).page
    page.locator("#table-items summary").click()
    row = page.locator("#table-items tbody tr").first
    assert row.locator("td").all_inner_texts()[1:] == ["0.0", "100.0", "100.0"]
