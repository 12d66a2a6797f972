"""Wide residual networks: published sizes, named features, pre-activation wiring."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.networks import sizes, wide_resnet

KEY = jax.random.key(0)
IMAGES = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
NAMES = ("stem", "stage1", "stage2", "stage3", "embedding")


@pytest.mark.parametrize(
    "name, parameters",
    # Published as 0.7, 36.5, 0.57, 2.26 million (16-2, 28-10, 40-1, 40-2).
    [
        ("wrn_16_1", 180_916),
        ("wrn_16_2", 703_284),
        ("wrn_16_4", 2_772_020),
        ("wrn_28_10", 36_536_884),
        ("wrn_40_1", 569_780),
        ("wrn_40_2", 2_255_156),
        ("wrn_40_4", 8_972_340),
    ],
)
def test_published_parameter_counts(name, parameters):
    shapes = sizes.variable_shapes(getattr(wide_resnet, name)(100), IMAGES)
    assert sizes.count_parameters(shapes["params"]) == parameters


@pytest.mark.parametrize("name, width", [("wrn_16_1", 1), ("wrn_16_2", 2)])
def test_shapes_of_a_preset(name, width):
    outputs = sizes.output_shapes(getattr(wide_resnet, name)(100, features=NAMES), IMAGES)
    shapes = {name: feature.shape for name, feature in outputs.features.items()}
    assert shapes == {
        "stem": (2, 32, 32, 16),
        "stage1": (2, 32, 32, 16 * width),
        "stage2": (2, 16, 16, 32 * width),
        "stage3": (2, 8, 8, 64 * width),
        "embedding": (2, 64 * width),
    }


def test_one_block_per_stage_against_its_definition():
    x = jax.random.normal(jax.random.key(1), (3, 4, 4, 2))
    network = wide_resnet.wrn(5, depth=10, width=1, features=NAMES)
    assert network.couples
    variables = jax.jit(network.init)(KEY, x)
    apply = jax.jit(functools.partial(network.apply, train=False))
    outputs, _ = apply(variables, x, rngs={})
    features, params = outputs.features, variables["params"]

    def activate(x):  # the statistics are those of a fresh network: mean 0, variance 1
        return np.maximum(np.float64(x) / np.sqrt(1 + 1e-5), 0)

    def convolve(x, kernel):
        size = x.shape[1]
        x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        kernel = np.float64(kernel)
        return sum(
            x[:, i : i + size, j : j + size] @ kernel[i, j] for i in range(3) for j in range(3)
        )

    def halve(x, stride):
        return x[:, ::stride, ::stride]

    x = features["stem"]
    for i, stride in ((1, 1), (2, 2), (3, 2)):
        block = params[f"stage{i}_block1"]
        y = activate(x)
        # 16 filters in and out: the first block adds its raw input, the others a convolution of y.
        shortcut = np.float64(x) if i == 1 else halve(y, stride) @ block["shortcut"]["kernel"][0, 0]
        y = activate(halve(convolve(y, block["conv1"]["kernel"]), stride))
        x = convolve(y, block["conv2"]["kernel"]) + shortcut
        np.testing.assert_allclose(features[f"stage{i}"], x, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(features["embedding"], activate(x).mean((1, 2)), 1e-4, 1e-5)
    head = params["head"]["kernel"]
    np.testing.assert_allclose(outputs.logits, features["embedding"] @ head, 1e-4, 1e-5)


def test_dropout_remat_and_precision():
    x = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
    variables = jax.jit(wide_resnet.wrn(5, depth=10, width=1).init)(KEY, x)

    @functools.cache
    def logits(train=True, **options):
        network = wide_resnet.wrn(5, depth=10, width=1, **options)
        apply = jax.jit(functools.partial(network.apply, train=train))
        return np.asarray(apply(variables, x, rngs={"dropout": KEY})[0].logits)

    plain = logits()
    np.testing.assert_allclose(logits(remat=True), plain, rtol=1e-3, atol=1e-4)
    dropped = logits(dropout=0.5)
    assert not np.allclose(dropped, plain, rtol=1e-2)
    np.testing.assert_array_equal(logits(train=False, dropout=0.5), logits(train=False))
    half = logits(dtype=jnp.bfloat16, train=False)
    exact = logits(train=False)
    assert half.dtype == np.float32
    assert 0 < np.abs(half - exact).max() < 0.05 * np.abs(exact).max()


def test_an_impossible_depth_is_refused():
    with pytest.raises(ValueError, match="6 n \\+ 4.*got 20"):
        wide_resnet.wrn(10, depth=20, width=1).init(KEY, jnp.zeros((1, 8, 8, 3)))
