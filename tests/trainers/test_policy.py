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


def test_nan_is_no_proof():
    with pytest.raises(DeliveryError):
        prove([[float("nan")]], [[-1.0]], [[-1.0]], 0.2, "candor/policy-1")
