"""Weights on a grid: few values, small errors, and a gradient as if nothing was rounded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.surgery import fake_quantised, quantised_values

KERNEL = np.random.default_rng(0).normal(size=(6, 2, 5)).astype(np.float32)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_values_are_on_the_grid_of_their_output_and_the_nearest_there(bits):
    values = np.asarray(quantised_values(jnp.asarray(KERNEL), bits=bits), np.float64)
    top = 2 ** (bits - 1) - 1
    scale = np.abs(KERNEL).max(axis=(0, 1), keepdims=True).astype(np.float64) / top
    steps = values / scale
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-4)
    assert np.abs(steps).max() <= top + 1e-4
    assert (np.abs(values - KERNEL) <= scale / 2 + 1e-6).all()
    assert np.abs(values - KERNEL).max() > scale.min() / 8


def test_a_zero_output_stays_and_dtypes_stay():
    kernel = jnp.zeros((3, 2), jnp.bfloat16).at[:, 1].set(2)
    values = quantised_values(kernel, bits=4)
    assert values.dtype == jnp.bfloat16 and not np.isnan(np.asarray(values, np.float32)).any()
    np.testing.assert_array_equal(np.asarray(values, np.float32), [[0, 2]] * 3)
    with pytest.raises(ValueError, match="bits must be at least 2, got 1"):
        quantised_values(kernel, bits=1)
    with pytest.raises(TypeError, match="int32"):
        quantised_values(jnp.zeros((2, 2), jnp.int32), bits=4)


def test_only_what_matches_is_rounded_and_the_gradient_passes():
    tree = {"dense": {"kernel": jnp.asarray(KERNEL), "bias": jnp.full(5, 0.123)}}
    rounded = fake_quantised(tree, ["kernel$"], bits=3)
    np.testing.assert_allclose(
        rounded["dense"]["kernel"], quantised_values(KERNEL, bits=3), atol=1e-6
    )
    np.testing.assert_array_equal(rounded["dense"]["bias"], tree["dense"]["bias"])
    weights = jnp.asarray(np.random.default_rng(1).normal(size=KERNEL.shape))

    def loss(tree):
        return jnp.sum(weights * fake_quantised(tree, ["kernel$"], bits=3)["dense"]["kernel"])

    np.testing.assert_allclose(jax.grad(loss)(tree)["dense"]["kernel"], weights, rtol=1e-6)
    with pytest.raises(ValueError, match=r"\['nothing'\] match no parameter.*dense/kernel"):
        fake_quantised(tree, ["nothing"], bits=3)
