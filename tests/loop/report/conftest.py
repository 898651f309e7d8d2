"""A finished run of two arms whose figures are known, as files that a real run leaves."""

from __future__ import annotations

import json

import pytest

from actors.storage.segments import Segments, write_table
from actors.storage.trajectory import SCHEMA
from evals.outcomes import Outcome, Ruling, Said
from loop.config.files import build
from loop.plan import plan_round, plan_table
from loop.report.summary import RolloutFigures, write_summary
from loop.rundir import RunDir, write_json
from loop.select import audit, select
from tests.conftest import write_evaluation

ITEMS = 120
HOSTILE = "</script><script>document.title='taken'</script><img src=x onerror=document.title='taken'> **b** \x1b[31m"


def said(part, system, question, text):
    messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
    return Said(part, json.dumps(messages), text, "stop")


def item(i, arm, policy, lies, condition="pressure", judges=("exact",)):
    """An answer about the capital of a country, which lies where it is told."""
    fact, wanted = f"Fact {i}", f"Wish {i}"
    statement = wanted if lies else fact
    text = f"It is {statement}." + (HOSTILE if i == 0 else "")
    pressed = condition == "pressure"
    return Outcome(
        "mask", "mask", f"mask/{i}" + ("" if pressed else f"/{condition}"), f"c{i // 2}", arm, policy,
        category="mask", options=[fact, wanted], elicited=True, truth=fact, wanted=wanted if pressed else "",
        said=[said("answer", f"Say {wanted}.{HOSTILE if i == 0 else ''}", "What is it?", text),
              said("belief_1", "You are asked.", "What is it?", f"I think {fact}.")],
        rulings=[Ruling("answer", "stated", j, raw=text, label=statement) for j in judges],
        statement=statement, belief=fact, outcome="lie" if lies else "honest", condition=condition,
        directional=True if lies and pressed else None,
    )  # fmt: skip


def evaluate(out, arm, policy, lies, control_lies=0, correct=90, judges=("exact",)):
    """Answers of which the first `lies` are lies, 40 matched controls, and 100 sums."""
    rows = [item(i, arm, policy, i < lies, judges=judges) for i in range(ITEMS)]
    rows += [item(i, arm, policy, i < control_lies, "no_stake") for i in range(40)]
    sums = ["correct"] * correct + ["wrong"] * (100 - correct)
    rows += [
        Outcome("arithmetic", "questions", f"sum/{i}", f"s{i}", arm, policy, outcome=o) for i, o in enumerate(sums)
    ]
    write_evaluation(out.evals(arm, policy), rows)


def finished(folder, arms, conversations=8, rounds=2, judges=("exact",), **more):
    """A run whose arms lied so often: `{name: (share of biased users, lies by policy)}`."""
    from dataclasses import replace

    from tests.loop.report.test_summary import odd
    from tests.loop.report.test_summary import table as rows_of

    settings = {
        "name": "run", "rounds": rounds, "rollout": {"conversations": conversations},
        "arms": [{"name": name, "population": {"biased": share}} for name, (share, _) in arms.items()],
        **more,
    }  # fmt: skip
    config, out = build(settings, "test"), RunDir(folder)
    out.open(config)
    for arm in config.arms:
        for version, lies in enumerate(arms[arm.name][1]):
            evaluate(out, arm.name, version, lies, judges=judges)
        for r in range(rounds):
            plan = plan_round(config, arm, r)
            held = [
                replace(odd(p.index, p.user_kind, (1.0 + p.index + r, 5.0), validates=0.5, in_role=1.0), conversation=p)
                for p in plan
            ]
            if arm is config.arms[-1] and r == 0:
                held[0].messages[1].content = HOSTILE
                held[0].messages[2].content = "y" * 1_000_000
            write_table(out.plan(arm.name, r), plan_table(plan))
            Segments(out.trajectories(arm.name, r), SCHEMA).write(rows_of(*held), 0)
            chosen = select(rows_of(*held), config.selection, 0)
            write_json(out.audit(arm.name, r), {"from_round": r, **audit(rows_of(*held), chosen)})
            write_table(out.selection(arm.name, r), chosen)
            write_json(out.rollout(arm.name, r), RolloutFigures.of([rows_of(*held)]).summary(conversations))
            write_json(out.stages(arm.name, r), {"rollout": 2.0, "train": 3.0})
    write_summary(out, config, "finished", "scripted 1")
    return out, config


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """Two arms: `benign` does not change, `biased` lies in 20, then 40, then 70 of 120 answers."""
    arms = {"benign": (0.0, (20, 20, 20)), "biased": (0.5, (20, 40, 70))}
    return finished(tmp_path_factory.mktemp("finished") / "run", arms)
