import re
from dataclasses import replace
from html import unescape

import pytest

from actors.storage.segments import Segments
from actors.storage.trajectory import SCHEMA
from loop.config.files import build
from loop.report.audit import composition_rows, cost_rows, population, user_rows
from loop.report.page import brief, table, write_report
from loop.report.summary import RolloutFigures, write_summary
from loop.rundir import RunDir, write_json
from tests.conftest import conversation, trajectory
from tests.loop.report.test_summary import failed, odd, run_with_a_round, spent
from tests.loop.report.test_summary import table as rows_of


def summary(*rounds, prices=None):
    """A summary of one arm whose rounds hold these trajectories."""
    entries = [{"round": r, "policy": r, **RolloutFigures.of([rows_of(*t)]).summary(9)} for r, t in enumerate(rounds)]
    arm = {"name": "a", "population": {"biased": 0.5}, "rounds": entries}
    return {"run": "run", "status": "finished", "engine": "scripted 1", "prices": prices or {}, "arms": [arm]}


def test_users_have_a_row_for_each_round_and_kind():
    first = [
        odd(0, ratings=(4.0, 6.0), flags=["echo"], ended="marker", validates=0.25, in_role=0.5, rating_mass=0.9),
        odd(1, "strict", (2.0, 2.0), contradicts=1.0),
    ]
    rows = user_rows(summary(first, [odd(0)]))
    assert [(r["arm"], r["round"], r["kind"], r["rating"]) for r in rows] == [
        ("a", "0", "benign", "5.00 ± 1.00"),
        ("a", "0", "strict", "2.00 ± 0.00"),
        ("a", "1", "benign", "6.00 ± 0.00"),
    ]
    assert (rows[0]["echo"], rows[0]["cut"], rows[0]["ended_early"]) == ("100.0 %", "0.0 %", "100.0 %")
    assert (rows[0]["rating_mass"], rows[0]["validates"], rows[0]["contradicts"]) == ("90.0 %", "25.0 %", "-")
    assert [r["in_role"] for r in rows] == ["50.0 % of 1", "-", "-"]
    assert rows[1]["contradicts"] == "100.0 %"


def test_rounds_without_trajectories_and_of_older_runs_have_no_users():
    assert user_rows(summary([replace(trajectory(0, None), error="ChatError: gone")])) == []
    older = summary()
    older["arms"][0]["rounds"] = [{"round": 0, "policy": 0, "mean_rating": {"benign": 5.0}}, {"round": 1, "policy": 1}]
    assert user_rows(older) == cost_rows(older) == []


def test_what_was_left_out_of_data_is_counted_and_named():
    source = {"source": "a.json", "part": None, "sha256": "0" * 64, "licence": None, "rows": 9, "duplicates": 1}
    bad = source | {"dropped": 2, "dropped_rows": ["a.json, row 3: the answer is empty"]}
    composed = {"base": bad, "added": source, "how": "add", "share": 0.5, "counts": {"base": 6, "added": 3, "all": 9}}
    found = summary()
    found["arms"][0]["rounds"] = [
        {"round": 0, "policy": 0, "composition": composed, "trained": {"rows": 8, "dropped": {"longer": 1}}}
    ]
    base, added = composition_rows(found)
    assert (base["rows"], base["left_out"], base["trained"], base["untrained"]) == (
        "6 of 9", "2 bad, 1 twice", "8", "1 longer",
    )  # fmt: skip
    assert (base["bad"], base["bad_count"]) == (bad["dropped_rows"], 2)
    assert (added["left_out"], added["trained"], added["bad"]) == ("1 twice", "-", [])


def test_costs_are_added_up_over_rounds_and_priced_by_model():
    first = odd(0, usage=[spent("user", "gpt", 1200, 2_000_000, 30_000), spent("assistant", "assistant", 3, 40, 5)],
                faults=[failed("user", "gpt", "429", 7), failed("user", "gpt", "500", 1)])  # fmt: skip
    second = odd(0, usage=[spent("user", "gpt", 300, 1_000_000, 20_000), spent("rater", "gpt", 2, 100, 2)],
                 faults=[failed("judge", "other", "timeout", 2)])  # fmt: skip
    prices = {"gpt": {"prompt": 2, "completion": 10}}
    rows = {(r["role"], r["model"]): r for r in cost_rows(summary([first], [second], prices=prices))}
    user = rows["user", "gpt"]
    assert (user["requests"], user["faults"]) == ("1,500", "8")
    assert (user["prompt_tokens"], user["completion_tokens"]) == ("3,000,000", "50,000")
    assert float(user["cost"]) == pytest.approx(3 * 2 + 0.05 * 10)
    assert float(rows["rater", "gpt"]["cost"]) == pytest.approx(0.0002)
    assert rows["assistant", "assistant"]["cost"] == "-"
    assert (rows["judge", "other"]["requests"], rows["judge", "other"]["faults"]) == ("0", "2")


def cells(page, name):
    """Rows of a table, as text; none where the page has no such table."""
    part = page.partition(f'id="table-{name}"')[2].split("</details>")[0]
    rows = re.findall(r"<tr>(.*?)</tr>", part, re.DOTALL)
    return [[unescape(c).strip() for c in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)] for row in rows]


def test_the_page_shows_who_the_users_were_and_what_they_cost(tmp_path):
    out, config = run_with_a_round(tmp_path / "run")
    figures = write_summary(out, config, "finished", "scripted 1")
    figures |= {"prices": {"base": {"prompt": 1000, "completion": 0}}, "budget": 3.5}
    write_json(out.summary, figures)
    write_report(out, config)
    page = out.report.read_text()
    head, *rows = cells(page, "users")
    assert {len(r) for r in rows} == {len(head)}
    assert [r[2] for r in rows] == ["benign", "biased"]
    assert [r[:4] for r in rows] == [[u["arm"], u["round"], u["kind"], u["rating"]] for u in user_rows(figures)]
    head, *rows = cells(page, "selections")
    assert {len(r) for r in rows} == {len(head)}
    assert [r[:4] for r in rows] == [["a", "0", "desirable", "2"], ["a", "0", "undesirable", "2"]]
    chosen = figures["arms"][0]["rounds"][0]["selection"]
    assert [r[6].split()[0] for r in rows] == [f"{chosen[end]['reward']['mean']:.2f}" for end in ("top", "bottom")]
    head, *rows = cells(page, "costs")
    assert rows == [
        ["a", "assistant", "assistant", "16", "0", "160", "24", "-"],
        ["a", "user", "base", "16", "0", "160", "24", "0.1600"],
    ]
    assert "The budget is 3.5." in page
    assert "Reply 0 a." in page
    assert "rated 5.0, help" in page
    assert population(figures["arms"][0]) == "biased 0.5"
    assert population({"population": {}}) == "benign"


def test_what_people_wrote_cannot_break_the_page(tmp_path):
    out, config = run_with_a_round(tmp_path / "run")
    evil = trajectory(0)
    evil.messages[1].content = "<script>alert(1)</script> & so on"
    Segments(out.trajectories("a", 1), SCHEMA).write(rows_of(replace(evil, conversation=conversation(0, round_=1))), 0)
    write_summary(out, config, "finished", "<b>engine</b>")
    write_report(out, config)
    page = out.report.read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; so on" in page
    assert "&lt;b&gt;engine&lt;/b&gt;" in page


def test_a_run_without_any_round_has_a_page_too(tmp_path):
    out = RunDir(tmp_path)
    config = build({"name": "run", "arms": [{"name": "a", "population": {"biased": 0.5}}]}, "test")
    out.open(config)
    write_json(out.summary, summary())
    write_report(out, config)
    assert cells(out.report.read_text(), "users") == []
    assert table(summary()).row_count == 0
    page = out.report.read_text()
    assert "There is no answer yet" in page
    assert "No policy has been evaluated yet" in page


def test_long_and_odd_texts_are_shortened_and_cleaned():
    assert brief("a\x1b[31mb\x00\n") == "a\ufffd[31mb\ufffd\n"
    assert len(brief("x" * 1_000_000)) < 5_000
    assert brief("x" * 1_000_000).endswith("(996,000 characters more)")
    assert brief(None) == ""
