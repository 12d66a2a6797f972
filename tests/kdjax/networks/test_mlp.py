"""The multilayer perceptron against its formula."""

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.networks import mlp, sizes

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (5, 2, 3, 1))


def test_it_is_the_formula():
    names = ("hidden1", "hidden2", "embedding")
    network = mlp.multilayer_perceptron(4, widths=(7, 5), features=names)
    variables = jax.jit(network.init)(KEY, X)
    params = jax.tree.map(lambda x: np.float64(x) + 0.1, variables["params"])
    outputs, state = network.apply(
        {"params": jax.tree.map(jnp.float32, params)}, X, train=False, rngs={}
    )
    x, hidden = np.float64(X).reshape(5, 6), []
    for name in ("dense1", "dense2"):
        x = np.maximum(x @ params[name]["kernel"] + params[name]["bias"], 0)
        hidden.append(x)
    logits = x @ params["head"]["kernel"] + params["head"]["bias"]
    for name, expected in zip(names, [*hidden, hidden[-1]], strict=True):
        np.testing.assert_allclose(outputs.features[name], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(outputs.logits, logits, rtol=1e-5, atol=1e-6)
    assert state == {} and not network.couples


def test_parameters_and_a_linear_classifier():
    shapes = sizes.variable_shapes(mlp.multilayer_perceptron(4, widths=(7, 5)), X)
    assert sizes.count_parameters(shapes) == 6 * 7 + 7 + 7 * 5 + 5 + 5 * 4 + 4
    linear = mlp.multilayer_perceptron(4, widths=(), features=("embedding",))
    variables = linear.init(KEY, X)
    outputs, _ = linear.apply(variables, X, train=False, rngs={})
    np.testing.assert_array_equal(outputs.features["embedding"], X.reshape(5, 6))


def test_dropout_by_key_and_in_training_only():
    network = mlp.multilayer_perceptron(4, widths=(64,), dropout=0.5)
    variables = jax.jit(network.init)(KEY, X)

    def logits(train, seed=0):
        rngs = {"dropout": jax.random.key(seed)}
        return np.asarray(network.apply(variables, X, train=train, rngs=rngs)[0].logits)

    np.testing.assert_array_equal(logits(True), logits(True))
    assert not np.array_equal(logits(True), logits(True, seed=1))
    np.testing.assert_array_equal(logits(False), logits(False, seed=1))
    assert not np.array_equal(logits(True), logits(False))


def test_half_precision_is_close_and_its_logits_float32():
    wide = mlp.multilayer_perceptron(4, widths=(32, 32))
    half = mlp.multilayer_perceptron(4, widths=(32, 32), dtype=jnp.bfloat16, features=["hidden1"])
    variables = jax.jit(wide.init)(KEY, X)
    exact = wide.apply(variables, X, train=False, rngs={})[0].logits
    outputs = half.apply(variables, X, train=False, rngs={})[0]
    assert outputs.logits.dtype == jnp.float32
    assert outputs.features["hidden1"].dtype == jnp.bfloat16
    assert 0 < np.abs(outputs.logits - exact).max() < 0.02 * np.abs(exact).max()
    network = mlp.multilayer_perceptron(4, param_dtype=jnp.bfloat16)
    narrow = sizes.variable_shapes(network, X)["params"]
    assert {p.dtype for p in jax.tree.leaves(narrow)} == {jnp.dtype(jnp.bfloat16)}
