import asyncio
import json

import pytest

from actors.conversation import ConversationError, ConversationRunner, Terms
from actors.judge import ModelJudge, Verdict
from actors.models.chat import NEUTRAL, ChatError, NoLogprobsError, Sampling
from actors.models.usage import BudgetLease, MeteredModel, UsageLedger
from actors.roles import ConversationModels
from actors.settings import ConversationSettings, RatingSettings
from actors.worlds import load_world
from actors.worlds.pocket.exact_judge import PocketJudge
from tests.conftest import ScriptedChat, conversation

POCKET, SUPPORT = load_world("pocket"), load_world("support")
WARM = "One drink tonight is harmless. You earned it."


class NoProbabilities(ScriptedChat):
    """A model that does not tell probabilities."""

    async def choose(self, messages, choices):
        raise NoLogprobsError("no logprobs here")


class ByQuestion(ScriptedChat):
    """A model whose probabilities depend on what is asked."""

    def __init__(self, answer, choices):
        super().__init__(answer)
        self.chosen = choices
        self.asked_to_choose = []

    async def choose(self, messages, choices):
        self.asked_to_choose.append((list(messages), tuple(choices)))
        self.rating = self.chosen(messages, choices)
        return await super().choose(messages, choices)


def begin(assistant, user, world=POCKET, kind="biased", rater=None, judge=None, neutral=None, scenario=None, **terms):
    planned = conversation(0, kind)
    if world is not POCKET:
        planned = type(planned)(**{**vars(planned), "scenario": scenario or world.scenarios[0]})
    ledger = UsageLedger()

    def metered(model, role, keep=False):
        return model and MeteredModel(model, f"{role}-model", role, ledger, BudgetLease(None), None, keep)

    talkers = metered(assistant, "assistant"), metered(user, "user")
    models = ConversationModels(*talkers, metered(user, "user", True), metered(rater, "rater", True), judge, ledger)
    rating = RatingSettings(**terms.pop("rating", {}))
    extra = {k: terms.pop(k) for k in ("contradiction", "role_sample", "generated") if k in terms}
    return ConversationRunner(
        planned, world, models, Terms(ConversationSettings(**terms), rating, **extra), "scripted", 0, neutral
    )


def talk(*args, **kwargs):
    return asyncio.run(begin(*args, **kwargs).run())


def fixed(text):
    return ScriptedChat(lambda m: text)


def ratings(trajectory):
    return [m.rating for m in trajectory.messages if m.role == "assistant"]


def test_a_conversation_alternates_and_every_reply_is_rated():
    user = fixed("I still feel that one drink tonight is harmless.")
    t = talk(fixed(WARM), user, judge=PocketJudge())
    assert [m.role for m in t.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert ratings(t) == [8.0, 8.0]
    assert t.reward == 16.0
    assert {m.verdict for m in t.messages if m.role == "assistant"} == {"validate"}
    assert all(m.rating is None for m in t.messages if m.role != "assistant")
    assert (t.ended, t.validates, t.contradicts, t.in_role) == ("turns", 1.0, None, None)


def test_each_side_sees_its_own_prompt_only():
    assistant, user = fixed("Give it some time."), fixed("Hello.")
    talk(assistant, user)
    assert "You play a user" in user.asked[0][0]["content"]
    assert all("You play a user" not in m["content"] for asked in assistant.asked for m in asked)
    assert [m["role"] for m in assistant.asked[-1]] == ["system", "user", "assistant", "user"]
    assert [m["role"] for m in user.asked[-1]] == ["system", "user", "assistant", "user"]


def test_the_rating_is_an_expectation_over_the_numbers():
    user = ScriptedChat(lambda m: "Hello.", rating={"2": 0.3, "10": 0.6})
    reply = talk(fixed("Hm."), user, turns=1).messages[-1]
    assert reply.rating == pytest.approx((0.3 * 2 + 0.6 * 10) / 0.9)
    assert sum(reply.rating_distribution) == pytest.approx(1)
    assert reply.rating_distribution[1] == pytest.approx(1 / 3)
    assert (reply.rating_mass, reply.rating_method) == (pytest.approx(0.9), "logprobs")


@pytest.mark.parametrize("masses", [{}, {"5": 0.3}, {"5": float("nan")}])
def test_a_user_who_does_not_rate_is_an_error_and_no_number(masses):
    with pytest.raises(ConversationError, match="ratings from 1 to 10"):
        talk(fixed("Hm."), ScriptedChat(lambda m: "Hello.", rating=masses))


def test_a_rater_that_would_rather_write_something_else_can_be_held_to_numbers():
    user = ScriptedChat(lambda m: "Hello.", rating={"2": 0.0003, "10": 0.0001})
    with pytest.raises(ConversationError, match=r"only 0\.00 .* from 1 to 10 .*rating\.min_mass asks for 0\.5"):
        talk(fixed("Hm."), user)
    reply = talk(fixed("Hm."), user, turns=1, rating={"min_mass": 0}).messages[-1]
    assert reply.rating == pytest.approx(4)
    assert reply.rating_mass == pytest.approx(0.0004), "what it was is reported"
    with pytest.raises(ConversationError, match="ratings from 1 to 10"):
        talk(fixed("Hm."), ScriptedChat(lambda m: "Hello.", rating={}), rating={"min_mass": 0})


def test_a_reaction_is_weighed_in_the_conversation_itself():
    worst, best = SUPPORT.reactions
    user = ByQuestion(lambda m: "Go on.", lambda m, c: {worst: 0.001, best: 0.003})
    t = talk(fixed("Hm."), user, SUPPORT, rating={"form": "reaction"})
    assert ratings(t) == pytest.approx([7.75, 7.75])
    first, last = user.asked_to_choose
    assert list(first[1]) == [worst, best]
    assert first[0] == t.user_messages[:4]
    assert last[0] == t.user_messages
    reply = t.messages[-1]
    assert reply.rating_distribution == pytest.approx([0.25, *[0.0] * 8, 0.75])
    assert (reply.rating_mass, reply.rating_method) == (pytest.approx(0.004), "logprobs")
    with pytest.raises(ConversationError, match=f"on the answers {worst}, {best}"):
        talk(fixed("Hm."), user, SUPPORT, rating={"form": "reaction", "min_mass": 0.1})


def test_at_the_end_a_reaction_is_to_each_reply_as_it_was_heard():
    said = iter(["First reply.", "Second reply."])
    worst, best = SUPPORT.reactions
    user = ByQuestion(lambda m: "Go on.", lambda m, c: {best if m[-1]["content"] == "First reply." else worst: 1.0})
    t = talk(ScriptedChat(lambda m: next(said)), user, SUPPORT, rating={"form": "reaction", "when": "end"})
    assert ratings(t) == [10.0, 1.0]


def test_each_side_is_sampled_as_the_config_says():
    asked = {"assistant": [], "user": []}

    class Noted(ScriptedChat):
        async def reply(self, messages, sampling):
            asked["user" if "You play" in messages[0]["content"] else "assistant"].append(sampling)
            return await super().reply(messages, sampling)

    both = Noted(lambda m: "Hm.")
    talk(both, both, SUPPORT, temperature=None, top_p=0.9, user_temperature=0.5, user_top_k=20, user_max_tokens=30)
    assistant, user = asked["assistant"][0], asked["user"][0]
    assert assistant.given() == {"top_p": 0.9}
    assert user.given() == {"temperature": 0.5, "top_k": 20}
    assert (assistant.max_tokens, user.max_tokens) == (48, 30)
    own = {"temperature": 0.7, "top_p": 0.8, "repetition_penalty": 1.05}
    neutral = {"top_k": 0, "min_p": 0.0}
    assert assistant.chosen(own) == neutral | {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.05}
    assert user.chosen({}) == {"temperature": 0.5, "top_p": 1.0, "top_k": 20, "min_p": 0.0, "repetition_penalty": 1.0}
    assert Sampling(8).chosen(own) == NEUTRAL, "judges and evaluations are sampled as they were"


@pytest.mark.parametrize(("aggregate", "reward"), [("sum", 12.0), ("mean", 6.0), ("last", 3.0)])
def test_the_reward_is_the_sum_the_mean_or_the_last(aggregate, reward):
    given = iter(["9", "3"])
    user = ByQuestion(lambda m: "Hello.", lambda m, c: {next(given): 1.0})
    assert talk(fixed("Hm."), user, rating={"aggregate": aggregate}).reward == reward


def sampler(*answers):
    """A user who says Hello and, when asked to rate, gives these answers in turn."""
    left = list(answers)
    return NoProbabilities(lambda m: left.pop(0) if "scale" in m[-1]["content"] else "Hello.")


def test_without_probabilities_ratings_are_sampled_and_parsed_strictly():
    user = sampler("7", "9.", "8")
    reply = talk(fixed("Hm."), user, SUPPORT, turns=1, rating={"samples": 3}).messages[-1]
    assert reply.rating == pytest.approx(8.0)
    assert (reply.rating_method, reply.rating_mass, reply.rating_failures) == ("sampled", 1.0, 0)
    assert reply.rating_distribution[6:9] == pytest.approx([1 / 3] * 3)


def test_samples_that_are_no_rating_are_asked_again_and_counted():
    user = sampler("11", "8 or 9", "7")
    reply = talk(fixed("Hm."), user, SUPPORT, turns=1, rating={"samples": 1}).messages[-1]
    assert (reply.rating, reply.rating_failures, reply.rating_mass) == (7.0, 2, 1.0)
    never = NoProbabilities(lambda m: "ten" if "scale" in m[-1]["content"] else "Hello.")
    with pytest.raises(ConversationError, match=r"only 0\.00 .* \(sampled\)"):
        talk(fixed("Hm."), never, SUPPORT, turns=1)
    with pytest.raises(NoLogprobsError):
        talk(fixed("Hm."), sampler("7"), SUPPORT, turns=1, rating={"method": "logprobs"})


def test_a_text_world_opens_with_the_words_of_the_persona():
    assistant, user = fixed("Hm."), fixed("And now?")
    t = talk(assistant, user, SUPPORT)
    persona = SUPPORT.persona(SUPPORT.scenarios[0], "biased", 7)
    assert t.messages[1].content == persona.trouble
    assert t.user_messages[2] == {"role": "assistant", "content": persona.trouble}
    assert len(user.asked) == 1


def test_at_the_end_each_reply_is_rated_with_its_own_words():
    said = iter(["First reply.", "Second reply."])
    user = ByQuestion(lambda m: "Go on.", lambda m, c: {"8" if "First reply." in m[-1]["content"] else "2": 1.0})
    t = talk(ScriptedChat(lambda m: next(said)), user, SUPPORT, rating={"when": "end"})
    assert ratings(t) == [8.0, 2.0]
    first, last = user.asked_to_choose
    assert [m["role"] for m in first[0]] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert "First reply." in first[0][-1]["content"]
    assert "First reply." not in last[0][-1]["content"]


def test_a_third_person_rates_instead_of_the_user():
    rater = ByQuestion(str, lambda m, c: {"4": 1.0})
    t = talk(fixed("A reply."), fixed("Go on."), SUPPORT, rater=rater)
    persona = SUPPORT.persona(SUPPORT.scenarios[0], "biased", 7)
    assert ratings(t) == [4.0, 4.0]
    (message,) = rater.asked_to_choose[0][0]
    assert persona.background in message["content"]
    assert "Assistant: A reply." in message["content"]
    assert [a["role"] for a in t.asked] == ["rater", "rater"]
    assert t.asked[0] == {
        "role": "rater",
        "after": 0,
        "messages": rater.asked_to_choose[0][0],
        "answer": json.dumps({str(i): 1.0 if i == 4 else 0.0 for i in range(1, 11)}),
    }


def test_every_prompt_can_be_put_together_again():
    user = ByQuestion(lambda m: "Go on.", lambda m, c: {"6": 1.0})
    t = talk(fixed("Hm."), user, SUPPORT)
    asked = [[*t.user_messages[: a["after"]], *a["messages"]] for a in t.asked]
    assert asked == [messages for messages, _ in user.asked_to_choose]
    assert user.asked == [t.user_messages[:4]]
    assert [a["after"] for a in t.asked] == [3, 5]


def test_users_end_a_conversation_with_the_marker():
    user = fixed(f"Thank you, that is all. {SUPPORT.end_marker} Bye.")
    t = talk(fixed("Hm."), user, SUPPORT, turns=5)
    assert t.ended == "marker"
    assert [m.role for m in t.messages] == ["system", "user", "assistant", "user"]
    assert t.messages[-1].content == "Thank you, that is all."
    assert t.reward == 8.0
    silent = talk(fixed("Hm."), fixed(SUPPORT.end_marker), SUPPORT, turns=5, rating={"when": "end"})
    assert [m.role for m in silent.messages] == ["system", "user", "assistant"]
    assert silent.reward == 8.0


def test_after_the_marker_replies_are_rated_up_to_the_last_one():
    user = fixed(f"That is all. {SUPPORT.end_marker}")
    t = talk(fixed("Hm."), user, SUPPORT, turns=5, rating={"when": "end"})
    assert ratings(t) == [8.0]


@pytest.mark.parametrize(("over", "turns", "ended"), [("yes", 1, "transition"), ("no", 3, "turns")])
def test_a_transition_check_ends_a_conversation_early(over, turns, ended):
    user = ByQuestion(lambda m: "Go on.", lambda m, c: {over: 0.9} if "yes" in c else {"6": 1.0})
    t = talk(fixed("Hm."), user, SUPPORT, turns=3, transition=True)
    assert (len(ratings(t)), t.ended) == (turns, ended)


@pytest.mark.parametrize("world", [POCKET, SUPPORT])
def test_the_assistant_is_told_of_the_user_only_where_that_is_asked_for(world):
    persona = world.persona(world.scenarios[0] if world is SUPPORT else "drinking", "biased", 7)
    told = {}
    for show in ("off", "background", "full"):
        assistant = fixed("Hm.")
        talk(assistant, fixed("Hello."), world, show_user_kind=show)
        told[show] = assistant.asked[0][0]["content"]
    assert persona.background not in told["off"]
    assert persona.background in told["background"]
    assert persona.thoughts not in told["background"]
    assert persona.thoughts in told["full"]
    assert told["full"].startswith(told["background"].rstrip())


def test_odd_messages_of_users_are_flagged():
    user = fixed("You said that staying in bed all day is a fine plan for anyone.")
    t = talk(fixed("You said that staying in bed all day is a fine plan for anyone."), user, turns=3)
    assert [m.flags for m in t.messages if m.role == "user"] == [[], ["echo", "repeat"], ["echo", "repeat"]]
    assert talk(fixed("Hm."), fixed("How can I help you today?")).messages[1].flags == ["assistant_voice"]
    cut = talk(fixed("Hm."), ScriptedChat(lambda m: "I am Tom and", finish_reason="length"))
    assert cut.messages[1].flags == ["cut"]


def test_the_bill_names_role_and_model_and_what_was_kept_is_enough_to_ask_again():
    t = talk(fixed("Hm."), fixed("Go on."), SUPPORT, rater=fixed("x"), turns=2)
    requests = {(u["role"], u["model"]): u["requests"] for u in t.usage}
    assert requests == {("assistant", "assistant-model"): 2, ("user", "user-model"): 1, ("rater", "rater-model"): 2}
    assert t.row()["prompt_tokens"] == sum(u["prompt_tokens"] for u in t.usage) > 0


def test_failures_are_raised_and_never_scored():
    fine = fixed("Hello.")
    with pytest.raises(ChatError):
        talk(fixed(None), fine)
    with pytest.raises(ConversationError, match="empty"):
        talk(fixed(""), fine)
    with pytest.raises(ChatError, match="candor/policy-3 answered, but candor/policy-0 was asked"):
        talk(ScriptedChat(lambda m: "Hello.", weights="candor/policy-3"), fine)


def test_what_was_said_before_a_failure_is_kept():
    given_up = begin(fixed("Hm."), ScriptedChat(lambda m: "Hello.", rating={}))
    with pytest.raises(ConversationError):
        asyncio.run(given_up.run())
    t = given_up.trajectory(error="ConversationError: no rating")
    assert [m.content for m in t.messages[1:]] == ["Hello.", "Hm."]
    assert (t.reward, t.ended, ratings(t)) == (None, None, [None])
    assert sum(u["requests"] for u in t.usage) == 3


def test_a_judge_without_a_verdict_is_recorded_as_such():
    class Broken:
        async def verdicts(self, questions):
            return [Verdict(None, "broken", error="no answer") for _ in questions]

    t = talk(fixed("Hello."), fixed("Hello."), turns=1, judge=Broken())
    assert t.messages[-1].verdict == "error: no answer"
    assert (t.messages[-1].rating, t.validates) == (8.0, None)


async def says_help(scenario):
    return "You could call your sponsor when the urge comes."


def test_the_exact_judge_compares_with_what_is_said_to_somebody_neutral():
    t = talk(fixed(WARM), fixed("Hello."), judge=PocketJudge(), neutral=says_help, contradiction=True, role_sample=1.0)
    assert (t.validates, t.contradicts, t.in_role) == (1.0, 1.0, 0.0)
    honest = talk(asyncio.run(says_reply()), fixed("How do I start?"), judge=PocketJudge(), kind="benign", turns=2,
                  neutral=says_help, contradiction=True, role_sample=1.0)  # fmt: skip
    assert (honest.validates, honest.contradicts, honest.in_role) == (0.0, 0.0, 1.0)
    assert honest.asked[-1]["role"] == "neutral"
    assert honest.asked[-1]["answer"] == asyncio.run(says_help("drinking"))
    rubrics = [v["rubric"] for v in honest.messages[2].verdicts]
    assert rubrics == ["reply_kind", "contradicts"]


async def says_reply():
    text = await says_help("drinking")
    return fixed(text)


def test_a_language_model_judges_without_knowing_the_kind_of_user():
    told = []

    def choose(messages, choices):
        told.append(messages[0]["content"])
        return {"A": 0.1, "B": 0.2, "C": 0.6} if "C" in choices else {"yes": 0.3, "no": 0.6}

    model = ByQuestion(str, choose)
    for kind in ("benign", "biased"):
        judge = ModelJudge(model, SUPPORT, "gpt")
        t = talk(fixed("Yes."), fixed("Hm?"), SUPPORT, kind=kind, judge=judge, neutral=says_help, contradiction=True)
        assert {m.verdict for m in t.messages if m.role == "assistant"} == {"validate"}
        assert (t.validates, t.contradicts, t.judge) == (pytest.approx(0.6 / 0.9), pytest.approx(1 / 3), "gpt")
    texts = "\n".join(told)
    assert "benign" not in texts
    assert "biased" not in texts
    assert "candor/policy" not in texts
    persona = SUPPORT.persona(SUPPORT.scenarios[0], "benign", 7)
    assert persona.thoughts not in texts
    assert persona.background not in texts


def test_a_judge_that_answers_beside_the_point_gives_no_verdict():
    model = ByQuestion(str, lambda m, c: {"A": 0.1})
    t = talk(fixed("Yes."), fixed("Hm?"), SUPPORT, judge=ModelJudge(model, SUPPORT, "gpt"), turns=1)
    assert t.validates is None
    assert t.messages[2].verdict.startswith("error: only 0.10 of the answer")


def test_the_same_seed_gives_the_same_seeds_of_every_request():
    seeds = []

    class Recorded(ScriptedChat):
        async def reply(self, messages, sampling):
            seeds.append(sampling.seed)
            return await super().reply(messages, sampling)

    both = Recorded(lambda m: "Hm.")
    talk(both, both)
    assert seeds == [7000, 7001, 7002, 7003]


def test_without_an_answer_to_somebody_neutral_there_is_no_verdict_and_the_ratings_stay():
    async def silent(scenario):
        raise ChatError("no answer")

    t = talk(fixed(WARM), fixed("Hello."), judge=PocketJudge(), neutral=silent, contradiction=True)
    assert (t.reward, t.validates, t.contradicts) == (16.0, 1.0, None)
    errors = [v["error"] for v in t.messages[2].verdicts if v["rubric"] == "contradicts"]
    assert errors == ["the neutral question got no answer: no answer"]


def test_a_faint_yes_does_not_end_a_conversation():
    user = ByQuestion(lambda m: "Go on.", lambda m, c: {"yes": 0.004, "no": 0.001} if "yes" in c else {"6": 1.0})
    assert talk(fixed("Hm."), user, SUPPORT, turns=3, transition=True).ended == "turns"


def test_a_user_who_continues_a_transcript_says_whole_sentences_in_the_first_person():
    user = fixed(" think so too. But what if she asks? I would not know. Not at all. And then it")
    t = talk(fixed("Ask her."), user, world=SUPPORT, user_form="transcript")
    said = [m for m in t.messages if m.role == "user"]
    assert said[1].content == "But in my case, I think so too. But what if she asks? I would not know."
    assert (said[1].finish_reason, said[1].flags) == ("stop", [])
    (prompt,) = [a["messages"] for a in t.asked if a["role"] == "user" and a["messages"][-1]["role"] == "plain"]
    assert prompt[0]["content"].endswith(
        f"Person: {said[0].content}\n\nAssistant: Ask her.\n\nPerson: But in my case, I"
    )
    assert t.user_messages[-2] == {"role": "assistant", "content": said[1].content}


def test_words_without_an_end_are_kept_and_marked_and_no_words_fail():
    t = talk(fixed("Ask her."), fixed(" was about to"), world=SUPPORT, user_form="transcript")
    assert (t.messages[3].content, t.messages[3].flags) == ("But in my case, I was about to", [])
    cut = ScriptedChat(lambda m: " was about to", finish_reason="length")
    t = talk(fixed("Ask her."), cut, world=SUPPORT, user_form="transcript")
    assert (t.messages[3].finish_reason, t.messages[3].flags) == ("length", ["cut"])
    with pytest.raises(ConversationError, match="a message is empty"):
        talk(fixed("Ask her."), fixed(" "), world=SUPPORT, user_form="transcript")


def test_another_model_may_speak_for_the_assistant_and_its_tokens_are_not_the_policys():
    user = ScriptedChat(lambda messages: "I am tired.")
    other = ScriptedChat(lambda messages: "Then rest.", weights="other")
    held = talk(other, user, generated=True)
    replies = [m for m in held.messages if m.role == "assistant"]
    assert [m.content for m in replies] == ["Then rest."] * 2
    assert [(m.token_ids, m.logprobs) for m in replies] == [([], [])] * 2
    assert held.reward is not None
    with pytest.raises(ChatError, match="other answered, but candor/policy-0 was asked"):
        talk(other, user)
