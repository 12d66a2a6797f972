"""Channel correlations, affinities and standardised channels against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np

from kdjax import losses

RNG = np.random.default_rng(9)
STUDENT, TEACHER = (RNG.standard_normal((5, 3, 4, 6)).astype(np.float32) for _ in range(2))
S, T = STUDENT.astype(np.float64), TEACHER.astype(np.float64)


def close(ours, wanted, **tolerance):
    np.testing.assert_allclose(ours, wanted, **({"rtol": 2e-5, "atol": 1e-7} | tolerance))


def rotated(maps):
    """The same random rotation of the positions of every channel."""
    q = np.linalg.qr(RNG.standard_normal((12, 12)))[0].astype(np.float32)
    return np.einsum("pq,bqc->bpc", q, maps.reshape(5, 12, 6)).reshape(maps.shape)


def test_channel_correlation_compares_row_normalised_gram_matrices():
    def correlations(x):
        x = x.reshape(5, 12, 6)
        gram = np.swapaxes(x, 1, 2) @ x
        return gram / np.linalg.norm(gram, axis=2, keepdims=True)

    wanted = ((correlations(S) - correlations(T)) ** 2).mean((1, 2))
    close(losses.channel_correlation(STUDENT, TEACHER), wanted)


def test_channel_correlation_ignores_a_rotation_of_the_positions():
    close(losses.channel_correlation(rotated(STUDENT), STUDENT), np.zeros(5), atol=1e-10)


def test_channel_affinity_is_the_distance_of_outer_products():
    def affinities(x):
        x = x.reshape(5, 12, 6) / np.linalg.norm(x, axis=(1, 2)).reshape(5, 1, 6)
        return np.einsum("bpc,bqc->bcpq", x, x) / 12

    wanted = np.linalg.norm(affinities(S) - affinities(T), axis=(2, 3)).sum(1)
    close(losses.channel_affinity(STUDENT, TEACHER), wanted)


def test_channel_affinity_of_a_zero_channel_is_the_norm_of_the_other():
    zeroed = STUDENT * (np.arange(6) > 1)
    value = losses.channel_affinity(zeroed, STUDENT)
    close(value, np.full(5, 2 / 12), rtol=1e-4)


def test_channel_affinity_ignores_the_sign_and_scale_of_a_channel():
    scales = np.array([-1, 2, -3, 1e-3, 1, 5], np.float32)
    close(
        losses.channel_affinity(STUDENT * scales, TEACHER),
        losses.channel_affinity(STUDENT, TEACHER),
    )


def test_mean_of_the_pearson_distance_is_one_minus_the_correlation_of_channels():
    flat = [np.moveaxis(x, -1, 0).reshape(6, -1) for x in (S, T)]
    r = [np.corrcoef(s, t)[0, 1] for s, t in zip(*flat, strict=True)]
    close(losses.pearson_feature_distance(STUDENT, TEACHER).mean(), 1 - np.mean(r))


def test_pearson_distance_of_each_example_standardises_over_the_batch():
    s, t = ((x - x.mean((0, 1, 2))) / (x.std((0, 1, 2)) + 0.1) for x in (S, T))
    wanted = 0.5 * ((s - t) ** 2).mean((1, 2, 3))
    close(losses.pearson_feature_distance(STUDENT, TEACHER, epsilon=0.1), wanted)


def test_pearson_distance_ignores_shift_and_scale_of_a_channel():
    changed = STUDENT * np.arange(1, 7, dtype=np.float32) + np.arange(6, dtype=np.float32)
    close(losses.pearson_feature_distance(changed, STUDENT), np.zeros(5), atol=1e-9)


def test_pearson_distance_of_kept_examples_does_not_know_the_others():
    where = jnp.array([True, False, True, True, False])
    kept = np.array([0, 2, 3])
    value = losses.pearson_feature_distance(STUDENT, TEACHER, where=where)
    close(value[kept], losses.pearson_feature_distance(STUDENT[kept], TEACHER[kept]))
    assert np.all(value[np.array([1, 4])] == 0)


def test_constant_channel_counts_as_zero_without_a_gradient():
    constant = STUDENT.copy()
    constant[..., 2] = 0.3
    gradient = jax.grad(lambda x: losses.pearson_feature_distance(x, TEACHER).sum())(constant)
    assert np.all(gradient[..., 2] == 0) and np.all(np.abs(gradient[..., 1]).max() > 0)
