"""CIFAR residual networks: published sizes, named features, batch statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.networks import _layers, cifar_resnet, sizes

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
IMAGES = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
NAMES = ("stage1", "stage2", "stage3", "stage3_preactivation", "embedding")


def small(**options):
    return cifar_resnet.resnet(5, depth=8, widths=(4, 4, 6, 8), **options)


VARIABLES = jax.jit(small().init)(KEY, X)


@pytest.mark.parametrize(
    "name, parameters",
    # 278,324, 1,233,540 and 7,433,860 are the sizes published as 0.28, 1.23 and 7.43 million; the
    # others follow from them, two blocks of each stage at a time.
    [
        ("resnet8", 83_892),
        ("resnet14", 181_108),
        ("resnet20", 278_324),
        ("resnet32", 472_756),
        ("resnet44", 667_188),
        ("resnet56", 861_620),
        ("resnet110", 1_736_564),
        ("resnet8x4", 1_233_540),
        ("resnet32x4", 7_433_860),
    ],
)
def test_published_parameter_counts(name, parameters):
    shapes = sizes.variable_shapes(getattr(cifar_resnet, name)(100), IMAGES)
    assert sizes.count_parameters(shapes["params"]) == parameters


@pytest.mark.parametrize("name, wide", [("resnet8", 1), ("resnet8x4", 4)])
def test_shapes_of_a_preset(name, wide):
    outputs = sizes.output_shapes(getattr(cifar_resnet, name)(100, features=NAMES), IMAGES)
    assert outputs.logits.shape == (2, 100)
    assert outputs.features["stage1"].shape == (2, 32, 32, 16 * wide)
    assert outputs.features["stage2"].shape == (2, 16, 16, 32 * wide)
    assert outputs.features["stage3"].shape == (2, 8, 8, 64 * wide)
    assert outputs.features["embedding"].shape == (2, 64 * wide)


def test_features_and_head():
    network = small(features=NAMES)
    variables = jax.tree.map(jnp.copy, VARIABLES)
    outputs, state = network.apply(variables, X, train=False, rngs={})
    features, head = outputs.features, variables["params"]["head"]
    np.testing.assert_array_equal(
        features["stage3"], np.maximum(features["stage3_preactivation"], 0)
    )
    assert (features["stage3_preactivation"] < 0).any()
    np.testing.assert_allclose(features["embedding"], features["stage3"].mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(
        outputs.logits, features["embedding"] @ head["kernel"], rtol=1e-5, atol=1e-6
    )
    assert state is variables["model"]


def test_a_block_without_its_second_convolution_is_its_shortcut():
    network = small(features=("stem", "stage1"))
    variables = jax.tree.map(jnp.copy, VARIABLES)
    block = variables["params"]["stage1_block1"]
    block["conv2"] = jax.tree.map(jnp.zeros_like, block["conv2"])
    features = network.apply(variables, X, train=False, rngs={})[0].features
    np.testing.assert_array_equal(features["stage1"], features["stem"])
    assert "shortcut" not in block
    assert variables["params"]["stage2_block1"]["shortcut"]["kernel"].shape == (1, 1, 4, 6)


def test_statistics_of_the_batch():
    network = small()
    assert network.couples
    variables = jax.tree.map(jnp.copy, VARIABLES)

    def logits(x, train):
        return network.apply(variables, x, train=train, rngs={})

    _, state = logits(X, True)
    before, after = (s["batch_stats"]["stem_norm"]["mean"] for s in (variables["model"], state))
    kernel = variables["params"]["stem"]["kernel"]
    stem = jax.lax.conv_general_dilated(
        X, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(after, 0.9 * before + 0.1 * stem.mean((0, 1, 2)), 1e-4, 1e-6)
    np.testing.assert_allclose(logits(X, False)[0].logits[:2], logits(X[:2], False)[0].logits, 1e-4)
    assert not np.allclose(logits(X, True)[0].logits[:2], logits(X[:2], True)[0].logits, 1e-2)


def test_statistics_joined_over_a_mapped_axis_are_those_of_the_whole_batch():
    whole, parts = small(), small(axis_name="parts")
    variables = VARIABLES
    expected, state = whole.apply(variables, X, train=True, rngs={})

    def apply(x):
        return parts.apply(variables, x, train=True, rngs={})

    outputs, states = jax.vmap(apply, axis_name="parts")(X.reshape(2, 2, 8, 8, 3))
    np.testing.assert_allclose(outputs.logits.reshape(4, 5), expected.logits, rtol=1e-3, atol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, 1e-3, 1e-5), states, state)


def test_rematerialisation_changes_nothing_but_memory():
    networks = small(), small(remat=True)
    variables = VARIABLES

    def loss(params, network):
        outputs, state = network.apply({**variables, "params": params}, X, train=True, rngs={})
        return jnp.sum(jnp.square(outputs.logits)), state

    jaxprs = [
        str(jax.make_jaxpr(jax.grad(lambda p, n=n: loss(p, n)[0]))(variables["params"]))
        for n in networks
    ]
    assert ["checkpoint" in j or "remat" in j for j in jaxprs] == [False, True]
    values = [
        jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)(variables["params"], n)
        for n in networks
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-3, 1e-4), *values)


def test_half_precision_is_close():
    wide, half = small(), small(dtype=jnp.bfloat16, features=("stage1",))
    variables = VARIABLES
    exact = wide.apply(variables, X, train=False, rngs={})[0].logits
    outputs, _ = half.apply(variables, X, train=False, rngs={})
    _, state = half.apply(variables, X, train=True, rngs={})
    assert {s.dtype for s in jax.tree.leaves(state)} == {jnp.dtype(jnp.float32)}
    assert outputs.logits.dtype == jnp.float32
    assert outputs.features["stage1"].dtype == jnp.bfloat16
    assert 0 < np.abs(outputs.logits - exact).max() < 0.05 * np.abs(exact).max()


def test_an_impossible_depth_is_refused():
    with pytest.raises(ValueError, match="6 n \\+ 2.*got 18"):
        cifar_resnet.resnet(10, depth=18).init(KEY, X)


def test_kernels_are_drawn_with_the_variance_of_their_fan_out():
    """And are what the usual initialiser draws, whatever the shape they are drawn in."""
    shape = (3, 3, 16, 64)
    usual = jax.nn.initializers.variance_scaling(2.0, "fan_out", "normal")
    kernel = _layers.he_normal(KEY, shape)
    np.testing.assert_allclose(kernel, jax.jit(usual, static_argnums=1)(KEY, shape), rtol=1e-5)
    np.testing.assert_allclose(np.std(kernel), np.sqrt(2 / (9 * 64)), rtol=0.05)
