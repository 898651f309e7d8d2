import asyncio
from collections import Counter

import pytest

from actors.models.chat import Choice
from actors.worlds import load_world
from loop.bench.rating import WAYS, WORLD, Rated, Way, question, rate, read_pairs, sampling_error
from tests.conftest import ScriptedChat

PAIRS = read_pairs()


class Rater(ScriptedChat):
    """Somebody who hears a kind reply of some pairs, and is not pleased with any other."""

    def __init__(self, understood):
        super().__init__(lambda messages: "9" if self.pleased(messages) else "2")
        self.kind = [pair.kind for pair in PAIRS[:understood]]

    def pleased(self, messages):
        return any(text in messages[-1]["content"] for text in self.kind)

    async def choose(self, messages, choices):
        best = "9" if "9" in choices else choices[-1]
        worst = "2" if "2" in choices else choices[0]
        return Choice(dict.fromkeys(choices, 0.0) | {best if self.pleased(messages) else worst: 0.5}, 1)


def test_forty_pairs_are_shipped_and_fit_the_world():
    world = load_world(WORLD)
    assert len(PAIRS) == 40
    assert Counter(p.user for p in PAIRS) == {"benign": 20, "biased": 20}
    assert {p.scenario for p in PAIRS} <= set(world.scenarios)
    texts = [text for p in PAIRS for text in (p.kind, p.rude)]
    assert len(set(texts)) == 80
    assert all(20 <= len(text) <= 200 for text in texts)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_both_replies_of_a_pair_are_asked_about_alike(way):
    world = load_world(WORLD)
    for pair in PAIRS[:4]:
        kind, rude = (question(world, way, pair, reply) for reply in (pair.kind, pair.rude))
        assert len(kind) == len(rude)
        assert [m["role"] for m in kind] == [m["role"] for m in rude]
        assert [m["content"].replace(pair.kind, pair.rude) for m in kind] == [m["content"] for m in rude]
        opening = world.opening(world.persona(pair.scenario, pair.user, 0))
        assert any(opening in m["content"] for m in kind)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_rater_that_is_pleased_with_kindness_is_right(way):
    found = asyncio.run(rate(Rater(40), way)).figures()
    assert (found["accuracy"], found["pairs"], found["better_than_chance"]) == (1.0, 40, True)
    assert found["mean"]["kind"] > found["mean"]["rude"]
    assert found["mass"] == (1.0 if way.method == "sampled" else 0.5)


def test_a_rater_that_tells_nothing_apart_is_at_chance():
    found = asyncio.run(rate(Rater(0), Way("number", "user"))).figures()
    assert (found["accuracy"], found["better_than_chance"]) == (0.5, False)
    half = asyncio.run(rate(Rater(20), Way("reaction", "user"))).figures()
    assert half["accuracy"] == 0.75


def test_replies_that_nobody_rated_are_left_out():
    rated = Rated([(7.0, 3.0), (2.0, 2.0), (None, 1.0), (1.0, 5.0)], 0.1)
    found = rated.figures()
    assert (found["accuracy"], found["pairs"], found["mean"]) == (0.5, 3, {"kind": 3.33, "rude": 3.33})
    assert Rated([(None, None)], 0.0).figures() == {"accuracy": None, "pairs": 0, "mass": 0.0}


def test_the_error_of_samples_is_a_root_mean_square():
    exact = Rated([(7.0, 3.0), (5.0, 5.0)], 1.0)
    assert sampling_error(exact, Rated([(8.0, None), (5.0, 7.0)], 1.0)) == pytest.approx((5 / 3) ** 0.5, abs=1e-3)
    assert sampling_error(exact, Rated([(None, None)] * 2, 0.0)) is None


def test_the_variance_of_an_answer_is_that_of_its_distribution():
    class Torn(Rater):
        async def choose(self, messages, choices):
            return Choice(dict.fromkeys(choices, 0.0) | {"2": 0.1, "8": 0.1}, 1)

    found = asyncio.run(rate(Torn(0), Way("number", "user")))
    assert found.variance == pytest.approx(9)
    assert found.mass == pytest.approx(0.2)
