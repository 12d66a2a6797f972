"""Low-rank factors beside weights that stay."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen

from kdjax.networks import from_function, from_linen, low_rank, merged, multilayer_perceptron
from kdjax.train import build_train_step, init_state, term
from kdjax.train.method import Phase

KEY, X = jax.random.key(0), jax.random.normal(jax.random.key(1), (6, 5))
NETWORK = multilayer_perceptron(3, widths=(8,), features=("hidden1",))
BASE = NETWORK.init(jax.random.key(2), X)["params"]
ADAPTED = low_rank(NETWORK, ["dense1/kernel", "head/kernel"], rank=2, alpha=4.0)


def outputs(network, params, frozen=None, x=X):
    variables = {"params": params, "frozen": frozen or {}, "model": {}}
    return network.apply(variables, x, train=False, rngs={})[0]


def moved(factors, seed=3):
    leaves, structure = jax.tree.flatten(factors)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return structure.unflatten(
        [x + jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    )


def test_it_starts_as_the_network_itself():
    factors = ADAPTED.init(KEY, X)["params"]
    np.testing.assert_array_equal(
        outputs(ADAPTED, factors, BASE).logits, outputs(NETWORK, BASE).logits
    )
    assert jax.tree.map(jnp.shape, factors) == {
        "dense1": {"kernel": {"a": (5, 2), "b": (2, 8)}},
        "head": {"kernel": {"a": (8, 2), "b": (2, 3)}},
    }
    a = low_rank(multilayer_perceptron(3, widths=(400,)), ["dense1/kernel"], rank=64, alpha=1.0)
    a = a.init(KEY, jnp.ones((1, 300)))["params"]["dense1"]["kernel"]["a"]
    np.testing.assert_allclose([a.mean() + 1, a.std() * np.sqrt(300)], 1, atol=0.02)


def test_the_update_is_the_scaled_product_of_the_factors():
    factors = moved(ADAPTED.init(KEY, X)["params"])
    base, f = jax.tree.map(lambda x: np.asarray(x, np.float64), (BASE, factors))

    def dense(x, name):
        product = f[name]["kernel"]["a"] @ f[name]["kernel"]["b"]
        return x @ (base[name]["kernel"] + 4.0 / 2 * product) + base[name]["bias"]

    hidden = np.maximum(dense(np.asarray(X), "dense1"), 0)
    found = outputs(ADAPTED, factors, BASE)
    np.testing.assert_allclose(found.features["hidden1"], hidden, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.logits, dense(hidden, "head"), rtol=1e-4, atol=1e-4)


def test_merged_weights_give_the_same_logits_in_the_network_itself():
    factors = moved(ADAPTED.init(KEY, X)["params"])
    plain = merged(BASE, factors, alpha=4.0)
    assert jax.tree.map(jnp.shape, plain) == jax.tree.map(jnp.shape, BASE)
    np.testing.assert_array_equal(
        outputs(NETWORK, plain).logits, outputs(ADAPTED, factors, BASE).logits
    )
    assert plain["dense1"]["bias"] is BASE["dense1"]["bias"]


@pytest.mark.parametrize("where", ["student", "teacher"])
def test_a_step_trains_the_factors_alone(where):
    """As a student, or inside a frozen teacher that is adapted to its student."""
    plain = "teacher" if where == "student" else "student"
    networks = {where: ADAPTED, plain: NETWORK}
    target = jax.tree.map(lambda x: x + 0.5, BASE)
    frozen = {where: BASE, plain: target}
    before = jax.tree.map(lambda x: np.asarray(x).tobytes(), frozen)

    def objective(scope):
        adapted, _ = scope.apply(where, scope.batch["x"])
        other, _ = scope.apply(plain, scope.batch["x"])
        return {"kd": term(jnp.sum((adapted.logits - other.logits) ** 2, -1))}, {}

    optimisers = {where: optax.sgd(0.02)}
    step = jax.jit(build_train_step(networks, [Phase(objective, (where,))], optimisers))
    state = init_state(KEY, networks, {where: X}, optimisers)
    start = moved(state.params[where])
    state, _ = step(state.replace(params={where: start}), frozen, {"x": X})

    def loss(factors):
        logits = outputs(NETWORK, merged(BASE, factors, alpha=4.0)).logits
        return jnp.mean(jnp.sum((logits - outputs(NETWORK, target).logits) ** 2, -1))

    gradient = jax.grad(loss)(start)
    assert all(np.abs(g).max() > 1e-3 for g in jax.tree.leaves(gradient))
    for new, old, g in zip(
        *map(jax.tree.leaves, (state.params[where], start, gradient)), strict=True
    ):
        np.testing.assert_allclose(new, old - 0.02 * g, rtol=1e-4, atol=1e-5)
    assert before == jax.tree.map(lambda x: np.asarray(x).tobytes(), frozen)
    adam = init_state(KEY, networks, {where: X}, {where: optax.adam(0.1)})
    assert len(jax.tree.leaves(adam.opt)) == 2 * 4 + 1  # two moments per factor and the count


def test_heads_and_convolutions_are_read_as_matrices():
    shapes = {"query": (6, 2, 4), "key": (6, 2, 4), "out": (2, 4, 6), "conv": (3, 6, 5)}
    base = {name: {"kernel": np.ones(shape, np.float32)} for name, shape in shapes.items()}
    network = from_function(lambda key, inputs: base, lambda params, inputs: inputs)
    axes = {"query/kernel": 1, "out|conv": 2}
    factors = low_rank(network, axes, rank=2, alpha=2.0).init(KEY, X)["params"]
    assert jax.tree.map(jnp.shape, factors) == {
        "query": {"kernel": {"a": (6, 2), "b": (2, 8)}},
        "out": {"kernel": {"a": (8, 2), "b": (2, 6)}},
        "conv": {"kernel": {"a": (18, 2), "b": (2, 5)}},
    }
    factors = moved(factors)
    plain = merged(base, factors, alpha=2.0)
    a, b = (np.asarray(factors["query"]["kernel"][name]) for name in "ab")
    expected = 1 + np.einsum("ir,rhk->ihk", a, b.reshape(2, 2, 4))
    np.testing.assert_allclose(plain["query"]["kernel"], expected, rtol=1e-5, atol=1e-5)
    assert plain["key"]["kernel"] is base["key"]["kernel"]
    by_default = low_rank(network, ["conv"], rank=2, alpha=2.0).init(KEY, X)["params"]
    assert jax.tree.map(jnp.shape, by_default["conv"]) == jax.tree.map(jnp.shape, factors["conv"])


class Normed(linen.Module):
    couples = True

    @linen.compact
    def __call__(self, x, train):
        return linen.BatchNorm(use_running_average=not train)(linen.Dense(3, name="dense")(x))


def test_model_state_and_coupling_pass_through():
    network = from_linen(Normed())
    adapted = low_rank(network, ["dense/kernel"], rank=1, alpha=1.0)
    whole, part = network.init(KEY, X), adapted.init(KEY, X)
    assert adapted.couples
    jax.tree.map(np.testing.assert_array_equal, part["model"], whole["model"])
    variables = {"params": part["params"], "frozen": whole["params"], "model": part["model"]}
    found, state = adapted.apply(variables, X, train=True, rngs={})
    expected, new = network.apply(whole, X, train=True, rngs={})
    np.testing.assert_array_equal(found.logits, expected.logits)
    jax.tree.map(np.testing.assert_array_equal, state, new)


def test_half_precision_weights_have_float32_factors_and_keep_their_dtype():
    network = multilayer_perceptron(3, widths=(8,), param_dtype=jnp.bfloat16, dtype=jnp.bfloat16)
    adapted = low_rank(network, ["dense1/kernel"], rank=2, alpha=2.0)
    base, factors = (jax.jit(n.init)(KEY, X)["params"] for n in (network, adapted))
    assert {x.dtype for x in jax.tree.leaves(factors)} == {jnp.dtype("float32")}
    plain = merged(base, factors, alpha=2.0)
    assert {x.dtype for x in jax.tree.leaves(plain)} == {jnp.dtype("bfloat16")}


def test_what_does_not_fit_is_refused_with_names():
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        low_rank(NETWORK, ["head"], rank=0, alpha=1.0)
    with pytest.raises(ValueError, match="'neck' matches no parameter.*dense1/kernel"):
        low_rank(NETWORK, ["neck"], rank=1, alpha=1.0).init(KEY, X)
    with pytest.raises(ValueError, match=r"head/bias \(3,\) is no kernel"):
        low_rank(NETWORK, ["head"], rank=1, alpha=1.0).init(KEY, X)
    factors = ADAPTED.init(KEY, X)["params"]
    with pytest.raises(
        ValueError, match=r"dense1 has low-rank factors and no weights in frozen.*\[\]"
    ):
        outputs(ADAPTED, factors, {})
