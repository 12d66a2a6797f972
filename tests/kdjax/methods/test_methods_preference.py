"""Weighted targets, DPO and BRIO on a small network of single tokens, against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import methods
from kdjax.networks import Network, Outputs
from kdjax.train import build_train_step, init_state

RNG = np.random.default_rng(0)
B, K, L, V = 3, 2, 4, 6


def columns(*shape):
    return {
        "tokens": RNG.integers(0, V, (*shape, L)).astype(np.int32),
        "targets": RNG.integers(0, V, (*shape, L)).astype(np.int32),
        "mask": np.arange(L) < RNG.integers(1, L + 1, (*shape, 1)),
    }


ROWS = {**columns(B), "weight": np.array([1.0, 0.25, 0.0], np.float32)}
PAIRS = {**columns(B, K), "reference": RNG.normal(size=(B, K)).astype(np.float32)}


def table():
    def init(key, inputs):
        return {"params": {"table": jax.random.normal(key, (V, V))}, "model": {}}

    def apply(variables, inputs, *, train, rngs):
        return Outputs(variables["params"]["table"][inputs["tokens"]]), {}

    return Network(init, apply)


def step(method, memory=None):
    """(parameters before, metrics as means, parameters after one SGD step of rate 0.1)."""
    nets, optimisers = {"student": table()}, {"student": optax.sgd(0.1)}
    state = jax.jit(
        lambda: init_state(
            jax.random.key(0),
            nets,
            {"student": ROWS},
            optimisers,
            hyper=method.hyper,
            memory=memory or {},
        )
    )()
    train = build_train_step(nets, method.phases, optimisers)
    after, metrics = jax.jit(train)(state, {}, {"sequence": ROWS, "candidates": PAIRS})
    means = {name: float(t / c) for name, (t, c) in metrics.items()}
    return state.params["student"], means, after.params["student"]


def log_q(params, rows):
    own = jax.nn.log_softmax(params["table"][rows["tokens"]])
    return jnp.take_along_axis(own, rows["targets"][..., None], axis=-1)[..., 0] * rows["mask"]


def weighted(params):
    tokens = ROWS["weight"] * ROWS["mask"].sum(1)
    return -jnp.sum(ROWS["weight"][:, None] * log_q(params, ROWS)) / tokens.sum()


def preferred(params, scale):
    likelihoods = log_q(params, PAIRS).sum(-1) - PAIRS["reference"]
    return -jnp.mean(jax.nn.log_sigmoid(scale * (likelihoods[:, 0] - likelihoods[:, 1])))


def ranked(params, margin):
    means = log_q(params, PAIRS).sum(-1) / PAIRS["mask"].sum(-1)
    return jnp.mean(jax.nn.relu(means[:, 1] - means[:, 0] + margin * np.log(2)))


@pytest.mark.parametrize(
    ("method", "loss", "names"),
    [
        (methods.weighted_next_token(), weighted, {"labels"}),
        (methods.dpo(scale=0.7), lambda p: preferred(p, 0.7), {"preference"}),
        (
            methods.brio(margin=0.3, label_weight=0.5),
            lambda p: ranked(p, 0.3) + 0.5 * weighted(p),
            {"ranking", "labels"},
        ),
    ],
)
def test_a_step_descends_the_published_loss(method, loss, names):
    before, metrics, after = step(method)
    assert set(metrics) == names
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, before, jax.jit(jax.grad(loss))(before))
    np.testing.assert_allclose(after["table"], expected["table"], atol=1e-6)


@pytest.mark.parametrize("calibrated", [True, False])
def test_negative_calibrated_weighs_answers_by_what_the_negative_model_would_change(calibrated):
    method = methods.negative_calibrated(weight=0.3, temperature=2.0, calibrated=calibrated)
    assert method.memory["positive"]({"student": 5}) == 5
    others = {
        name: {"table": jax.random.normal(jax.random.key(k), (V, V))}
        for k, name in ((7, "positive"), (8, "negative"))
    }

    def loss(params):
        own, right, wrong = (
            jax.nn.log_softmax(p["table"][ROWS["tokens"]] / 2)
            for p in (params, others["positive"], others["negative"])
        )

        def mean_kl(a, b):
            values = jnp.sum(jnp.exp(a) * (a - b), -1) * ROWS["mask"]
            return values.sum(1) / ROWS["mask"].sum(1)

        share = 0.5 + jnp.tanh(mean_kl(wrong, right)) if calibrated else 1.0
        kd = 4 * jnp.mean(share * mean_kl(right, own))
        return 0.3 * kd - 0.7 * log_q(params, ROWS).sum() / ROWS["mask"].sum()

    before, _, after = step(method, others)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, before, jax.jit(jax.grad(loss))(before))
    np.testing.assert_allclose(after["table"], expected["table"], atol=1e-6)
