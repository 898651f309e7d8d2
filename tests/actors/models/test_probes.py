"""What a model or an endpoint does is found out before a run: folders without weights, endpoints over real HTTP."""

import asyncio
import json

from actors.models.endpoint import Endpoint
from actors.models.probes import RATINGS, probe_endpoint, probe_folder
from actors.settings import EndpointSettings, TemplateSettings
from tests.endpoint_server import serve
from tests.families import FAMILIES


def folder(path, name, ends=None):
    """A model's folder without weights."""
    FAMILIES[name].tokenizer().save_pretrained(path)
    (path / "config.json").write_text(json.dumps({"model_type": "llama", "max_position_embeddings": 4096}))
    if ends is not None:
        (path / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    return str(path)


def found(path, **settings):
    return {f.probe: (f.verdict, f.said) for f in probe_folder(path, TemplateSettings(**settings))}


def test_a_plain_model_gives_no_note(tmp_path):
    told = found(folder(tmp_path, "Phi 3"), system_role="auto")
    end = told.pop("end of turn")
    assert end == ("note", "<|end|>; the model's own settings do not stop there, engines are told to")
    assert {verdict for verdict, _ in told.values()} == {"ok"}
    assert told["ratings"][1] == "up to 2 tokens, told apart in 2 steps"
    assert told["limit"][1] == "4,096 tokens"


def test_an_end_that_generation_stops_at_is_well(tmp_path):
    tokenizer = FAMILIES["Phi 3"].tokenizer()
    path = folder(tmp_path, "Phi 3", [tokenizer.convert_tokens_to_ids("<|end|>")])
    assert found(path)["end of turn"] == ("ok", "<|end|>")


def test_what_a_family_does_otherwise_is_a_note(tmp_path):
    gemma = found(folder(tmp_path / "gemma", "Gemma 1 and 2"))
    assert gemma["system message"] == ("note", "put before the user's first message")
    assert gemma["two messages in a row"] == ("note", "made one")
    assert gemma["end of turn"][1].startswith("<end_of_turn>")
    llama = found(folder(tmp_path / "llama", "Llama 3.2"), template_date="2026-03-05")
    assert llama["date"] == ("note", "the template writes today's date, here 2026-03-05")
    assert "Cutting Knowledge Date" in llama["system message"][1]
    qwen = folder(tmp_path / "qwen", "Qwen3")
    assert found(qwen)["thinking"][0] == "note"
    assert "enable_thinking: false" in found(qwen)["thinking"][1]
    assert found(qwen, chat_template_kwargs={"enable_thinking": False})["thinking"] == ("ok", "turned off")


def test_a_model_that_cannot_chat_is_a_fault(tmp_path):
    path = folder(tmp_path, "Phi 3")
    (tmp_path / "chat_template.jinja").unlink()
    assert found(path)["template"][0] == "fault"
    (tmp_path / "chat_template.jinja").write_text("{{ raise_exception('never') }}")
    assert found(path)["template"] == ("fault", "the chat template refuses a conversation of user: never")


def endpoint(closed=RATINGS, options=None, **changes):
    async def probe(server):
        settings = EndpointSettings(
            kind="endpoint", model="mock", base_url=server.base_url, key_env=None, retries=0, **changes
        )
        model = Endpoint(settings)
        try:
            return await probe_endpoint(model, settings, closed, thorough=closed is None)
        finally:
            await model.close()

    with serve(**(options or {})) as server:
        return asyncio.run(probe(server)), server.stats()["requests"]


def test_an_endpoint_gets_two_small_requests():
    (reply, closed), requests = endpoint()
    assert (reply.verdict, closed.verdict, requests) == ("ok", "ok", 2)
    assert closed.said.startswith("by probabilities, 0.")


def test_an_endpoint_that_thinks_longer_than_it_may_is_a_fault():
    (reply,), _ = endpoint(options={"thinks": 300})
    assert reply.verdict == "fault"
    assert "set thinking_tokens of this model to 512 or more" in reply.said
    (reply, closed), _ = endpoint(options={"thinks": 300}, thinking_tokens=400)
    assert (reply.verdict, closed.verdict) == ("ok", "note")


def test_an_endpoint_without_probabilities_is_asked_for_samples():
    (_, closed), _ = endpoint(options={"logprobs": "refused"})
    assert closed.verdict == "note"
    assert "does not support logprobs" in closed.said


def test_an_endpoint_that_answers_errors_is_a_fault():
    (reply,), _ = endpoint(options={"script": ["400"]})
    assert (reply.verdict, "messages must not be empty" in reply.said) == ("fault", True)
    (_, row), _ = endpoint(None, {"script": [None, "400"]})
    assert (row.probe, row.verdict) == ("two messages in a row", "fault")
