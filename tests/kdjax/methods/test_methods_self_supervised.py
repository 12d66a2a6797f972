"""Online self-supervision: which teacher a head listens to, and what the search attends to."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from method_steps import CLASSES, RNG, SHAPE

from kdjax import methods, networks
from kdjax.train import build_train_step, init_state

NETS = {
    "first": networks.unfolded_cnn(
        CLASSES, widths=(6,), features={"tokens": "stage1", "embedding": "embedding"}
    ),
    "second": networks.vision_transformer(
        None, width=6, depth=1, heads=1, patch=2, hidden=4, features=("tokens", "embedding")
    ),
}
VIEWS = {
    name: RNG.normal(size=(4, 4, 4, 1)).astype(np.float32) for name in ("first_view", "second_view")
}


def test_mokd_adds_the_others_teacher_to_dino_and_moves_its_centres():
    method = methods.mokd(prototypes=5, hidden=8, warm_steps=10, teacher_temperatures=(0.1, 0.3))
    shapes = {name: networks.output_shapes(net, SHAPE) for name, net in NETS.items()}
    made = {name: make(shapes) for name, make in method.players.items()}
    nets = {**NETS, **{name: net for name, (net, _) in made.items()}}
    inputs = {**dict.fromkeys(NETS, SHAPE), **{name: shape for name, (_, shape) in made.items()}}
    optimisers = dict.fromkeys(nets, optax.sgd(0.1))
    state = jax.jit(lambda: init_state(
        jax.random.key(0), nets, inputs, optimisers,
        averages=method.averages, memory=method.memory, hyper=method.hyper,
    ))()  # fmt: skip
    # A teacher of its own for each, so that mistaking one for the other shows.
    average = jax.tree.map(lambda x: x * 1.3 + 0.02, dict(state.average))
    centres = {name: jnp.linspace(-i, i, 5) / 9 for i, name in enumerate(method.memory)}
    state = state.replace(average=average, memory=centres)
    step = jax.jit(build_train_step(nets, method.phases, optimisers, averages=method.averages))
    after, terms = step(state, {}, {"views": VIEWS})

    def run(name, inputs, teacher):
        params = (state.average if teacher else state.params)[name]
        return nets[name].apply({"params": params}, inputs, train=False, rngs={})[0]

    def heads(name, view, teacher, query=None):
        features = run(name, VIEWS[view], teacher).features
        query = features["embedding"] if query is None else query
        dense = run(f"{name}_head", features["embedding"], teacher).logits
        inputs = {"query": query, "tokens": features["tokens"]}
        return {"head": dense, "token_head": run(f"{name}_token_head", inputs, teacher).logits}

    def match(student, teacher, centre):
        target = jax.nn.softmax((teacher - centre[None]) / 0.1)
        return -jnp.sum(target * jax.nn.log_softmax(student / 0.1), -1).mean()

    for name, other in (("first", "second"), ("second", "first")):
        alone, across = 0.0, 0.0
        for view, opposite in (("first_view", "second_view"), ("second_view", "first_view")):
            own = heads(name, view, teacher=False)
            for kind, taught in heads(name, opposite, teacher=True).items():
                alone += match(own[kind], taught, centres[f"{name}_{kind}_centre"]) / 2
            query = run(name, VIEWS[view], teacher=False).features["embedding"]
            found = heads(other, opposite, teacher=True, query=query)
            for kind in found:
                across += match(own[kind], found[kind], centres[f"{other}_{kind}_centre"]) / 2
        for key, expected in (("alone", alone), ("across", across)):
            total, count = terms[f"{name}_{key}"]
            np.testing.assert_allclose(total / count, expected, rtol=1e-3)
    seen = jnp.concatenate([heads("first", v, teacher=True)["head"] for v in VIEWS])
    moved = 0.9 * centres["first_head_centre"] + 0.1 * seen.mean(0)
    np.testing.assert_allclose(after.memory["first_head_centre"], moved, rtol=1e-3, atol=1e-5)


def test_search_attends_to_the_token_that_matches():
    head = networks.search_head(3, hidden=4)
    tokens = jnp.eye(4)[None]
    inputs = {"query": tokens[:, 0], "tokens": tokens}
    params = head.init(jax.random.key(0), inputs)["params"]
    sharp = jax.tree.map(jnp.zeros_like, params)
    for name, scale in (("query", 30.0), ("keys", 30.0), ("values", 1.0)):
        sharp[name]["kernel"] = scale * jnp.eye(4)
    sharp["hidden"]["kernel"] = jnp.eye(4)
    sharp["prototypes"]["kernel"] = jnp.eye(4)[:, :3]
    found = head.apply({"params": sharp}, inputs, train=False, rngs={})[0].logits
    np.testing.assert_allclose(found, jax.nn.gelu(jnp.array([[2.0, 0.0, 0.0]])), atol=1e-4)
