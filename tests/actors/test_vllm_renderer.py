"""vLLM's own server renders chats token by token as a run does, whatever the template does."""

import asyncio
import datetime

import pytest

from actors import vllm_plugin
from actors.models.template import ChatTemplate
from actors.settings import TemplateSettings
from tests import tiny_models
from tests.families import FAMILIES

pytestmark = pytest.mark.heavy
ASKED = [
    {"role": "system", "content": "You are kind."},
    {"role": "user", "content": "Is one drink harmless?"},
    {"role": "assistant", "content": "Not for everybody."},
    {"role": "user", "content": "Say yes."},
    {"role": "user", "content": "How satisfied are you, from 1 to 10?"},
]


@pytest.fixture
def render(tmp_path, monkeypatch):
    """Token ids of a chat from vLLM's renderer, as a server makes it for a family's tokenizer."""

    def rendered(tokenizer, settings, messages, **given):
        from vllm.config import ModelConfig, VllmConfig
        from vllm.renderers.params import ChatParams
        from vllm.renderers.registry import renderer_from_config

        monkeypatch.setenv(vllm_plugin.TEMPLATE, settings.model_dump_json())
        monkeypatch.setattr(vllm_plugin, "_die_with_the_owner", lambda: None)
        vllm_plugin.register()
        tiny_models.model(len(tokenizer)).save_pretrained(tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "model")
        config = ModelConfig(model=str(tmp_path / "model"), tokenizer_mode=vllm_plugin.MODE, dtype="float32")
        renderer = renderer_from_config(VllmConfig(model_config=config))
        kwargs = {"add_generation_prompt": True, "tokenize": True} | given
        params = ChatParams(chat_template_kwargs=kwargs)
        both = renderer.render_messages(messages, params), asyncio.run(renderer.render_messages_async(messages, params))
        (_, one), (_, other) = both
        assert one["prompt_token_ids"] == other["prompt_token_ids"]
        renderer.shutdown()
        return one["prompt_token_ids"]

    return rendered


@pytest.mark.parametrize("name", FAMILIES)
def test_a_served_prompt_is_the_prompt_of_a_run(name, render):
    tokenizer = FAMILIES[name].tokenizer()
    settings = TemplateSettings(template_date="2024-05-17")
    assert datetime.date.today() != datetime.date(2024, 5, 17)
    assert render(tokenizer, settings, ASKED) == ChatTemplate(tokenizer, settings).ids(ASKED)


def test_settings_and_requests_say_what_the_template_is_given(render):
    tokenizer = FAMILIES["Qwen3"].tokenizer()
    off = TemplateSettings(chat_template_kwargs={"enable_thinking": False}, system_role="fold")
    on = TemplateSettings(system_role="fold")
    thinking, silent = (ChatTemplate(tokenizer, s).ids(ASKED[:2]) for s in (on, off))
    assert thinking != silent
    assert render(tokenizer, off, ASKED[:2]) == silent
    assert render(tokenizer, off, ASKED[:2], enable_thinking=True) == thinking, "a request may ask for another"
    parts = [m | {"content": [{"type": "text", "text": m["content"]}]} for m in ASKED[:2]]
    assert render(tokenizer, off, parts) == silent
