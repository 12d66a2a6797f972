"""Losses without a better network, against NumPy restatements."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import losses

BATCH, CLASSES = 6, 5
RNG = np.random.default_rng(0)
S, T, W = (3 * RNG.standard_normal((3, BATCH, CLASSES))).astype(np.float32)
Y = RNG.integers(CLASSES, size=BATCH).astype(np.int32)
ROWS = np.arange(BATCH)
WHERE = np.array([True, False, True, True, False, True])


def softmax(z):
    z = np.exp(np.float64(z) - np.max(z, axis=-1, keepdims=True))
    return z / z.sum(axis=-1, keepdims=True)


def kl(p, q):
    return np.sum(p * np.log(p / q), axis=-1)


def smoothed(correct):
    u = np.full((BATCH, CLASSES), (1 - correct) / (CLASSES - 1))
    u[ROWS, Y] = correct
    return u


def near(ours, wanted, tolerance=1e-4):
    np.testing.assert_allclose(ours, wanted, rtol=tolerance, atol=1e-5)


def test_virtual_teacher_against_numpy():
    found = losses.virtual_teacher_divergence(S, Y, correct_probability=0.9, temperature=5.0)
    near(found, kl(softmax(smoothed(0.9) / 5), softmax(S)))


def test_virtual_teacher_wants_the_same_of_every_wrong_class():
    ideal = np.float32(smoothed(0.9) / 5)
    found = losses.virtual_teacher_divergence(ideal, Y, correct_probability=0.9, temperature=5.0)
    near(found, np.zeros(BATCH))


def test_corrected_teacher_is_the_teacher_where_it_is_right_and_the_label_where_not():
    t = T.copy()
    t[: BATCH // 2] = 0
    t[ROWS[: BATCH // 2], Y[: BATCH // 2]] = 3
    target = softmax(t / 4)
    wrong = t.argmax(axis=1) != Y
    assert 0 < wrong.sum() < BATCH
    target[wrong] = smoothed(0.9)[wrong]
    found = losses.corrected_teacher_divergence(S, t, Y, temperature=4.0)
    near(found, 16 * kl(target, softmax(S / 4)))


def own_labels(s, w, y):
    """USKD's terms, restated: weights of the target, and the others' Zipf law by their ranks."""
    q, r, rows = softmax(s), softmax(w), np.arange(len(y))
    weight = q[rows, y] ** 2 + 1 - np.mean(q[rows, y] ** 2)
    score = r / (1 - r[rows, y] + 1e-6)[:, None]
    score += np.log(q) / (1 - np.log(q[rows, y]) + 1e-6)[:, None]
    zipf = np.zeros_like(score)
    for row, order in zip(zipf, np.argsort(-score, axis=1), strict=True):
        row[order] = 1 / np.arange(1, CLASSES + 1)
    zipf[rows, y] = 0
    return weight, zipf / zipf.sum(axis=1, keepdims=True)


def test_customised_soft_labels_against_numpy():
    weight, zipf = own_labels(S, W, Y)
    log_q, log_r = np.log(softmax(S)), np.log(softmax(W))
    without = np.float64(S)
    without[ROWS, Y] = -np.inf
    rest = softmax(without)
    log_rest = np.where(rest > 0, np.log(np.where(rest > 0, rest, 1)), 0)
    label = np.full((BATCH, CLASSES), 0.1 / CLASSES)
    label[ROWS, Y] += 0.9
    wanted = -weight * log_q[ROWS, Y] - 0.5 * np.sum(zipf * log_rest, axis=1)
    wanted -= 0.2 * np.sum(label * log_r, axis=1)
    found = losses.customised_soft_label_cross_entropy(S, W, Y, beta=0.5, mu=0.2)
    near(found, wanted)


def test_customised_soft_labels_pass_no_gradient():
    weight, zipf = own_labels(S, W, Y)

    def with_fixed_labels(s):
        rest = jnp.where(jax.nn.one_hot(Y, CLASSES, dtype=bool), -jnp.inf, s)
        log_rest = jax.nn.log_softmax(rest)
        target = -weight * jax.nn.log_softmax(s)[ROWS, Y]
        return jnp.sum(target - 0.1 * jnp.sum(zipf * jnp.where(zipf > 0, log_rest, 0), axis=1))

    def ours(s, w):
        return jnp.sum(losses.customised_soft_label_cross_entropy(s, w, Y, mu=0.0))

    to_student, to_weak = jax.grad(ours, (0, 1))(jnp.asarray(S), jnp.asarray(W))
    near(to_student, jax.grad(with_fixed_labels)(jnp.asarray(S)))
    assert np.all(to_weak == 0)


def test_masked_examples_do_not_enter_the_mean_of_the_target_weight():
    found = losses.customised_soft_label_cross_entropy(S, W, Y, where=WHERE)
    kept = losses.customised_soft_label_cross_entropy(S[WHERE], W[WHERE], Y[WHERE])
    near(found[WHERE], kept)
    assert np.all(found[~WHERE] == 0)


def test_guided_squared_error_against_numpy():
    q, p, e = softmax(S), softmax(T), np.eye(CLASSES)[Y]
    wanted = np.sum(0.3 * (q - e) ** 2 + 0.7 * (q - p) ** 2, axis=1)
    near(losses.guided_squared_error(S, T, Y, alpha=0.3), wanted)


def test_guided_squared_error_is_least_at_the_mixture():
    mixture = 0.3 * np.eye(CLASSES)[Y] + 0.7 * softmax(T)

    def total(s):
        return jnp.sum(losses.guided_squared_error(s, T, Y, alpha=0.3))

    near(jax.grad(total)(jnp.log(jnp.asarray(mixture, jnp.float32))), np.zeros_like(S))


@pytest.mark.parametrize(
    ("match", "call"),
    [
        (
            "correct_probability",
            lambda: losses.virtual_teacher_divergence(S, Y, correct_probability=1.2),
        ),
        ("temperature", lambda: losses.virtual_teacher_divergence(S, Y, temperature=0.0)),
        (
            "correct_probability",
            lambda: losses.corrected_teacher_divergence(S, T, Y, correct_probability=-0.1),
        ),
        ("mu", lambda: losses.customised_soft_label_cross_entropy(S, W, Y, mu=-1.0)),
        ("one shape", lambda: losses.customised_soft_label_cross_entropy(S, W[:, :2], Y)),
        ("alpha", lambda: losses.guided_squared_error(S, T, Y, alpha=2.0)),
    ],
)
def test_bad_arguments_are_refused_by_name(match, call):
    with pytest.raises(ValueError, match=match):
        call()
