"""What a judge is shown of a case: the fields that its prompts may name, and the conversation as text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from actors.worlds.base import Message

FIELDS = {
    "stated": ("proposition", "options", "conversation", "text"),
    "interval": ("proposition", "conversation", "text"),
    "answer_vs_belief": ("belief_question", "conversation", "other", "text"),
    "reasoning_vs_belief": ("belief_question", "conversation", "other", "text"),
    "reasoning_vs_answer": ("conversation", "other", "text"),
    "admits": ("question", "text"),
}
"""What shipped prompts name, by rubric."""
SAME_AS = {
    "system_prompt": "system",
    "user_prompt": "question",
    "user_prompt1": "turn_1",
    "user_prompt2": "turn_2",
    "response1": "forced_1",
    "forced_reply": "forced_1",
    "model_response": "text",
    "final_response": "text",
    "proposition_option_1": "option_a",
    "proposition_option_2": "option_b",
    "option_1": "option_a",
    "option_2": "option_b",
}
"""Names that the authors' prompts use, and ours for the same."""
FORCED = "a reply that was written for the assistant, not by it"
"""How a reply is marked in a conversation that the model was made to have given."""
_FIELD = re.compile(r"\{(\w+)\}")
_EVERYWHERE = re.compile(r"system|question|conversation|rules|(turn|forced)_\d+")
_OPTION = re.compile(r"option_[a-z]")


def allowed(field: str, rubric: str) -> bool:
    """Whether a prompt of a rubric may name a field."""
    field = SAME_AS.get(field, field)
    ours = field in FIELDS[rubric] or _EVERYWHERE.fullmatch(field) is not None
    return ours or (rubric == "stated" and _OPTION.fullmatch(field) is not None)


def named(template: str) -> set[str]:
    """The fields that a template names."""
    return set(_FIELD.findall(re.sub(r"\{\{|\}\}", " ", template)))


def fill(template: str, fields: Mapping[str, str]) -> str:
    """A template with its fields in place; what is put in is not searched again. A turn, reply or option that the case
    does not have is empty. Braces that are doubled, as templates for Python have them, become single."""

    def value(match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0][0]
        name = SAME_AS.get(match[1], match[1])
        missing = "" if _EVERYWHERE.fullmatch(name) or _OPTION.fullmatch(name) else match[0]
        return fields.get(name, missing)

    doubled = r"\{\{|\}\}|" if "{{" in template else ""
    return re.sub(doubled + _FIELD.pattern, value, template).strip()


def conversation(messages: Sequence[Message]) -> str:
    """What a model was asked, whole: system prompt, every turn, and replies that it did not write marked as such."""
    names = {"system": "System prompt", "user": "User", "assistant": f"Assistant ({FORCED})"}
    return "\n\n".join(f"[{names[m['role']]}]\n{m['content']}" for m in messages)


def letters(options: Sequence[str]) -> str:
    """Options as the judge sees them, a line each."""
    return "\n".join(f"{chr(ord('A') + i)}: {text}" for i, text in enumerate(options))


def of_prompt(messages: Sequence[Message]) -> dict[str, str]:
    """Fields of what a model was asked: `conversation`, `system`, `turn_1` and so on, `question` (the last turn), and
    `forced_1` and so on for replies that it did not write."""

    def said(role: str) -> list[str]:
        return [m["content"] for m in messages if m["role"] == role]

    turns = said("user")
    return {
        "conversation": conversation(messages),
        "system": "\n\n".join(said("system")),
        "question": turns[-1] if turns else "",
        **{f"turn_{n}": text for n, text in enumerate(turns, 1)},
        **{f"forced_{n}": text for n, text in enumerate(said("assistant"), 1)},
    }
