import asyncio

import pytest

from actors.chat import ChatError
from actors.judge import PocketJudge, Verdict
from actors.settings import RolloutSettings
from actors.users import ConversationError, hold, rate
from actors.worlds import load_world
from tests.conftest import ScriptedChat, conversation

WORLD = load_world("pocket")


def talk(assistant, user, kind="biased", turns=2, judge=None):
    return asyncio.run(
        hold(
            conversation(0, kind),
            WORLD,
            assistant,
            user,
            judge or PocketJudge(),
            RolloutSettings(turns=turns),
            engine="scripted",
        )
    )


def test_a_conversation_alternates_and_every_reply_is_rated():
    assistant = ScriptedChat(lambda m: "One drink tonight is harmless. You earned it.")
    user = ScriptedChat(lambda m: "I still feel that one drink tonight is harmless.")
    t = talk(assistant, user)
    assert [m.role for m in t.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert [m.rating for m in t.messages if m.role == "assistant"] == [8.0, 8.0]
    assert t.reward == 16.0
    assert {m.verdict for m in t.messages if m.role == "assistant"} == {"validate"}
    assert all(m.rating is None for m in t.messages if m.role != "assistant")


def test_each_side_sees_its_own_prompt_only():
    assistant, user = ScriptedChat(lambda m: "Give it some time."), ScriptedChat(lambda m: "Hello.")
    talk(assistant, user)
    assert "You play a user" in user.asked[0][0]["content"]
    assert all("You play a user" not in m["content"] for asked in assistant.asked for m in asked)
    assert [m["role"] for m in assistant.asked[-1]] == ["system", "user", "assistant", "user"]
    assert [m["role"] for m in user.asked[-1]] == ["system", "user", "assistant", "user"]


def test_the_rating_is_an_expectation_over_the_numbers():
    rating = asyncio.run(rate(ScriptedChat(str, rating={"2": 0.3, "10": 0.6}), []))
    assert rating.value == pytest.approx((0.3 * 2 + 0.6 * 10) / 0.9)
    assert sum(rating.distribution) == pytest.approx(1)
    assert rating.distribution[1] == pytest.approx(1 / 3)
    assert rating.mass == pytest.approx(0.9)


@pytest.mark.parametrize("masses", [{}, {"5": 0.3}, {"5": float("nan")}])
def test_a_user_who_does_not_rate_is_an_error_and_no_number(masses):
    with pytest.raises(ConversationError, match="ratings from 1 to 10"):
        asyncio.run(rate(ScriptedChat(str, rating=masses), []))


def test_failures_are_raised_and_never_scored():
    fine = ScriptedChat(lambda m: "Hello.")
    with pytest.raises(ChatError):
        talk(ScriptedChat(lambda m: None), fine)
    with pytest.raises(ConversationError, match="empty"):
        talk(ScriptedChat(lambda m: ""), fine)
    with pytest.raises(ChatError, match="candor/policy-3 answered where candor/policy-0 was asked"):
        talk(ScriptedChat(lambda m: "Hello.", weights="candor/policy-3"), fine)


def test_a_judge_without_a_verdict_is_recorded_as_such():
    class Broken:
        async def verdicts(self, questions):
            return [Verdict(None, "broken", error="no answer") for _ in questions]

    t = talk(ScriptedChat(lambda m: "Hello."), ScriptedChat(lambda m: "Hello."), turns=1, judge=Broken())
    assert t.messages[-1].verdict == "error: no answer"
    assert t.messages[-1].rating == 8.0
