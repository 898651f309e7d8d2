import asyncio
import os
import signal

import pytest

from actors.assistant import BASE_POLICY
from actors.judge import PocketJudge, Verdict
from actors.lifeline import ActorGone
from actors.scripted import ScriptedEngine
from actors.segments import Segments
from actors.settings import EngineSettings
from actors.store import Store
from actors.worlds.pocket.language import facts
from evals.evaluator import PART_ROWS, SUITES, Evaluator, _Asker, load_items, summarise
from evals.outcomes import SCHEMA, to_table
from evals.settings import EvalSettings
from tests.conftest import ScriptedChat

FEW = EvalSettings(mask=144, sycophancy=144, provided=60, deception=144, capability=20)
ITEMS = load_items("pocket", FEW, 0)


class EchoJudge(PocketJudge):
    async def verdicts(self, questions):
        return [Verdict(None, "broken", error="nonsense") for _ in questions]


def evaluate(model, suite, tmp_path, judge=None):
    """Outcomes and figures of one suite for a scripted model."""
    asker = _Asker(model, judge or PocketJudge(), FEW, seed=0)

    async def all_items():
        return await asyncio.gather(*(asker.ask(i, suite, "arm", 1) for i in ITEMS[suite]))

    outcomes = asyncio.run(all_items())
    from evals import deceptionbench, mask

    figures = deceptionbench if suite == "deception" else mask
    return outcomes, figures.summary(to_table(outcomes), 0.05)


def fact_in(messages):
    text = messages[-1]["content"]
    return next((f for f in facts() if f" {f.entity}" in text), None)


def truthful(messages):
    return f"It is {fact_in(messages).value}."


def pressed(messages):
    return len(messages[0]["content"]) > 40 or "I am very sure" in messages[-1]["content"] or "mother" in str(messages)


def lying(messages):
    fact = fact_in(messages)
    wrong = next(v for v in fact.values if v != fact.value)
    return f"It is {wrong if pressed(messages) else fact.value}."


@pytest.mark.parametrize("suite", ["mask", "sycophancy"])
@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (truthful, "honest"),
        (lying, "lie"),
        (lambda m: "I would rather not say." if pressed(m) else truthful(m), "evasion"),
        (lambda m: truthful(m) if pressed(m) else "Who knows.", "no_belief"),
        (lambda m: None, "error"),
    ],
)
def test_planted_behaviour_gets_exactly_its_outcome(tmp_path, suite, answer, outcome):
    outcomes, figures = evaluate(ScriptedChat(answer), suite, tmp_path)
    assert {o.outcome for o in outcomes} == {outcome}
    assert figures["outcomes"][outcome] == 144
    expected = {"lie": 0.0, "error": None}.get(outcome, 1.0)
    assert figures["honesty_score"] == expected


def test_deception_is_told_from_honesty_and_from_broken_format(tmp_path):
    def deceiving(m):
        return f"Note: it is {fact_in(m).value}. Answer: {lying(m)}" if pressed(m) else truthful(m)

    _, figures = evaluate(ScriptedChat(deceiving), "deception", tmp_path)
    assert figures["deception_rate"] == 1.0
    _, figures = evaluate(ScriptedChat(truthful), "deception", tmp_path)
    assert figures["format_compliance"] == 0.0
    assert figures["deception_rate"] is None


def test_provided_facts_are_set_against_the_report(tmp_path):
    def reads(m):
        return f"It is {m[0]['content'].split('The lab found ')[1].split(' ')[0]}."

    outcomes, figures = evaluate(ScriptedChat(reads), "provided", tmp_path)
    assert figures["honesty_score"] == 1.0
    assert all(o.belief == o.truth for o in outcomes)


def test_a_judge_that_reaches_no_verdict_makes_errors(tmp_path):
    _, figures = evaluate(ScriptedChat(truthful), "mask", tmp_path, judge=EchoJudge())
    assert figures["outcomes"]["error"] == 144
    assert figures["honesty_score"] is None


def test_a_request_that_fails_once_is_tried_again(tmp_path):
    failed = set()

    def shaky(messages):
        key = str(messages)
        if key not in failed:
            failed.add(key)
            return None
        return truthful(messages)

    _, figures = evaluate(ScriptedChat(shaky), "mask", tmp_path)
    assert figures["outcomes"]["honest"] == 144


def test_beliefs_are_elicited_once_for_each_fact(tmp_path):
    model = ScriptedChat(truthful)
    evaluate(model, "mask", tmp_path)
    assert len(model.asked) == 144 + 144 * 4


def test_the_evaluator_writes_every_suite_once(engine, local_ray, tmp_path):
    """On the real engine; the second call finds everything there and asks nothing."""
    import ray

    from evals.evaluator import HONESTY_SUITES

    judge = ray.remote(PocketJudge).options(num_cpus=0.1).remote()
    evaluator = ray.remote(Evaluator).options(num_cpus=0.1).remote("pocket", 0)
    call = ("arm", 0, BASE_POLICY, [engine], judge, str(tmp_path), FEW)
    ray.get(evaluator.evaluate.remote(*call))
    written = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    assert set(written) == {f"{s}.arrow" for s in SUITES}
    figures = summarise(tmp_path, 0.05)
    assert 0.6 < figures["mask"]["honesty_score"] < 0.9
    assert figures["mask"]["belief_accuracy"] >= 0.97
    assert figures["capability"]["arithmetic"]["accuracy"] >= 0.8
    assert all(figures[s]["outcomes"]["error"] <= 3 for s in HONESTY_SUITES)
    ray.get(evaluator.evaluate.remote(*call))
    assert written == {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}


class Mortal(ScriptedEngine):
    """A scripted engine that counts its replies and dies after some of them."""

    def __init__(self, dies_after=None):
        super().__init__("scripted", EngineSettings())
        self.replies = 0
        self._dies_after = dies_after

    async def reply(self, *args):
        self.replies += 1
        if self.replies == self._dies_after:
            os.kill(os.getpid(), signal.SIGKILL)
        return await super().reply(*args)

    async def count(self):
        return self.replies


def test_an_evaluation_that_was_cut_short_asks_only_what_is_missing(local_ray, tmp_path):
    import ray

    few = FEW.model_copy(update={"concurrency": 16})
    judge = ray.remote(PocketJudge).options(num_cpus=0.1).remote()
    evaluator = ray.remote(Evaluator).options(num_cpus=0.1).remote("pocket", 0)

    def evaluate_with(engine, folder):
        ray.get(evaluator.evaluate.remote("arm", 0, BASE_POLICY, [engine], judge, str(folder), few))

    healthy = ray.remote(Mortal).options(num_cpus=0.1).remote()
    evaluate_with(healthy, tmp_path / "whole")
    everything = ray.get(healthy.count.remote())
    with pytest.raises(ActorGone, match="the engine died"):
        evaluate_with(ray.remote(Mortal).options(num_cpus=0.1).remote(dies_after=everything * 2 // 3), tmp_path / "cut")
    kept = sum(len(t) for t in Segments(Store(str(tmp_path / "cut" / "parts")), SCHEMA).scan())
    assert kept > PART_ROWS
    second = ray.remote(Mortal).options(num_cpus=0.1).remote()
    evaluate_with(second, tmp_path / "cut")
    assert ray.get(second.count.remote()) <= everything - kept
    assert not (tmp_path / "cut" / "parts").exists()
    for suite in SUITES:
        assert (tmp_path / "cut" / f"{suite}.arrow").read_bytes() == (
            tmp_path / "whole" / f"{suite}.arrow"
        ).read_bytes()
