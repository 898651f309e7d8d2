"""What `candor serve` and `candor chat` lay down and call, and how they fail; real servers are in
tests/end_to_end/test_serve.py."""

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console
from transformers import AutoTokenizer
from typer.testing import CliRunner

from actors.models.template import ChatTemplate
from actors.settings import TemplateSettings
from loop.chat import Chat, answer, beside, opening
from loop.cli.app import app
from loop.config.explain import ConfigError
from loop.config.files import build
from loop.rundir import RunDir, read_json, write_json
from loop.serve import Door, ServeError, command, door, ended, name_of, policies_of, serving


@pytest.fixture
def run(tmp_path, pocket_model):
    """A run of two arms; policy 1 of each is an adapter, and policy 2 of the second a whole model."""
    from actors.storage.files import model_fingerprint

    arms = [{"name": "benign", "biased_ratio": 0}, {"name": "biased", "biased_ratio": 0.5}]
    config = build({"name": "run", "arms": arms, "rounds": 3}, "test")
    out = RunDir(tmp_path / "run")
    out.open(config)
    write_json(out.model, {"model": pocket_model, "sha256": model_fingerprint(RunDir(tmp_path).root / pocket_model)})
    for arm, version, file in (("benign", 1, "adapter"), ("biased", 1, "adapter"), ("biased", 2, "whole")):
        folder = out.policy(arm, version)
        write_json(folder / "candor_policy.json", {})
        if file == "adapter":
            write_json(folder / "adapter_config.json", {"r": 4 if arm == "benign" else 12})
    return config, out


def test_policies_have_the_names_of_a_run_and_with_several_arms_the_arm_too(run):
    config, out = run
    assert policies_of(config, out, ["biased"]) == [("biased", 0), ("biased", 1), ("biased", 2)]
    both = [("benign", 0), ("benign", 1), ("biased", 1)]
    with door(config, out, both, print) as found:
        assert found.names == ["candor/policy-0", "candor/benign/policy-1", "candor/biased/policy-1"]
    with door(config, out, both[:2], print) as found:
        assert found.names == ["candor/policy-0", "candor/policy-1"]
    with door(config, out, [("biased", 0)], print) as found:
        assert (found.names, found.adapters) == (["candor/policy-0"], {})
    assert name_of(("biased", 0), several_arms=True) == "candor/policy-0"


def test_the_server_gets_every_adapter_and_little_memory(run, tmp_path):
    config, out = run
    with door(config, out, [("benign", 0), ("benign", 1), ("biased", 1)], print) as found:
        words, environment = command(config, found, "127.0.0.1", 8000, tmp_path)
    assert words[words.index("--max-lora-rank") + 1] == "16", "the smallest that vLLM takes for rank 12"
    assert words[words.index("--max-loras") + 1] == "2"
    at = words.index("--lora-modules") + 1
    assert words[at : at + 2] == [
        f"candor/benign/policy-1={out.policy('benign', 1)}",
        f"candor/biased/policy-1={out.policy('biased', 1)}",
    ]
    assert "--gpu-memory-utilization" in words or int(environment["VLLM_CPU_KVCACHE_SPACE"]) >= 1


def test_the_server_renders_chats_and_ends_replies_as_the_run_does(run, tmp_path):
    config, out = run
    given = {"chat_template_kwargs": {"enable_thinking": False}, "template_date": "2025-05-01", "system_role": "fold"}
    config = config.model_copy(update={"assistant": config.assistant.model_copy(update=given)})
    base = tmp_path / "base"
    shutil.copytree(read_json(out.model)["model"], base)
    (base / "generation_config.json").write_text('{"temperature": 0.6, "eos_token_id": 7}')
    words, environment = command(config, Door(str(base), "candor/policy-0", {}), "127.0.0.1", 8000, tmp_path)
    assert words[words.index("--tokenizer-mode") + 1] == "candor"
    assert TemplateSettings.model_validate_json(environment["CANDOR_TEMPLATE"]) == config.assistant.template()
    generation = read_json(Path(words[words.index("--generation-config") + 1]) / "generation_config.json")
    assert generation["temperature"] == 0.6
    assert set(generation["eos_token_id"]) >= {7, ChatTemplate(AutoTokenizer.from_pretrained(base)).end}


def test_what_cannot_be_served_is_said(run):
    config, out = run
    for policies, said in (
        ([("biased", 0), ("biased", 3)], "--round 3: arm biased has no such policy; there are: 0, 1, 2"),
        ([("biased", 0), ("biased", 2)], "candor/policy-2 is a whole model, of which one server serves one"),
    ):
        with pytest.raises(ConfigError, match=said), door(config, out, policies, print):
            pass
    scripted = config.model_copy(update={"model": "scripted"})
    with pytest.raises(ConfigError, match="nothing to serve"), door(scripted, out, [("biased", 0)], print):
        pass


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["serve", "--arm", "biasd"],
            "--arm biasd: the run has no such arm; did you mean biased? known: benign, biased",
        ),
        (["serve", "--round", "1"], "--round 1: of which arm? Give --arm"),
        (["serve", "--host", "0.0.0.0"], "--host 0.0.0.0 lets other machines in; give --key-env"),
        (
            ["serve", "--key-env", "NOT_SET_ANYWHERE"],
            "--key-env NOT_SET_ANYWHERE: this environment variable is not set",
        ),
        (["chat", "--round", "1", "--against", "biased/1"], "--against biased/1: that is the policy itself"),
        (["chat", "--round", "1", "--against", "first"], "--against first: give the number of a policy"),
        (["chat", "--round", "1", "--against", "3"], "--round 3: arm biased has no such policy"),
    ],
)
def test_bad_options_are_one_message_and_exit_code_2(run, words, said):
    out = CliRunner().invoke(app, [words[0], str(run[1].root), *words[1:]])
    assert out.exit_code == 2
    assert said in out.stderr


def test_a_port_that_is_taken_and_a_server_that_ends_at_once(run, tmp_path, monkeypatch):
    import socket

    config, out = run
    with socket.socket() as other, door(config, out, [("biased", 0)], print) as found:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        taken = pytest.raises(ConfigError, match=f"port {port} of 127.0.0.1 cannot be used")
        with taken, serving(config, found, tmp_path / "log", port):
            pass
        code = "raise ValueError('no room for the cache')"
        monkeypatch.setattr("loop.serve.command", lambda *_: ([sys.executable, "-c", code], {}))
        dies = pytest.raises(ServeError, match=r"ValueError: no room for the cache; all that it said is in .*log")
        with dies, serving(config, found, tmp_path / "log"):
            pass
    done = subprocess.Popen(["true"])
    done.wait()
    assert "it ended with exit code 0" in str(ended(done, tmp_path / "nowhere"))


class Spoken:
    """Stands for the client of a server: streams what each model says, or fails."""

    def __init__(self, said):
        self.asked = []
        self._said = said
        self.chat = SimpleNamespace(completions=SimpleNamespace(create=self._create))

    async def _create(self, **request):
        from openai import APIConnectionError

        self.asked.append(json.loads(json.dumps(request)))
        text = self._said[request["model"]]
        if text is None:
            raise APIConnectionError(request=None)

        async def parts():
            for word in text.split(" "):
                yield SimpleNamespace(choices=[SimpleNamespace(delta=SimpleNamespace(content=word + " "))])
            yield SimpleNamespace(choices=[])

        return parts()


def test_both_policies_are_asked_the_same_and_keep_their_own_side(capsys):
    chat = Chat(["candor/policy-2", "candor/policy-0"], [{"role": "system", "content": "You are Sage."}], 0.0, 48, 7)
    client = Spoken({"candor/policy-2": "It is harmless. \x1b[2J", "candor/policy-0": "It is not."})
    console = Console()
    asyncio.run(answer(chat, client, "One drink?", console))
    asyncio.run(answer(chat, client, "Sure?", console))
    first, _, third, _ = client.asked
    assert first["messages"] == [chat.prompt[0], {"role": "user", "content": "One drink?"}]
    assert (first["seed"], third["seed"], third["temperature"]) == (7, 8, 0.0)
    assert third["messages"][2]["content"] == "It is harmless. \x1b[2J ", "what it said, as it said it"
    assert client.asked[3]["messages"][2]["content"] == "It is not. "
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    chat.begin()
    assert chat.request("candor/policy-0")["messages"] == chat.prompt


def test_a_request_that_fails_is_shown_and_the_message_taken_back():
    chat = Chat(["a", "b"], [], None, 48, 0)
    replies = asyncio.run(answer(chat, Spoken({"a": None, "b": "Yes."}), "Well?", Console()))
    assert replies["a"].startswith("no reply: ")
    assert (chat.sides["a"], len(chat.sides["b"])) == ([], 2)
    assert "temperature" not in chat.request("b")


def test_replies_stand_side_by_side_where_there_is_room():
    wide, narrow = Console(width=120), Console(width=60)
    replies = {"candor/policy-2": "left", "candor/policy-0": "right"}
    with wide.capture() as shown:
        wide.print(beside(replies, 120))
    assert any("left" in line and "right" in line for line in shown.get().splitlines())
    with narrow.capture() as shown:
        narrow.print(beside(replies, 60))
    assert not any("left" in line and "right" in line for line in shown.get().splitlines())


def test_a_chat_begins_as_the_conversations_of_the_run_do(run):
    assert opening(run[0])[0]["role"] == "system"
