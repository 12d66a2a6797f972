"""Losses on class logits, against NumPy restatements and their limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import losses

BATCH, CLASSES = 5, 6
RNG = np.random.default_rng(0)
S = (3 * RNG.standard_normal((BATCH, CLASSES))).astype(np.float32)
T = (3 * RNG.standard_normal((BATCH, CLASSES))).astype(np.float32)
Y = RNG.integers(CLASSES, size=BATCH).astype(np.int32)
ROWS = np.arange(BATCH)


def softmax(z):
    z = np.exp(np.float64(z) - np.max(z, axis=-1, keepdims=True))
    return z / z.sum(axis=-1, keepdims=True)


def kl(p, q):
    return np.sum(p * np.log(p / q), axis=-1)


def others(z):
    """[B, C - 1] the logits of the classes that are not the label."""
    return np.stack([np.delete(row, y) for row, y in zip(z, Y, strict=True)])


def near(ours, wanted, tolerance=2e-5):
    np.testing.assert_allclose(ours, wanted, rtol=tolerance, atol=tolerance)


def test_soft_cross_entropy_is_the_divergence_plus_the_teachers_entropy():
    p = softmax(T / 2)
    entropy = -np.sum(p * np.log(p), axis=-1)
    kl_values = losses.softened_kl_divergence(S, T, temperature=2.0)
    near(losses.soft_cross_entropy(S, T, temperature=2.0), kl_values + 4 * entropy)


def test_soft_cross_entropy_has_the_gradient_of_the_divergence():
    def gradient(loss):
        return jax.grad(lambda s: jnp.sum(loss(s, T, temperature=3.0)))(jnp.asarray(S))

    near(gradient(losses.soft_cross_entropy), gradient(losses.softened_kl_divergence))


def test_pseudo_label_cross_entropy_against_numpy():
    best = T.argmax(axis=1)
    log_q = np.log(softmax(S))
    target = np.full((BATCH, CLASSES), 0.2 / (CLASSES - 1))
    target[ROWS, best] = 0.8
    near(losses.pseudo_label_cross_entropy(S, T), -log_q[ROWS, best])
    smoothed = losses.pseudo_label_cross_entropy(S, T, label_smoothing=0.2)
    near(smoothed, -np.sum(target * log_q, axis=1))


def test_pseudo_label_cross_entropy_takes_only_the_teachers_choice():
    near(losses.pseudo_label_cross_entropy(S, T), losses.pseudo_label_cross_entropy(S, 9 * T + 4))


def test_smoothing_gives_nothing_to_a_class_that_neither_side_has():
    s, t = S.copy(), T.copy()
    s[:, 0] = t[:, 0] = -np.inf
    found = losses.pseudo_label_cross_entropy(s, t, label_smoothing=0.2)
    fraction = 0.8 + 0.2 * (CLASSES - 2) / (CLASSES - 1)
    best, log_q = t.argmax(axis=1), np.log(softmax(s[:, 1:]))
    spread = 0.2 / (CLASSES - 1)
    wanted = -(spread * log_q.sum(axis=1) + (0.8 - spread) * log_q[ROWS, best - 1]) / fraction
    near(found, wanted)


def test_squared_absolute_and_euclidean_errors_against_numpy():
    difference = np.float64(S) - T
    near(losses.logit_squared_error(S, T), np.mean(difference**2, axis=1))
    near(losses.logit_absolute_error(S, T), np.mean(np.abs(difference), axis=1))
    near(losses.logit_distance(S, T), np.sqrt(np.sum(difference**2, axis=1)))


def test_squared_error_is_the_limit_of_the_divergence():
    s, t = (z - z.mean(axis=1, keepdims=True) for z in (S, T))
    limit = 2 * losses.softened_kl_divergence(s, t, temperature=200.0)
    np.testing.assert_allclose(limit, losses.logit_squared_error(s, t), rtol=0.02)


@pytest.mark.parametrize(
    "loss", [losses.logit_squared_error, losses.logit_absolute_error, losses.logit_distance]
)
def test_a_class_that_neither_side_has_is_not_counted(loss):
    gone = np.full((BATCH, 1), -np.inf, np.float32)
    near(loss(np.concatenate([S, gone], 1), np.concatenate([T, gone], 1)), loss(S, T))


def test_absolute_error_pulls_nothing_where_the_logits_are_equal():
    gradient = jax.grad(lambda s: jnp.sum(losses.logit_absolute_error(s, T)))(jnp.asarray(T))
    assert np.all(gradient == 0)


def test_a_class_that_only_the_student_has_ruled_out_is_infinitely_far():
    s = S.copy()
    s[0, 0] = -np.inf
    found = losses.logit_distance(s, T)
    assert np.isposinf(found[0]) and np.all(np.isfinite(found[1:]))
    gradient = jax.grad(lambda x: jnp.sum(losses.logit_distance(x, T)))(jnp.asarray(s))
    assert np.all(gradient[0] == 0) and np.all(np.isfinite(gradient))


def test_parts_of_decoupled_divergence_against_numpy():
    q, p = softmax(S / 2), softmax(T / 2)
    pairs = [np.stack([x[ROWS, Y], 1 - x[ROWS, Y]], axis=1) for x in (p, q)]
    rest = kl(softmax(others(T) / 2), softmax(others(S) / 2))
    near(losses.target_class_divergence(S, T, Y, temperature=2.0), 4 * kl(*pairs))
    near(losses.non_target_class_divergence(S, T, Y, temperature=2.0), 4 * rest)
    found = losses.decoupled_divergence(S, T, Y, alpha=0.5, beta=3.0, temperature=2.0)
    near(found, 4 * (0.5 * kl(*pairs) + 3 * rest))


def test_decoupled_divergence_with_the_teachers_own_weights_is_the_divergence():
    beta = jnp.asarray(1 - softmax(T / 2)[ROWS, Y], jnp.float32)
    found = losses.decoupled_divergence(S, T, Y, alpha=1.0, beta=beta, temperature=2.0)
    near(found, losses.softened_kl_divergence(S, T, temperature=2.0))


def test_decoupled_divergence_of_confident_logits_is_finite_and_right():
    s, t = (40 * RNG.standard_normal((2, 64, CLASSES))).astype(np.float32)
    y = RNG.integers(CLASSES, size=64).astype(np.int32)
    value, pull = jax.vjp(lambda x: losses.decoupled_divergence(x, t, y, temperature=1.0), s)
    assert np.all(np.isfinite(value)) and np.all(np.isfinite(pull(jnp.ones(64))[0]))

    def log_sum_exp(z):
        top = z.max(axis=-1, keepdims=True)
        return np.log(np.sum(np.exp(z - top), axis=-1)) + top[..., 0]

    s, t, rows = np.float64(s), np.float64(t), np.arange(64)
    keep = np.arange(CLASSES) != y[:, None]
    parts = [(z[rows, y], z[keep].reshape(64, -1)) for z in (t, s)]
    t_rest, s_rest = (rest for _, rest in parts)
    log_p = [np.stack([a, log_sum_exp(r)], -1) for a, r in parts]
    log_p = [z - log_sum_exp(z)[:, None] for z in log_p]
    target = np.sum(np.exp(log_p[0]) * (log_p[0] - log_p[1]), axis=-1)
    t_rest, s_rest = (r - log_sum_exp(r)[:, None] for r in (t_rest, s_rest))
    rest = np.sum(np.exp(t_rest) * (t_rest - s_rest), axis=-1)
    np.testing.assert_allclose(value, target + 8 * rest, rtol=1e-4, atol=1e-4)


def test_decoupled_divergence_of_tokens_is_that_of_the_rows():
    s, t, y = (np.stack([x, x[::-1]]) for x in (S, T, Y))
    found = losses.decoupled_divergence(s, t, y)
    near(found[0], losses.decoupled_divergence(S, T, Y))
    near(found[1], losses.decoupled_divergence(S, T, Y)[::-1])


def test_traced_weights_and_a_temperature_for_each_row():
    temperature = jnp.linspace(1.0, 4.0, BATCH)

    @jax.jit
    def run(alpha, beta, temperature):
        return losses.decoupled_divergence(S, T, Y, alpha=alpha, beta=beta, temperature=temperature)

    found = run(1.0, 2.0, temperature)
    for k, each in enumerate(temperature):
        one = losses.decoupled_divergence(
            S[k : k + 1], T[k : k + 1], Y[k : k + 1], beta=2.0, temperature=float(each)
        )
        near(found[k], one[0])


def test_normalised_soft_cross_entropy_against_numpy():
    q, p = softmax(S)[ROWS, Y], softmax(T)[ROWS, Y]
    q_rest, p_rest = softmax(others(S) / 3), softmax(others(T) / 3)
    wanted = -p * np.log(q) - 1.5 * 9 * np.sum(p_rest * np.log(q_rest), axis=1)
    near(losses.normalised_soft_cross_entropy(S, T, Y, temperature=3.0), wanted)


def test_label_log_probability_error_against_numpy_and_at_the_teacher():
    log_p = np.log(softmax(T)[ROWS, Y]).astype(np.float32)
    log_q = np.log(softmax(S)[ROWS, Y])
    near(losses.label_log_probability_error(S, log_p, Y), 0.5 * (log_q - log_p) ** 2)
    near(losses.label_log_probability_error(T, log_p, Y), np.zeros(BATCH))


def test_fit_to_sampled_probabilities_is_unbiased_where_the_weighted_one_is_not():
    p = np.array([0.7, 0.2, 0.1], np.float32)
    s, y = jnp.log(jnp.tile(p, (3, 1))), jnp.arange(3)
    gradient = jax.grad(
        lambda s: jnp.sum(p * losses.label_log_probability_error(s, jnp.log(p), y))
    )(s)
    near(gradient, np.zeros((3, 3)))


def test_jacobian_matching_sees_directions_alone():
    g_s, g_t = S.reshape(BATCH, 2, 3), T.reshape(BATCH, 2, 3)
    unit = [z / np.linalg.norm(z, axis=1, keepdims=True) for z in np.float64([S, T])]
    near(losses.jacobian_matching(g_s, g_t), np.mean((unit[0] - unit[1]) ** 2, axis=1))
    near(losses.jacobian_matching(7 * g_s, g_t), losses.jacobian_matching(g_s, g_t))


@pytest.mark.parametrize(
    "call",
    [
        lambda where: losses.decoupled_divergence(S, T, Y, where=where),
        lambda where: losses.normalised_soft_cross_entropy(S, T, Y, where=where),
        lambda where: losses.soft_cross_entropy(S, T, where=where),
        lambda where: losses.logit_distance(S, T, where=where),
    ],
)
def test_mask_zeroes_its_rows_and_no_others(call):
    where = np.array([True, False, True, True, False])
    near(call(where), np.where(where, call(None), 0))


def test_label_out_of_range_under_the_mask_does_no_harm():
    labels = np.where(ROWS == 1, 255, Y).astype(np.int32)
    where = ROWS != 1
    found = losses.decoupled_divergence(S, T, labels, where=where)
    near(found, np.where(where, losses.decoupled_divergence(S, T, Y), 0))


@pytest.mark.parametrize(
    ("error", "match", "call"),
    [
        (ValueError, "alpha", lambda: losses.decoupled_divergence(S, T, Y, alpha=-1.0)),
        (ValueError, "beta", lambda: losses.decoupled_divergence(S, T, Y, beta=-1.0)),
        (ValueError, "temperature", lambda: losses.decoupled_divergence(S, T, Y, temperature=0.0)),
        (TypeError, "labels", lambda: losses.decoupled_divergence(S, T, Y.astype(np.float32))),
        (ValueError, "labels", lambda: losses.target_class_divergence(S, T, Y[:2])),
        (ValueError, "one shape", lambda: losses.non_target_class_divergence(S, T[:, :3], Y)),
        (ValueError, "gamma", lambda: losses.normalised_soft_cross_entropy(S, T, Y, gamma=-0.1)),
        (
            ValueError,
            "label_smoothing",
            lambda: losses.pseudo_label_cross_entropy(S, T, label_smoothing=1.5),
        ),
        (ValueError, "temperature", lambda: losses.soft_cross_entropy(S, T, temperature=-1.0)),
        (ValueError, "where", lambda: losses.logit_distance(S, T, where=np.ones(2, bool))),
        (
            ValueError,
            "teacher_log_probabilities",
            lambda: losses.label_log_probability_error(S, T, Y),
        ),
        (ValueError, "2 axes", lambda: losses.jacobian_matching(S[0], T[0])),
    ],
)
def test_bad_arguments_are_refused_by_name(error, match, call):
    with pytest.raises(error, match=match):
        call()
