"""What TensorBoard's server shows of a run. Event files alone do not tell: the server drops what it cannot show."""

import time
from dataclasses import replace

import pytest

from actors.metrics import open_metrics
from evals.evaluator import summarise
from loop.report.monitor import Monitor, literal, transcript
from loop.report.summary import RolloutFigures
from loop.rundir import read_json
from tests.conftest import trajectory
from tests.loop.report.conftest import HOSTILE
from tests.loop.report.tensorboard_server import serving
from tests.loop.report.test_summary import failed, odd
from tests.loop.report.test_summary import table as rows_of


def figures_of(out, arm, r):
    from actors.buffer import RoundData

    return RolloutFigures.of(RoundData(out.trajectories(arm, r)).scan())


def log_run(out, config, folder, arm, begin=0, shift=0.0, monkeypatch=None):
    """Log an arm as the loop does, from a round on."""
    settings = next(a for a in config.arms if a.name == arm)
    monitor = Monitor(
        open_metrics(folder / arm, begin), open_metrics(folder / arm / "rollout", 8 * begin + 1 if begin else 0)
    )
    monitor.begin(config.for_arm(settings), settings)
    now = [0.0]
    monkeypatch.setattr("loop.report.monitor.time.monotonic", lambda: now[0])
    for r in range(begin, config.rounds + 1):
        if r < config.rounds:
            for done in (0, 3, 3, 6):
                now[0] += 2.5
                rates = monitor.progress(done, 2 * done, 100 * done, 8 * r, {"prefix_hit_rate": 0.5})
                assert set(rates) <= {f"{what}_per_second" for what in ("conversations", "replies", "tokens")}
            monitor.rollout(figures_of(out, arm, r), r, {})
            monitor.selection(read_json(out.audit(arm, r)), r)
        monitor.evaluation(summarise(out.evals(arm, r), 0.05), r)
        monitor.seconds("rollout", 2.0 + shift, r)
    monitor.close()


@pytest.fixture(scope="module")
def board(finished_run, tmp_path_factory):
    """The event files of both arms; `biased` was stopped in round 1 and continued."""
    folder = tmp_path_factory.mktemp("board")
    with pytest.MonkeyPatch.context() as monkeypatch:
        log_run(*finished_run, folder, "benign", monkeypatch=monkeypatch)
        log_run(*finished_run, folder, "biased", monkeypatch=monkeypatch)
        time.sleep(1.1)  # files are read in the order of their names, which begin with the second of their making
        log_run(*finished_run, folder, "biased", begin=1, shift=5.0, monkeypatch=monkeypatch)
    return folder


@pytest.fixture(scope="module")
def server(board):
    with serving(board) as made:
        yield made


@pytest.fixture(scope="module", params=[False, True], ids=["slow", "fast"])
def either(request, board, server):
    """A server that reads the files in Python, and one that has `tensorboard-data-server` read them."""
    if not request.param:
        yield server
        return
    with serving(board, fast=True) as made:
        yield made


def test_the_server_shows_everything_that_was_logged(either):
    server = either
    assert set(server.get("runs")) == {"benign", "benign/rollout", "biased", "biased/rollout"}
    scalars = server.tags("scalars", "biased")
    assert server.tags("histograms", "biased") == {"rating_distribution/benign", "rating_distribution/biased"}
    assert server.tags("histograms", "biased").isdisjoint(scalars)
    assert server.tags("distributions", "biased") == server.tags("histograms", "biased")
    shown = server.get("plugin/histograms/histograms", run="biased", tag="rating_distribution/biased")
    assert [step for _, step, _ in shown] == [0, 1]
    assert sum(count for _, _, count in shown[0][2]) == 8  # four conversations of two replies
    assert not any("None" in tag for tag in scalars)
    texts = server.tags("text", "biased")
    assert {f"transcripts/{n}/text_summary" for n in ("best", "worst", "most_suspicious", "biased")} <= texts


def test_shares_that_reach_zero_are_points(server):
    scalars = server.tags("scalars", "biased")
    kinds = ("challenge", "help", "none", "validate")
    assert {f"replies/biased/{kind}" for kind in kinds} <= scalars
    assert server.scalars("biased", "replies/biased/validate") == [(0, 0.0), (1, 0.0)]
    assert server.scalars("biased", "replies/biased/help") == [(0, 1.0), (1, 1.0)]
    assert server.scalars("biased", "faults/all") == [(0, 0.0), (1, 0.0)]
    assert server.scalars("benign", "selection/top/share_benign") == [(0, 1.0), (1, 1.0)]


def test_rollouts_have_points_while_they_go_on_and_their_steps_count_conversations(server):
    points = server.scalars("benign/rollout", "rollout/conversations")
    assert points == [(0, 0), (3, 3), (6, 6), (8, 8), (11, 3), (14, 6), (16, 8)]
    assert {share for _, share in server.scalars("benign/rollout", "rollout/prefix_hit_rate")} == {0.5}
    rates = server.scalars("benign/rollout", "rollout/tokens_per_second")
    assert [step for step, _ in rates] == [3, 6, 11, 14]
    assert rates[0][1] == pytest.approx(300 / 2.5)


def test_a_run_that_was_continued_shows_each_step_once_with_its_last_value(either):
    server = either
    assert server.scalars("biased", "seconds/rollout") == [(0, 2.0), (1, 7.0), (2, 7.0)]
    steps = [step for step, _ in server.scalars("biased/rollout", "rollout/conversations")]
    assert steps == [0, 3, 6, 8, 11, 14, 16]


def test_scores_stand_in_bands_under_headings(server):
    layout = server.get("plugin/custom_scalars/layout")
    headings = {c["title"]: c["chart"] for c in layout["category"]}
    assert list(headings) == [
        "Honesty", "Deception", "Capability", "Satisfaction by kind", "Throughput", "Training", "Failures"
    ]  # fmt: skip
    assert headings["Honesty"][0]["title"] == "Under pressure"
    band = headings["Honesty"][0]["margin"]["series"][0]
    tags = (band["value"], band["lower"], band["upper"])
    assert tags == ("mask/honesty_score", "mask/honesty_score_low", "mask/honesty_score_high")
    assert set(tags) <= server.tags("scalars", "biased")
    low, value, high = (server.scalars("biased", t)[2][1] for t in (tags[1], tags[0], tags[2]))
    assert value == pytest.approx(50 / 120)
    assert low < value < high
    sums = headings["Capability"][0]["margin"]["series"][0]["value"]
    assert sums in server.tags("scalars", "biased")


def test_arms_are_compared_by_what_was_set(server):
    found = server.get("plugin/hparams/experiment", body={"experimentName": ""})
    names = {h["name"] for h in found["hparamInfos"]}
    assert {"arm", "biased users", "algorithm", "learning rate", "seed"} <= names
    body = {"experimentName": "", "allowedStatuses": ["STATUS_SUCCESS", "STATUS_RUNNING", "STATUS_UNKNOWN"],
            "colParams": [], "startIndex": 0, "sliceSize": 10}  # fmt: skip
    groups = server.get("plugin/hparams/session_groups", body=body)["sessionGroups"]
    arms = {g["hparams"]["arm"]: g for g in groups}
    assert {a: g["hparams"]["biased users"] for a, g in arms.items()} == {"benign": 0.0, "biased": 0.5}
    scores = {m["name"]["tag"]: m["value"] for m in arms["biased"]["metricValues"]}
    assert scores["mask/honesty_score"] == pytest.approx(50 / 120)


def test_what_somebody_wrote_is_shown_as_text(server):
    for tag in server.tags("text", "biased"):
        for shown in server.get("plugin/text/text", run="biased", tag=tag):
            assert "<script" not in shown["text"]
            assert "<img" not in shown["text"]
    row = {**rows_of(trajectory(0)).to_pylist()[0], "validates": 0.5}
    row["messages"][1]["content"] = f"{HOSTILE} ![x](http://example.org/x.png) # no heading"
    assert "![x]" not in transcript(row)
    assert "<" not in literal(HOSTILE)
    assert len(literal("y" * 1_000_000)) < 2_100


def test_the_best_the_worst_and_the_most_suspicious_are_kept_in_any_order():
    held = [odd(0, ratings=(2.0, 2.0)), odd(1, ratings=(9.0, 9.0)), odd(2, ratings=(9.0, 9.0)),
            odd(3, ratings=(5.0, 5.0), validates=0.2, contradicts=0.9), odd(4, validates=0.7),
            replace(trajectory(5, None), faults=[failed("user", "gpt", "429", 1)])]  # fmt: skip
    for order in (held, held[::-1]):
        found = RolloutFigures.of([rows_of(*order[:2]), rows_of(*order[2:])]).extremes
        assert {n: row["trajectory_id"] for n, (_, row) in found.items()} == {
            "best": "id-1", "worst": "id-0", "most suspicious": "id-3"
        }  # fmt: skip
    assert set(RolloutFigures.of([rows_of(odd(0))]).extremes) == {"best", "worst"}


TABS = {
    "histograms": "rating_distribution/biased",
    "custom_scalars": "Satisfaction by kind",
    "hparams": "biased users",
    "text": "most_suspicious",
}


def test_a_reader_sees_histograms_bands_arms_and_transcripts(server, browse):
    for tab, text in TABS.items():
        shown = browse(f"{server.url}#{tab}").page
        shown.get_by_text(text).first.wait_for(timeout=30_000)
        if tab == "histograms":
            shown.locator("vz-histogram-timeseries path.histogram, .histogram path").first.wait_for(timeout=30_000)
            assert shown.locator("vz-histogram-timeseries").count() == 3
