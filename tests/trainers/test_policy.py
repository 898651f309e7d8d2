import numpy as np
import pytest

from trainers.policy import DeliveryError, distance, prove


def test_distance_is_the_mean_over_tokens():
    assert distance([[0.0, 1.0], [2.0]], [[0.0, 4.0], [2.0]]) == 1.0
    with pytest.raises(ValueError, match="zip"):
        distance([[0.0]], [[0.0, 1.0]])


def test_a_delivered_policy_is_proved():
    proof = prove([[-1.02, -2.0]], [[-1.0, -2.0]], [[-1.5, -2.5]], 0.2, "candor/policy-1")
    assert proof.error == pytest.approx(0.01)
    assert proof.moved == pytest.approx(0.5)


def test_weights_that_differ_stop_the_run_with_both_values():
    with pytest.raises(DeliveryError, match=r"candor/policy-1 is not what the engine serves.*-3\.000.*-1\.000"):
        prove([[-3.0, -2.0]], [[-1.0, -2.0]], [[-1.0, -2.0]], 0.2, "candor/policy-1")


def test_an_engine_that_kept_the_parent_is_found_even_within_tolerance():
    with pytest.raises(DeliveryError, match="still serves the parent"):
        prove([[-1.0]], [[-1.1]], [[-1.0]], 0.2, "candor/policy-1")


def test_a_policy_that_hardly_moved_is_no_failed_delivery():
    proof = prove([[-1.03]], [[-1.0]], [[-1.01]], 0.2, "candor/policy-1")
    assert not proof.tells_apart


TEXTS = [[*range(41), *range(1000 * n, 1000 * n + 40)] for n in range(1, 9)]


@pytest.fixture
def sixteen_bits():
    """Log-probabilities of eight texts by an engine, by the trainer of the policy and of its parent, and by the engine
    of the parent. What each computes is rounded in its own way; the engine always the same of the same weights, and in
    another way than the trainer (`bias`). All texts begin alike, as those of a world do."""

    def make(moved, served="policy", seed=0, bias=0.03):
        rng = np.random.default_rng(seed)

        def texts(spread):
            """Forty tokens that all have in common, and forty of each."""
            return np.hstack([np.tile(rng.normal(0, spread, 40), (8, 1)), rng.normal(0, spread, (8, 40))])

        parent = texts(1.0) - 3
        policy = parent + texts(moved)
        expected, was = policy + texts(0.05), parent + texts(0.05)
        off = texts(bias)
        before = parent + off + texts(0.05)
        engine = before if served == "parent" else policy + off + texts(0.05)
        return [of.tolist() for of in (engine, expected, was)], before.tolist()

    return make


@pytest.mark.parametrize("seed", range(20))
def test_rounding_that_is_larger_than_the_move_of_a_token_hides_no_policy(sixteen_bits, seed):
    said, before = sixteen_bits(0.1, seed=seed)
    proof = prove(*said, 0.2, "candor/policy-1", before, TEXTS)
    assert proof.moved < 2 * min(proof.error, proof.error_to_parent), "token by token nothing can be told"
    assert not prove(*said, 0.2, "candor/policy-1").tells_apart, "nor without what the engine said before"
    assert proof.tells_apart
    assert 0.5 < proof.along < 0.9


@pytest.mark.parametrize("seed", range(20))
def test_an_engine_that_says_what_it_said_of_the_parent_has_no_other_policy(sixteen_bits, seed):
    said, before = sixteen_bits(0.1, "parent", seed)
    prove(*said, 0.2, "candor/policy-1")  # near enough to both
    with pytest.raises(DeliveryError, match="to the last digit what it said of the parent"):
        prove(*said, 0.2, "candor/policy-1", before, TEXTS)


def test_a_policy_that_moved_by_nothing_but_rounding_is_told_from_nothing(sixteen_bits):
    told = [
        prove(*said, 0.2, "candor/policy-1", before, TEXTS)
        for said, before in (sixteen_bits(0.0, seed=n) for n in range(50))
    ]
    assert not any(p.tells_apart for p in told)
    same = [[-1.0, -2.0]]
    assert prove(same, same, same, 0.2, "candor/policy-1", same).moved == 0, "it did not move, and nothing changed"


def test_one_token_or_text_that_is_far_off_tells_nothing(sixteen_bits):
    """An engine that rounds otherwise each time, of which one token is off as the trainer's is by chance."""
    for seed in range(20):
        said, before = sixteen_bits(0.0, seed=seed)
        for of in (said[0], said[1]):
            of[3][50] += 3.0
        assert not prove(*said, 0.2, "candor/policy-1", before, TEXTS).tells_apart


def test_in_32_bits_the_engine_changes_by_all_that_the_trainer_did(sixteen_bits):
    (_, expected, parent), _ = sixteen_bits(0.1)
    proof = prove(expected, expected, parent, 0.2, "candor/policy-1", parent, TEXTS)
    assert (proof.along, proof.along_se) == pytest.approx((1, 0))


def test_few_tokens_have_no_standard_error():
    proof = prove([[-1.0, -2.0]], [[-1.0, -2.0]], [[-1.5, -2.5]], 0.2, "candor/policy-1", [[-1.5, -2.5]])
    assert proof.along is None
    assert proof.tells_apart, "they differ by much more than the engine from the trainer"


def test_nan_is_no_proof():
    with pytest.raises(DeliveryError):
        prove([[float("nan")]], [[-1.0]], [[-1.0]], 0.2, "candor/policy-1")
