"""Losses of a generator, against NumPy restatements and their extremes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import losses

RNG = np.random.default_rng(0)
T = (3 * RNG.standard_normal((6, 5))).astype(np.float32)
WHERE = np.array([True, False, True, True, False, True])


def softmax(z):
    z = np.exp(np.float64(z) - np.max(z, axis=-1, keepdims=True))
    return z / z.sum(axis=-1, keepdims=True)


def test_one_hot_cross_entropy_is_minus_the_log_of_the_confidence():
    found = losses.one_hot_cross_entropy(T)
    np.testing.assert_allclose(found, -np.log(softmax(T).max(axis=1)), rtol=1e-4, atol=1e-6)
    masked = losses.one_hot_cross_entropy(T, where=WHERE)
    np.testing.assert_array_equal(masked, np.where(WHERE, found, 0))


def test_one_hot_cross_entropy_falls_as_the_best_logit_rises():
    gradient = jax.grad(lambda t: jnp.sum(losses.one_hot_cross_entropy(t)))(jnp.asarray(T))
    best = T.argmax(axis=1)
    assert np.all(gradient[np.arange(6), best] < 0)
    assert np.sum(np.asarray(gradient) < 0) == 6


def test_negative_information_entropy_against_numpy_and_under_a_mask():
    def wanted(t):
        mean = softmax(t).mean(axis=0)
        return np.sum(mean * np.log(mean))

    np.testing.assert_allclose(losses.negative_information_entropy(T), wanted(T), rtol=1e-5)
    masked = losses.negative_information_entropy(T, where=WHERE)
    np.testing.assert_allclose(masked, wanted(T[WHERE]), rtol=1e-5)


def test_negative_information_entropy_lies_between_its_extremes():
    balanced = 100 * jnp.eye(5)
    np.testing.assert_allclose(losses.negative_information_entropy(balanced), -np.log(5), rtol=1e-6)
    collapsed = jnp.tile(balanced[:1], (5, 1))
    value, gradient = jax.value_and_grad(losses.negative_information_entropy)(collapsed)
    assert value == 0 and np.all(np.isfinite(gradient))


def test_negative_activation_is_minus_the_mean_size():
    f = RNG.standard_normal((6, 2, 3, 4)).astype(np.float32)
    found = losses.negative_activation(f)
    np.testing.assert_allclose(found, -np.abs(f).mean(axis=(1, 2, 3)), rtol=1e-5)
    masked = losses.negative_activation(f, where=WHERE)
    np.testing.assert_array_equal(masked, np.where(WHERE, found, 0))


def test_silent_features_get_no_gradient():
    f = jnp.array([[0.0, 2.0, -1.0]])
    gradient = jax.grad(lambda f: jnp.sum(losses.negative_activation(f)))(f)
    np.testing.assert_allclose(gradient, [[0, -1 / 3, 1 / 3]], rtol=1e-6)


@pytest.mark.parametrize(
    "call",
    [
        lambda: losses.negative_information_entropy(T[None]),
        lambda: losses.one_hot_cross_entropy(T, where=WHERE[:2]),
        lambda: losses.negative_activation(T[0]),
    ],
)
def test_wrong_shapes_are_refused(call):
    with pytest.raises(ValueError, match="axes|where"):
        call()
