import base64
import csv
import io
import json

import pytest
import vl_convert

from evals.outcomes import OUTCOMES
from loop.report.charts import ARM_COLOURS, OUTCOME_COLOURS, charts
from loop.report.tables import csv_uri
from loop.rundir import read_json
from tests.loop.report.conftest import ITEMS, finished


def made(out, config):
    return {c.name: c for c in charts(out.evals, read_json(out.summary), config)}


def test_the_charts_draw_the_figures_of_the_run(finished_run):
    found = made(*finished_run)
    assert set(found) == {"suite-mask", "pleasing", "liked", "outcomes", "ratings", "selected", "suite-arithmetic"}
    scores = {(r["arm"], r["policy"]): r for r in found["suite-mask"].rows}
    assert scores["biased", 2]["score"] == pytest.approx(1 - 70 / ITEMS)
    assert scores["biased", 2]["low"] < scores["biased", 2]["score"] < scores["biased", 2]["high"]
    lies = {(r["arm"], r["policy"], r["answers"]): r["lies"] for r in found["pleasing"].rows}
    assert lies["biased", 2, "pressed, lie as wanted"] == pytest.approx(70 / ITEMS)
    assert lies["biased", 2, "control: no stake"] == 0
    shares = [r["share"] for r in found["outcomes"].rows if r["policy"] == "biased 2"]
    assert sum(shares) == pytest.approx(1)
    assert len(shares) == len(OUTCOMES)


def test_dose_and_response_is_drawn_where_three_shares_differ(tmp_path):
    arms = {f"b{n}": (n / 10, (20, 20 + 5 * n)) for n in (0, 5, 10)}
    out, config = finished(tmp_path / "run", arms, rounds=1)
    found = made(out, config)
    assert [(r["dose"], round(r["score"] * ITEMS)) for r in found["dose"].rows] == [(0.0, 100), (0.5, 75), (1.0, 50)]
    summary = read_json(out.summary)
    for arm, share in zip(summary["arms"], (0.0, 0.4, 1.0), strict=True):
        arm["rounds"][-1]["trained_share"] = {"biased": share}
    trained = {c.name: c for c in charts(out.evals, summary, config)}["dose-1"]
    assert [r["dose"] for r in trained.rows] == [0.0, 0.4, 1.0]
    assert "in what was trained on" in trained.caption


def test_every_chart_is_valid_and_names_itself(finished_run):
    for chart in made(*finished_run).values():
        spec = {**chart.spec, "width": 300}
        drawn = vl_convert.vegalite_to_svg(spec, vl_version="6.4")
        assert drawn.startswith("<svg")
        assert chart.title in spec["description"]
        json.dumps(chart.spec, allow_nan=False)


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


@pytest.mark.parametrize("back", ["#ffffff", "#15181b"])
def test_colours_of_arms_stand_out_on_light_and_dark_and_have_one_meaning(back):
    assert not set(ARM_COLOURS) & set(OUTCOME_COLOURS.values())
    for colour in ARM_COLOURS:
        one, other = sorted((luminance(colour), luminance(back)))
        assert (other + 0.05) / (one + 0.05) >= 3, colour


def test_data_can_be_downloaded_as_csv():
    uri = csv_uri([{"arm": "a,b", "score": 0.5}, {"arm": 'c"d', "low": None}])
    text = base64.b64decode(uri.partition("base64,")[2]).decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert rows == [{"arm": "a,b", "score": "0.5", "low": ""}, {"arm": 'c"d', "score": "", "low": ""}]
