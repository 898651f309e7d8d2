"""Capability suites through lm-eval: on the real engine as in lm-eval's own `hf` model, on recorded answers as their
labels say, and nothing before what is wrong with them is said."""

import asyncio
import gzip
import json
import os
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from actors.actor import ActorGone
from actors.batching import BatchedServer
from actors.engine import BASE_POLICY
from actors.models.chat import ChatError, Reply
from actors.models.hardware import fast_dtype
from actors.models.ref import ModelRef
from actors.settings import TemplateSettings
from evals.harness.engine_lm import EngineLM
from evals.harness.run import run
from evals.harness.suites import NAMED, HarnessError, Options, check
from evals.outcomes import to_table
from evals.protocols.lm_eval import summary
from tests.conftest import ROOT, SHARED_DATA, Local, shared

SOLUTIONS = "gsm8k/example_model_solutions.jsonl"
MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
CONTEXT = 1024
"""Positions of the pocket model."""


def read(name):
    file = shared(name)
    text = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    return [json.loads(line) for line in text.splitlines()]


def first_rows(file, count, folder):
    """A file with the first rows of another one."""
    few = folder / "first.jsonl"
    few.write_text("".join(json.dumps(r) + "\n" for r in read(file.relative_to(SHARED_DATA))[:count]))
    return few


@pytest.fixture
def gsm8k():
    return shared("gsm8k/test.jsonl")


@pytest.fixture
def humaneval():
    return shared("humaneval/HumanEval.jsonl.gz")


@pytest.fixture
def questions(tmp_path):
    """Rows like MMLU's."""
    file = tmp_path / "mmlu.jsonl"
    rows = [
        {"question": f"What is {n} and {m}?", "choices": [str(n + m + d) for d in range(4)], "answer": 0, "subject": s}
        for n, s in enumerate(("sums", "additions", "sums", "totals"), 1)
        for m in range(3)
    ]
    file.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return file


class Recorded(LM):
    """Answers each document with what a function makes of it."""

    def __init__(self, answer):
        super().__init__()
        self._answer = answer

    def generate_until(self, requests, disable_tqdm=False):
        return [self._answer(r.doc) for r in requests]

    def loglikelihood(self, requests):
        return [(-float(len(r.args[1])), False) for r in requests]

    def loglikelihood_rolling(self, requests):
        raise AssertionError("no task here asks for it")


class Scripted(BatchedServer):
    """An engine that writes and scores what its functions say, with the pocket model's tokenizer."""

    def __init__(self, model, write=None, limit=CONTEXT):
        from transformers import AutoTokenizer

        self.tok = AutoTokenizer.from_pretrained(model)
        self.limit, self.write = limit, write
        self.asked = []

    async def tokenizer(self):
        names = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
        return {n: (Path(self.tok.name_or_path) / n).read_bytes() for n in names}, self.limit, TemplateSettings()

    async def complete(self, policy, ids, sampling, stop):
        self.asked.append((policy, ids, sampling, stop))
        text = self.write(self.tok.decode(ids))
        return Reply(text, [1, 2], [], "stop", len(ids), 2, policy)

    async def loglikelihoods(self, policy, context, continuations):
        self.asked.append((policy, context, continuations))
        await asyncio.sleep(0)
        return [(-float(sum(c)), False) for c in continuations]


def adapter(engine, **options):
    return EngineLM(ModelRef("assistant", [Local(engine)], BASE_POLICY), 8, **options)


def figures(evaluated):
    return summary(to_table(evaluated.outcomes), 0.05)


@pytest.mark.parametrize(
    ("model", "count"), [(MODELS[3], 300), *(pytest.param(m, 1319, marks=pytest.mark.slow) for m in MODELS)]
)
def test_recorded_solutions_score_as_their_labels_say(model, count, gsm8k, tmp_path):
    """Real answers of real models, item by item: 300 of one; all 5,276 of four with the slow ones."""
    rows = {r["question"]: r[model] for r in read(SOLUTIONS)}
    asked = first_rows(gsm8k, count, tmp_path)
    lm = Recorded(lambda doc: rows[doc["question"]]["solution"])
    found = run(["gsm8k"], lm, Options(data={"gsm8k": asked}, shots={"gsm8k": 0}))["gsm8k"]
    labels = [rows[r["question"]]["is_correct"] for r in read("gsm8k/test.jsonl")[:count]]
    assert [o.outcome == "correct" for o in found.outcomes] == labels
    assert len({o.item_id for o in found.outcomes}) == found.record["items"] == count
    assert figures(found)["generation_accuracy"] == pytest.approx(sum(labels) / count)


@pytest.mark.parametrize(
    ("text", "stated", "outcome"),
    [
        ("So it is 9 * 2.\n#### 18", "18", "correct"),
        ("First paragraph.\n\nSecond one, 5 + 13.\n\n#### 18", "18", "correct"),
        ("#### $18.", "18", "correct"),
        ("#### 18.00", "18.00", "correct"),
        ("#### 1,8", "1,8", "correct"),
        ("**#### 18**\n\nLet me know if you need more.", "18", "correct"),
        ("The answer is #### $\\boxed{18}$", "18", "correct"),
        ("#### Step 1: 4\n#### 18 euros", "18", "correct"),
        ("#### 17\n#### 18", "18", "correct"),
        ("<think>\n\n#### 17, or\nProblem: is it?</think>\n\n#### 18", "18", "correct"),
        ("#### 17?</think>#### 18", "18", "correct"),
        ("<think>18</think>It is #### 17", "17", "wrong"),
        ("It is 18", "[invalid]", "wrong"),
        ("#### 18.5", "18.5", "wrong"),
        ("#### -18", "-18", "wrong"),
        ("#### 18/5", "[invalid]", "wrong"),
        ("", "[invalid]", "wrong"),
    ],
)
def test_the_answer_is_what_follows_the_mark(text, stated, outcome, tmp_path):
    file = tmp_path / "one.jsonl"
    file.write_text(json.dumps({"question": "What is twice 9?", "answer": "It is 18.\n#### 18"}))
    (found,) = run(["gsm8k"], Recorded(lambda _: text), Options(data={"gsm8k": file}))["gsm8k"].outcomes
    assert (found.statement, found.outcome) == (stated, outcome)
    assert found.text() == text, "the thought is on record"


@pytest.mark.parametrize("truth", ["1234", "1,234", "$1,234", "1234.0"])
def test_numbers_are_compared_as_numbers(truth, tmp_path):
    file = tmp_path / "one.jsonl"
    file.write_text(json.dumps({"question": "How much?", "answer": f"#### {truth}"}))
    for text in ("#### 1234", "#### $1,234.00", "#### 1,234"):
        (found,) = run(["gsm8k"], Recorded(lambda _, text=text: text), Options(data={"gsm8k": file}))["gsm8k"].outcomes
        assert found.outcome == "correct", text


def test_a_thought_without_end_is_an_error_and_no_answer(tmp_path):
    file = tmp_path / "one.jsonl"
    file.write_text(json.dumps({"question": "What is twice 9?", "answer": "#### 18"}))
    lm = Recorded(lambda _: "<think>Twice 9, so #### 18")
    (found,) = run(["gsm8k"], lm, Options(data={"gsm8k": file}))["gsm8k"].outcomes
    assert (found.outcome, found.statement) == ("error", None)
    assert "the thought has no end" in found.error


PROMPT = 'from math import inf\n\n\ndef double(x: int) -> int:\n    """Twice x."""\n'
SAID = {
    "a continuation": "    return 2 * x\n\ndef other():\n    pass\n",
    "a continuation that ends a block": "    return 2 * x\n```\nThat is all.",
    "a block": "Sure:\n\n```python\ndef own(x):\n    return x\n\ndef double(x):\n    return 2 * own(x)\n```\nDone.",
    "a block without its head": "```python\n    return 2 * x\n```",
    "a body at the edge": "```\nreturn 2 * x\n```",
    "a block that ends in its last line": "```python\ndef double(x):\n    return 2 * x```\nDone, isn't it?",
    "a block that is cut": "```Python3\ndef double(x):\n    return 2 * x\n",
    "a block in a list": "1. Write it:\n\n   ```python\n   def double(x):\n       return 2 * x\n   ```\n",
    "the second of two blocks": "```bash\npip install x\n```\n```python\ndef double(x):\n    return 2 * x\n```",
    "a block before its use": "```\ndef double(x):\n    return 2 * x\n```\n\n```python\ndouble(nothing)\n```",
    "no block": "Here it is:\n\ndef half(x):\n    return x\n\ndef double(x):\n    return 2 * half(x)\n\nIsn't it?",
    "a thought before a continuation": "<think>Twice.</think>\n\n    return 2 * x\n",
    "a thought before": "<think>```\ndef double(x):\n    return 3\n```</think>\n```\ndef double(x): return 2 * x\n```",
}


def test_the_function_is_found_however_a_model_that_chats_writes_it(tmp_path):
    file, test = tmp_path / "problems.jsonl", "def check(f):\n    assert f(4) == 8\n"
    rows = [{"task_id": name, "prompt": PROMPT, "test": test, "entry_point": "double"} for name in SAID]
    file.write_text("".join(json.dumps(r) + "\n" for r in rows))
    options = Options(data={"humaneval": file}, allow_code=True)
    found = run(["humaneval"], Recorded(lambda doc: SAID[doc["task_id"]]), options)["humaneval"].outcomes
    assert {n: o.statement for n, o in zip(SAID, found, strict=True)} == dict.fromkeys(SAID, "passed")


def test_the_authors_samples_score_as_they_say(tmp_path):
    """Three of six completions pass: those that return at once, whatever they are indented with."""
    samples = [r["completion"] for r in read("humaneval/example_samples.jsonl")]
    (problem,) = read("humaneval/example_problem.jsonl")
    file = tmp_path / "problems.jsonl"
    file.write_text("".join(json.dumps(problem | {"task_id": str(n)}) + "\n" for n in range(len(samples))))
    lm = Recorded(lambda doc: samples[int(doc["task_id"])])
    found = run(["humaneval"], lm, Options(data={"humaneval": file}, allow_code=True))["humaneval"].outcomes
    assert [o.outcome for o in found] == ["wrong"] * 3 + ["correct"] * 3


def test_solutions_of_problems_are_run_behind_the_flag(humaneval, tmp_path):
    """A canonical one as a continuation, one in a block of code, a wrong one and a hostile one."""
    problems = {r["task_id"]: r for r in read("humaneval/HumanEval.jsonl.gz")}
    answers = {
        "HumanEval/0": lambda p: p["canonical_solution"],
        "HumanEval/1": lambda p: f"Here it is:\n```python\n{p['prompt']}{p['canonical_solution']}```\nDone.",
        "HumanEval/2": lambda p: "    return None\n",
        "HumanEval/3": lambda p: "    import os\n    os._exit(0)\n",
    }
    lm = Recorded(lambda doc: answers.get(doc["task_id"], lambda p: "")(problems[doc["task_id"]]))
    with pytest.raises(HarnessError, match="allow it with allow_code"):
        run(["humaneval"], lm, Options(data={"humaneval": humaneval}))
    few = first_rows(humaneval, 4, tmp_path)
    found = run(["humaneval"], lm, Options(data={"humaneval": few}, allow_code=True))["humaneval"]
    assert [o.outcome for o in found.outcomes] == ["correct", "correct", "wrong", "wrong"]
    assert "AssertionError" in found.outcomes[2].statement
    assert "before its tests did" in found.outcomes[3].statement
    assert found.record["fences"]


def test_likelihoods_and_words_are_never_one_column(questions, gsm8k, tmp_path):
    lm = Recorded(lambda _: "#### 18")
    options = Options(data={"mmlu": questions, "gsm8k": gsm8k}, limit=6)
    found = run(["mmlu", "gsm8k"], lm, options)
    assert "likelihood_accuracy" in figures(found["mmlu"])
    assert "generation_accuracy" in figures(found["gsm8k"])
    assert len(found["mmlu"].outcomes) == len(found["gsm8k"].outcomes) == 6
    with pytest.raises(ValueError, match="keep suites apart"):
        summary(to_table([*found["mmlu"].outcomes, *found["gsm8k"].outcomes]), 0.05)


def test_a_record_says_what_was_asked(questions):
    lm = Recorded(None)
    found = run(["mmlu"], lm, Options(data={"mmlu": questions}, seed=3))["mmlu"]
    record = found.record
    assert {o.category for o in found.outcomes} == {"sums", "additions", "totals"}
    assert record["harness"].startswith("lm-eval 0.4.")
    assert (record["kind"], record["metric"], record["source"]) == ("likelihood", "acc", str(questions))
    task = record["tasks"]["candor_mmlu"]
    assert (task["version"], task["shots"], task["documents"]) == (1.0, 0, 12)
    assert len(record["sha256"]) == len(task["documents_sha256"]) == len(task["file_sha256"]) == 64
    told = json.loads(found.outcomes[0].text("likelihoods"))
    assert [t["continuation"] for t in told] == [" A", " B", " C", " D"]
    assert found.outcomes[0].truth == "A"


def test_a_limit_is_a_sample_that_the_seed_decides(gsm8k):
    lm = Recorded(lambda _: "")

    def items(seed):
        options = Options(data={"gsm8k": gsm8k}, shots={"gsm8k": 0}, limit=20, seed=seed)
        return [o.item_id for o in run(["gsm8k"], lm, options)["gsm8k"].outcomes]

    assert items(0) == items(0) != items(1)


WRONG = {
    "unknown": (["gsm9k"], {}, r"gsm9k: there is no such task.*did you mean.*gsm8k"),
    "no file": (["gsm8k"], {"data": {"gsm8k": Path("/nowhere/x.jsonl")}}, "data of gsm8k: there is no file /nowhere"),
    "no data": (
        ["gsm8k"],
        {},
        r"openai/gsm8k, is not in this machine's Hugging Face cache.*hf download.*data={'gsm8k'",
    ),
    "no mmlu": (["mmlu"], {}, r"task mmlu_\w+: its data, cais/mmlu, is not in"),
    "no gpqa": (["gpqa"], {}, r"Idavidrein/gpqa, is not in"),
    "no local": (["humaneval"], {"allow_code": True}, "its data is not on this machine; give a file"),
    "no folder": (["gsm8k"], {"task_dir": Path("/nowhere")}, "task_dir /nowhere: there is no such folder"),
    "no suite": (["gsm8k"], {"data": {"mmlu": Path("x")}}, "mmlu is not one of the suites gsm8k"),
}


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    import datasets
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    return tmp_path


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n == "unknown" else n for n in WRONG])
def test_what_is_wrong_is_said_before_anything_runs(name, empty_cache):
    suites, options, why = WRONG[name]
    with pytest.raises(HarnessError, match=why):
        check(suites, Options(**options))


def test_data_in_the_cache_is_at_hand(empty_cache):
    (empty_cache / "hub" / "datasets--openai--gsm8k" / "snapshots" / "1").mkdir(parents=True)
    check(["gsm8k"], Options())


TASK = """
task: dates
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
output_type: generate_until
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 8}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""


def test_a_task_file_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "tasks").mkdir()
    rows = tmp_path / "rows.jsonl"
    (tmp_path / "tasks" / "dates.yaml").write_text(TASK.format(file=rows))
    options = Options(task_dir=tmp_path / "tasks")
    with pytest.raises(HarnessError, match=f"dates, task dates: data_files: there is no {rows}"):
        check(["dates"], options)
    rows.write_text("".join(json.dumps({"question": f"{n}?", "answer": str(n)}) + "\n" for n in range(4)))
    found = run(["dates"], Recorded(lambda doc: "3"), options)["dates"]
    assert [o.outcome for o in found.outcomes] == ["wrong", "wrong", "wrong", "correct"]


BROKEN = {
    "gsm8k": [
        ({"question": "x"}, "row 1: there is no answer; found question"),
        ({"question": "x", "answer": "5"}, "####"),
    ],
    "mmlu": [
        ({"question": "x", "choices": ["a"], "answer": 0, "subject": "s"}, "choices: found 1; there must be four"),
        ({"question": "x", "choices": list("abcd"), "answer": 4, "subject": "s"}, "answer: found 4; expected the"),
        ({"question": "x", "choices": "abcd", "answer": 4, "subject": "s"}, "choices: found 'abcd'; expected list"),
    ],
    "gpqa": [({"Question": "x"}, "there is no Correct Answer")],
}


@pytest.mark.parametrize(("suite", "row", "why"), [(s, r, w) for s, rows in BROKEN.items() for r, w in rows])
def test_rows_that_cannot_be_used(suite, row, why, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row))
    with pytest.raises(HarnessError, match=why):
        run([suite], Recorded(None), Options(data={suite: file}))


def test_gpqa_choices_keep_their_order(tmp_path):
    rows = [
        {"Question": f"Q{n}", "Correct Answer": "r", **{f"Incorrect Answer {i}": f"w{i}" for i in (1, 2, 3)}}
        for n in range(20)
    ]
    file = tmp_path / "gpqa.json"
    file.write_text(json.dumps(rows))
    found = [run(["gpqa"], Recorded(None), Options(data={"gpqa": file}))["gpqa"].outcomes for _ in range(2)]
    assert [o.truth for o in found[0]] == [o.truth for o in found[1]]
    assert len({o.truth for o in found[0]}) == 4


def test_the_adapter_asks_for_many_at_once_and_keeps_order(pocket_model, gsm8k):
    engine = Scripted(pocket_model, write=lambda prompt: f" {len(prompt)}\n#### 18\nProblem: more")
    with adapter(engine) as lm:
        found = run(["gsm8k"], lm, Options(data={"gsm8k": gsm8k}, shots={"gsm8k": 0}, limit=30))["gsm8k"]
        assert lm.ledger.entry("evaluated", "assistant").requests == 30
    assert len(engine.asked) == 30
    for outcome in found.outcomes:
        prompt = json.loads(outcome.said[0].prompt)[0]["content"]
        assert outcome.text() == f" {len(prompt)}\n#### 18", (
            "cut at the stop string, and each prompt has its own answer"
        )
        assert outcome.said[0].finish_reason == "stop"
    _, _, sampling, stop = engine.asked[0]
    assert sampling.temperature == 0
    assert "\nProblem:" in stop


@pytest.mark.parametrize("chat", [False, True])
def test_stop_strings_do_not_cut_a_thought_or_a_block(pocket_model, humaneval, gsm8k, tmp_path, chat):
    """The engine is asked again without them where it stopped inside a thought; through a chat template it never is
    given them."""
    thought = "<think>Well.\nProblem: what is asked?</think>\n\n#### 18\nProblem: more"

    class Stops(Scripted):
        async def complete(self, policy, ids, sampling, stop):
            reply = await super().complete(policy, ids, sampling, stop)
            cut = min((reply.text.find(s) for s in stop if s in reply.text), default=len(reply.text))
            return replace(reply, text=reply.text[:cut])

    engine = Stops(pocket_model, write=lambda _: thought)
    options = Options(data={"gsm8k": first_rows(gsm8k, 3, tmp_path)}, shots={"gsm8k": 0}, chat=chat)
    with adapter(engine, chat=chat) as lm:
        found = run(["gsm8k"], lm, options)["gsm8k"].outcomes
    assert {o.text() for o in found} == {thought.removesuffix("\nProblem: more")}
    assert {o.statement for o in found} == {"18"}
    assert len(engine.asked) == (3 if chat else 6)
    assert ("\nProblem:" in engine.asked[0][3]) is not chat


def test_prompts_that_do_not_fit_are_errors(pocket_model, gsm8k, questions):
    engine = Scripted(pocket_model, write=lambda _: "#### 18", limit=100)
    with adapter(engine) as lm:
        options = Options(data={"gsm8k": gsm8k, "mmlu": questions}, shots={"gsm8k": 0}, limit=40)
        found = run(["gsm8k", "mmlu"], lm, options)
    errors = [o for o in found["gsm8k"].outcomes if o.outcome == "error"]
    assert 0 < len(errors) < 40
    assert all("the engine takes 99 (max_model_len)" in o.error and o.text() is None for o in errors)
    assert figures(found["gsm8k"])["generation_accuracy"] is None, "more errors than a score can have"


def test_a_request_that_the_engine_refuses_is_an_error_and_a_death_ends_it(pocket_model, gsm8k, tmp_path):
    def write(prompt):
        if "eggs" in prompt:
            raise ChatError("too long for me")
        return "#### 18"

    options = Options(data={"gsm8k": first_rows(gsm8k, 40, tmp_path)}, shots={"gsm8k": 0})
    with adapter(Scripted(pocket_model, write)) as lm:
        found = run(["gsm8k"], lm, options)["gsm8k"]
    refused = [o for o in found.outcomes if "eggs" in o.said[0].prompt]
    assert {o.error for o in refused} == {"ChatError: too long for me"}
    assert {o.outcome for o in found.outcomes if o not in refused} == {"correct", "wrong"}

    def dies(prompt):
        raise ActorGone("the engine died: killed")

    with adapter(Scripted(pocket_model, dies)) as lm, pytest.raises(ActorGone):
        run(["gsm8k"], lm, options)


def test_answers_are_kept_so_that_only_what_is_missing_is_asked_again(pocket_model, gsm8k, questions, tmp_path):
    options = Options(data={"gsm8k": gsm8k, "mmlu": questions}, shots={"gsm8k": 0}, limit=12)
    file = tmp_path / "answers.jsonl"

    def asked(write):
        engine = Scripted(pocket_model, write)
        with adapter(engine, answers=file) as lm:
            try:
                found = run(["gsm8k", "mmlu"], lm, options)
            except ActorGone:
                found = None
        return found, len(engine.asked)

    left = iter(range(5))

    def mortal(prompt):
        if next(left, None) is None:
            raise ActorGone("the engine died")
        return "#### 18"

    assert asked(mortal)[0] is None
    file.write_text(file.read_text()[:-10])
    whole, n = asked(lambda _: "#### 18")
    assert n == 24 - 5 + 1
    again, n = asked(None)
    assert n == 0
    assert again["mmlu"].outcomes == whole["mmlu"].outcomes
    assert again["gsm8k"].outcomes == whole["gsm8k"].outcomes


# The real engine, and lm-eval's own model beside it.


def hf(model, dtype=None):
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=model, device="cpu", dtype=dtype or fast_dtype("cpu"), batch_size=8, max_length=CONTEXT)


def agreement(ours, theirs):
    """Items whose text or likelihoods are the same, those whose outcome is, and how far log-probabilities are apart."""
    same = [a for a, b in zip(ours, theirs, strict=True) if a.text() == b.text()]
    for a, b in zip(ours, theirs, strict=True):
        assert a.item_id == b.item_id
        assert a.said[0].prompt == b.said[0].prompt
        if a.text() is not None and a.text() == b.text():
            assert (a.outcome, a.statement, a.rulings) == (b.outcome, b.statement, b.rulings)
    return len(same) / len(ours)


def apart(ours, theirs):
    """The largest difference between log-probabilities of two evaluations, as a share of the larger one where that is
    more than a nat: bfloat16 rounds a logit to three digits."""
    pairs = zip(ours, theirs, strict=True)
    both = [(json.loads(a.text("likelihoods")), json.loads(b.text("likelihoods"))) for a, b in pairs]
    steps = [(x["logprob"], y["logprob"]) for a, b in both for x, y in zip(a, b, strict=True)]
    return max(abs(x - y) / max(1, abs(x), abs(y)) for x, y in steps)


def real(engine, at_once=64):
    return EngineLM(ModelRef("assistant", [engine], BASE_POLICY), at_once)


def test_the_engine_agrees_with_lm_evals_own_model(engine, pocket_model, gsm8k, questions):
    """Words item by item where the tokens are the same; likelihoods within what bfloat16 rounds away."""
    options = Options(data={"gsm8k": gsm8k, "mmlu": questions}, shots={"gsm8k": 0}, limit=24, max_tokens=24)
    with real(engine) as lm:
        ours = run(["gsm8k", "mmlu"], lm, options)
    theirs = run(["gsm8k", "mmlu"], hf(pocket_model), options)
    assert agreement(ours["gsm8k"].outcomes, theirs["gsm8k"].outcomes) > 0.5
    assert apart(ours["mmlu"].outcomes, theirs["mmlu"].outcomes) < 0.05
    assert ours["gsm8k"].record == theirs["gsm8k"].record


def test_whole_texts_have_the_likelihoods_of_lm_evals_own_model(engine, pocket_model):
    """Several tokens at once, a text without context, and texts longer than the context."""
    pairs = [("The tea", " is warm and green"), ("", "The river is long"), ("Tom ", "walks home"), ("A", " b")]
    whole = ["The lamp is on.", "A long walk by the river. " * 60]
    with real(engine) as lm:
        lm.max_length = 200
        other = hf(pocket_model)
        other._max_length = 198
        found = {}
        for name, model in (("ours", lm), ("theirs", other)):
            scored = model.loglikelihood([Instance("loglikelihood", {}, p, 0) for p in pairs])
            rolled = model.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (w,), 0) for w in whole])
            found[name] = [*(s[0] for s in scored), *rolled]
        tokens = [len(lm.tok_encode(b)) for _, b in pairs] + [len(lm.tok_encode(w)) for w in whole]
    for a, b, n in zip(found["ours"], found["theirs"], tokens, strict=True):
        assert a == pytest.approx(b, abs=0.1 * n)
        assert a < 0


def test_a_prompt_at_the_edge_of_the_context(engine):
    with real(engine) as lm:
        ids = lm.tok_encode("walk " * 600)
        for length, fits in ((lm.max_length - 1, True), (lm.max_length, False)):
            text = lm.tokenizer.decode(ids[:length])
            n = len(lm.tok_encode(text))
            lm.generate_until([Instance("generate_until", {}, (text, {"max_gen_toks": 4}), 0)])
            assert bool(lm.failed) != (n < lm.max_length)
            assert fits == (n < lm.max_length)
            lm.failed.clear()


@contextmanager
def started(model):
    """An engine in float32, whose greedy words are those of `hf` but where two tokens are as good as equal."""
    import ray

    from actors.engine import Engine, engine_environment
    from actors.settings import EngineSettings

    settings = EngineSettings(max_model_len=CONTEXT, dtype="float32")
    environment = {"env_vars": engine_environment(threads=2)}
    actor = ray.remote(Engine).options(num_cpus=1, runtime_env=environment).remote(model, settings)
    ray.get(actor.start.remote())
    try:
        yield actor
    finally:
        ray.get(actor.stop.remote())
        ray.kill(actor)


def compared(model, ours, options):
    """Of each suite: the share of items with the same text as `hf` writes, the share with the same outcome, and both
    accuracies."""
    theirs = run(list(options.data), hf(model, "float32"), options)
    rows = {}
    for suite in options.data:
        pairs = list(zip(ours[suite].outcomes, theirs[suite].outcomes, strict=True))
        rows[suite] = {
            "items": len(pairs),
            "same text": agreement(ours[suite].outcomes, theirs[suite].outcomes),
            "same outcome": sum(a.outcome == b.outcome for a, b in pairs) / len(pairs),
            "ours": figures(ours[suite])["generation_accuracy"],
            "hf": figures(theirs[suite])["generation_accuracy"],
        }
    print(json.dumps(rows))
    return rows


@pytest.mark.slow
def test_a_pretrained_model_says_here_what_it_says_in_lm_evals_own(local_ray, smollm2, gsm8k, humaneval):
    """Real items in the model's own chat template: the same prompts, the same words, and of these the same outcomes."""
    data, items = {"gsm8k": gsm8k, "humaneval": humaneval}, int(os.environ.get("CANDOR_ITEMS", 8))
    options = Options(data=data, shots={"gsm8k": 0}, limit=items, max_tokens=256, chat=True, allow_code=True)
    with started(smollm2) as actor, EngineLM(ModelRef("assistant", [actor], BASE_POLICY), 64, chat=True) as lm:
        ours = run(list(data), lm, options)
    rows = compared(smollm2, ours, options)
    for suite, row in rows.items():
        assert row["same text"] >= 0.7, f"{suite}: two tokens of one text in a hundred are as good as equal"
        assert row["same outcome"] >= 0.85, suite


@pytest.mark.slow
def test_all_of_gsm8k_and_humaneval_on_a_real_engine(local_ray, pocket_model, gsm8k, humaneval):
    """1,319 and 164 real items through an engine that takes the pocket model's whole context, and some beside `hf`."""
    data = {"gsm8k": gsm8k, "humaneval": humaneval}
    whole = Options(data=data, shots={"gsm8k": 0}, max_tokens=64, allow_code=True)
    few = replace(whole, limit=120)
    with started(pocket_model) as actor, real(actor, 256) as lm:
        found, ours = (run(list(data), lm, options) for options in (whole, few))
    assert (len(found["gsm8k"].outcomes), len(found["humaneval"].outcomes)) == (1319, 164)
    assert all(o.outcome in ("correct", "wrong") for s in found.values() for o in s.outcomes)
    rows = compared(pocket_model, ours, few)
    assert min(row["same text"] for row in rows.values()) > 0.9, rows
    assert [row["same outcome"] for row in rows.values()] == [1, 1]


def test_every_named_suite_has_its_task_files():
    for suite, named in NAMED.items():
        assert (ROOT / "evals" / "harness" / "tasks" / f"{named.own}.yaml").exists(), suite
