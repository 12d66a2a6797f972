"""Routes between networks: the operators, what is drawn, and what a reward changes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from method_steps import CLASSES, LABELLED

from kdjax import methods, networks
from kdjax.methods.routing import best_route, probabilities, rewarded
from kdjax.networks.routed import OPERATORS
from kdjax.train import build_train_step, init_state

NET = networks.routed_perceptron(CLASSES, widths=(6, 4))
RNG = np.random.default_rng(0)
SOURCE = {name: RNG.normal(size=(8, 3)).astype(np.float32) for name in ("a", "b")}
BATCH = {**LABELLED, **{f"source/{name}": x for name, x in SOURCE.items()}}
INPUTS = {
    "image": LABELLED["image"],
    "source": SOURCE,
    "arms": jnp.array([2, 2]),
    "operators": jnp.array([0, 0]),
}
PARAMS = jax.tree.map(np.asarray, NET.init(jax.random.key(0), INPUTS)["params"])


def outputs(arms, operators, params=PARAMS):
    given = {**INPUTS, "arms": jnp.array(arms), "operators": jnp.array(operators)}
    return NET.apply({"params": params}, given, train=False, rngs={})[0]


def dense(name, x):
    return x @ PARAMS[name]["kernel"] + PARAMS[name]["bias"]


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_layer_takes_in_its_arm_by_its_operator(operator):
    h = np.maximum(dense("dense1", LABELLED["image"].reshape(8, -1)), 0)
    m = dense("route1_b", SOURCE["b"])
    u, v = PARAMS["route1_weights"]
    joined = {
        "identity": h,
        "addition": h + m,
        "weighted": u * h + v * m,
        "linear": dense("route1_linear_own", h) + dense("route1_linear_other", m),
        "matching": h,
        "factorised": np.concatenate(
            [dense("route1_factor_own", h), dense("route1_factor_other", m)], axis=1
        ),
    }[operator]
    expected = dense("head", np.maximum(dense("dense2", joined), 0))
    found = outputs([1, 2], [OPERATORS.index(operator), 3])
    np.testing.assert_allclose(found.logits, expected, atol=1e-5)
    apart = ((h - m) ** 2).mean(1) if operator == "matching" else np.zeros(8)
    np.testing.assert_allclose(found.features["matching"], apart, atol=1e-5)


def test_the_arm_for_none_leaves_the_network_alone():
    plain = networks.multilayer_perceptron(CLASSES, widths=(6, 4))
    own = {name: PARAMS[name] for name in ("dense1", "dense2", "head")}
    expected = plain.apply({"params": own}, LABELLED["image"], train=False, rngs={})[0].logits
    for operators in ([3, 1], [4, 5]):
        found = outputs([2, 2], operators)
        np.testing.assert_allclose(found.logits, expected, atol=1e-6)
        assert float(jnp.abs(found.features["matching"]).max()) == 0


def test_a_reward_moves_what_was_drawn_by_its_chance_and_nothing_else():
    weights = jnp.array([[0.0, 1.0, 2.0], [0.0, 0.0, 0.0]])
    chances = np.asarray(probabilities(weights, 0.3))
    expected = 0.7 * np.exp(weights[0]) / np.exp(weights[0]).sum() + 0.1
    np.testing.assert_allclose(chances[0], expected, rtol=1e-5)
    after = rewarded(weights, jnp.array([2, 0]), 0.5, eta=0.2, explore=0.3)
    gained = np.zeros((2, 3))
    gained[0, 2], gained[1, 0] = 0.1 / chances[0, 2], 0.1 / chances[1, 0]
    np.testing.assert_allclose(after - weights, gained, atol=1e-6)


def steps_of(method, number, held=BATCH, weights=None):
    optimisers = {"student": optax.sgd(0.1)}
    state = jax.jit(lambda: init_state(
        jax.random.key(0), {"student": NET}, {"student": INPUTS}, optimisers,
        hyper=method.hyper, memory=method.memory,
    ))()  # fmt: skip
    if weights is not None:
        state = state.replace(memory={**state.memory, "weights": weights})
    step = jax.jit(build_train_step({"student": NET}, method.phases, optimisers))
    found = [state]
    for _ in range(number):
        state, _ = step(state, {}, {"labelled": BATCH, "held": held})
        found.append(state)
    return found


def test_auto_transfer_rewards_by_the_held_loss_and_trains_the_drawn_route():
    method = methods.auto_transfer(layers=2, arms=2, explore=0.1, eta=0.05)
    first, second = steps_of(method, 2)[1:]
    # In the first step the running mean is the loss itself: a reward of one half.
    gained = np.asarray(first.memory["weights"]["arms"])
    assert (gained > 0).sum(1).tolist() == [1, 1]
    np.testing.assert_allclose(gained.max(1), 0.05 * 0.5 * 3, rtol=1e-4)
    later = np.asarray(second.memory["weights"]["arms"]) - gained
    assert ((later > 0).sum(1) <= 1).all() and (later >= 0).all()
    assert best_route(first.memory)["arms"].tolist() == gained.argmax(1).tolist()


def test_settled_weights_train_one_route_alone():
    weights = {
        "arms": 1e3 * jax.nn.one_hot(jnp.array([0, 1]), 3),
        "operators": 1e3 * jax.nn.one_hot(jnp.array([1, 1]), len(OPERATORS)),
    }
    method = methods.auto_transfer(layers=2, arms=2, explore=0.0, eta=0.0)
    before, _, after = steps_of(method, 2, weights=weights)
    moved = {
        name: float(jnp.abs(after.params["student"][name]["kernel"] - part["kernel"]).max())
        for name, part in before.params["student"].items()
        if isinstance(part, dict)
    }
    assert moved["route1_a"] > 0 and moved["route2_b"] > 0
    still = ("route1_b", "route2_a", "route1_linear_own", "route2_factor_other")
    assert all(moved[name] == 0 for name in still)
    np.testing.assert_array_equal(after.memory["weights"]["arms"], weights["arms"])


def test_routed_perceptron_refuses_an_odd_width():
    with pytest.raises(ValueError, match="even"):
        networks.routed_perceptron(3, widths=(4, 5))
