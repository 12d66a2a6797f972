"""A small model on a large one's states: words, and the teacher's logits where they are there."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import methods, networks
from kdjax.train import build_train_step, init_state

NET = networks.modular_decoder(7, width=8, depth=1, heads=2, positions=6, graft="front")
RNG = np.random.default_rng(0)
BATCH = {
    "tokens": RNG.integers(0, 7, size=(3, 6)).astype(np.int32),
    "source": RNG.normal(size=(3, 6, 4)).astype(np.float32),
    "logits": RNG.normal(size=(3, 6, 7)).astype(np.float32),
}
INPUTS = {name: BATCH[name] for name in ("tokens", "source")}


@pytest.mark.parametrize("weight", [0.0, 0.25])
def test_llm_modules_predicts_the_next_token(weight):
    method = methods.llm_modules(weight=weight, temperature=2.0)
    nets, inputs, optimisers = {"student": NET}, {"student": INPUTS}, {"student": optax.sgd(0.1)}
    key, hyper = jax.random.key(0), method.hyper
    state = jax.jit(lambda: init_state(key, nets, inputs, optimisers, hyper=hyper))()
    step = jax.jit(build_train_step(nets, method.phases, optimisers))
    after, _ = step(state, {}, {"labelled": BATCH})

    def loss(params):
        given = NET.apply({"params": params}, INPUTS, train=False, rngs={})[0].logits[:, :-1]
        words = BATCH["tokens"][:, 1:, None]
        right = jnp.take_along_axis(jax.nn.log_softmax(given), words, axis=-1)
        log_q, log_p = (jax.nn.log_softmax(x / 2) for x in (given, BATCH["logits"][:, :-1]))
        taught = 4 * jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)
        return (1 - weight) * -jnp.mean(right) + weight * jnp.mean(taught)

    start = state.params["student"]
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, start, jax.jit(jax.grad(loss))(start))
    for a, b in zip(*map(jax.tree.leaves, (after.params["student"], expected)), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


def test_a_divergence_without_the_teachers_logits_is_refused():
    method = methods.llm_modules(weight=0.25)
    optimisers = {"student": optax.sgd(0.1)}
    state = jax.jit(
        lambda: init_state(
            jax.random.key(0), {"student": NET}, {"student": INPUTS}, optimisers, hyper=method.hyper
        )
    )()
    step = build_train_step({"student": NET}, method.phases, optimisers)
    with pytest.raises(ValueError, match="weight=0.25 needs the teacher's logits.*'tokens'"):
        step(state, {}, {"labelled": INPUTS})
