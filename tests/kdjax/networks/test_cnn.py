"""The small convolutional network."""

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.networks import cnn, sizes

X = jax.random.normal(jax.random.key(1), (3, 8, 8, 1))


def test_features_parameters_and_precision():
    names = ("stage1", "stage2", "embedding")
    network = cnn.small_cnn(4, widths=(3, 5), hidden=7, features=names)
    variables = jax.jit(network.init)(jax.random.key(0), X)
    counts = 9 * 3 + 3, 9 * 3 * 5 + 5, 2 * 2 * 5 * 7 + 7, 7 * 4 + 4
    assert sizes.count_parameters(variables["params"]) == sum(counts)
    outputs, state = network.apply(variables, X, train=True, rngs={})
    assert state == {} and not network.couples
    shapes = [outputs.features[n].shape for n in names]
    assert shapes == [(3, 4, 4, 3), (3, 2, 2, 5), (3, 7)]
    head = variables["params"]["head"]
    np.testing.assert_allclose(
        outputs.logits, outputs.features["embedding"] @ head["kernel"], rtol=1e-5, atol=1e-6
    )
    half = cnn.small_cnn(4, widths=(3, 5), hidden=7, dtype=jnp.bfloat16)
    near = half.apply(variables, X, train=True, rngs={})[0].logits
    assert near.dtype == jnp.float32
    assert 0 < np.abs(near - outputs.logits).max() < 0.03 * np.abs(outputs.logits).max()


def test_a_stage_is_a_convolution_a_relu_and_a_maximum():
    network = cnn.small_cnn(4, widths=(3,), hidden=7, features=("stage1",))
    variables = jax.jit(network.init)(jax.random.key(0), X)
    stage = network.apply(variables, X, train=False, rngs={})[0].features["stage1"]
    kernel = np.float64(variables["params"]["conv1"]["kernel"])
    padded = np.pad(np.float64(X), ((0, 0), (1, 1), (1, 1), (0, 0)))
    maps = sum(padded[:, i : i + 8, j : j + 8] @ kernel[i, j] for i in range(3) for j in range(3))
    expected = np.maximum(maps, 0).reshape(3, 4, 2, 4, 2, 3).max((2, 4))
    np.testing.assert_allclose(stage, expected, rtol=1e-5, atol=1e-6)
