"""Codes of point sets: what is decoded from them, and what they do not depend on."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from method_steps import assert_close

from kdjax import methods, networks
from kdjax.train import build_train_step, init_state

RNG = np.random.default_rng(0)
ENCODER = networks.point_encoder(widths=(5,), code=3)
BATCH = {
    "points": RNG.normal(size=(4, 6, 2)).astype(np.float32),
    "queries": RNG.normal(size=(4, 5, 2)).astype(np.float32),
    "distances": RNG.random((4, 5)).astype(np.float32),
}


def dense(params, x):
    return x @ params["kernel"] + params["bias"]


def codes(params, points):
    hidden = np.maximum(dense(params["dense1"], points), 0)
    return dense(params["out"], hidden.max(1))


def decoded(params, x, last):
    for name in ("dense1", "dense2"):
        x = np.maximum(dense(params[name], x), 0)
    return dense(params[last], x)


def first_step(method):
    shapes = {"student": networks.output_shapes(ENCODER, BATCH["points"][:1])}
    decoder, shape = method.players["decoder"](shapes)
    nets = {"student": ENCODER, "decoder": decoder}
    optimisers = dict.fromkeys(nets, optax.sgd(0.1))
    inputs = {"student": BATCH["points"], "decoder": shape}
    state = jax.jit(lambda: init_state(jax.random.key(0), nets, inputs, optimisers))()
    after, metrics = jax.jit(build_train_step(nets, method.phases, optimisers))(
        state, {}, {"labelled": BATCH}
    )
    return jax.tree.map(np.asarray, dict(state.params)), metrics, after


def test_implicit_autoencoder_is_the_absolute_error_of_the_field():
    params, metrics, after = first_step(methods.implicit_autoencoder(hidden=4))
    code = codes(params["student"], BATCH["points"])
    x = np.concatenate([BATCH["queries"], np.repeat(code[:, None], 5, axis=1)], axis=-1)
    field = decoded(params["decoder"], x, "out")[..., 0]
    total, count = metrics["field"]
    np.testing.assert_allclose(total / count, np.abs(field - BATCH["distances"]).mean(), rtol=1e-5)
    for player in ("student", "decoder"):
        gap = jnp.abs(after.params[player]["out"]["kernel"] - params[player]["out"]["kernel"])
        assert float(gap.max()) > 0


def test_chamfer_autoencoder_rebuilds_the_points():
    params, metrics, _ = first_step(methods.chamfer_autoencoder(points=7, hidden=4))
    code = codes(params["student"], BATCH["points"])
    made = decoded(params["decoder"], code, "head").reshape(4, 7, 2)
    expected = []
    for a, b in zip(made, BATCH["points"], strict=True):
        square = ((a[:, None] - b[None]) ** 2).sum(-1)
        expected.append(square.min(1).mean() + square.min(0).mean())
    total, count = metrics["chamfer"]
    np.testing.assert_allclose(total / count, np.mean(expected), rtol=1e-5)


def test_a_code_does_not_depend_on_the_order_of_its_points():
    params = ENCODER.init(jax.random.key(0), BATCH["points"])["params"]

    def code(points):
        return ENCODER.apply({"params": params}, points, train=False, rngs={})[0].features["code"]

    assert_close(code(BATCH["points"][:, ::-1]), code(BATCH["points"]), atol=1e-6)
    twice = np.concatenate([BATCH["points"], BATCH["points"][:, :2]], axis=1)
    assert_close(code(twice), code(BATCH["points"]), atol=1e-6)
