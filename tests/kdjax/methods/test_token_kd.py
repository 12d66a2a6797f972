"""Token-level distillation from hidden states and heads, against the dense loss over logits."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import methods, networks
from kdjax.losses import softened_kl_divergence
from kdjax.train import build_train_step, init_state, make_mesh, per_shard

RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, 11, (8, 6)).astype(np.int32)
MASK = RNG.random((8, 6)) < 0.7
SHAPE = {"depth": 1, "heads": 2, "key_heads": 1, "hidden": 8, "block": 6, "scan": False}


def network(width, **options):
    return networks.decoder_transformer(11, width=width, **SHAPE, **options)


NETS = {
    name: network(width, features=("hidden", "head"), logits=False)
    for name, width in (("student", 4), ("teacher", 8))
}
FROZEN = {"teacher": NETS["teacher"].init(jax.random.key(9), TOKENS)["params"]}
FROZEN = jax.tree.map(lambda x: 8 * x, FROZEN)


def one_step(method, batch):
    optimisers = {"student": optax.sgd(0.1)}
    state = jax.jit(
        lambda: init_state(
            jax.random.key(0), NETS, {"student": TOKENS}, optimisers, hyper=method.hyper
        )
    )()
    step = jax.jit(build_train_step(NETS, method.phases, optimisers))
    after, metrics = step(state, FROZEN, batch)
    return state.params["student"], after.params["student"], metrics["kd"]


def test_it_is_the_dense_divergence_over_unmasked_tokens():
    batch = {"sequence": {"tokens": TOKENS, "mask": MASK}}
    before, after, (total, count) = one_step(methods.token_kd(temperature=2.0, chunk=8), batch)

    def loss(params):
        student = network(4).apply({"params": params}, TOKENS, train=True, rngs={})[0].logits
        teacher = network(8).apply({"params": FROZEN["teacher"]}, TOKENS, train=False, rngs={})
        values = softened_kl_divergence(student, teacher[0].logits, temperature=2.0, where=MASK)
        return jnp.sum(values) / MASK.sum()

    value, slope = jax.jit(jax.value_and_grad(loss))(before)
    assert float(count) == MASK.sum()
    np.testing.assert_allclose(total / count, value, rtol=1e-5)
    wanted = jax.tree.map(lambda p, g: p - 0.1 * g, before, slope)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), after, wanted)


@pytest.mark.full
def test_chunks_of_every_shard_give_the_same_step():
    batch = {"sequence": {"tokens": TOKENS, "mask": MASK}}
    _, whole, wanted = one_step(methods.token_kd(temperature=2.0, chunk=8), batch)
    parts = per_shard(make_mesh("data=4,tensor=2"))
    _, after, metrics = one_step(methods.token_kd(temperature=2.0, chunk=8, per_shard=parts), batch)
    np.testing.assert_allclose(metrics, wanted, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), after, whole)


def test_without_a_mask_every_token_counts():
    _, _, (_, count) = one_step(methods.token_kd(), {"sequence": {"tokens": TOKENS}})
    assert float(count) == TOKENS.size
    with pytest.raises(ValueError, match="temperature"):
        methods.token_kd(temperature=0.0)
