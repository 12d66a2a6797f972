"""Losses whose rows are weighted, against NumPy restatements."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import losses

BATCH, CLASSES = 6, 8
RNG = np.random.default_rng(0)
S, T = (3 * RNG.standard_normal((2, BATCH, CLASSES))).astype(np.float32)
Y = RNG.integers(CLASSES, size=BATCH).astype(np.int32)
ROWS = np.arange(BATCH)
WHERE = np.array([True, False, True, True, False, True])


def softmax(z):
    z = np.exp(np.float64(z) - np.max(z, axis=-1, keepdims=True))
    return z / z.sum(axis=-1, keepdims=True)


def kl(p, q):
    return np.sum(p * np.log(p / q), axis=-1)


def near(ours, wanted, tolerance=1e-4):
    np.testing.assert_allclose(ours, wanted, rtol=tolerance, atol=1e-5)


def test_weighted_soft_labels_against_numpy():
    ratio = np.log(softmax(S)[ROWS, Y]) / np.log(softmax(T)[ROWS, Y])
    entropies = -np.sum(softmax(T / 2) * np.log(softmax(S / 2)), axis=1)
    wanted = (1 - np.exp(-ratio)) * 4 * entropies
    near(losses.weighted_soft_label_cross_entropy(S, T, Y), wanted)


def test_weight_of_soft_labels_passes_no_gradient():
    weights = losses.weighted_soft_label_cross_entropy(S, T, Y) / losses.soft_cross_entropy(
        S, T, temperature=2.0
    )

    def fixed(s):
        return jnp.sum(weights * losses.soft_cross_entropy(s, T, temperature=2.0))

    def ours(s):
        return jnp.sum(losses.weighted_soft_label_cross_entropy(s, T, Y))

    near(jax.grad(ours)(jnp.asarray(S)), jax.grad(fixed)(jnp.asarray(S)))


def test_weight_vanishes_for_a_student_that_is_sure_and_is_whole_for_a_sure_teacher():
    sure = 30 * np.eye(CLASSES, dtype=np.float32)[Y]
    near(losses.weighted_soft_label_cross_entropy(sure, T, Y), np.zeros(BATCH))
    whole = losses.weighted_soft_label_cross_entropy(S, 20 * sure, Y)
    near(whole, losses.soft_cross_entropy(S, 20 * sure, temperature=2.0))


def test_confidence_weights_have_mean_one_and_follow_the_teacher():
    confidence = softmax(T).max(axis=1)
    plain = -np.log(softmax(S)[ROWS, Y])
    wanted = plain * confidence / confidence.mean()
    near(losses.confidence_weighted_cross_entropy(S, T, Y), wanted)
    kept = losses.confidence_weighted_cross_entropy(S[WHERE], T[WHERE], Y[WHERE])
    masked = losses.confidence_weighted_cross_entropy(S, T, Y, where=WHERE)
    near(masked[WHERE], kept)
    assert np.all(masked[~WHERE] == 0)


def average_precision(t, y, k, tolerance):
    hits = np.abs(np.argsort(-t)[:k] - y) <= tolerance
    precisions = [hits[: r + 1].mean() for r in range(k) if hits[r]]
    return np.mean(precisions) if precisions else 0.0


def test_average_precision_weight_against_numpy():
    precision = [average_precision(t, y, 4, 1) for t, y in zip(T, Y, strict=True)]
    assert 0 < np.mean(precision) < 1
    wanted = np.mean(precision) * 4 * kl(softmax(T / 2), softmax(S / 2))
    found = losses.average_precision_weighted_divergence(S, T, Y, k=4, tolerance=1, temperature=2.0)
    near(found, wanted)


def test_average_precision_weight_is_one_for_a_right_teacher_and_zero_for_a_wrong_one():
    right = 9 * np.eye(CLASSES, dtype=np.float32)[Y]
    found = losses.average_precision_weighted_divergence(S, right, Y, k=1, tolerance=0)
    near(found, losses.softened_kl_divergence(S, right))
    wrong = 9 * np.eye(CLASSES, dtype=np.float32)[(Y + 1) % CLASSES]
    found = losses.average_precision_weighted_divergence(S, wrong, Y, k=1, tolerance=0)
    assert np.all(found == 0)


def test_average_precision_weight_leaves_masked_examples_out():
    masked = losses.average_precision_weighted_divergence(S, T, Y, k=4, tolerance=1, where=WHERE)
    kept = losses.average_precision_weighted_divergence(
        S[WHERE], T[WHERE], Y[WHERE], k=4, tolerance=1
    )
    near(masked[WHERE], kept)
    assert np.all(masked[~WHERE] == 0)


def test_padded_positions_are_no_hits():
    t = T.copy()
    t[:, 3:] = -np.inf
    labels = np.full(BATCH, 5, np.int32)
    s = np.where(np.isneginf(t), -np.inf, S)
    found = losses.average_precision_weighted_divergence(s, t, labels, k=8, tolerance=1)
    assert np.all(found == 0)


@pytest.mark.parametrize(
    ("match", "call"),
    [
        (
            "temperature",
            lambda: losses.weighted_soft_label_cross_entropy(S, T, Y, temperature=0.0),
        ),
        ("k must", lambda: losses.average_precision_weighted_divergence(S, T, Y, k=0)),
        (
            "tolerance",
            lambda: losses.average_precision_weighted_divergence(S, T, Y, tolerance=-1),
        ),
        ("labels", lambda: losses.confidence_weighted_cross_entropy(S, T, Y[:2])),
        (
            "2 axes",
            lambda: losses.confidence_weighted_cross_entropy(S[None], T[None], Y[None]),
        ),
    ],
)
def test_bad_arguments_are_refused_by_name(match, call):
    with pytest.raises(ValueError, match=match):
        call()
