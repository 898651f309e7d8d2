"""Near-duplicates: what counts as one, and that the shortcut over signatures misses none."""

import random

import pytest

from actors.worlds.alike import ALIKE, Likeness, Seen, similarity, words

VOCABULARY = [f"{a}{b}{c}" for a in "bdfglmnprst" for b in "aeiou" for c in ("nk", "rk", "st", "lm")]


def invented(rng: random.Random, length: int) -> str:
    return " ".join(rng.choices(VOCABULARY, k=length))


def edited(text: str, rng: random.Random, share: float) -> str:
    """The text with about this share of its words exchanged, left out or doubled."""
    out = []
    for word in text.split():
        change = rng.choice("xod") if rng.random() < share else "k"
        out += {"x": [rng.choice(VOCABULARY)], "o": [], "d": [word, word], "k": [word]}[change]
    return " ".join(out)


def test_a_name_and_a_number_exchanged_do_not_make_a_new_person():
    text = "{} is a baker of {} who gets up at three and would rather not talk about her knees today"
    assert len(words(text.format("Anna", 44))) == 20
    assert similarity(words(text.format("Anna", 44)), words(text.format("Olga", 51))) == pytest.approx(0.9)


def test_case_and_punctuation_make_no_difference():
    seen = Seen()
    seen.add("Hello there, my friend of many years!", "first")
    assert seen.like("hello There my friend... of many years") == Likeness("first", 1.0)


def test_the_earlier_text_that_is_most_alike_is_named():
    seen = Seen()
    assert seen.add("a b c d e f g h i j", "one") is None
    assert seen.add("a b c d e f g h x y", "two") == Likeness("one", pytest.approx(0.8))
    assert seen.like("a b c d e f g q x y") == Likeness("two", pytest.approx(0.9))
    assert seen.like("k l m n o p q r s t") is None


def test_order_counts():
    seen = Seen()
    seen.add("one two three four five six seven eight", "first")
    assert seen.like("eight seven six five four three two one") is None


def test_a_text_without_words_is_like_no_text_with_words():
    seen = Seen()
    seen.add("some words", "first")
    assert seen.like("...") is None


@pytest.mark.parametrize("seed", range(3))
def test_no_pair_is_missed_that_comparing_all_pairs_finds(seed):
    rng = random.Random(seed)
    texts = [invented(rng, rng.randint(3, 90)) for _ in range(100)]
    texts += [edited(rng.choice(texts), rng, rng.choice([0.05, 0.2, 0.3, 0.35])) for _ in range(300)]
    rng.shuffle(texts)
    split = [words(text) for text in texts]
    seen, found = Seen(), 0
    for i, text in enumerate(texts):
        likeness = seen.add(text, str(i))
        best = max((similarity(split[i], earlier) for earlier in split[:i]), default=0)
        assert (likeness.share if likeness else None) == (best if best >= ALIKE else None)
        found += likeness is not None
    assert 60 < found < 300, "texts on both sides of the threshold, or nothing is shown"
