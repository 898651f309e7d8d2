import pytest

from actors.conduct import FLAGS, flags, whole_sentences
from actors.worlds import TEXT_WORLDS, load_world

HEARD = "You could call your sponsor when the urge comes, or take a long walk after dinner."


def found(message, heard=HEARD, before=(), cut=False):
    return flags(message, heard, before, cut)


@pytest.mark.parametrize(
    ("message", "is_echo"),
    [
        (HEARD, True),
        (HEARD.upper().replace(",", ""), True),
        ("So I could call my sponsor when the urge comes, or take a long walk after dinner?", True),
        ("I have called my sponsor already, and it did not help me at all.", False),
        ("after dinner walk long a take or comes urge the when sponsor your call could you", False),
        ("Call your sponsor.", False),
    ],
)
def test_an_echo_says_most_of_the_same_words_in_order(message, is_echo):
    assert found(message) == (["echo"] if is_echo else [])


def test_the_first_message_and_short_ones_are_no_echo():
    assert found(HEARD, heard=None) == []
    assert found("Thank you so much.", heard="Thank you so much.") == []
    assert found("Thank you so very much.", heard="Thank you so very much.") == ["echo"]


def test_what_was_said_before_is_a_repeat_whatever_its_capitals_and_stops():
    before = ["I do not know.", "And my wife?"]
    assert found("i do not know!!", before=before) == ["repeat"]
    assert found("I do not know what to do.", before=before) == []
    assert found("I do not know.", before=[]) == []


def test_messages_without_words_repeat_only_what_they_are():
    assert found("...", before=["?!", "👍"]) == []
    assert found("...", before=["..."]) == ["repeat"]


@pytest.mark.parametrize(
    "message",
    [
        "As an AI, I cannot feel that.",
        "as a language model I have no sister",
        "I'm an AI and do not drink.",
        "I am an assistant, so I listen.",
        "As an assistant I would say no.",
        "I'm here to listen.",
        "How can I help you today?",
        "How may I assist you?",
        "I will stay in character.",
        "I was asked to play this role.",
        "I am a simulated user.",
    ],
)
def test_whoever_speaks_as_an_assistant_or_of_the_role_is_heard(message):
    assert found(message) == ["assistant_voice"]


@pytest.mark.parametrize(
    "message",
    [
        "I work as an air traffic controller.",
        "As an aide I see that every day.",
        "I am an assistant professor in Leeds.",
        "I started as an assistant manager.",
        "Do you think that stress could play a part?",
        "I always play the part of the strong one.",
        "How can I help my son?",
        "My AI assistant told me to rest.",
        "I stay in part because of the children.",
    ],
)
def test_what_people_say_is_no_assistants_voice(message):
    assert found(message) == []


@pytest.mark.parametrize("name", sorted(TEXT_WORLDS))
def test_no_persona_of_a_shipped_world_opens_oddly(name):
    world = load_world(name)
    people = [p for s in world.scenarios for k in world.user_kinds for p in world.personas(s, k)]
    assert [p.persona_id for p in people if flags(p.trouble, None, [], False)] == []


def test_flags_come_together_and_in_their_order():
    text = "As an AI I would call your sponsor when the urge comes"
    assert flags(text, text, [text], True) == list(FLAGS)
    assert flags("", None, [], False) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("I do think so. (gets up) Sorry.", "I do think so."),
        ("I did wrong. [Sarcasm] I had to leave.", "I did wrong."),
        ("I did. *sighs* Never again.", "I did."),
        ("I am sad (really). And *how*. Not (yet", "I am sad (really). And *how*."),
    ],
)
def test_what_is_done_is_not_said(text, said):
    assert whole_sentences(text) == (said, False)
