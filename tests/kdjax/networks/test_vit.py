"""Vision transformers: published sizes, named features, attention without positions is a set."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.networks import sizes, vit

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (2, 28, 28, 1))


def small(**options):
    return vit.vision_transformer(5, width=16, depth=2, heads=2, patch=7, **options)


VARIABLES = jax.jit(small().init)(KEY, X)


@pytest.mark.parametrize(
    "name, parameters",
    # Published for 1000 classes at 224 pixels as 5.7, 22.1, 86.6, 88.2, 304.3 and 632.0 million.
    [
        ("vit_tiny16", 5_717_416),
        ("vit_small16", 22_050_664),
        ("vit_small32", 22_878_952),
        ("vit_base16", 86_567_656),
        ("vit_base32", 88_224_232),
        ("vit_large16", 304_326_632),
        ("vit_huge14", 632_045_800),
    ],
)
def test_published_parameter_counts(name, parameters):
    images = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    shapes = sizes.variable_shapes(getattr(vit, name)(1000), images)
    assert sizes.count_parameters(shapes["params"]) == parameters


def test_shapes_of_a_preset():
    images = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    network = vit.vit_tiny16(1000, features=("block12", "embedding"))
    outputs = sizes.output_shapes(network, images)
    assert outputs.logits.shape == (2, 1000)
    assert outputs.features["block12"].shape == (2, 197, 192)
    assert outputs.features["embedding"].shape == (2, 192)


def test_small_images_and_features():
    network = small(features=("block1", "block2", "tokens", "cls", "embedding"))
    variables = jax.tree.map(jnp.copy, VARIABLES)
    outputs, state = network.apply(variables, X, train=True, rngs={})
    assert state == {} and not network.couples
    features = outputs.features
    assert features["block1"].shape == features["block2"].shape == (2, 17, 16)
    x = np.float64(features["block2"])
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(features["tokens"], x, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(features["cls"], features["tokens"][:, 0])
    np.testing.assert_array_equal(features["cls"], features["embedding"])
    head = variables["params"]["head"]["kernel"]
    np.testing.assert_allclose(outputs.logits, features["cls"] @ head, rtol=1e-4, atol=1e-5)


def test_without_positions_the_patches_are_a_set():
    network = small()
    variables = jax.tree.map(jnp.copy, VARIABLES)
    patches = X.reshape(2, 4, 7, 4, 7, 1)
    moved = patches[:, ::-1][:, :, :, jnp.array([2, 0, 3, 1])].reshape(X.shape)

    def logits(x):
        return network.apply(variables, x, train=False, rngs={})[0].logits

    assert not np.allclose(logits(X), logits(moved), rtol=1e-3)
    variables["params"]["positions"] = jnp.zeros_like(variables["params"]["positions"])
    np.testing.assert_allclose(logits(X), logits(moved), rtol=1e-4, atol=1e-5)
    # A patch matters to the class token through attention only.
    for block in ("block1", "block2"):
        out = variables["params"][block]["attention"]["out"]
        out["kernel"] = jnp.zeros_like(out["kernel"])
    np.testing.assert_array_equal(logits(X), logits(2 * X))


def test_dropout_remat_and_precision():
    variables = VARIABLES

    @functools.cache
    def logits(train=True, **options):
        apply = jax.jit(functools.partial(small(**options).apply, train=train))
        return np.asarray(apply(variables, X, rngs={"dropout": KEY})[0].logits)

    plain = logits()
    np.testing.assert_allclose(logits(remat=True), plain, rtol=1e-4, atol=1e-5)
    dropped = logits(dropout=0.5)
    assert not np.allclose(dropped, plain, rtol=1e-2)
    np.testing.assert_array_equal(logits(train=False, dropout=0.5), logits(train=False))
    # Either branch drops: the other one is silenced.
    for name in ("attention", "dense2"):
        silent = jax.tree.map(jnp.copy, VARIABLES)
        for block in ("block1", "block2"):
            branch = silent["params"][block][name]
            silent["params"][block][name] = jax.tree.map(jnp.zeros_like, branch)
        apply = jax.jit(
            functools.partial(small(dropout=0.5).apply, rngs={"dropout": KEY}, train=True)
        )
        still = small().apply(silent, X, train=True, rngs={})[0].logits
        assert not np.allclose(apply(silent, X)[0].logits, still, rtol=1e-2)
    half = logits(dtype=jnp.bfloat16)
    assert half.dtype == np.float32
    assert 0 < np.abs(half - plain).max() < 0.05 * np.abs(plain).max()


def test_an_image_that_patches_do_not_tile_is_refused():
    with pytest.raises(ValueError, match="multiples of patch 7, got \\(2, 28, 30, 1\\)"):
        small().init(KEY, jnp.zeros((2, 28, 30, 1)))


def test_attention_is_the_softmax_of_its_scores_over_the_tokens():
    names = ("queries2", "keys2", "values2", "scores2", "attention2")
    features = small(features=names).apply(VARIABLES, X, train=False, rngs={})[0].features
    q, k = np.float64(features["queries2"]), np.float64(features["keys2"])
    assert features["values2"].shape == q.shape == (2, 2, 17, 8)
    scores = np.einsum("bhle,bhme->bhlm", q, k) / np.sqrt(8)
    np.testing.assert_allclose(features["scores2"], scores, rtol=1e-4, atol=1e-4)
    attention = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    np.testing.assert_allclose(features["attention2"], attention, rtol=1e-4, atol=1e-5)


def test_two_heads_read_two_tokens_and_the_logits_are_their_mean():
    names = ("cls", "distillation", "class_logits", "distillation_logits", "tokens")
    network = small(distillation=True, distillation_head=True, features=names)
    variables = jax.jit(network.init)(KEY, X)
    outputs, _ = network.apply(variables, X, train=False, rngs={})
    features = outputs.features
    assert features["tokens"].shape == (2, 18, 16)
    np.testing.assert_array_equal(features["tokens"][:, 1], features["distillation"])
    mean = (features["class_logits"] + features["distillation_logits"]) / 2
    np.testing.assert_array_equal(outputs.logits, mean)
    with pytest.raises(ValueError, match="reads the distillation token"):
        small(distillation_head=True)
