import asyncio

import pytest

from actors.models.chat import ChatError, Choice, NoLogprobsError, Reply
from actors.models.multiple_choice import ask, read_choice
from actors.settings import EndpointSettings

QUESTION = [{"role": "user", "content": "How satisfied are you?"}]
NUMBERS = [str(i) for i in range(1, 11)]


class Asked:
    """A model that gives these answers in turn, the last one for ever, and notes how it was asked.

    Args:
        masses: What it tells of its probabilities; None tells nothing. An error stands for a request that fails.
    """

    def __init__(self, *answers, masses=None):
        self.answers = list(answers)
        self.masses = masses
        self.samplings = []
        self.under_way = 0

    async def choose(self, messages, choices):
        if self.masses is None:
            raise NoLogprobsError("no probabilities here")
        return Choice({c: self.masses.get(c, 0.0) for c in choices}, 1)

    async def reply(self, messages, sampling):
        self.samplings.append(sampling)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.under_way += 1
        await asyncio.sleep(0 if isinstance(answer, Exception) else 0.01)
        self.under_way -= 1
        if isinstance(answer, Exception):
            raise answer
        return Reply(answer, [], [], "stop", 1, 1, "m")


def asked(model, choices=NUMBERS, **how):
    return asyncio.run(ask(model, QUESTION, choices, **how))


@pytest.mark.parametrize(
    ("text", "choices", "found"),
    [
        ("7", NUMBERS, "7"),
        (" 7\n", NUMBERS, "7"),
        ("7.", NUMBERS, "7"),
        ("7.\n", NUMBERS, "7"),
        ("10", NUMBERS, "10"),
        ("Yes", ["yes", "no"], "yes"),
        ("NO.", ["yes", "no"], "no"),
        ("c", ["A", "B", "C"], "C"),
        ("", NUMBERS, None),
        (".", NUMBERS, None),
        ("0", NUMBERS, None),
        ("11", NUMBERS, None),
        ("07", NUMBERS, None),
        ("7..", NUMBERS, None),
        ("7 .", NUMBERS, None),
        ("7!", NUMBERS, None),
        ("7.5", NUMBERS, None),
        ("7/10", NUMBERS, None),
        ("7 or 8", NUMBERS, None),
        ("**7**", NUMBERS, None),
        ("Rating: 7", NUMBERS, None),
        ("7\nThank you.", NUMBERS, None),
        ("seven", NUMBERS, None),
        ("\u0667", NUMBERS, None),
        ("-7", NUMBERS, None),
        ("yes, no", ["yes", "no"], None),
        ("yes it is", ["yes", "no"], None),
        ("A:", ["A", "B", "C"], None),
    ],
)
def test_an_answer_is_a_choice_and_nothing_else(text, choices, found):
    assert read_choice(text, choices) == found


def test_probabilities_are_taken_where_they_are_told_and_add_up_to_one():
    answer = asked(Asked("1", masses={"2": 0.3, "10": 0.5}))
    assert answer.distribution == pytest.approx({c: {"2": 0.375, "10": 0.625}.get(c, 0) for c in NUMBERS})
    assert (answer.method, answer.failures, answer.best) == ("logprobs", 0, "10")
    assert answer.mass == pytest.approx(0.8)
    assert asked(Asked("1", masses={"3": 0.4, "8": 0.4})).best == "3"


@pytest.mark.parametrize("masses", [{}, {"7": 0.0}, {"7": float("nan")}])
def test_no_mass_on_any_choice_is_no_answer(masses):
    answer = asked(Asked("1", masses=masses))
    assert (answer.distribution, answer.mass, answer.best, answer.method) == (None, 0.0, None, "logprobs")


def test_a_model_that_tells_nothing_is_sampled_unless_probabilities_are_insisted_on():
    assert asked(Asked("4")).distribution["4"] == 1.0
    with pytest.raises(NoLogprobsError):
        asked(Asked("4"), method="logprobs")
    told = Asked("4", masses={"9": 1.0})
    assert asked(told, method="logprobs").best == "9"
    assert asked(told, method="sampled").best == "4"
    assert asked(told).best == "9"
    assert len(told.samplings) == 1


def test_samples_become_shares_and_what_is_none_of_the_choices_lowers_the_mass():
    answer = asked(Asked("7", "8", "8", "no idea"), samples=4, retries=0)
    assert answer.distribution == {c: {"7": 1 / 3, "8": 2 / 3}.get(c, 0) for c in NUMBERS}
    assert (answer.mass, answer.failures, answer.method) == (0.75, 1, "sampled")


def test_what_is_no_answer_is_asked_again_and_every_failure_is_counted():
    model = Asked("what?", "a 7", "7")
    answer = asked(model, retries=2)
    assert (answer.best, answer.mass, answer.failures) == ("7", 1.0, 2)
    never = Asked("what?")
    answer = asked(never, samples=3, retries=2)
    assert (answer.distribution, answer.mass, answer.failures, len(never.samplings)) == (None, 0.0, 9, 9)


def test_one_answer_is_drawn_greedily_and_only_what_is_drawn_again_is_warm():
    one = Asked("what?", "hm", "7")
    asked(one, seed=5)
    assert [(s.temperature, s.seed) for s in one.samplings] == [(0.0, 5000), (1.0, 5001), (1.0, 5002)]
    several = Asked("7")
    asked(several, samples=3, seed=5)
    assert [(s.temperature, s.seed) for s in several.samplings] == [(1.0, 5000), (1.0, 5010), (1.0, 5020)]


def test_seeds_follow_from_the_one_given_and_from_nothing_else():
    def seeds(seed):
        model = Asked("what?")
        asked(model, samples=5, seed=seed)
        return [s.seed for s in model.samplings]

    assert seeds(3) == seeds(3)
    assert len(set(seeds(3)) | set(seeds(4))) == len(seeds(3)) + len(seeds(4)) == 30


def test_a_request_that_fails_is_raised_when_no_other_is_under_way_any_more():
    model = Asked("7", ChatError("gone"), "7")
    with pytest.raises(ChatError, match="gone"):
        asked(model, samples=3)
    assert model.under_way == 0
    assert len(model.samplings) == 3


def test_a_question_over_http_is_answered_by_a_real_endpoint():
    from actors.models.endpoint import Endpoint
    from tests.endpoint_server import serve

    async def both(server):
        settings = EndpointSettings(kind="endpoint", model="mock", base_url=server.base_url, key_env=None)
        told, silent = Endpoint(settings), Endpoint(settings)
        by_numbers = await ask(told, QUESTION, NUMBERS)
        server.reset(logprobs="absent")
        by_samples = await ask(silent, QUESTION, NUMBERS, samples=2)
        once_more = await ask(silent, QUESTION, NUMBERS)
        await told.close()
        await silent.close()
        return by_numbers, by_samples, once_more, server.stats()

    with serve(lambda messages: "9.") as server:
        by_numbers, by_samples, once_more, stats = asyncio.run(both(server))
    assert by_numbers.method == "logprobs"
    assert 0.5 < by_numbers.mass < 1
    assert sum(by_numbers.distribution.values()) == pytest.approx(1)
    assert (by_samples.method, by_samples.best, by_samples.mass) == ("sampled", "9", 1.0)
    assert once_more.best == "9"
    assert stats["requests"] == 4  # one that told nothing, two samples, and no further try to be told
