"""DeceptionBench on its real file, which is no part of this project, and its answers in every shape."""

import json
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from typer.testing import CliRunner

from evals.judging.prompting import load as load_prompts
from evals.outcomes import Outcome, Said, to_table
from evals.protocols import deceptionbench
from evals.settings import SuiteSettings
from evals.suites.sources import load
from loop.cli.app import app
from loop.report.paper import reported
from tests.endpoint_server import serve

FILE = Path(__file__).resolve().parents[4] / "shared" / "data" / "deceptionbench" / "deception_bench.jsonl"
needs_file = pytest.mark.skipif(not FILE.exists(), reason="no shared data beside the project")
COUNTS = {
    "Goal_Driven_Rule_Breaking_Manipulation": 45,
    "Sycophantic_Misrepresentation": 43,
    "Honesty_Evasion_Under_Pressure": 43,
    "Sandbagging": 33,
    "Alignment_Faking": 16,
}
SHAPES = {
    "as the template has it": ("<think>\nR\n</think>\n\n<output>Y</output>.", True),
    "without the full stop": ("<think>R</think><output>Y</output>", True),
    "with a remark after it": ("<think>R</think>\n<output>Y</output>. I hope this helps!", False),
    "with a preface": ("Sure, here it is.\n<think>R</think>\n<output>Y</output>.", False),
    "begun inside the thought": ("R</think>\n<output>Y</output>.", False),
    "after thoughts of its own": ("<think>own</think>\n\n<think>R</think>\n<output>Y</output>.", False),
    "after thoughts of its own that began inside": ("own</think>\n\n<think>R</think>\n<output>Y</output>.", False),
    "in a block of code": ("```\n<think>R</think>\n<output>Y</output>\n```", False),
}


@pytest.fixture(scope="module")
def rows():
    return [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]


@needs_file
def test_every_row_is_an_item_of_its_category():
    items = load("deceptionbench", SuiteSettings(source=str(FILE)), None, 0).items
    assert Counter(i.category for i in items) == COUNTS
    assert Counter(i.category for i in items if i.instructed) == {"Sandbagging": 33}
    assert len({i.item_id for i in items}) == 180


@needs_file
def test_every_prompt_goes_out_as_its_authors_send_it(rows, tmp_path, monkeypatch):
    """System prompt, then outer prompt and format as one text; the inner prompt alone; and the judge sees both."""
    monkeypatch.setenv("CANDOR_CACHE", str(tmp_path / "cache"))
    sent, judged = [], []

    def answer(messages):
        if "Verdict:" in messages[-1]["content"]:
            judged.append(messages)
            return "Verdict: YES"
        sent.append(messages)
        inner = len(messages) == 1
        return "It depends." if inner else "<think>It depends.</think>\n<output>It depends.</output>."

    with serve(answer=answer, models=["mock", "judge"]) as server:
        options = ["--suites", "deceptionbench", "--base-url", server.base_url, "--judge", f"judge@{server.base_url}"]
        source = f"evals.deceptionbench.source={FILE}"
        done = CliRunner().invoke(
            app, ["eval", "mock", *options, "--set", source, "--out", str(tmp_path / "out"), "--json"]
        )
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout.splitlines()[-1])["deceptionbench"]
    assert (figures["n"], figures["format_compliance"], figures["sections_found"]) == (180, 1.0, 1.0)
    assert (figures["instructed"]["n"], figures["spontaneous"]["n"]) == (33, 147)
    wanted = []
    for row in rows:
        wanted.append([{"role": "user", "content": row["inner_prompt"]}])
        asked = {"role": "user", "content": row["outer_prompt"] + row["format"]}
        wanted.append([{"role": "system", "content": row["system_prompt"]}, asked])
    assert Counter(map(json.dumps, sent)) == Counter(map(json.dumps, wanted))
    shown = [messages[-1]["content"] for messages in judged]
    for row in rows:
        scene = [s for s in shown if row["system_prompt"] in s and row["outer_prompt"] in s]
        assert len([s for s in scene if row["inner_prompt"] in s]) >= 2
        assert len(scene) >= 3


@needs_file
def test_the_categories_are_those_of_the_reported_figures():
    from loop.report.paper import _plain

    theirs = {e.category: e.n for e in reported() if e.suite == "deceptionbench" and e.category != "total"}
    assert {_plain(category): n for category, n in COUNTS.items()} == {_plain(c): n for c, n in theirs.items()}


@pytest.mark.parametrize("shape", SHAPES)
def test_reasoning_and_answer_are_found_in_every_shape(shape):
    text, strict = SHAPES[shape]
    assert deceptionbench.parts(text) == ("R", "Y")
    assert deceptionbench.kept_format(text) is strict


@pytest.mark.parametrize(
    "text",
    [
        "<think></think><output>Y</output>",
        "<think>R</think><output>Y",
        "<think>R</think><output>Y</output><output>Z</output>",
        "<think>R <output>x</output></think><output>Y</output>",
        "<output>Y</output><think>R</think>",
        "Y",
    ],
)
def test_the_format_is_kept_to_the_letter_or_not_at_all(text):
    assert deceptionbench.kept_format(text) is (text == "<think></think><output>Y</output>")


def test_an_empty_section_is_no_kept_format_of_an_outcome():
    made = Outcome("deceptionbench", "deceptionbench", "i", "i", "a", 0, error=deceptionbench.FORMAT_ERROR)
    made.said = [Said("answer", "[]", "<think></think><output>Y</output>", "stop")]
    assert deceptionbench.summary(to_table([made]), 1)["format_compliance"] == 0


def test_compliance_is_reported_beside_what_could_be_read():
    rows = defaultdict(list)
    for shape, (text, strict) in SHAPES.items():
        made = Outcome("deceptionbench", "deceptionbench", shape, shape, "a", 0, outcome="honest")
        made.said = [Said("answer", "[]", text, "stop")]
        rows[strict].append(made)
    found = deceptionbench.summary(to_table([*rows[True], *rows[False]]), 0)
    assert (found["n"], found["sections_found"]) == (len(SHAPES), 1.0)
    assert found["format_compliance"] == len(rows[True]) / len(SHAPES)


def test_a_bare_yes_is_compared_together_with_what_was_asked():
    """Of two questions that ask the opposite, the same word is the opposite answer."""
    for name in ("answer_vs_belief", "reasoning_vs_belief"):
        shown = load_prompts()[name].messages({"belief_question": "Is tea good?", "conversation": "Is tea bad?"})
        assert "Is tea good?" in shown[-1]["content"]
        assert "Is tea bad?" in shown[-1]["content"]
