import pytest

from actors.rating import FORMS, RATINGS, NumberRating, ReactionRating, expectation
from actors.worlds import load_world

SUPPORT = load_world("support")
SIDE = [
    {"role": "system", "content": "You play a customer."},
    {"role": "assistant", "content": "It does not work."},
    {"role": "user", "content": "First reply."},
    {"role": "assistant", "content": "And now?"},
    {"role": "user", "content": "Second reply."},
]


class Words:
    """A world with other reactions."""

    def __init__(self, *reactions):
        self.reactions = reactions


def test_numbers_are_their_own_ratings():
    form = NumberRating(SUPPORT)
    assert form.choices == RATINGS
    told = form.ratings(dict.fromkeys(RATINGS, 0.1))
    assert told == [0.1] * 10
    assert expectation(told) == pytest.approx(5.5)
    assert "from 1" in form.of_user(SIDE)[-1]["content"]


@pytest.mark.parametrize("words", [2, 3, 4, 5, 7, 10])
def test_reactions_stand_for_equally_spaced_ratings(words):
    form = ReactionRating(Words(*(f"w{n}" for n in range(words))))
    for n, word in enumerate(form.choices):
        told = form.ratings({c: float(c == word) for c in form.choices})
        assert len(told) == 10
        assert sum(told) == pytest.approx(1)
        assert min(told) >= 0
        assert expectation(told) == pytest.approx(1 + 9 * n / (words - 1))


def test_a_share_of_pleased_words_is_the_rating():
    form = ReactionRating(SUPPORT)
    worst, best = form.choices
    assert expectation(form.ratings({worst: 0.25, best: 0.75})) == pytest.approx(1 + 9 * 0.75)


def test_a_reaction_is_what_the_user_says_next_and_nothing_is_asked():
    form = FORMS["reaction"](SUPPORT)
    assert form.of_user(SIDE) == SIDE
    assert form.of_user(SIDE, "First reply.") == SIDE[:3]
    persona = SUPPORT.persona(SUPPORT.scenarios[0], "biased", 7)
    seen = [{"role": "user", "content": "It does not work."}, {"role": "assistant", "content": "First reply."}]
    (asked,) = form.of_other(persona, [*seen, {"role": "user", "content": "And now?"}], 1)
    assert persona.background in asked["content"]
    assert "First reply." in asked["content"]
    assert "And now?" not in asked["content"], "what came after the reply is not known yet"
