"""Adaptation that is learned: the step inside the step, and whose expert is hidden."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from method_steps import CLASSES, LABELLED, assert_close, label_loss, outputs, prepared

from kdjax import networks
from kdjax.methods import meta_distillation
from kdjax.networks.token_mixer import token_mixer

NET = networks.multilayer_perceptron(CLASSES, widths=(6,), features=("hidden1",))
NETS = {"student": NET, "expert": NET}
METHOD = meta_distillation.meta_dmoe(
    feature="hidden1", support=5, experts=3, width=8, inner_rate=0.7
)
FROZEN = {
    "expert": jax.vmap(lambda key: NET.init(key, LABELLED["image"])["params"])(
        jax.random.split(jax.random.key(4), 3)
    )
}


def hidden(params, image):
    return outputs("student", params, image, nets=NETS).features["hidden1"]


def test_meta_dmoe_minimises_the_query_loss_through_the_step_on_the_support():
    state, step = prepared(METHOD, nets=NETS)
    batch = {**LABELLED, "domain": np.full(8, 1, np.int32)}
    after, metrics = step(state, FROZEN, {"domain": batch})
    shapes = {name: networks.output_shapes(NET, LABELLED["image"][:1]) for name in NETS}
    mixer, _ = METHOD.players["aggregator"](shapes)
    near, far = LABELLED["image"][:5], LABELLED["image"][5:]
    tokens = jnp.stack(
        [hidden(jax.tree.map(lambda x, k=k: x[k], FROZEN["expert"]), near) for k in range(3)],
        axis=1,
    )

    def loss(params, inner=lambda g: g):
        inputs = {"tokens": tokens, "where": jnp.array([True, False, True])}
        mixed = mixer.apply({"params": params["aggregator"]}, inputs, train=False, rngs={})[0]

        def distance(own):
            return jnp.mean((hidden(own, near) - mixed.features["mixed"]) ** 2)

        slope = inner(jax.jit(jax.grad(distance))(params["student"]))
        moved = jax.tree.map(lambda p, g: p - 0.7 * g, params["student"], slope)
        return label_loss(outputs("student", moved, far, nets=NETS).logits, LABELLED["label"][5:])

    own = dict(state.params)
    total, count = metrics["labels"]
    np.testing.assert_allclose(total / count, loss(own), rtol=1e-5)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, own, jax.jit(jax.grad(loss))(own))
    assert_close(after.params, expected, atol=1e-5)
    first_order = jax.jit(jax.grad(functools.partial(loss, inner=jax.lax.stop_gradient)))(own)
    slopes = jax.tree.leaves(first_order["aggregator"])
    assert max(float(jnp.abs(x).max()) for x in slopes) == 0, "A learns through the step alone"


def test_a_hidden_expert_changes_nothing():
    mixer = token_mixer(4, width=8)
    tokens = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32)
    where = np.array([True, False, True])
    inputs = {"tokens": tokens, "where": where}
    variables = mixer.init(jax.random.key(0), inputs)

    def mixed(tokens, where):
        given = mixer.apply(variables, {"tokens": tokens, "where": where}, train=False, rngs={})
        return given[0].features["mixed"]

    other = tokens.copy()
    other[:, 1] += 3
    assert_close(mixed(tokens, where), mixed(other, where), atol=1e-6)
    assert float(jnp.abs(mixed(tokens, ~where) - mixed(other, ~where)).max()) > 1e-3
