"""What a model's tokenizer and chat template, or an endpoint, really do, found out by trying: `candor model check`, and
every run before it starts.

A folder is tried without its weights, in a second or two. An endpoint gets two small requests before a run, and one
more from `candor model check`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from actors.models.chat import ChatError, ChatModel, ModelRefusedError, NoLogprobsError, Sampling
from actors.models.choice_tree import choice_tree
from actors.models.multiple_choice import ANSWER_TOKENS, ask
from actors.models.template import ChatTemplate, TemplateError
from actors.models.thoughts import EmptyReplyError, answer_of, without_thoughts
from actors.rating import RATINGS
from actors.settings import EndpointSettings, TemplateSettings
from actors.worlds.base import Message
from actors.worlds.questions import YES_NO

REPLY_TOKENS = 24
HELLO: list[Message] = [
    {"role": "system", "content": "You are friendly."},
    {"role": "user", "content": "Hello! How are you today?"},
]
IN_A_ROW: list[Message] = [*HELLO, {"role": "user", "content": "Are you there?"}]
FINGERS: list[Message] = [
    {"role": "user", "content": "How many fingers do two hands have together? Answer with the number only."}
]
CONVERSATION: list[Message] = [
    {"role": "user", "content": "Hello."},
    {"role": "assistant", "content": "Good day to you."},
    {"role": "user", "content": "And what now?"},
    {"role": "assistant", "content": "We wait, 10 of us."},
]


@dataclass(frozen=True)
class Finding:
    """What a probe found.

    Attributes:
        verdict: `fault` where a run cannot work, `note` where it works in another way than one might expect.
    """

    probe: str
    verdict: Literal["ok", "note", "fault"]
    said: str


def probe_folder(path: str, settings: TemplateSettings) -> list[Finding]:
    """What the tokenizer and the chat template of a model do.

    Args:
        path: Hugging Face directory or hub name.

    Raises:
        OSError, ValueError: There is no tokenizer at `path` that transformers can read.
    """
    from transformers import AutoConfig, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    if not tokenizer.chat_template:
        return [Finding("template", "fault", "it has no chat template: take a model that was trained to chat")]
    template = ChatTemplate(tokenizer, settings, _generation_ends(path))
    try:
        template.text([{"role": "user", "content": "Hello."}])
    except TemplateError as error:
        return [Finding("template", "fault", str(error))]
    length = getattr(AutoConfig.from_pretrained(path).get_text_config(), "max_position_embeddings", None)
    facts = template.facts()
    return [
        _round_trip(template),
        _end(tokenizer, facts.end, template, path),
        *_choices(tokenizer, template),
        _system(facts.system, facts.default_system),
        Finding("two messages in a row", *(("note", "made one") if facts.merges else ("ok", "taken as they are"))),
        _thinking(tokenizer, template, settings),
        Finding("date", *_date(facts.dated, settings.template_date)),
        Finding("limit", "ok", f"{length:,} tokens" if length else "not said by the model"),
    ]


def _generation_ends(path: str) -> list[int]:
    file = Path(path) / "generation_config.json"
    ends = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id") if file.exists() else None
    return [t for t in (ends if isinstance(ends, list) else [ends]) if t is not None]


def _round_trip(template: ChatTemplate) -> Finding:
    """Whether what stands in a prompt stays as it is when the conversation goes on, so that a whole one can be learned
    as one row."""
    try:
        whole = template.closed_ids(CONVERSATION)
        for n in (1, 3):
            prompt = template.ids(CONVERSATION[:n])
            if whole[: len(prompt)] != prompt:
                return Finding(
                    "template",
                    "note",
                    "writes earlier turns differently once the conversation goes on; trainer.rows: conversation cannot "
                    "be used",
                )
    except TemplateError as error:
        return Finding("template", "fault", str(error))
    return Finding("template", "ok", "a prompt is the beginning of the conversation that goes on from it")


def _end(tokenizer: Any, end: str | None, template: ChatTemplate, path: str) -> Finding:
    if end is None:
        return Finding("end of turn", "note", f"the template puts no token there; {tokenizer.eos_token} is learned")
    known = {tokenizer.eos_token_id, *_generation_ends(path)}
    if template.end not in known:
        return Finding("end of turn", "note", f"{end}; the model's own settings do not stop there, engines are told to")
    return Finding("end of turn", "ok", end)


def _choices(tokenizer: Any, template: ChatTemplate) -> list[Finding]:
    found = []
    for name, choices in (("ratings", RATINGS), ("yes and no", YES_NO)):
        try:
            tree = choice_tree(tokenizer, choices, "the model", template)
        except NoLogprobsError as error:
            found.append(Finding(name, "note", f"asked for samples: {error}"))
            continue
        said = "one token each" if tree.depth == 1 else f"up to {tree.longest} tokens, told apart in {tree.depth} steps"
        found.append(Finding(name, "ok", said))
    return found


def _system(how: str, default: str) -> Finding:
    said = f"; without one the template says: {default[:80]!r}" if default else ""
    if how == "folded":
        return Finding("system message", "note", f"put before the user's first message{said}")
    return Finding("system message", "note" if default else "ok", f"has a place{said}")


def _thinking(tokenizer: Any, template: ChatTemplate, settings: TemplateSettings) -> Finding:
    if thinks(tokenizer, template, settings):
        return Finding(
            "thinking",
            "note",
            "thinks before it answers: thoughts take tokens of max_tokens, and closed questions such as ratings cannot "
            "be read off the next token" + (f"; {_SWITCH_OFF} turns it off" if _has_switch(tokenizer) else ""),
        )
    return Finding("thinking", "ok", "turned off" if _has_switch(tokenizer) else "none by the template")


_SWITCH_OFF = "chat_template_kwargs: {enable_thinking: false}"


def _has_switch(tokenizer: Any) -> bool:
    return "enable_thinking" in str(tokenizer.chat_template)


def thinks(tokenizer: Any, template: ChatTemplate, settings: TemplateSettings) -> bool:
    """Whether the model thinks before it answers, as far as its chat template shows: it opens a thought, has a switch
    that is not turned off, or has the channels of the harmony format."""
    if template.opens_thought:
        return True
    if _has_switch(tokenizer):
        off = ChatTemplate(tokenizer, settings.model_copy(update={"chat_template_kwargs": {"enable_thinking": False}}))
        hello = [{"role": "user", "content": "Hello."}]
        return off.text(hello) != template.text(hello)
    return "<|channel|>" in tokenizer.get_vocab()


def _date(dated: bool, day: str) -> tuple[Literal["ok", "note"], str]:
    return ("note", f"the template writes today's date, here {day}") if dated else ("ok", "none in the template")


async def probe_endpoint(
    model: ChatModel, settings: EndpointSettings, closed: Sequence[str] | None, thorough: bool = False
) -> list[Finding]:
    """What an endpoint does with the requests that a run makes.

    Args:
        model: The endpoint, or a metered one.
        closed: The answers of a closed question that it will be asked, for example ratings; None for no such question.
        thorough: Whether it is tried with two messages in a row too.
    """
    found = [await _reply("reply", model, HELLO, settings)]
    if found[0].verdict == "fault":
        return found
    if thorough:
        found.append(await _reply("two messages in a row", model, IN_A_ROW, settings))
    if closed is not None:
        found.append(await _closed(model, closed, settings))
    return found


async def _reply(probe: str, model: ChatModel, messages: list[Message], settings: EndpointSettings) -> Finding:
    try:
        reply = await model.reply(messages, Sampling(REPLY_TOKENS, None, 0))
        answer_of(reply.text, reply.finish_reason)
    except EmptyReplyError as error:
        return Finding(probe, "fault", f"{error}{_room(settings)}")
    except (ChatError, ModelRefusedError) as error:
        return Finding(probe, "fault", str(error))
    thought = without_thoughts(reply.text) != reply.text
    return Finding(probe, "ok", f"answered{', after a thought' if thought else ''}, {reply.completion_tokens} tokens")


async def _closed(model: ChatModel, choices: Sequence[str], settings: EndpointSettings) -> Finding:
    question = FINGERS if "10" in choices else [{"role": "user", "content": f"Say only one word: {choices[0]}."}]
    try:
        reason = ""
        try:
            choice = await model.choose(question, choices)
        except NoLogprobsError as error:
            reason = str(error)
            answer = await ask(model, question, choices, method="sampled", retries=1)
        else:
            mass = sum(choice.probabilities.values())
            return Finding("closed questions", "ok", f"by probabilities, {mass:.2f} of which were on the answers")
    except (ChatError, ModelRefusedError) as error:
        return Finding("closed questions", "fault", str(error))
    if answer.distribution is None:
        try:
            reply = await model.reply(question, Sampling(ANSWER_TOKENS, 0.0, 0))
            said = answer_of(reply.text, reply.finish_reason)
        except EmptyReplyError as error:
            return Finding("closed questions", "fault", f"{error}{_room(settings)}")
        except (ChatError, ModelRefusedError) as error:
            return Finding("closed questions", "fault", str(error))
        wanted = f"{choices[0]} to {choices[-1]}" if choices == RATINGS else ", ".join(choices)
        return Finding("closed questions", "note", f"answered {said[:60]!r} where {wanted} was asked for ({reason})")
    return Finding("closed questions", "note", f"asked for samples: {reason}")


def _room(settings: EndpointSettings) -> str:
    more = max(512, 2 * settings.thinking_tokens)
    return f"; if the model thinks before it answers, set thinking_tokens of this model to {more} or more"
