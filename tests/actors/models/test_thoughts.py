import pytest

from actors.models.template import ChatTemplate
from actors.models.thoughts import EmptyReplyError, answer_of, without_thoughts


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Yes.", "Yes."),
        (" Yes. ", " Yes. "),  # nothing is touched where there is no thought
        ("<think>No.</think>Yes.", "Yes."),
        ("<think>\nNo.\n</think>\n\nYes.\n", "Yes."),
        ("No.</think>\nYes.", "Yes."),
        ("<THINK>No.</Think>Yes.", "Yes."),
        ("Well: <think>No.</think>yes.", "Well: yes."),
        ("<think>a</think>One. <think>b</think>Two.", "One. Two."),
        ("a</think>One. <think>b</think>Two.", "One. Two."),
        ("<think>a<think>b</think>c</think>Yes.", "Yes."),
        ("<think>No.</think>", ""),
        ("<think>No.", None),
        ("Yes. <think>No", None),
        ("<think>a</think>Yes.<think>b", None),
    ],
)
def test_a_thought_is_no_answer(text, said):
    assert without_thoughts(text) == said


@pytest.mark.parametrize(
    ("text", "finish", "why"),
    [
        ("", "stop", "the reply is empty"),
        (" \n", "length", "the reply is empty: it was cut at its token limit before it said anything"),
        ("<think>No.</think> ", "stop", "the reply holds nothing but a thought"),
        ("<think>No.", "stop", "the reply is a thought without an end"),
        ("<think>No", "length", "a thought without an end: it was cut at its token limit before it said anything"),
    ],
)
def test_a_reply_that_says_nothing_is_an_error(text, finish, why):
    with pytest.raises(EmptyReplyError, match=why):
        answer_of(text, finish)
    assert answer_of("<think>No.</think>Yes", "length") == "Yes"


class Template:
    """As much of a tokenizer as rendering a prompt needs; a token is a character."""

    def __init__(self, ending, chat_template="a template"):
        self.chat_template, self.ending = chat_template, ending

    def apply_chat_template(self, messages, **unused):
        return f"{messages[-1]['content']}{self.ending}"

    def __call__(self, text, **unused):
        return {"input_ids": list(text)}

    def decode(self, ids):
        return "".join(ids)


def test_a_template_that_opens_the_thought_is_known():
    assert ChatTemplate(Template("<|assistant|>\n<think>\n")).opens_thought
    assert not ChatTemplate(Template("<|assistant|>\n")).opens_thought
    assert not ChatTemplate(Template("<think></think>")).opens_thought
    assert not ChatTemplate(Template("<think>", chat_template=None)).opens_thought
