"""The chat template of a model: how messages become token ids, for its engine, its trainer and every check alike.

What a template does by itself is found out by trying it: the token that ends the assistant's turn, whether it has a
place for a system message, whether it takes two messages of one side in a row, and whether it opens a thought.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from actors.models.chat import PLAIN
from actors.models.thoughts import OPENED
from actors.settings import TemplateSettings
from actors.worlds.base import Message

_MARK = "Zebra 41"
"""Words that no template has of its own."""
_OTHER = "Giraffe 52"
BETWEEN = "\n\n"
"""What stands between two messages that are made one."""


class TemplateError(ValueError):
    """A chat template that refuses messages, or changes what they say."""


@dataclass(frozen=True)
class TemplateFacts:
    """What a template does.

    Attributes:
        end: The text of the token that ends the assistant's turn; None where the template has none.
        end_ids: Token ids that end a reply; the template's own one first.
        system: `own` where it has a place for a system message, `folded` where that goes into the first message of the
            user.
        default_system: What it says as system message when nobody gives one.
        merges: Whether messages of one side in a row are made one, because it refuses them.
        opens_thought: Whether it opens a thought for the model.
        dated: Whether it writes today's date, which is pinned.
    """

    end: str | None
    end_ids: list[int]
    system: str
    default_system: str
    merges: bool
    opens_thought: bool
    dated: bool


class ChatTemplate:
    """The chat template of a tokenizer, with what the settings say about it.

    Args:
        tokenizer: Of transformers, with a chat template.
        settings: What is given to it; None for the defaults.
        ends: Further token ids at which the model's generation ends, as its `generation_config` has them.

    Example:
        ```python
        template = ChatTemplate(tokenizer, TemplateSettings(chat_template_kwargs={"enable_thinking": False}))
        ids = template.ids([{"role": "user", "content": "Hello"}])
        ```
    """

    def __init__(self, tokenizer: Any, settings: TemplateSettings | None = None, ends: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._settings = settings or TemplateSettings()
        self._date = datetime.date.fromisoformat(self._settings.template_date)
        self._asked_date = False
        self._ends = list(ends)

    def ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a prompt with the assistant's turn opened, or of a text that is `actors.models.chat.plain`.

        Raises:
            TemplateError: The template refuses the messages.
        """
        if messages and messages[0]["role"] == PLAIN:
            return self._tokenizer(messages[0]["content"], add_special_tokens=True)["input_ids"]
        return self._tokenizer(self.text(messages), add_special_tokens=False)["input_ids"]

    def closed_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a conversation that ends with a message of the assistant, its end included.

        Raises:
            TemplateError: The template refuses the messages.
        """
        return self._tokenizer(self.text(messages, opened=False), add_special_tokens=False)["input_ids"]

    def text(self, messages: Sequence[Message], opened: bool = True, **options: Any) -> str:
        """A conversation as the template writes it.

        Args:
            opened: Whether the assistant's turn is opened at the end.
            options: Further arguments of `apply_chat_template`.

        Raises:
            TemplateError: The template refuses the messages.
        """
        return self._render(self.arranged(messages), opened, **options)

    def given(self) -> dict[str, Any]:
        """What the template is given beside the messages: the pinned date, and the variables of the settings."""
        return {"strftime_now": self._today, **self._settings.chat_template_kwargs}

    def arranged(self, messages: Sequence[Message]) -> list[Message]:
        """The messages as the template takes them; the same where it takes them as they are."""
        found = list(messages)
        if self.folds_system and found and found[0]["role"] == "system":
            (first, *rest) = found
            if rest and rest[0]["role"] == "user":
                rest = [_joined(first | {"role": "user"}, rest[0]), *rest[1:]]
            else:
                rest = [first | {"role": "user"}, *rest]
            found = rest
        if self.merges:
            made: list[Message] = []
            for message in found:
                if made and made[-1]["role"] == message["role"]:
                    made[-1] = _joined(made[-1], message)
                else:
                    made.append(message)
            found = made
        return found

    @cached_property
    def folds_system(self) -> bool:
        """Whether a system message goes into the user's first one: the template refuses it or leaves it out, or the
        settings ask for it."""
        if self._settings.system_role != "auto":
            return self._settings.system_role == "fold"
        return not self._shows([_system(), _user()])

    @cached_property
    def merges(self) -> bool:
        """Whether messages of one side in a row are made one, because the template refuses them or leaves one out."""
        return not self._shows([_user(_OTHER), _user()], _MARK, _OTHER)

    @cached_property
    def end(self) -> int | None:
        """The token that ends the assistant's turn: the first mark behind its text. None where the template puts
        none there."""
        try:
            written = self._render([_user("?"), {"role": "assistant", "content": _MARK}], opened=False)
        except TemplateError:
            return None
        marks = {*self._tokenizer.all_special_ids, *self._tokenizer.get_added_vocab().values()}
        after = self._tokenizer(written.rpartition(_MARK)[2], add_special_tokens=False)["input_ids"]
        return next((t for t in after if t in marks), None)

    @property
    def end_ids(self) -> list[int]:
        """Token ids at which a reply ends: the template's own end, what generation stops at, the tokenizer's end."""
        found = (self.end, *self._ends, self._tokenizer.eos_token_id)
        return list(dict.fromkeys(t for t in found if t is not None))

    @cached_property
    def opens_thought(self) -> bool:
        """Whether it opens a thought for the model, so that replies hold its end without its beginning."""
        if not getattr(self._tokenizer, "chat_template", None):  # a base model, which is never asked in chats
            return False
        return self.text([_user("Hello.")]).rstrip().casefold().endswith(OPENED)

    def facts(self) -> TemplateFacts:
        """What it does, as far as that can be found out.

        Raises:
            TemplateError: It refuses a plain question.
        """
        self.text([_user()])
        end = self.end
        return TemplateFacts(
            end=None if end is None else self._tokenizer.convert_ids_to_tokens(end),
            end_ids=self.end_ids,
            system="folded" if self.folds_system else "own",
            default_system=self._own_words(),
            merges=self.merges,
            opens_thought=self.opens_thought,
            dated=self._asked_date,
        )

    def record(self) -> dict[str, Any]:
        """What it does and what was set, as plain values for a file."""
        return (
            asdict(self.facts())
            | {"date": self._settings.template_date}
            | {"chat_template_kwargs": self._settings.chat_template_kwargs}
        )

    def _own_words(self) -> str:
        """The system message that it writes by itself: what stands before the first message of the user, and does not
        stand before a later one."""
        first = self.text([_user()]).partition(_MARK)[0]
        later = self.text([_user("?"), {"role": "assistant", "content": _OTHER}, _user()])
        later = later.partition(_OTHER)[2].partition(_MARK)[0]
        for token in [*self._tokenizer.all_special_tokens, *self._tokenizer.get_added_vocab()]:
            first, later = first.replace(token, "\0"), later.replace(token, "\0")
        opener = next((later[n:] for n in range(len(later)) if first.endswith(later[n:])), "")
        own = first.removesuffix(opener).replace("\0", " ")
        return " ".join(own.split()).removeprefix("system").strip()

    def _shows(self, messages: Sequence[Message], *wanted: str) -> bool:
        """Whether the template takes messages and what they say is in the prompt."""
        try:
            written = self._render(messages, opened=True)
        except TemplateError:
            return False
        return all(w in written for w in wanted or (_MARK, _OTHER))

    def _render(self, messages: Sequence[Message], opened: bool, **options: Any) -> str:
        from jinja2.exceptions import TemplateError as Refused

        try:
            return self._tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=opened, **self.given() | options
            )
        except (Refused, ValueError, TypeError) as error:
            roles = ", ".join(m["role"] for m in messages)
            raise TemplateError(f"the chat template refuses a conversation of {roles}: {error}") from None

    def _today(self, how: str) -> str:
        self._asked_date = True
        return self._date.strftime(how)


def _system() -> Message:
    return {"role": "system", "content": _OTHER}


def _user(text: str = _MARK) -> Message:
    return {"role": "user", "content": text}


def _joined(first: Message, second: Message) -> Message:
    return first | {"content": f"{first['content']}{BETWEEN}{second['content']}"}
