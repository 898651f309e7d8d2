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


def rounded(values, seed, by=0.05):
    """In 16 bits every computer rounds in a way of its own, and always alike."""
    return (np.asarray(values) + np.random.default_rng(seed).normal(0, by, np.shape(values))).tolist()


@pytest.fixture
def sixteen_bits():
    """What trainer and engine say of a policy and its parent, between which there is less than they round."""
    parent = np.random.default_rng(1).uniform(-4, -0.1, (8, 40))
    policy = parent + np.random.default_rng(2).normal(0, 0.05, parent.shape)
    trainer = {"policy": rounded(policy, 3), "parent": rounded(parent, 4)}
    engine = {"policy": rounded(policy, 5), "parent": rounded(parent, 6)}
    return trainer, engine


def test_rounding_that_is_larger_than_the_move_hides_no_policy(sixteen_bits):
    trainer, engine = sixteen_bits
    said = engine["policy"], trainer["policy"], trainer["parent"]
    assert not prove(*said, 0.2, "candor/policy-1").tells_apart, (
        "nothing can be told without what the engine said before"
    )
    proof = prove(*said, 0.2, "candor/policy-1", (engine["parent"], engine["parent"]))
    assert proof.tells_apart
    assert (proof.changed, proof.steady) == (distance(engine["policy"], engine["parent"]), 0)


def test_an_engine_that_says_what_it_said_of_the_parent_has_no_other_policy(sixteen_bits):
    trainer, engine = sixteen_bits
    said = engine["parent"], trainer["policy"], trainer["parent"]
    prove(*said, 0.2, "candor/policy-1")  # near enough to both
    with pytest.raises(DeliveryError, match="to the last digit what it said of the parent"):
        prove(*said, 0.2, "candor/policy-1", (engine["parent"], engine["parent"]))


def test_an_engine_that_rounds_otherwise_each_time_tells_nothing_by_its_change(sixteen_bits):
    trainer, engine = sixteen_bits
    for served in ("policy", "parent"):
        said = rounded(engine[served], 7), trainer["policy"], trainer["parent"]
        before = rounded(engine["parent"], 8), rounded(engine["parent"], 9)
        assert not prove(*said, 0.2, "candor/policy-1", before).tells_apart


def test_a_policy_that_did_not_move_changes_nothing():
    same = [[-1.0, -2.0, -0.5, -3.0]]
    trainer = rounded(same, 1, 1e-4), rounded(same, 2, 1e-4)
    assert not prove(same, *trainer, 0.2, "candor/policy-1", (same, same)).tells_apart


def test_nan_is_no_proof():
    with pytest.raises(DeliveryError):
        prove([[float("nan")]], [[-1.0]], [[-1.0]], 0.2, "candor/policy-1")
