"""Transfer matrices: hand-made cases with known answers, and the definitions as loops."""

import numpy as np
import pytest

from kdjax.metrics import transfer

# Task 2 is learned best by the task after it, and forgotten then.
HAND = np.array(
    [
        [0.9, 0.3, 0.2, 0.1],
        [0.6, 0.7, 0.4, 0.1],
        [0.5, 0.8, 0.9, 0.3],
        [0.4, 0.6, 0.7, 1.0],
    ]
)


def test_known_answers():
    np.testing.assert_allclose(transfer.average_accuracy(HAND), 2.7 / 4, rtol=1e-6)
    np.testing.assert_allclose(transfer.backward_transfer(HAND), (-0.5 - 0.1 - 0.2) / 3, rtol=1e-6)
    np.testing.assert_allclose(transfer.forgetting(HAND), (0.5 + 0.2 + 0.2) / 3, rtol=1e-6)
    untrained = np.array([0.9, 0.1, 0.2, 0.3])
    np.testing.assert_allclose(
        transfer.forward_transfer(HAND, untrained), (0.2 + 0.2 + 0.0) / 3, rtol=1e-6
    )


def test_the_definitions_as_loops_for_every_seed_apart():
    rng = np.random.default_rng(0)
    r, b = rng.uniform(size=(3, 6, 6)), rng.uniform(size=(3, 6))
    for seed in range(3):
        m, tasks = r[seed], range(6)
        last = [m[5][j] for j in tasks]
        expected = {
            "average": sum(last) / 6,
            "backward": sum(last[j] - m[j][j] for j in range(5)) / 5,
            "forward": sum(m[j - 1][j] - b[seed][j] for j in range(1, 6)) / 5,
            "forgetting": sum(max(m[i][j] for i in range(5)) - last[j] for j in range(5)) / 5,
        }
        found = {
            "average": transfer.average_accuracy(r)[seed],
            "backward": transfer.backward_transfer(r)[seed],
            "forward": transfer.forward_transfer(r, b)[seed],
            "forgetting": transfer.forgetting(r)[seed],
        }
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-7, err_msg=name)


def test_nothing_forgotten_is_zero():
    perfect = np.tril(np.ones((5, 5)))
    assert transfer.average_accuracy(perfect) == 1
    assert transfer.forgetting(perfect) == transfer.backward_transfer(perfect) == 0


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (transfer.average_accuracy, (np.zeros((2, 3)),), r"\[..., T, T\].*\(2, 3\)"),
        (transfer.forgetting, (np.zeros((1, 1)),), "T of 2 or more"),
        (transfer.backward_transfer, (np.zeros(4),), r"got \(4,\)"),
        (transfer.forward_transfer, (HAND, np.zeros(3)), r"untrained must be \(4,\), got \(3,\)"),
    ],
)
def test_other_shapes_are_refused(function, arguments, message):
    with pytest.raises(ValueError, match=message):
        function(*arguments)


def test_perturbed_frames_need_as_many_times_the_data_as_reach_the_target():
    ratios, scores = [1, 2, 8], [0.4, 0.6, 0.5]
    assert transfer.equivalence_factor(ratios, scores, 0.3) == 1
    np.testing.assert_allclose(transfer.equivalence_factor(ratios, scores, 0.5), np.sqrt(2))
    assert transfer.equivalence_factor(ratios, scores, 0.7) == np.inf
