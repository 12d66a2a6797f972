"""Labels of every place: what counts is what the mask keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kdjax import methods
from kdjax.networks.taggers import neighbour_tagger
from kdjax.train import build_train_step, init_state

RNG = np.random.default_rng(0)
ROWS = {
    "inputs": RNG.normal(size=(2, 5, 4)).astype(np.float32),
    "labels": RNG.integers(0, 3, (2, 5)).astype(np.int32),
    "mask": np.arange(5)[None] < np.array([5, 2])[:, None],
}


def test_verified_labels_teach_by_the_mean_over_the_places_that_count():
    network = neighbour_tagger(3, window=0)
    own = methods.tagging(network, inputs=jax.ShapeDtypeStruct((1, 5, 4), jnp.float32))
    made, _ = own.players["student"]({})
    assert made is network
    nets, optimisers = {"student": network}, {"student": optax.sgd(0.1)}
    state = jax.jit(
        lambda: init_state(jax.random.key(0), nets, {"student": ROWS["inputs"]}, optimisers)
    )()
    before = jax.tree.map(jnp.copy, state.params["student"])
    step = jax.jit(build_train_step(nets, methods.tagging().phases, optimisers))
    after, metrics = step(state, {}, {"sequence": ROWS})

    def loss(params):
        logits = network.apply({"params": params}, ROWS["inputs"], train=True, rngs={})[0].logits
        log_q = jnp.take_along_axis(jax.nn.log_softmax(logits), ROWS["labels"][..., None], -1)
        return -jnp.sum(log_q[..., 0] * ROWS["mask"]) / ROWS["mask"].sum()

    total, count = metrics["labels"]
    np.testing.assert_allclose(total / count, loss(before), rtol=1e-5)
    wanted = jax.tree.map(lambda p, g: p - 0.1 * g, before, jax.jit(jax.grad(loss))(before))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after.params["student"], wanted
    )
