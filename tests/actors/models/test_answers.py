import pytest

from actors.models.answers import TokenWalk, read_steps, tokens_needed

NUMBERS = [str(n) for n in range(1, 11)]
WORDS = ["no", "yes", "unclear"]


def walked(choices, *steps):
    walk = TokenWalk(choices)
    return walk, walk.read([(max(told, key=told.get), told) for told in steps])


@pytest.mark.parametrize(
    ("choices", "steps", "found"),
    [
        (NUMBERS, [{"7": 0.6, " 7": 0.2, "8\n": 0.1, "the": 0.1}], {"7": 0.8, "8": 0.1}),
        (NUMBERS, [{"1": 0.9, "2": 0.1}, {"0": 0.25, ".": 0.5, "00": 0.25}], {"10": 0.225, "1": 0.675, "2": 0.1}),
        (NUMBERS, [{"1\n": 0.9, "2": 0.1}], {"1": 0.9, "2": 0.1}),  # nothing goes on behind the end of a line
        (NUMBERS, [{"10": 0.5, "1": 0.4}, {"<end>": 1.0}], {"10": 0.5, "1": 0.4}),
        (NUMBERS, [{"1": 0.9, "10": 0.1}, {"0": 0.9, ".": 0.1}], {"10": 0.91, "1": 0.09}),  # both ways to write it
        (NUMBERS, [{" ": 0.95, "9": 0.05}, {"1": 0.8, "7": 0.2}, {"0": 1.0}], {"10": 0.76, "7": 0.19, "9": 0.05}),
        (NUMBERS, [{" ": 0.9}, {"9": 0.5, "10": 0.3, "1": 0.1}], {"9": 0.45, "10": 0.27, "1": 0.09}),
        (WORDS, [{"Un": 0.7, "Yes": 0.2, "no": 0.1}, {"clear": 0.5}], {"unclear": 0.35, "yes": 0.2, "no": 0.1}),
        (WORDS, [{"Yes": 0.9, "un": 0.1}, {",": 1.0}], {"yes": 0.9}),
        (["no", "nothing"], [{"no": 0.8}, {"thing": 0.5, "t": 0.1}], {"nothing": 0.4, "no": 0.32}),
        (["no", "nothing"], [{"no": 0.8}, {"th": 0.5, ".": 0.5}, {"ing": 0.5}], {"nothing": 0.2, "no": 0.4}),
    ],
)  # fmt: skip
def test_probabilities_are_read_along_the_reply(choices, steps, found):
    walk, enough = walked(choices, *steps)
    assert enough
    assert walk.masses == pytest.approx({c: found.get(c, 0.0) for c in choices})


@pytest.mark.parametrize(
    ("steps", "doubt"),
    [
        ([{"1": 0.9, "9": 0.06}], 0.9),
        ([{"9": 0.8, "1": 0.1}, {"<end>": 1.0}], 0.1),
        ([{" ": 0.9}, {"9": 0.5, "1": 0.1}, {"<end>": 1.0}], 0.09),
    ],
)
def test_what_belongs_to_several_choices_is_not_given_to_one(steps, doubt):
    walk, enough = walked(NUMBERS, *steps)
    assert not enough
    assert walk.doubt == pytest.approx(doubt)
    assert walk.doubtful == "'1'"
    assert walk.masses["1"] == walk.masses["10"] == 0.0


def test_a_little_doubt_is_left_out():
    walk, enough = walked(NUMBERS, {"9": 0.9, "1": 0.005})
    assert enough
    assert (walk.masses["1"], walk.masses["9"]) == (0.0, 0.9)


def test_steps_end_where_probabilities_do():
    place = {"token": "1", "logprob": -0.1, "top_logprobs": [{"token": "2", "logprob": -3.0}]}
    answer = {"choices": [{"logprobs": {"content": [place, {"token": "0", "logprob": 0.0}]}}]}
    ((written, told),) = read_steps(answer)
    assert (written, sorted(told)) == ("1", ["1", "2"])


def test_so_many_tokens_tell_choices_apart():
    assert [tokens_needed(c) for c in (["A", "B"], NUMBERS, WORDS)] == [2, 3, 4]
