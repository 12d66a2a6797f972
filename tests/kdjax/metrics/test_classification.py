"""The classification metrics against plain loops over examples."""

import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.metrics import classification


@pytest.fixture
def predictions():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(200, 5)).astype(np.float32) * 3
    return logits, rng.integers(0, 5, 200).astype(np.int32)


def test_calibration_error_is_the_weighted_gap_of_equal_width_bins(predictions):
    logits, labels = predictions
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    confidence, hit = p.max(1), p.argmax(1) == labels
    expected = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            expected += inside.mean() * abs(confidence[inside].mean() - hit[inside].mean())
    gaps = classification.calibration_gaps(logits, labels)
    error = classification.expected_calibration_error(gaps.sum(0), len(labels))
    np.testing.assert_allclose(error, expected, rtol=1e-5)


def test_a_split_in_two_has_the_same_calibration_error(predictions):
    logits, labels = predictions
    gaps = classification.calibration_gaps(logits, labels)
    halves = sum(classification.calibration_gaps(logits[i::2], labels[i::2]).sum(0) for i in (0, 1))
    np.testing.assert_allclose(gaps.sum(0), halves, atol=1e-5)


def test_perfect_confident_predictions_are_calibrated_and_correct():
    labels = np.arange(4)
    logits = 50 * jnp.eye(4)
    assert float(classification.correct(logits, labels).mean()) == 1
    gaps = classification.calibration_gaps(logits, labels)
    assert float(classification.expected_calibration_error(gaps.sum(0), 4)) < 1e-6
    assert float(classification.negative_log_likelihood(logits, labels).max()) < 1e-6


def test_agreement_compares_choices_and_not_scores(predictions):
    logits, _ = predictions
    assert float(classification.agreement(logits, 7 * logits + 3).mean()) == 1
    assert float(classification.agreement(logits, -logits).mean()) == 0
