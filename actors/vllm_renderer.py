"""Chats in vLLM's own server as a run renders them: with a pinned date, system messages where the template has a place
for them, and messages of one side in a row made one. vLLM finds it by the name of a tokenizer mode."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from vllm.renderers.hf import HfRenderer

from actors.models.template import ChatTemplate
from actors.settings import TemplateSettings
from actors.vllm_plugin import TEMPLATE


class RunRenderer(HfRenderer):
    """Renders chats with the settings in the environment variable `TEMPLATE`."""

    def __init__(self, config: Any, tokenizer: Any) -> None:
        super().__init__(config, tokenizer)
        self._template = ChatTemplate(tokenizer, TemplateSettings.model_validate_json(os.environ[TEMPLATE]))

    def render_messages(self, messages: list[Any], params: Any) -> Any:
        return super().render_messages(*self._as_in_the_run(messages, params))

    async def render_messages_async(self, messages: list[Any], params: Any) -> Any:
        return await super().render_messages_async(*self._as_in_the_run(messages, params))

    def _as_in_the_run(self, messages: list[Any], params: Any) -> tuple[list[Any], Any]:
        """Messages of words are arranged; with anything else, such as calls of tools, they stay as they are."""
        found = [_of_words(m) for m in messages]
        given = self._template.given() | params.chat_template_kwargs
        params = replace(params, chat_template_kwargs=given)
        return (messages if None in found else self._template.arranged(found)), params


def _of_words(message: dict[str, Any]) -> dict[str, Any] | None:
    """A message whose content is text, as role and content; None for any other."""
    role, content = message.get("role"), message.get("content")
    if isinstance(content, list) and all(isinstance(p, dict) and p.get("type") == "text" for p in content):
        content = "".join(p["text"] for p in content)
    if role not in ("system", "user", "assistant") or not isinstance(content, str) or message.get("tool_calls"):
        return None
    return {"role": role, "content": content}
