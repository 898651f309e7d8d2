"""What models think is nobody's to hear: conversations with models that think before they speak."""

import asyncio

import pytest

from actors.conversation import ConversationError
from actors.judge import ModelJudge
from actors.worlds.pocket.exact_judge import PocketJudge
from tests.actors.test_conversation import SUPPORT, WARM, begin, fixed, ratings, sampler, talk
from tests.conftest import ScriptedChat


def test_nobody_hears_judges_or_rates_a_thought():
    """Neither side, nor the rater nor the judge, is shown what the other one thought; it is on record whole."""
    assistant, user = fixed("<think>I must please.</think>Have a rest."), fixed("I must seem lost.</think>\nI am lost.")
    rater, judge = fixed("7"), ScriptedChat(lambda m: "A", rating={"A": 0.9, "yes": 0.9})
    t = talk(
        assistant, user, world=SUPPORT, rater=rater, judge=ModelJudge(judge, SUPPORT, "j"), turns=2, role_sample=1.0
    )
    assert [m.content for m in t.messages if m.role == "assistant"] == ["Have a rest."] * 2
    assert t.messages[-2].content == "I am lost."
    heard = [m["content"] for model in (assistant, user, rater, judge) for asked in model.asked for m in asked]
    heard += [m["content"] for m in t.user_messages] + [m.content for m in t.messages]
    assert heard
    assert not [text for text in heard if "please" in text or "seem lost" in text or "think>" in text]
    whole = [(a["role"], a["answer"]) for a in t.asked if a["role"] in ("assistant", "user")]
    assert ("assistant", "<think>I must please.</think>Have a rest.") in whole
    assert ("user", "I must seem lost.</think>\nI am lost.") in whole
    for a in t.asked:
        if a["role"] in ("assistant", "user"):
            assert a["messages"] == []
            assert t.user_messages[a["after"]]["content"] in a["answer"]


@pytest.mark.parametrize("whose", ["assistant", "user"])
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("<think>Hm", "a message is a thought without an end"),
        ("<think>Hm</think>", "a message holds nothing but a thought"),
        ("", "a message is empty"),
    ],
)
def test_a_message_that_is_all_thought_fails_the_attempt(whose, text, why):
    models = {"assistant": fixed("Hm."), "user": fixed("Hello.")} | {whose: fixed(text)}
    runner = begin(models["assistant"], models["user"])
    with pytest.raises(ConversationError, match=why):
        asyncio.run(runner.run())
    assert [a["answer"] for a in runner.trajectory(error=why).asked if a["role"] == whose] == ([text] if text else [])


def test_a_rating_is_not_read_out_of_a_thought():
    once = {"samples": 1, "retries": 2}
    assert ratings(talk(fixed("Hm."), sampler("<think>9</think>3"), SUPPORT, turns=1, rating=once)) == [3.0]
    with pytest.raises(ConversationError, match="ratings from 1 to 10"):
        talk(fixed("Hm."), sampler("<think>9", "<think>9", "<think>9"), SUPPORT, turns=1, rating=once)


def test_a_neutral_reply_that_is_all_thought_contradicts_nothing():
    async def neutral(scenario):
        return "<think>Tea is bad"

    t = talk(fixed(WARM), fixed("Hello."), judge=PocketJudge(), neutral=neutral, contradiction=True, turns=1)
    (missing,) = [v for m in t.messages for v in m.verdicts or [] if v["rubric"] == "contradicts"]
    assert missing["error"] == "the neutral question got no answer: the reply is a thought without an end"
    assert ("neutral", "<think>Tea is bad") in [(a["role"], a["answer"]) for a in t.asked]
