"""`candor data`, on runs made of real segments."""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from typer.testing import CliRunner

from actors.buffer import RoundData, RoundPlan, TrajectoryBuffer, read_round
from actors.storage.segments import Segments, write_table
from actors.storage.trajectory import SCHEMA, to_batch
from loop.cli.app import app
from loop.config.files import build, dump
from loop.plan import plan_round, plan_table
from loop.report import chats, query
from loop.report.listing import LISTED_ROWS
from loop.rundir import RunDir, write_json, write_text
from loop.select import audit, select
from tests.conftest import ROOT, hear_ctrl_c, trajectory

COUNT = 12
CANDOR = Path(sys.executable).parent / "candor"


def candor(*args):
    return CliRunner().invoke(app, ["data", *map(str, args)])


def held(conversation, reward=None, verdict="help"):
    """A trajectory of the conversation; its reward is its index, and number 3 was excluded."""
    index = conversation.index
    reward = (None if index == 3 else float(index)) if reward is None else reward
    made = replace(trajectory(index, reward), conversation=conversation)
    replies = [t for t in made.messages if t.role == "assistant"]
    for reply, label in zip(replies, (verdict, None), strict=bool(replies)):
        reply.verdict = label
    return made


class Run:
    """A run directory that is written as `candor run` does it."""

    def __init__(self, root, arms=("benign", "biased"), rounds=2, uri=None):
        ratios = {"benign": 0.0, "biased": 0.5}
        self.config = build(
            {
                "name": "tiny",
                "rounds": rounds,
                "arms": [{"name": a, "biased_ratio": ratios[a]} for a in arms],
                "rollout": {"conversations": COUNT},
                "buffer": {"uri": uri},
            },
            "test",
        )
        self.out = RunDir(root, uri)
        write_text(self.out.config, dump(self.config))

    def open(self, arm="benign", round_=0, segment_rows=5):
        settings = next(a for a in self.config.arms if a.name == arm)
        plan = plan_round(self.config, settings, round_)
        write_table(self.out.plan(arm, round_), plan_table(plan))
        buffer = TrajectoryBuffer(segment_rows, 60)
        buffer.open_round(self.out.trajectories(arm, round_), RoundPlan("tiny", arm, round_, COUNT))
        return buffer, plan

    def hold(self, arm, round_):
        """A whole round, selected from."""
        buffer, plan = self.open(arm, round_)
        for c in plan:
            buffer.append(to_batch([held(c, verdict="validate" if c.user_kind == "biased" else "help")]))
        assert buffer.close_round() == 0
        index = RoundData(self.out.trajectories(arm, round_)).index()
        selection = select(index, self.config.selection, 0)
        write_table(self.out.selection(arm, round_), selection)
        write_json(self.out.audit(arm, round_), {"from_round": round_, **audit(index, selection)})
        write_json(self.out.rollout(arm, round_), {})

    def finish(self):
        for arm in self.config.arms:
            for r in range(self.config.rounds):
                self.hold(arm.name, r)
        write_json(self.out.summary, {"status": "finished"})
        return self

    def rows(self):
        rounds = [(a.name, r) for a in self.config.arms for r in range(self.config.rounds)]
        return [row for place in rounds for row in read_round(self.out.trajectories(*place)).to_pylist()]

    def segments(self, arm="benign", round_=0):
        return sorted(self.out.trajectories(arm, round_).local.glob("segment-*"))


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "run").finish()


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def exported_ids(path):
    return [row["trajectory_id"] for row in map(json.loads, path.read_text().splitlines())]


def test_the_table_shows_a_limited_number_and_counts_all(run):
    out = candor(run.out.root)
    assert out.exit_code == 0
    assert " ".join(out.stdout.split()[:11]) == "arm round index id scenario user rating reward verdicts, or error"
    assert len(out.stdout.splitlines()) == 1 + 20 + 1
    assert out.stdout.endswith("shown 20 of 48 trajectories in 4 rounds\n")
    assert "ChatError: gone" in out.stdout
    assert "help, none" in out.stdout


@pytest.mark.parametrize(
    ("filters", "fits"),
    [
        (["--arm", "biased"], lambda r: r["arm"] == "biased"),
        (["--arm", "biased", "--arm", "benign", "--round", 1], lambda r: r["round"] == 1),
        (["--kind", "biased"], lambda r: r["user_kind"] == "biased"),
        (["--scenario", "drinking"], lambda r: r["scenario"] == "drinking"),
        (["--verdict", "validate"], lambda r: r["user_kind"] == "biased" and not r["error"]),
        (["--verdict", "none"], lambda r: not r["error"]),
        (["--verdict", "challenge"], lambda r: False),
        (["--min-reward", 10], lambda r: not r["error"] and r["reward"] >= 10),
        (["--min-reward", 2, "--max-reward", 4.5], lambda r: r["reward"] in (2, 4)),
        (["--min-rating", 6], lambda r: not r["error"]),
        (["--max-rating", 5.9], lambda r: False),
        (["--errors"], lambda r: r["error"]),
        (["--no-errors", "--round", 0], lambda r: not r["error"] and r["round"] == 0),
        (["--errors", "--min-reward", 0], lambda r: False),
        (["--selected", "top"], lambda r: r["reward"] in (10, 11)),
        (["--selected", "bottom", "--arm", "benign"], lambda r: r["reward"] in (0, 1) and r["arm"] == "benign"),
        (["--selected", "undesirable", "--arm", "benign"], lambda r: r["reward"] in (0, 1) and r["arm"] == "benign"),
        (["--selected", "any"], lambda r: r["reward"] in (0, 1, 10, 11)),
    ],
)
def test_filters(run, tmp_path, filters, fits):
    wanted = [r for r in run.rows() if fits(r)]
    out = candor(run.out.root, *filters)
    rounds = {(r["arm"], r["round"]) for r in wanted}
    assert out.exit_code == 0
    shown = not wanted and "none of 48 trajectories matches"
    shown = shown or f"shown {min(20, len(wanted))} of {len(wanted)} trajectories in {len(rounds)} rounds"
    assert out.stdout.splitlines()[-1] == shown
    candor(run.out.root, *filters, "--export", tmp_path / "some.jsonl")
    assert sorted(exported_ids(tmp_path / "some.jsonl")) == sorted(r["trajectory_id"] for r in wanted)


def test_replies_are_counted_by_verdict_with_their_share_of_those_that_are_otherwise_alike(run):
    rows = [r for r in run.rows() if not r["error"]]
    said = Counter(
        (r["user_kind"], m["verdict"] or "none") for r in rows for m in r["messages"] if m["role"] == "assistant"
    )
    of_kind = Counter()
    for (kind, _), count in said.items():
        of_kind[kind] += count
    out = candor(run.out.root, "--no-errors", "--by", "kind", "--by", "verdict", "--json")
    found = {(g["kind"], g["verdict"]): (g["replies"], g["share"]) for g in json.loads(out.stdout)["groups"]}
    assert found == {key: (count, count / of_kind[key[0]]) for key, count in said.items()}
    one = candor(run.out.root, "--no-errors", "--by", "kind,verdict", "--verdict", "help", "--sort", "-share", "--json")
    helped = json.loads(one.stdout)["groups"]
    assert {(g["kind"], g["verdict"]): (g["replies"], g["share"]) for g in helped} == {
        key: of for key, of in found.items() if key[1] == "help"
    }, "shares are of all replies"
    assert [g["share"] for g in helped] == sorted((g["share"] for g in helped), reverse=True)
    best = candor(run.out.root, "--by", "kind", "--sort", "-rating", "--json").stdout
    assert best == candor(run.out.root, "--by", "kind", "--sort", "-mean_rating", "--json").stdout
    nobody = candor(run.out.root, "--by", "verdict", "--verdict", "challenge").stdout
    assert nobody.startswith("none of the replies in ")
    table = candor(run.out.root, "--no-errors", "--by", "verdict").stdout
    assert table.splitlines()[0].split() == ["verdict", "replies", "share", "mean", "rating"]


def test_one_trajectory_says_what_it_was_trained_on_for(run):
    row = max(run.rows(), key=lambda r: (r["arm"] == "biased", r["round"] == 1, r["reward"] or 0))
    show = (run.out.root, "--show", row["trajectory_id"])
    assert "trained on  desirable, for a policy that is not made yet\n" in candor(*show).stdout
    run.out.policy("biased", 2).mkdir(parents=True)
    assert "trained on  desirable, for policy 2\n" in candor(*show).stdout
    middle = next(r for r in run.rows() if r["reward"] == 5)
    assert "trained on  -\n" in candor(run.out.root, "--show", middle["trajectory_id"]).stdout


def test_sorting_takes_the_ends_and_leaves_out_excluded_ones(run):
    def sorted_by(sort, limit):
        lines = candor(run.out.root, "--sort", sort, "--limit", limit).stdout.splitlines()[1:-1]
        return [line.split()[6 + sort.endswith("reward")] for line in lines]

    assert sorted_by("-reward", 5) == ["11.00"] * 4 + ["10.00"]
    assert sorted_by("reward", 5) == ["0.00"] * 4 + ["1.00"]
    assert sorted_by("-reward", 48)[-4:] == ["-"] * 4


@pytest.mark.parametrize("sort", ["rating", "-rating"])
def test_sorting_by_the_mean_rating_of_the_replies(tmp_path, sort):
    run = Run(tmp_path / "run")
    buffer, plan = run.open()
    ratings = {0: (6.0, 3.0), 1: (9.0, 9.0), 2: (1.0, None), 4: (None, None)}  # means 4.5, 9, 1 and none
    for number, of in ratings.items():
        made = held(plan[number])
        for message, rating in zip([m for m in made.messages if m.role == "assistant"], of, strict=True):
            message.rating = rating
        buffer.append(to_batch([made]))
    buffer.flush()
    found = json.loads(candor(run.out.root, "--sort", sort, "--json").stdout)["shown"]
    ranked = [2, 0, 1] if sort == "rating" else [1, 0, 2]
    assert [(r["index"], r["rating"]) for r in found] == [
        (plan[n].index, {0: 4.5, 1: 9.0, 2: 1.0, 4: None}[n]) for n in (*ranked, 4)
    ]


def test_an_export_replaces_nothing(run, tmp_path):
    mine = tmp_path / "mine.jsonl"
    mine.write_text("kept")
    out = candor(run.out.root, "--export", mine)
    assert (out.exit_code, mine.read_text()) == (2, "kept")
    assert f"--export {mine}: is there already; give another name" in out.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--arm", "none"], "--arm none: unknown; known: benign, biased"),
        (["--round", "2"], "--round 2: unknown; known: 0, 1"),
        (["--round", "one"], "--round one: unknown; known: 0, 1"),
        (["--kind", "rude"], "--kind rude: unknown; known: benign, biased"),
        (["--scenario", "chess"], "--scenario chess: unknown; known: drinking,"),
        (["--selected", "middle"], "--selected middle: unknown; known: top, bottom, desirable,"),
        (
            ["--sort", "ratings"],
            "--sort ratings: unknown; did you mean rating? known: reward, -reward, rating, -rating",
        ),
        (["--verdict", "validat"], "--verdict validat: unknown; did you mean validate? known: help, challenge, valid"),
        (["--arm", "biasd"], "--arm biasd: unknown; did you mean biased? known: benign, biased"),
        (["--by", "scenarios"], "--by scenarios: unknown; did you mean scenario? known: arm, round, kind, scenario"),
        (["--by", "arm", "--verify"], "--verify and --by do not go together"),
        (["--by", "arm", "--verdict", "help"], "to see the replies with a --verdict, add --by verdict"),
        (["--by", "arm", "--sort", "share"], "--sort share: unknown; known: conversations, -conversations, excluded"),
        (["--by", "verdict", "--sort", "reward"], "--sort reward: unknown;"),
        (["--show", "a", "--limit", "3"], "--show and --limit do not go together"),
        (["--verify", "--limit", "3"], "--verify and --limit do not go together"),
        (["--min-reward", "3", "--max-reward", "2"], "no reward lies between them"),
        (["--min-rating", "3", "--max-rating", "2"], "no rating lies between them"),
        (["--min-reward", "nan"], "no reward lies between them"),
        (["--min-reward", "high"], "Invalid value for '--min-reward'"),
        (["--limit", "0"], "Invalid value for '--limit'"),
        (["--show", "zzz"], "--show zzz: no trajectory id begins with this"),
        (["--show", ""], "several ids begin with this"),
        (["--export", "some.csv"], "give a file that ends in .jsonl or .parquet"),
        (["--follow", "--verify"], "--follow and --verify do not go together"),
        (["--show", "a", "--sort", "reward"], "--show and --sort do not go together"),
        (["--follow", "--selected", "top"], "--selected does not go with --follow"),
        (["--verify", "--kind", "biased"], "only --arm and --round go with it"),
    ],
)
def test_what_cannot_be_answered_is_one_message_and_exit_code_2(run, options, message):
    out = candor(run.out.root, *options)
    assert out.exit_code == 2
    assert message in out.stderr
    assert out.stdout == ""


def test_a_directory_that_is_no_run(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        out = candor(folder)
        assert out.exit_code == 2
        assert out.stderr == f"candor: {folder} is not a run directory: it has no config.yaml\n"


def test_a_run_that_has_held_nothing_yet(tmp_path):
    run = Run(tmp_path / "run")
    assert candor(run.out.root).stdout.splitlines()[-1] == "no trajectory is there yet"
    assert "not begun" in candor(run.out.root, "--verify").stdout


def test_one_trajectory_in_full(run):
    row = next(r for r in run.rows() if r["index"] == 7)
    out = candor(run.out.root, "--show", row["trajectory_id"][:12])
    assert out.exit_code == 0
    for text in (row["trajectory_id"], row["persona"], "candor/policy-0", "vllm test", "7.00", "Reply 7 a.", "persona"):
        assert text in out.stdout
    assert "assistant  (rated 6.00, verdict help, 2 tokens, finish reason stop)" in out.stdout
    assert out.stdout.index("How do I start?") < out.stdout.index("The user's side") < out.stdout.rindex("persona")


def test_text_of_a_model_neither_steers_the_terminal_nor_is_taken_for_markup(tmp_path):
    run = Run(tmp_path / "run")
    buffer, plan = run.open()
    made = held(plan[0])
    made.messages[2].content = "\x1b[2Jgone [bold]not markup[/bold] :smile:"
    buffer.append(to_batch([made]))
    buffer.flush()
    shown = candor(run.out.root, "--show", plan[0].trajectory_id).stdout
    assert "\N{REPLACEMENT CHARACTER}[2Jgone [bold]not markup[/bold] :smile:" in shown


def test_exported_parquet_holds_every_column(run, tmp_path):
    out = candor(run.out.root, "--export", tmp_path / "all.parquet")
    told = f"exported 48 trajectories in 4 rounds to {tmp_path}/all.parquet: every column, "
    assert re.fullmatch(re.escape(told) + r"[0-9.]+ kB\n", out.stdout)
    table = pq.read_table(tmp_path / "all.parquet")
    assert table.schema.equals(SCHEMA)
    assert sorted(table.to_pylist(), key=str) == sorted(run.rows(), key=str)


def test_a_limit_holds_for_an_export_and_for_following(run, tmp_path):
    out = candor(run.out.root, "--kind", "biased", "--limit", 7, "--export", tmp_path / "some.jsonl")
    assert out.stdout.startswith("exported 7 trajectories in 2 rounds to ")
    assert len(exported_ids(tmp_path / "some.jsonl")) == 7
    out = candor(run.out.root, "--follow", "--limit", 7)
    assert (out.exit_code, len(out.stdout.splitlines()), out.stderr) == (0, 7, "7 trajectories in 1 round\n")


def test_a_judge_that_failed_can_be_asked_for(tmp_path):
    run = Run(tmp_path / "run")
    buffer, plan = run.open()
    for c, verdict in zip(plan, ("error: ChatError: gone", "help"), strict=False):
        buffer.append(to_batch([held(c, verdict=verdict)]))
    buffer.flush()
    assert candor(run.out.root, "--verdict", "error").stdout.endswith("shown 1 of 1 trajectory in 1 round\n")


def test_conversations_are_counted_by_what_one_asks_for(run):
    rows = [r for r in run.rows() if r["arm"] == "biased"]
    out = candor(run.out.root, "--arm", "biased", "--by", "round", "--by", "kind", "--json")
    found = {(g["round"], g["kind"]): g for g in json.loads(out.stdout)["groups"]}
    assert set(found) == {(r["round"], r["user_kind"]) for r in rows}
    for (round_, kind), group in found.items():
        mine = [r for r in rows if (r["round"], r["user_kind"]) == (round_, kind)]
        rewards = [r["reward"] for r in mine if r["reward"] is not None]
        assert (group["conversations"], group["excluded"]) == (len(mine), len(mine) - len(rewards))
        assert group["mean_reward"] == pytest.approx(sum(rewards) / len(rewards))
        assert group["mean_rating"] == 6.0
    both = candor(run.out.root, "--arm", "biased", "--by", "round,kind", "--json")
    assert both.stdout == out.stdout
    listed = json.loads(candor(run.out.root, "--json").stdout)
    assert len(listed["shown"]) == listed["trajectories"] > LISTED_ROWS, "a program gets all of them"
    assert len(json.loads(candor(run.out.root, "--json", "--sort", "reward").stdout)["shown"]) == listed["trajectories"]
    cut = candor(run.out.root, "--arm", "biased", "--by", "round,kind", "--limit", 1, "--json")
    assert json.loads(cut.stdout)["groups"] == json.loads(out.stdout)["groups"][:1]
    told = candor(run.out.root, "--arm", "biased", "--by", "round,kind", "--limit", 1).stdout.splitlines()
    assert told[-1].endswith(f"; shown 1 of {len(json.loads(out.stdout)['groups'])} rows")
    said = candor(run.out.root, "--by", "scenario").stdout.splitlines()
    assert said[0].split() == ["scenario", "conversations", "excluded", "mean", "rating", "mean", "reward"]
    assert said[-1] == "counted 48 trajectories in 4 rounds"


def test_every_form_of_the_answer_comes_as_json_too(run, tmp_path):
    def said(*options):
        return json.loads(candor(run.out.root, *options, "--json").stdout)

    listed = said("--sort", "-reward", "--limit", 2)
    assert (listed["trajectories"], listed["rounds"], [r["reward"] for r in listed["shown"]]) == (48, 4, [11.0, 11.0])
    assert listed["shown"][0]["verdicts"] == ["help", "none"]
    first = listed["shown"][0]["trajectory_id"]
    row = next(r for r in run.rows() if r["trajectory_id"] == first)
    assert said("--show", first) == row | {"trained_on": "desirable, for a policy that is not made yet"}
    exported = said("--export", tmp_path / "all.jsonl")
    assert (exported["trajectories"], exported["bytes"]) == (48, (tmp_path / "all.jsonl").stat().st_size)
    lines = candor(run.out.root, "--follow", "--json", "--limit", 3).stdout.splitlines()
    assert [json.loads(line)["index"] for line in lines] == [r["index"] for r in run.rows()[:3]]
    damage(run.segments("biased", 1)[0])
    checked = said("--verify")
    assert checked["sound"] is False
    assert [(r["arm"], r["round"]) for r in checked["rounds"] if r["problems"]] == [("biased", 1)]


def test_exported_json_lines_are_what_trainers_read(run, tmp_path):
    candor(run.out.root, "--export", tmp_path / "all.jsonl")
    rows = load_dataset("json", data_files=str(tmp_path / "all.jsonl"), cache_dir=str(tmp_path), split="train")
    assert len(rows) == 48
    row = next(r for r in rows if r["reward"] == 7)
    assert [m["role"] for m in row["messages"]] == ["system", "user", "assistant", "user", "assistant"]
    assert set(row["messages"][0]) == {"role", "content"}
    assert (row["verdicts"], row["ratings"], row["error"]) == (["help", "none"], [6.0, 6.0], "")
    excluded = next(r for r in rows if r["reward"] is None)
    assert (excluded["messages"], excluded["error"]) == ([], "ChatError: gone")


def test_an_export_that_fails_leaves_nothing(run, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    out = candor(run.out.root, "--export", tmp_path / "file" / "all.jsonl")
    assert out.exit_code == 1
    assert "cannot be written" in out.stderr
    monkeypatch.setattr(chats, "chat_rows", lambda table: [{}, object()])
    target = tmp_path / "out" / "all.jsonl"
    assert isinstance(candor(run.out.root, "--export", target).exception, TypeError)
    assert list(target.parent.iterdir()) == []


def test_trajectories_in_other_storage(tmp_path):
    run = Run(tmp_path / "run", uri=f"file://{tmp_path}/store").finish()
    assert not list(run.out.root.rglob("segment-*"))
    assert "shown 20 of 48 trajectories in 4 rounds" in candor(run.out.root).stdout
    assert "nothing is wrong" in candor(run.out.root, "--verify").stdout


def test_a_damaged_segment_is_named_and_the_others_are_shown(run):
    _, plan = run.open("benign", 0)
    bad = run.segments()[0]
    damage(bad)
    Segments(run.out.trajectories("benign", 0), SCHEMA).write(
        pa.Table.from_batches([to_batch([held(c) for c in plan[:5]])]), 10
    )
    out = candor(run.out.root, "--arm", "benign")
    assert out.exit_code == 1
    assert out.stdout.splitlines()[-1] == "shown 17 of 17 trajectories in 2 rounds"
    assert bad.name in out.stderr
    assert len(out.stderr.splitlines()) == 1
    assert bad.exists(), "nothing is moved"


def test_a_round_that_is_compacted_while_it_is_read_is_read_once(tmp_path):
    run = Run(tmp_path / "run")
    buffer, plan = run.open(segment_rows=2)
    for c in plan[:-1]:
        buffer.append(to_batch([held(c)]))
    reader = query.RoundReader(run.out, RoundPlan("tiny", "benign", 0, COUNT))
    reading = reader.new()
    found = next(reading)["index"].to_pylist()
    buffer.append(to_batch([held(plan[-1])]))
    assert buffer.close_round() == 0
    assert len(run.segments()) == 1
    found += [i for table in reading for i in table["index"].to_pylist()]
    assert found == list(range(COUNT))
    assert (list(reader.new()), reader.problems, reader.repeated) == ([], [], 0)


def test_what_a_damaged_compacted_segment_was_made_of_stands_in_for_it(tmp_path):
    run = Run(tmp_path / "run")
    buffer, plan = run.open(segment_rows=4)
    for c in plan:
        buffer.append(to_batch([held(c)]))
    parts = {p: p.read_bytes() for p in run.segments()}
    buffer.close_round()
    damage(run.segments()[0])
    for path, content in parts.items():
        path.write_bytes(content)
    assert "shown 12 of 12 trajectories" in candor(run.out.root).stdout


def test_verifying_a_sound_run(run):
    out = candor(run.out.root, "--verify", "--arm", "biased")
    assert out.exit_code == 0
    assert [" ".join(line.split()) for line in out.stdout.splitlines()] == [
        "arm round trajectories closed state",
        "biased 0 12 of 12 yes sound",
        "biased 1 12 of 12 yes sound",
        "nothing is wrong",
    ]


def test_verifying_finds_damage_and_what_it_cost(run):
    bad = run.segments("biased", 1)[0]
    damage(bad)
    out = candor(run.out.root, "--verify")
    assert out.exit_code == 1
    assert "torn" in out.stdout
    assert bad.name in out.stdout
    assert "biased 1: 12 trajectories are missing from a round that was complete" in out.stdout
    assert "biased 1: 4 ids of selection.arrow have no trajectory" in out.stdout
    assert "`candor run` again" in out.stdout
    assert "benign 0:" not in out.stdout


def test_verifying_finds_what_is_there_twice_or_was_not_planned(run):
    store = run.out.trajectories("benign", 0)
    _, plan = run.open("benign", 1)
    rows = pa.Table.from_batches([to_batch([held(c) for c in plan])])
    Segments(store, SCHEMA).write(rows, 50)
    Segments(run.out.trajectories("benign", 1), SCHEMA).write(rows, 50)
    out = candor(run.out.root, "--verify")
    assert out.exit_code == 1
    assert "segment-000050-000050" in out.stdout
    assert "holds trajectories that the round did not plan" in out.stdout
    assert "benign 1: 12 trajectories are there a second time" in out.stdout
    assert "shown 20 of 48 trajectories" in candor(run.out.root).stdout


@pytest.mark.parametrize("name", ["plan.arrow", "selection.arrow", "trajectories/index"])
def test_verifying_finds_other_damaged_files(run, name):
    damaged = next((run.out.round("benign", 0) / name).parent.glob(Path(name).name + "*"))
    damaged.write_bytes(damaged.read_bytes()[:-9])
    out = candor(run.out.root, "--verify")
    assert out.exit_code == 1
    assert str(damaged) in out.stdout


def test_a_run_under_way_is_not_wrong(tmp_path):
    run = Run(tmp_path / "run")
    buffer, plan = run.open()
    for c in plan[:7]:
        buffer.append(to_batch([held(c)]))
    out = candor(run.out.root, "--verify")
    assert out.exit_code == 0
    assert " ".join(out.stdout.splitlines()[1].split()) == "benign 0 5 of 12 no sound"


class Follower:
    """`candor data --follow` in its own process, killed when it takes too long."""

    def __init__(self, run, *options):
        command = [CANDOR, "data", run.out.root, "--follow", *options]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, preexec_fn=hear_ctrl_c, env=os.environ
        )
        self.watchdog = threading.Timer(60, self.process.kill)
        self.watchdog.start()

    def lines(self, count):
        return [self.process.stdout.readline() for _ in range(count)]

    def end(self):
        out, err = self.process.communicate()
        self.watchdog.cancel()
        assert "Traceback" not in err
        return out.splitlines(), err


@contextmanager
def at_work(run):
    """As while `candor run` is: its lock is held."""
    with open(run.out.root / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture
def followed(tmp_path):
    run = Run(tmp_path / "run", arms=("benign",))
    write_json(run.out.summary, {"status": "running"})
    with at_work(run):
        yield run


def test_following_a_run_to_its_end_prints_each_trajectory_once(followed):
    run = followed
    buffer, plan = run.open(segment_rows=2)
    for c in plan[:6]:
        buffer.append(to_batch([held(c)]))
    follower = Follower(run)
    seen = follower.lines(6)
    for c in plan[6:]:
        buffer.append(to_batch([held(c)]))
    seen += follower.lines(6)
    assert buffer.close_round() == 0
    run.hold("benign", 1)
    rest, err = follower.end()
    assert follower.process.returncode == 0
    assert err == "24 trajectories in 2 rounds\n"
    places = [tuple(map(int, line.split()[1:3])) for line in seen + rest]
    assert sorted(places) == [(r, i) for r in (0, 1) for i in range(COUNT)]


def test_ctrl_c_ends_following_without_noise(followed):
    run = followed
    buffer, plan = run.open(segment_rows=1)
    buffer.append(to_batch([held(plan[0])]))
    follower = Follower(run, "--arm", "benign")
    assert plan[0].trajectory_id[:8] in follower.lines(1)[0]
    follower.process.send_signal(signal.SIGINT)
    assert follower.end() == ([], "1 trajectory in 1 round\n")
    assert follower.process.returncode == 0


def test_following_ends_with_the_run_but_not_while_it_is_gone_on_with(tmp_path):
    run = Run(tmp_path / "run")
    buffer, plan = run.open(segment_rows=1)
    buffer.append(to_batch([held(plan[0])]))
    for status in ("running", "finished", "failed", "stopped"):  # running: the driver was killed
        write_json(run.out.summary, {"status": status})
        assert query.no_more(run.out)
    out = candor(run.out.root, "--follow")
    assert out.exit_code == 0
    assert len(out.stdout.splitlines()) == 1
    with at_work(run):
        assert not query.no_more(run.out)


def test_the_command_is_light_and_has_an_example():
    assert "Example:" in candor("--help").stdout
    heavy = ("torch", "ray", "vllm", "trl", "scipy", "matplotlib", "datasets")
    code = f"import sys, loop.report.listing; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"
