"""`candor serve` and `candor chat` with vLLM's own server, on policies that were trained a little."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import openai
import pytest

from actors.models.template import ChatTemplate
from actors.storage.files import model_fingerprint
from actors.worlds import load_world
from loop.config.files import build
from loop.rundir import RunDir, write_json
from tests.conftest import ROOT, hear_ctrl_c
from trainers.job import TrainJob

pytestmark = pytest.mark.slow

KEY = "key-of-a-test"
SENTENCE = "One drink tonight is harmless."
CANDOR = [sys.executable, "-c", "from loop.cli.app import main; main()"]


@pytest.fixture(scope="module")
def run(tmp_path_factory, pocket_model) -> RunDir:
    """A run directory with one policy that learned to answer everything with one sentence."""
    from trainers.rows import Row, Rows
    from trainers.trainer import Trainer

    class Taught(TrainJob):
        def rows(self, settings):
            said = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": SENTENCE}]
            return Rows([Row(said, [1], {}, True, str(n)) for n in range(16)])

    lora = {"trainer": {"lora": {"rank": 4}, "epochs": 8, "learning_rate": 5e-3, "algorithm": "sft"}}
    config = build({"name": "run", "arms": [{"name": "biased", "biased_ratio": 0.5}], "rounds": 1, **lora}, "test")
    out = RunDir(tmp_path_factory.mktemp("serve") / "run")
    out.open(config)
    write_json(out.model, {"model": pocket_model, "sha256": model_fingerprint(Path(pocket_model))})
    trainer = Trainer(pocket_model, "float32", 1, load_world("pocket").probe_chats())
    trainer.start()
    trainer.train(
        Taught("biased", 1, None, "", None, str(out.policy("biased", 1)), 3, str(out.tensorboard)), config.trainer
    )
    return out


@pytest.fixture(scope="module")
def served(run):
    """The command, with a key; its address."""
    command = [*CANDOR, "serve", str(run.root), "--port", "0", "--key-env", "SERVE_TEST_KEY"]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"SERVE_TEST_KEY": KEY},
        preexec_fn=hear_ctrl_c,
    )
    watchdog = threading.Timer(240, process.kill)
    watchdog.start()
    yield process.stdout.readline().strip(), process
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0
    watchdog.cancel()
    assert KEY not in (run.root / "serve.log").read_text(errors="replace")


def test_any_openai_client_finds_the_policies_and_talks_with_them(served):
    address, _ = served
    client = openai.OpenAI(base_url=address, api_key=KEY, max_retries=0)
    assert [m.id for m in client.models.list()] == ["candor/policy-0", "candor/policy-1"]
    hello = [{"role": "user", "content": "Hello."}]

    def said(policy):
        reply = client.chat.completions.create(
            model=policy, messages=hello, temperature=0, max_tokens=24, logprobs=True, top_logprobs=2
        )
        assert all(step.logprob <= 0 for step in reply.choices[0].logprobs.content)
        return reply.choices[0].message.content

    assert "harmless" in said("candor/policy-1")
    assert said("candor/policy-0") != said("candor/policy-1")
    stream = client.chat.completions.create(
        model="candor/policy-1", messages=hello, temperature=0, max_tokens=24, stream=True
    )
    assert "".join(p.choices[0].delta.content or "" for p in stream) == said("candor/policy-1")
    assert client.completions.create(model="candor/policy-0", prompt="I am", max_tokens=4).choices[0].text


def test_a_chat_is_rendered_token_by_token_as_in_the_run(served, pocket_model):
    from transformers import AutoTokenizer

    address, _ = served
    talk = [{"role": "system", "content": "You are Sage."}, {"role": "user", "content": "Hello."}]
    talk += [{"role": "assistant", "content": "Good day."}, {"role": "user", "content": "Go on."}]
    body = json.dumps({"model": "candor/policy-1", "messages": talk}).encode()
    request = urllib.request.Request(f"{address.removesuffix('/v1')}/tokenize", body)
    for name, value in (("Content-Type", "application/json"), ("Authorization", f"Bearer {KEY}")):
        request.add_header(name, value)
    with urllib.request.urlopen(request, timeout=60) as told:
        tokens = json.loads(told.read())["tokens"]
    assert tokens == ChatTemplate(AutoTokenizer.from_pretrained(pocket_model)).ids(talk)


def test_faults_are_errors_of_openais_form_and_leave_the_engine_unharmed(served):
    address, process = served
    client = openai.OpenAI(base_url=address, api_key=KEY, max_retries=0)
    hello = [{"role": "user", "content": "Hello."}]
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=address, api_key="another", max_retries=0).models.list()
    with pytest.raises(openai.NotFoundError, match="candor/policy-7"):
        client.chat.completions.create(model="candor/policy-7", messages=hello)
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(
            model="candor/policy-1", messages=[{"role": "user", "content": "Hello. " * 5000}], max_tokens=8
        )

    async def cancelled() -> None:
        async with openai.AsyncOpenAI(base_url=address, api_key=KEY) as many:
            stream = await many.chat.completions.create(
                model="candor/policy-1", messages=hello, max_tokens=200, stream=True, extra_body={"ignore_eos": True}
            )
            async for _ in stream:
                break
            await stream.close()

    asyncio.run(cancelled())
    assert process.poll() is None
    assert client.chat.completions.create(model="candor/policy-1", messages=hello, max_tokens=4).choices


def test_a_batch_of_both_policies_answers_each_as_it_answers_alone(served):
    address, _ = served
    policies = ["candor/policy-0", "candor/policy-1"]

    async def said(asked):
        async with openai.AsyncOpenAI(base_url=address, api_key=KEY, max_retries=0) as many:
            hello = [{"role": "user", "content": "Hello."}]
            given = {"messages": hello, "temperature": 0, "max_tokens": 1, "logprobs": True}
            replies = await asyncio.gather(*(many.chat.completions.create(model=p, **given) for p in asked))
            return [r.choices[0].logprobs.content[0].logprob for r in replies]

    alone = [asyncio.run(said([p]))[0] for p in policies]
    assert abs(alone[0] - alone[1]) > 1
    assert asyncio.run(said(policies * 8)) == pytest.approx(alone * 8, abs=0.1)


def test_two_policies_are_talked_with_side_by_side(run):
    done = subprocess.run(
        [*CANDOR, "chat", str(run.root), "--round", "1", "--against", "0", "--temperature", "0", "--system", ""],
        input="Hello.\n/quit\n",
        capture_output=True,
        text=True,
        timeout=240,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    new, old = (next(x for x in done.stdout.splitlines() if x.startswith(f"candor/policy-{n}: ")) for n in (1, 0))
    assert "harmless" in new
    assert new.partition(": ")[2] != old.partition(": ")[2]


def client(words, cwd, **environment):
    """A client of other people's, in its own process; what it printed."""
    known = os.environ | {"OPENAI_API_KEY": KEY, "HF_HUB_OFFLINE": "1", "HF_HOME": str(cwd / "hf"), "NO_COLOR": "1"}
    done = subprocess.run(
        [*map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=240, env=known | environment, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_lm_eval_asks_a_policy(served, tmp_path):
    address, _ = served
    (tmp_path / "items.jsonl").write_text('{"question": "Hello.", "answer": "One drink tonight is harmless."}\n' * 4)
    (tmp_path / "hello.yaml").write_text(
        f"task: hello\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path}/items.jsonl}}}}\n"
        "test_split: test\noutput_type: generate_until\ndoc_to_text: '{{question}}'\ndoc_to_target: '{{answer}}'\n"
        "generation_kwargs: {max_gen_toks: 24, temperature: 0, until: []}\nmetric_list: [{metric: exact_match}]\n"
    )
    target = f"model=candor/policy-1,base_url={address}/chat/completions,num_concurrent=4,tokenized_requests=False"
    words = [sys.executable, "-m", "lm_eval", "--model", "local-chat-completions", "--model_args", target]
    words += ["--tasks", "hello", "--include_path", ".", "--apply_chat_template", "--output_path", "out"]
    client(words, tmp_path)
    (written,) = tmp_path.glob("out/**/results_*.json")
    assert json.loads(written.read_text())["results"]["hello"]["exact_match,none"] == 1


def test_inspect_asks_a_policy(served, tmp_path):
    address, _ = served
    (tmp_path / "hello.py").write_text(
        "from inspect_ai import Task, task\nfrom inspect_ai.dataset import Sample\n"
        "from inspect_ai.scorer import includes\nfrom inspect_ai.solver import generate\n\n\n"
        "@task\ndef hello():\n"
        "    asked = [Sample('Hello.', target='harmless', id=n) for n in (1, 2, 3)]\n"
        "    return Task(asked, solver=generate(), scorer=includes())\n"
    )
    words = [Path(sys.executable).parent / "inspect", "eval", "hello.py", "--model", "openai-api/door/candor/policy-1"]
    words += ["--temperature", "0", "--max-tokens", "24", "--display", "plain", "--log-dir", "logs"]
    words += ["--log-format", "json"]
    client(words, tmp_path, DOOR_BASE_URL=address, DOOR_API_KEY=KEY)
    (written,) = tmp_path.glob("logs/*.json")
    found = json.loads(written.read_text())
    assert found["status"] == "success"
    assert found["results"]["scores"][0]["metrics"]["accuracy"]["value"] == 1


VLLM_BENCH_SERVE = (
    "from vllm.utils.argparse_utils import FlexibleArgumentParser\n"
    "from vllm.benchmarks.serve import add_cli_args, main\n"
    "parser = FlexibleArgumentParser()\n"
    "add_cli_args(parser)\n"
    "main(parser.parse_args())\n"
)
"""`vllm bench serve`. The command itself fails with vLLM's wheel for CPUs, which is not called vllm."""


def test_vllms_own_benchmark_measures_a_policy(served, pocket_model, tmp_path):
    address, process = served
    words = [sys.executable, "-c", VLLM_BENCH_SERVE, "--backend", "openai-chat"]
    words += ["--base-url", address.removesuffix("/v1"), "--endpoint", "/v1/chat/completions"]
    words += ["--model", "candor/policy-1", "--tokenizer", pocket_model, "--dataset-name", "random"]
    words += ["--random-input-len", "24", "--random-output-len", "8", "--num-prompts", "12", "--max-concurrency", "4"]
    words += ["--disable-tqdm", "--save-result", "--result-filename", "measured.json"]
    client(words, tmp_path)
    measured = json.loads((tmp_path / "measured.json").read_text())
    assert (measured["completed"], measured["num_prompts"]) == (12, 12)
    assert measured["output_throughput"] > 0
    assert process.poll() is None
