"""Texts made in the space of embeddings: what a projection keeps, and the losses on what was made."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import methods, networks
from kdjax.methods.text_augmentation import projected_tokens
from kdjax.train import build_train_step, init_state

V, L, B, CLASSES = 12, 5, 6, 3
RNG = np.random.default_rng(0)
TOKENS = np.concatenate([np.ones((B, 1)), RNG.integers(2, V, (B, L - 1))], 1).astype(np.int32)
TOKENS[0, 3:] = 0
BATCH = {"tokens": TOKENS, "label": np.arange(B) % CLASSES, "index": np.arange(B)}


@functools.cache
def net(width):
    return networks.encoder_transformer(
        V, width=width, depth=1, heads=2, hidden=8, positions=L, kinds=0,
        head="classification", classes=CLASSES, pooler="tanh",
    )  # fmt: skip


NETS = {"student": net(4), "teacher": net(6)}
WIDE = jax.tree.map(
    lambda x: 8 * x if x.ndim > 1 else x, NETS["teacher"].init(jax.random.key(9), TOKENS)["params"]
)


def step(method):
    optimisers = {"student": optax.sgd(0.1)}
    state = jax.jit(lambda: init_state(
        jax.random.key(0), {"student": NETS["student"]}, {"student": TOKENS}, optimisers,
        hyper=method.hyper,
    ))()  # fmt: skip
    train = jax.jit(build_train_step(NETS, method.phases, optimisers))
    after, metrics = train(state, {"teacher": WIDE}, {"labelled": BATCH})
    return state.params["student"], {k: float(t / c) for k, (t, c) in metrics.items()}, after


def log_q(name, params, tokens):
    logits = NETS[name].apply({"params": params}, tokens, train=False, rngs={})[0].logits
    return jax.nn.log_softmax(logits)


def mean_kl(student, tokens):
    log_p, own = log_q("teacher", WIDE, tokens), log_q("student", student, tokens)
    return float(jnp.mean(jnp.sum(jnp.exp(log_p) * (log_p - own), -1)))


def test_projected_augmentation_finds_the_nearest_angle_and_keeps_special_tokens():
    table = RNG.normal(size=(V, 4)).astype(np.float32)
    points = RNG.normal(size=(B, L, 4)).astype(np.float32)
    found = np.asarray(projected_tokens(points, table, TOKENS))
    cosine = points @ (table / np.linalg.norm(table, axis=1, keepdims=True)).T
    nearest = 2 + np.argmax(cosine[..., 2:], -1)
    np.testing.assert_array_equal(found, np.where(TOKENS < 2, TOKENS, nearest))
    same = projected_tokens(3 * table[TOKENS], table, TOKENS)
    np.testing.assert_array_equal(same, TOKENS)


@pytest.mark.parametrize(
    "method",
    [methods.augpro_fgsm(size=0.0), methods.swapped_kd(share=0.0), methods.augpro_fgsm(size=1e-6)],
)
def test_projected_augmentation_of_what_is_not_moved_is_the_text_itself(method):
    student, metrics, _ = step(method)
    np.testing.assert_allclose(metrics["kd"], mean_kl(student, TOKENS), rtol=1e-4)
    np.testing.assert_allclose(metrics["made"], metrics["kd"], rtol=1e-5)
    plain = step(methods.token_kd_alone())[1]
    assert "made" not in plain and plain["kd"] == pytest.approx(metrics["kd"], rel=1e-5)


def test_projected_augmentation_goes_up_the_teachers_loss():
    method = methods.augpro_fgsm(size=30.0)
    table = WIDE["embedding"]

    def loss(points):
        total = 0.0
        for i in range(B):
            own = {**WIDE, "embedding": table.at[:L].set(points[i])}
            total -= log_q("teacher", own, np.arange(L)[None])[0, BATCH["label"][i]]
        return total

    ascended = table[TOKENS] + 30.0 * jnp.sign(jax.jit(jax.grad(loss))(table[TOKENS]))
    made = projected_tokens(ascended, table, TOKENS)
    assert (np.asarray(made) != TOKENS).any()
    student, metrics, _ = step(method)
    np.testing.assert_allclose(metrics["made"], mean_kl(student, made), rtol=1e-4)


@pytest.mark.parametrize("method", [methods.augpro_mix(), methods.mix_kd(), methods.swapped_kd()])
def test_projected_augmentation_makes_texts_and_teach(method):
    _, metrics, after = step(method)
    assert metrics["made"] > 0 and metrics["made"] != pytest.approx(metrics["kd"], rel=1e-4)
    silent = step(method._replace(hyper={"weight": 0.0}))[2]
    moved = [
        float(jnp.abs(a - b).max())
        for a, b in zip(jax.tree.leaves(after.params), jax.tree.leaves(silent.params), strict=True)
    ]
    assert max(moved) > 1e-5
