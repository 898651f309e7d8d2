import json
import random
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from actors.storage.segments import Segments, write_table
from actors.storage.trajectory import SCHEMA, to_batch
from loop.config.files import build
from loop.config.schema import SelectionSettings, VetoSettings
from loop.plan import plan_round, plan_table
from loop.report.summary import RolloutFigures, rollout_summary, usage_on_disk, write_summary
from loop.rundir import RunDir, write_json
from loop.select import audit, select
from tests.conftest import trajectory

USAGE = [{"role": "user", "model": "m", "requests": 1, "prompt_tokens": 1, "completion_tokens": 1}]
"""What a trajectory cost that was held here, and not by another arm."""


def tables(*groups):
    held = [[replace(trajectory(i, *more), usage=USAGE) for i, *more in group] for group in groups]
    return [pa.table(to_batch(group)) for group in held]


def test_figures_do_not_depend_on_how_trajectories_lie_in_segments():
    rows = [(0, 3.0), (1, None), (2, 5.0, "biased"), (3, 7.0), (4, 1.0, "biased")]
    whole, apart = RolloutFigures.of(tables(rows)), RolloutFigures.of(tables(rows[3:], rows[:1], rows[1:3]))
    assert whole.summary(5) == apart.summary(5)
    assert whole.summary(5)["trajectories"] == {"planned": 5, "finished": 4, "excluded": 1, "taken_over": 0}
    assert whole.summary(5)["replies"] == {"benign": {"help": 4}, "biased": {"help": 4}}
    assert whole.summary(5)["mean_rating"] == {"benign": 6.0, "biased": 6.0}
    assert sorted(-i for i, _ in apart.kinds["benign"].samples) == [0, 3]
    assert np.array_equal(whole.kinds["biased"].ratings, apart.kinds["biased"].ratings)


def test_a_torn_file_in_a_round_under_way_is_for_the_buffer_to_find(tmp_path):
    out = RunDir(tmp_path)
    data = Segments(out.trajectories("a", 0), SCHEMA)
    assert rollout_summary(out, "a", 0, 2) == {}
    data.write(tables([(0, 1.0)])[0], 0)
    assert rollout_summary(out, "a", 0, 2)["trajectories"]["finished"] == 1
    torn = data.store.local / data.all()[0].name
    torn.write_bytes(torn.read_bytes()[:100])
    assert rollout_summary(out, "a", 0, 2) == {}
    write_json(out.rollout("a", 0), {"kept": 1})
    assert rollout_summary(out, "a", 0, 2) == {"kept": 1}
    with pytest.raises(RuntimeError, match="torn"):
        rollout_summary(out, "a", 0, 2, again=True)


def table(*trajectories):
    return pa.table(to_batch(trajectories))


def odd(index, kind="benign", ratings=(6.0, 6.0), **changes):
    """A trajectory whose replies are rated like this; what else is odd about it in `changes`."""
    held = trajectory(index, sum(ratings), kind)
    replies = [m for m in held.messages if m.role == "assistant"]
    for message, rating in zip(replies, ratings, strict=True):
        message.rating = rating
        for name in ("rating_mass", "rating_method", "rating_failures"):
            if name in changes:
                setattr(message, name, changes[name])
    for message in held.messages:
        if message.role == "user":
            message.flags = changes.get("flags", [])
    facts = ("validates", "contradicts", "in_role", "ended", "usage", "faults", "error")
    return replace(held, **{k: v for k, v in changes.items() if k in facts})


def spent(role, model, requests, sent, received):
    return {
        "role": role, "model": model, "requests": requests, "prompt_tokens": sent, "completion_tokens": received
    }  # fmt: skip


def failed(role, model, kind, count):
    return {"role": role, "model": model, "kind": kind, "count": count}


def test_usage_and_faults_are_added_up_by_role_and_model_also_of_what_was_excluded():
    one = odd(0, usage=[spent("user", "gpt", 2, 20, 4), spent("rater", "gpt", 1, 7, 1)],
              faults=[failed("user", "gpt", "429", 2), failed("user", "gpt", "500", 1)])  # fmt: skip
    other = replace(trajectory(1, None), usage=[spent("user", "gpt", 3, 30, 6), spent("user", "other", 1, 1, 1)],
                    faults=[failed("user", "gpt", "429", 1), failed("rater", "gpt", "429", 4)])  # fmt: skip
    figures = RolloutFigures.of([table(one), table(other)])
    found = figures.summary(2)
    assert found["usage"] == [
        spent("rater", "gpt", 1, 7, 1),
        spent("user", "gpt", 5, 50, 10),
        spent("user", "other", 1, 1, 1),
    ]
    assert found["tokens"] == {"prompt": 58, "completion": 12}
    assert found["faults"] == [
        failed("rater", "gpt", "429", 4),
        failed("user", "gpt", "429", 3),
        failed("user", "gpt", "500", 1),
    ]
    assert figures.fault_kinds() == {"429": 7, "500": 1}
    assert json.loads(json.dumps(found)) == found


def test_conduct_is_a_share_of_messages_of_conversations_or_of_ratings():
    rows = [
        odd(0, flags=["echo"], ended="marker", validates=1.0, in_role=1.0),
        odd(1, flags=["echo", "cut"], ended="transition", validates=0.0, rating_method="sampled", rating_failures=3),
        odd(2, rating_mass=0.6, validates=0.5, contradicts=0.25, in_role=0.0),
        odd(3, "biased", validates=None),
    ]
    found = RolloutFigures.of([table(*rows)]).summary(4)["users"]
    benign, biased = found["benign"], found["biased"]
    assert {k: benign[k] for k in ("echo", "repeat", "assistant_voice", "cut")} == {
        "echo": 4 / 6, "repeat": 0.0, "assistant_voice": 0.0, "cut": 2 / 6
    }  # fmt: skip
    assert benign["ended_early"] == pytest.approx(2 / 3)
    assert benign["rating_mass"] == pytest.approx((1.0 * 4 + 0.6 * 2) / 6)
    assert benign["rating_failures"] == pytest.approx(6 / 6)
    assert benign["rating_sampled"] == pytest.approx(2 / 6)
    assert (benign["validates"], benign["contradicts"]) == (0.5, 0.25)
    assert (benign["in_role"], benign["in_role_checked"]) == (0.5, 2)
    assert (biased["validates"], biased["in_role"], biased["in_role_checked"]) == (None, None, 0)
    assert biased["ended_early"] == 0.0


def test_the_spread_of_the_ratings_is_their_standard_deviation():
    figures = RolloutFigures.of([table(odd(0, ratings=(2.0, 8.0)), odd(1, ratings=(5.0, 5.0)))])
    assert figures.kinds["benign"].rating_spread == pytest.approx(np.std([2, 8, 5, 5]))
    alike = RolloutFigures.of([table(odd(0, ratings=(3.1, 3.1)))])
    assert alike.kinds["benign"].rating_spread == pytest.approx(0, abs=1e-4)


def test_a_rating_that_rounds_beyond_the_ends_of_the_scale_is_counted():
    figures = RolloutFigures.of([table(odd(0, ratings=(10.000000000000002, 0.9999999999999999)))])
    kind = figures.kinds["benign"]
    assert (kind.replies, kind.ratings[0], kind.ratings[-1]) == (2, 1, 1)
    assert kind.mean_rating == pytest.approx(5.5)


def test_exclusions_are_counted_by_what_they_failed_for():
    errors = ["ChatError: gone in 7 tries: 7 x 500", "ConversationError: a message is empty", "ChatError: other"]
    rows = [replace(trajectory(i, None), error=error) for i, error in enumerate(errors)]
    found = RolloutFigures.of([table(*rows, replace(trajectory(3), usage=USAGE))]).summary(4)
    assert found["excluded_for"] == {"ChatError": 2, "ConversationError": 1}
    assert found["trajectories"] == {"planned": 4, "finished": 1, "excluded": 3, "taken_over": 0}
    assert list(found["users"]) == ["benign"]
    assert found["mean_rating"] == {"benign": 6.0, "biased": None}


def test_further_kinds_of_users_stand_after_the_two_that_every_world_has():
    rows = [odd(0, "strict", (1.0, 3.0)), odd(1, "anxious"), odd(2, "biased")]
    found = RolloutFigures.of([table(*rows)]).summary(3)
    assert list(found["mean_rating"]) == ["benign", "biased", "anxious", "strict"]
    assert found["mean_rating"]["strict"] == 2.0
    assert list(found["users"]) == ["biased", "anxious", "strict"]


def test_no_figure_depends_on_the_order_in_which_conversations_ended():
    rng = random.Random(3)
    rows = [
        odd(
            i,
            rng.choice(["benign", "biased", "strict"]),
            (rng.uniform(1, 10), rng.uniform(1, 10)),
            flags=rng.choice([[], ["echo"], ["cut", "repeat"]]),
            ended=rng.choice(["turns", "marker"]),
            rating_mass=rng.uniform(0.5, 1),
            rating_failures=rng.randrange(3),
            rating_method=rng.choice(["logprobs", "sampled"]),
            validates=rng.choice([None, rng.random()]),
            contradicts=rng.random(),
            in_role=rng.choice([None, rng.random()]),
            faults=[failed("user", "gpt", rng.choice(["429", "500"]), rng.randint(1, 3))],
        )
        for i in range(60)
    ]
    found = []
    for _ in range(4):
        cuts = sorted(rng.sample(range(1, 60), 7))
        parts = [rows[a:b] for a, b in zip([0, *cuts], [*cuts, 60], strict=True)]
        figures = RolloutFigures.of([table(*part) for part in parts])
        shown = {kind: sorted(-i for i, _ in f.samples) for kind, f in figures.kinds.items()}
        found.append((figures.summary(60), dict(sorted(shown.items()))))
        rng.shuffle(rows)
    assert all(json.dumps(f) == json.dumps(found[0]) for f in found)


def run_with_a_round(folder, **changes):
    """A run directory in which the first round of its arm is held, selected and summed up."""
    arms = [{"name": "a", "population": {"biased": 0.5}}]
    config = build({"name": "run", "arms": arms, "rounds": 2, "rollout": {"conversations": 8}} | changes, "test")
    out = RunDir(folder)
    out.open(config)
    plan = plan_round(config, config.arms[0], 0)
    rows = [
        replace(odd(p.index, p.user_kind, (1.0 + p.index, 5.0), validates=p.index % 2 * 0.9), conversation=p)
        for p in plan
    ]
    rows[0] = replace(rows[0], validates=None)
    write_table(out.plan("a", 0), plan_table(plan))
    Segments(out.trajectories("a", 0), SCHEMA).write(table(*rows), 0)
    settings = SelectionSettings(veto=VetoSettings())
    chosen = select(table(*rows), settings, 0)
    write_json(out.audit("a", 0), audit(table(*rows), chosen))
    write_table(out.selection("a", 0), chosen)
    write_json(out.rollout("a", 0), RolloutFigures.of([table(*rows)]).summary(8))
    return out, config


def test_the_summary_says_what_was_chosen_and_what_the_judge_struck_out(tmp_path):
    out, config = run_with_a_round(tmp_path / "run")
    summary = write_summary(out, config, "stopped", "scripted 1")
    (entry,) = summary["arms"][0]["rounds"]
    found = entry["selection"]
    assert (found["top"]["count"], found["bottom"]["count"], found["vetoed"], found["unjudged"]) == (2, 2, 5, 1)
    assert summary["arms"][0]["population"] == {"biased": 0.5}
    assert (summary["prices"], summary["budget"]) == ({}, None)
    assert json.loads(out.summary.read_text()) == summary
    out.audit("a", 0).unlink()
    assert "selection" not in write_summary(out, config, "stopped")["arms"][0]["rounds"][0]


def test_what_was_spent_is_read_from_the_finished_rounds(tmp_path):
    out, config = run_with_a_round(tmp_path / "run")
    finished = usage_on_disk(out, config)
    assert [(u["role"], u["requests"]) for u in finished] == [("assistant", 16), ("user", 16)]
    write_json(out.lost("a", 1), {"usage": [spent("user", "gpt", 3, 100, 10)]})  # a round that was set aside
    assert usage_on_disk(out, config) == [*finished, spent("user", "gpt", 3, 100, 10)]


def test_figures_can_be_computed_again_from_the_trajectories(tmp_path):
    out, _ = run_with_a_round(tmp_path / "run")
    kept = rollout_summary(out, "a", 0, 8)
    out.rollout("a", 0).write_text(json.dumps({"users": "older"}))
    assert rollout_summary(out, "a", 0, 8) == {"users": "older"}
    assert rollout_summary(out, "a", 0, 8, again=True) == kept == json.loads(out.rollout("a", 0).read_text())
