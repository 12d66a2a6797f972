"""Relations inside a batch of predictions, against NumPy restatements."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import losses

BATCH, CLASSES = 6, 5
RNG = np.random.default_rng(0)
S = (3 * RNG.standard_normal((BATCH, CLASSES))).astype(np.float32)
T = (3 * RNG.standard_normal((BATCH, CLASSES))).astype(np.float32)
F_S = RNG.standard_normal((BATCH, 2, 3, 4)).astype(np.float32)
F_T = RNG.standard_normal((BATCH, 2, 3, 4)).astype(np.float32)
WHERE = np.array([True, False, True, True, False, True])
PAIRS = {
    "inter": losses.inter_class_relation,
    "intra": losses.intra_class_relation,
    "batch": losses.batch_level_correlation,
    "class": losses.class_level_correlation,
    "gram": losses.gram_mahalanobis_distance,
}


def softmax(z):
    z = np.exp(np.float64(z) - np.max(z, axis=-1, keepdims=True))
    return z / z.sum(axis=-1, keepdims=True)


def relation(a, b):
    """[N] one minus the Pearson correlation of each row."""
    return np.array([1 - np.corrcoef(x, y)[0, 1] for x, y in zip(a, b, strict=True)])


def near(ours, wanted, tolerance=1e-4):
    np.testing.assert_allclose(ours, wanted, rtol=tolerance, atol=1e-6)


def test_class_relations_against_numpy():
    q, p = softmax(S / 2), softmax(T / 2)
    near(losses.inter_class_relation(S, T, temperature=2.0), 4 * relation(q, p))
    near(losses.intra_class_relation(S, T, temperature=2.0), 4 * relation(q.T, p.T))


def test_epsilon_stands_beside_the_product_of_the_norms():
    q, p = (softmax(z) - softmax(z).mean(axis=1, keepdims=True) for z in (S, T))
    norms = np.linalg.norm(q, axis=1) * np.linalg.norm(p, axis=1)
    wanted = 1 - np.sum(q * p, axis=1) / (norms + 0.3)
    near(losses.inter_class_relation(S, T, epsilon=0.3), wanted)


def test_relations_do_not_see_a_line_through_the_predictions():
    q = softmax(S)
    q = np.log(0.5 * q + 0.5 / CLASSES).astype(np.float32)
    near(losses.inter_class_relation(S, q), np.zeros(BATCH))
    near(losses.intra_class_relation(S, q), np.zeros(CLASSES))


def test_feature_relations_against_numpy():
    channels = relation(F_S.reshape(-1, 4), F_T.reshape(-1, 4)).reshape(BATCH, 2, 3)
    near(losses.channel_relation(F_S, F_T), channels)
    places = [f.sum(axis=-1).reshape(BATCH, -1).T for f in (F_S, F_T)]
    near(losses.spatial_relation(F_S, F_T), relation(*places).reshape(2, 3))
    wide = np.concatenate([F_T, 0 * F_T], axis=-1)
    near(losses.spatial_relation(F_S, wide), losses.spatial_relation(F_S, F_T))


def test_level_correlations_against_numpy():
    q, p = softmax(S / 2), softmax(T / 2)
    near(
        losses.batch_level_correlation(S, T, temperature=2.0),
        np.sum((q @ q.T - p @ p.T) ** 2, axis=1),
    )
    near(
        losses.class_level_correlation(S, T, temperature=2.0),
        np.sum((q.T @ q - p.T @ p) ** 2, axis=1),
    )


def test_batch_level_correlation_does_not_see_which_class_is_which():
    near(losses.batch_level_correlation(S, T[:, ::-1]), losses.batch_level_correlation(S, T))
    near(losses.batch_level_correlation(S[:, ::-1], S), np.zeros(BATCH))


def test_gram_mahalanobis_distance_against_numpy():
    unit = [np.float64(z) / np.linalg.norm(z, axis=1, keepdims=True) for z in (S, T)]
    difference = unit[0] @ unit[0].T - unit[1] @ unit[1].T
    inverse = np.linalg.inv(np.cov(difference.T) + 0.1 * np.eye(BATCH))
    wanted = np.sqrt(np.einsum("bi,ij,bj->b", difference, inverse, difference))
    near(losses.gram_mahalanobis_distance(S, T), wanted)
    near(losses.gram_mahalanobis_distance(3 * S, T), wanted)


@pytest.mark.parametrize("name", PAIRS)
def test_equal_sides_give_zero_and_no_gradient(name):
    value, pull = jax.vjp(lambda s: PAIRS[name](s, T), jnp.asarray(T))
    np.testing.assert_allclose(value, 0, atol=1e-12)
    np.testing.assert_allclose(pull(jnp.ones_like(value))[0], 0, atol=1e-6)


@pytest.mark.parametrize("name", PAIRS)
def test_mask_equals_leaving_the_examples_out(name):
    masked, kept = PAIRS[name](S, T, where=WHERE), PAIRS[name](S[WHERE], T[WHERE])
    near(masked[WHERE] if len(masked) == BATCH else masked, kept)


def test_masked_examples_take_no_part_in_spatial_relation():
    found = losses.spatial_relation(F_S, F_T, where=WHERE)
    near(found, losses.spatial_relation(F_S[WHERE], F_T[WHERE]))


def test_certain_predictions_have_relations_and_gradients():
    s, t = 1000 * S, 1000 * T
    value, pull = jax.vjp(lambda s: losses.intra_class_relation(s, t), s)
    assert np.all(np.isfinite(value)) and np.all(np.isfinite(pull(jnp.ones(CLASSES))[0]))


def test_column_of_tiny_probabilities_still_has_a_direction():
    s = S.copy()
    s[:, 0] -= 60
    found = losses.intra_class_relation(s, S)[0]
    q, p = softmax(s)[:, 0], softmax(S)[:, 0]
    near(found, relation(q[None], p[None])[0], 1e-3)


def test_predictions_without_variation_agree_with_each_other():
    flat = jnp.zeros((BATCH, CLASSES))
    assert np.all(losses.inter_class_relation(flat, flat) == 0)
    near(losses.inter_class_relation(flat, T), np.full(BATCH, 0.5))


@pytest.mark.parametrize(
    ("match", "call"),
    [
        ("temperature", lambda: losses.inter_class_relation(S, T, temperature=0.0)),
        ("epsilon", lambda: losses.intra_class_relation(S, T, epsilon=-1.0)),
        ("tikhonov", lambda: losses.gram_mahalanobis_distance(S, T, tikhonov=0.0)),
        ("2 axes", lambda: losses.batch_level_correlation(S[None], T[None])),
        ("one shape", lambda: losses.class_level_correlation(S, T[:, :2])),
        ("first 1 axes", lambda: losses.gram_mahalanobis_distance(S, T[:2])),
        ("first 3 axes", lambda: losses.spatial_relation(F_S, F_T[:, :, :1])),
        ("where", lambda: losses.channel_relation(F_S, F_T, where=WHERE)),
    ],
)
def test_bad_arguments_are_refused_by_name(match, call):
    with pytest.raises(ValueError, match=match):
        call()
