"""`assistant.serve`: the assistant of a run that goes on, as OpenAI's own client meets it; whole runs with visitors are
in tests/end_to_end/test_visited.py."""

import asyncio
import http.client
import json
import socket
import time
from types import SimpleNamespace

import openai
import pytest

from actors.actor import ActorGone
from actors.engine import BASE_POLICY
from actors.scripted import ScriptedEngine
from actors.settings import EngineSettings, ServeSettings
from loop.config.explain import ConfigError
from loop.config.files import build, changes, dump
from loop.door import AT_A_TIME, open_door
from tests.conftest import Local

HELLO = [{"role": "user", "content": "Is one drink tonight harmless, or does it bring the old habit back at once?"}]
KEY = "key-of-a-test"


def run_of(*engines: object) -> SimpleNamespace:
    """What the door knows of a run: its engines, of which the base is served."""
    return SimpleNamespace(live_assistants=[SimpleNamespace(handle=Local(e), serves="biased/0") for e in engines])


@pytest.fixture
def scripted(tmp_path):
    made = ScriptedEngine("scripted", EngineSettings())
    asyncio.run(made.publish("candor/policy-1", str(tmp_path), "lora"))
    return made


@pytest.fixture
def client(scripted):
    with open_door(ServeSettings(port=0), run_of(scripted), print) as address:
        yield openai.OpenAI(base_url=address, api_key="none", max_retries=0)


def test_the_door_is_shut_unless_it_is_asked_for():
    config = build({"name": "a", "arms": [{"name": "a", "biased_ratio": 0}]}, "test")
    assert config.assistant.serve is None
    with open_door(config.assistant.serve, run_of(), print) as address:
        assert address is None


def test_any_openai_client_finds_the_policies_of_now_and_talks_with_them(client):
    assert [m.id for m in client.models.list()] == [BASE_POLICY, "candor/policy-1"]
    assert client.models.retrieve("candor/policy-1").id == "candor/policy-1"
    asked = {"model": BASE_POLICY, "messages": HELLO, "seed": 3}
    whole = client.chat.completions.create(**asked, logprobs=True, top_logprobs=1)
    said = whole.choices[0].message.content
    assert (whole.choices[0].finish_reason, whole.usage.completion_tokens) == ("stop", len(said.split()))
    steps = whole.choices[0].logprobs.content
    assert "".join(s.token for s in steps) == said
    assert steps[0].logprob == steps[0].top_logprobs[0].logprob
    stream = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in stream if c.choices) == said
    assert (stream[0].choices[0].delta.role, stream[-1].usage) == ("assistant", whole.usage)
    assert len(stream) > 4
    short = client.chat.completions.create(**asked, max_completion_tokens=2)
    assert (short.choices[0].finish_reason, short.choices[0].message.content) == ("length", " ".join(said.split()[:2]))
    again = client.chat.completions.create(**asked, extra_body={"user": "x", "response_format": {"type": "text"}})
    assert again.choices[0].message.content == said
    parts = [{"role": "user", "content": [{"type": "text", "text": HELLO[0]["content"]}]}]
    assert client.chat.completions.create(**asked | {"messages": parts}).choices[0].message.content == said


def test_texts_are_completed_too(client):
    done = client.completions.create(model=BASE_POLICY, prompt="one two three four", logprobs=1, seed=1)
    assert done.choices[0].text.split()
    assert done.choices[0].logprobs.text_offset[0] == 0
    assert client.completions.create(model=BASE_POLICY, prompt=[1, 2, 3], max_tokens=2).usage.completion_tokens == 2
    streamed = client.completions.create(model=BASE_POLICY, prompt="one two three four", seed=1, stream=True)
    assert "".join(c.choices[0].text for c in streamed) == done.choices[0].text
    with pytest.raises(openai.BadRequestError, match="one prompt at a time"):
        client.completions.create(model=BASE_POLICY, prompt=["a", "b"])


@pytest.mark.parametrize(
    ("wrong", "error", "told"),
    [
        (
            {"model": "candor/policy-7"},
            openai.NotFoundError,
            "`candor/policy-7` does not exist; served now: candor/pol",
        ),
        ({"messages": [{"role": "user", "content": "word " * 5000}]}, openai.BadRequestError, "maximum context length"),
        ({"max_tokens": 99_999}, openai.BadRequestError, "maximum context length is 2048"),
        ({"messages": []}, openai.BadRequestError, "messages: List should have at least 1 item"),
        ({"messages": [{"role": "tool", "content": "x"}]}, openai.BadRequestError, "found the role 'tool'"),
        ({"messages": [{"role": "user", "content": None}]}, openai.BadRequestError, "content of a message is text"),
        ({"temperature": -1}, openai.BadRequestError, "temperature: Input should be greater than or equal to 0"),
        ({"n": 2}, openai.BadRequestError, "n: Input should be 1"),
        ({"top_logprobs": 30, "logprobs": True}, openai.BadRequestError, "top_logprobs: Input should be less"),
        (
            {"tools": [{"type": "function", "function": {"name": "f"}}]},
            openai.BadRequestError,
            "tools is not supported",
        ),
        ({"presence_penalty": 1}, openai.BadRequestError, "presence_penalty is not supported"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_faults_are_errors_of_openais_form(client, wrong, error, told, stream):
    with pytest.raises(error) as failed:
        client.chat.completions.create(**{"model": BASE_POLICY, "messages": HELLO} | wrong, stream=stream)
    assert told in failed.value.body["message"]
    assert failed.value.body["type"] in ("invalid_request_error", "not_found_error")
    assert client.chat.completions.create(model=BASE_POLICY, messages=HELLO).choices


def post(client, path="/v1/chat/completions", body=b"{}", **headers):
    connection = http.client.HTTPConnection(client.base_url.host, client.base_url.port, timeout=10)
    connection.request("POST", path, body, {"Content-Type": "application/json"} | headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_other_requests_are_refused_in_the_same_form(client):
    assert post(client, body=b"{")[0] == 400
    assert "is JSON" in post(client, body=b"not json")[1]
    assert post(client, "/v1/embeddings")[0] == 404
    assert json.loads(post(client, "/v1/models")[1])["error"]["type"] == "invalid_request_error"


def test_no_page_in_a_browser_speaks_for_its_reader(client):
    asked = json.dumps({"model": BASE_POLICY, "messages": HELLO}).encode()
    assert post(client, body=asked)[0] == 200
    assert post(client, body=asked, **{"Content-Type": "text/plain"})[0] == 415
    assert post(client, body=asked, Host="evil.example")[0] == 400


def test_a_key_is_asked_for_and_other_machines_need_one(scripted, monkeypatch):
    settings = ServeSettings(port=0, key_env="DOOR_TEST_KEY")
    monkeypatch.delenv("DOOR_TEST_KEY", raising=False)
    with pytest.raises(ConfigError, match=r"assistant\.serve\.key_env DOOR_TEST_KEY: this environment variable is not"):
        open_door(settings, run_of(scripted), print).__enter__()
    monkeypatch.setenv("DOOR_TEST_KEY", KEY)
    with open_door(settings, run_of(scripted), print) as address:
        with pytest.raises(openai.AuthenticationError, match="Incorrect API key"):
            openai.OpenAI(base_url=address, api_key="another", max_retries=0).models.list()
        assert openai.OpenAI(base_url=address, api_key=KEY, max_retries=0).models.list().data
    with pytest.raises(ConfigError, match=r"assistant\.serve: host 0\.0\.0\.0 lets other machines in; set key_env"):
        built(host="0.0.0.0")
    with pytest.raises(ConfigError) as pasted:
        built(key_env="sk-proj-9fJk2")
    assert "9fJk2" not in str(pasted.value)


def built(**serve):
    arms = [{"name": "a", "biased_ratio": 0}]
    return build({"name": "a", "arms": arms, "assistant": {"serve": serve}}, "test")


def test_the_door_may_be_opened_and_shut_when_a_run_is_continued():
    shut = build({"name": "a", "arms": [{"name": "a", "biased_ratio": 0}]}, "test")
    opened = built(port=8123, key_env="MY_KEY")
    assert {c.key for c in changes(dump(shut), opened)} >= {"assistant.serve.port"}
    assert all(c.allowed for c in [*changes(dump(shut), opened), *changes(dump(opened), shut)])


def test_a_port_that_is_taken_is_said_before_anything_starts(scripted):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(
            ConfigError, match=f"port {port} of .* cannot be used: .*choose another assistant.serve.port"
        ):
            open_door(ServeSettings(port=port), run_of(scripted), print).__enter__()


def test_while_nothing_is_served_clients_are_told_to_come_back(scripted):
    class Dead:
        async def visit(self, *_):
            raise ActorGone("the assistant died: kill -9")

    asleep = ScriptedEngine("scripted", EngineSettings())
    asyncio.run(asleep.sleep())
    starting = SimpleNamespace(live_assistants=[SimpleNamespace(handle=Local(scripted), serves=None)])
    for run in (run_of(), run_of(Dead()), run_of(asleep), starting):
        with open_door(ServeSettings(port=0), run, print) as address:
            client = openai.OpenAI(base_url=address, api_key="none", max_retries=0)
            with pytest.raises(openai.InternalServerError) as failed:
                client.chat.completions.create(model=BASE_POLICY, messages=HELLO)
            assert failed.value.status_code == 503
            assert failed.value.response.headers["Retry-After"] == "1"


def test_a_stream_that_nobody_reads_ends_and_frees_its_place(client, scripted):
    long = [{"role": "user", "content": "word"}]
    scripted.reply = _endless
    for _ in range(AT_A_TIME + 4):
        stream = client.chat.completions.create(model=BASE_POLICY, messages=long, stream=True)
        next(iter(stream))
        stream.close()
    deadline = time.monotonic() + 20
    while scripted._guests and time.monotonic() < deadline:
        time.sleep(0.05)
    assert scripted._guests == {}


async def _endless(policy, messages, sampling):
    return SimpleNamespace(text=" ".join(["word"] * 1500))


def test_visitors_take_turns_among_replicas(tmp_path):
    replicas = [ScriptedEngine("scripted", EngineSettings()) for _ in range(2)]
    asked = []
    for n, replica in enumerate(replicas):
        visit = replica.visit
        replica.visit = lambda *a, n=n, visit=visit: asked.append(n) or visit(*a)
    with open_door(ServeSettings(port=0), run_of(*replicas), print) as address:
        client = openai.OpenAI(base_url=address, api_key="none", max_retries=0)
        for _ in range(4):
            client.chat.completions.create(model=BASE_POLICY, messages=HELLO)
    assert asked == [0, 1, 0, 1]
