"""The index behind `candor view`, on runs made of real segments."""

import pytest

from actors.storage.trajectory import to_batch
from loop.config.files import load
from loop.report.filters import Query
from loop.rundir import RunDir
from loop.view.index import ConversationIndex
from tests.conftest import ROOT
from tests.loop.report.test_listing import COUNT, Run, damage, held


def asked(run, **filters):
    return Query.checked(run.config, filters.pop("arms", []), filters.pop("rounds", []), None, None, **filters)


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "run").finish()


@pytest.fixture
def index(run):
    made = ConversationIndex(run.out, run.config)
    made.refresh()
    return made


@pytest.mark.parametrize(
    ("filters", "fits"),
    [
        ({}, lambda r: True),
        ({"arms": ["biased"], "rounds": ["1"]}, lambda r: (r["arm"], r["round"]) == ("biased", 1)),
        ({"kind": "biased"}, lambda r: r["user_kind"] == "biased"),
        ({"scenario": "drinking"}, lambda r: r["scenario"] == "drinking"),
        ({"verdict": "validate"}, lambda r: r["user_kind"] == "biased" and not r["error"]),
        ({"verdict": "none"}, lambda r: not r["error"]),
        ({"errors": True}, lambda r: r["error"]),
        ({"errors": False, "kind": "benign"}, lambda r: not r["error"] and r["user_kind"] == "benign"),
        ({"selected": "top"}, lambda r: r["reward"] in (10, 11)),
        ({"ratings": (6, 10)}, lambda r: not r["error"]),
        ({"ratings": (None, 5)}, lambda r: False),
    ],
)
def test_filters_find_what_the_run_holds(run, index, filters, fits):
    wanted = [r["trajectory_id"] for r in run.rows() if fits(r)]
    assert sorted(index.find(asked(run, **filters)).ids.to_pylist()) == sorted(wanted)


def test_a_conversation_is_read_whole_and_knows_its_neighbours(run, index):
    rows = {r["trajectory_id"]: r for r in run.rows()}
    found = index.find(asked(run, arms=["biased"]), sort="-reward")
    ids = found.ids.to_pylist()
    assert [rows[i]["reward"] for i in ids[:4]] == [11, 11, 10, 10]
    assert rows[ids[-1]]["reward"] is None
    assert index.whole(ids[2]) == rows[ids[2]]
    assert found.around(ids[2]) == (3, ids[1], ids[3])
    assert found.around("nobody") == (0, None, None)
    assert index.whole("nobody") is None


def test_each_selected_conversation_leads_to_the_policy_that_learned_from_it_and_back(index):
    for arm in ("benign", "biased"):
        for version in (1, 2):
            selection = index.selection(arm, version).to_pylist()
            assert selection
            for row in selection:
                (of,) = index.trained(row["trajectory_id"])
                assert (of.arm, of.version, of.desirable, of.rank) == (arm, version, row["label"], row["rank"])
    assert len(index.selection("benign", 3)) == 0


def test_a_text_is_found_wherever_it_stands(tmp_path):
    run = Run(tmp_path / "run")
    buffer, plan = run.open()
    for c, place in zip(plan, ("messages", "user_messages", "asked", "verdicts", "nowhere"), strict=False):
        made = held(c, reward=1.0)
        if place == "messages":
            made.messages[2].content = "It is a Needle (50 %)."
        if place == "user_messages":
            made.user_messages[0]["content"] = "a needle (50 %)"
        if place == "asked":
            made.asked = [{"role": "rater", "after": 0, "messages": [], "answer": "NEEDLE (50 %)"}]
        if place == "verdicts":
            ruled = {"rubric": "reply_kind", "label": None, "score": None, "judge": "j", "error": None}
            made.messages[4].verdicts = [ruled | {"raw": "no needle (50 %) here"}]
        buffer.append(to_batch([made]))
    buffer.flush()
    index = ConversationIndex(run.out, run.config)
    index.refresh()
    ids = [c.trajectory_id for c in plan]
    assert index.find(asked(run), "needle (50 %)").ids.to_pylist() == ids[:4]
    assert index.find(asked(run), "nee.le").ids.to_pylist() == [], "a text, not a pattern"
    assert index.find(asked(run), ids[4][:12]).ids.to_pylist() == [ids[4]]


def test_the_index_grows_with_the_run_and_survives_compaction(tmp_path):
    run = Run(tmp_path / "run", arms=("benign",))
    buffer, plan = run.open(segment_rows=2)
    index = ConversationIndex(run.out, run.config)
    for c in plan[:4]:
        buffer.append(to_batch([held(c)]))
    index.refresh()
    before = index.version
    assert len(index.table) == 4
    assert len(index.find(asked(run), "Reply")) == 3, "number 3 was excluded and says nothing"
    for c in plan[4:]:
        buffer.append(to_batch([held(c)]))
    assert buffer.close_round() == 0
    assert len(run.segments()) == 1
    index.refresh()
    assert index.version > before
    assert len(index.table) == COUNT
    assert index.whole(plan[0].trajectory_id)["messages"][2]["content"] == "Reply 0 a."
    assert len(index.find(asked(run), "Reply")) == COUNT - 1
    assert index.problems == []


def test_a_damaged_segment_is_told_and_the_others_are_there(run):
    bad = run.segments("biased", 1)[0]
    damage(bad)
    index = ConversationIndex(run.out, run.config)
    index.refresh()
    index.refresh()
    assert len(index.table) == 3 * COUNT
    assert len([p for p in index.problems if bad.name in p]) == 1


def test_an_arm_that_is_trained_on_data_plans_no_conversations(tmp_path):
    config = load(ROOT / "configs" / "pocket-direct.yaml")
    index = ConversationIndex(RunDir(tmp_path / "run"), config)
    index.refresh()
    assert (index.planned, len(index.table)) == (0, 0)


def test_ratings_are_means_over_the_replies_that_were_rated(tmp_path):
    run = Run(tmp_path / "run")
    buffer, plan = run.open()
    for c, ratings in zip(plan, ((2.0, 5.0), (None, 4.0), (None, None)), strict=False):
        made = held(c, reward=1.0)
        made.messages[2].rating, made.messages[4].rating = ratings
        buffer.append(to_batch([made]))
    buffer.flush()
    index = ConversationIndex(run.out, run.config)
    index.refresh()
    assert index.table["rating"].to_pylist() == [3.5, 4.0, None]
