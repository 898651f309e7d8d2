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


@pytest.fixture
def sixteen_bits():
    """Log-probabilities of eight texts of eighty tokens by trainer and engine, each with rounding of its own."""

    def make(moved, served, seed=0):
        rng = np.random.default_rng(seed)
        parent = rng.uniform(-4, -0.1, (8, 80))
        policy = parent + rng.normal(0, moved, parent.shape)
        expected, before, engine = (
            (of + rng.normal(0, 0.05, of.shape)).tolist()
            for of in (policy, parent, policy if served == "policy" else parent)
        )
        return engine, expected, before

    return make


@pytest.mark.parametrize("seed", range(20))
def test_rounding_that_is_larger_than_the_move_of_a_token_hides_no_policy(sixteen_bits, seed):
    proof = prove(*sixteen_bits(0.1, "policy", seed), 0.2, "candor/policy-1")
    assert proof.moved < 2 * min(proof.error, proof.error_to_parent), "token by token nothing can be told"
    assert proof.tells_apart
    assert 0.5 < proof.along < 1
    with pytest.raises(DeliveryError, match=r"still serves the parent .* 0\.[0-4]\d of the way from the parent to it"):
        prove(*sixteen_bits(0.1, "parent", seed), 0.2, "candor/policy-1")


@pytest.mark.parametrize("served", ["policy", "parent"])
def test_a_policy_that_moved_by_nothing_but_rounding_is_told_from_nothing(sixteen_bits, served):
    proofs = [prove(*sixteen_bits(0.0, served, seed), 0.2, "candor/policy-1") for seed in range(50)]
    assert not any(p.tells_apart for p in proofs)


def test_in_32_bits_the_engine_is_all_the_way_there(sixteen_bits):
    _, expected, parent = sixteen_bits(0.1, "policy")
    proof = prove(expected, expected, parent, 0.2, "candor/policy-1")
    assert (proof.along, proof.along_se) == pytest.approx((1, 0))


def test_few_tokens_point_nowhere():
    proof = prove([[-1.0, -2.0]], [[-1.0, -2.0]], [[-1.5, -2.5]], 0.2, "candor/policy-1")
    assert proof.along is None
    assert proof.tells_apart, "they differ by much more than the engine from the trainer"


def test_nan_is_no_proof():
    with pytest.raises(DeliveryError):
        prove([[float("nan")]], [[-1.0]], [[-1.0]], 0.2, "candor/policy-1")
