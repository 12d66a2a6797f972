"""Point sets: what is hidden, what is rebuilt, and what may not disturb it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import networks
from kdjax.methods import hidden_points
from kdjax.networks.point_transformer import point_transformer
from kdjax.train import build_train_step, init_state

RNG = np.random.default_rng(0)
BATCH = {
    "patches": RNG.normal(size=(4, 5, 3, 2)).astype(np.float32),
    "centres": RNG.normal(size=(4, 5, 2)).astype(np.float32),
    "hidden": np.tile(np.array([True, False, True, False, False]), (4, 1)),
}
NET = {flag: point_transformer(width=8, depth=1, heads=2, detached=flag) for flag in (True, False)}


@functools.partial(jax.jit, static_argnums=2)
def features(params, inputs, detached=True):
    return NET[detached].apply({"params": params}, inputs, train=False, rngs={})[0].features


def test_chamfer_distance_is_the_mean_of_nearest_squares_both_ways():
    a, b = RNG.normal(size=(2, 4, 2)), RNG.normal(size=(2, 3, 2))
    found = hidden_points.chamfer_distance(jnp.asarray(a), jnp.asarray(b))
    for i in range(2):
        square = ((a[i][:, None] - b[i][None]) ** 2).sum(-1)
        expected = square.min(1).mean() + square.min(0).mean()
        np.testing.assert_allclose(found[i], expected, rtol=1e-5)
    assert float(jnp.abs(hidden_points.chamfer_distance(a, a[:, ::-1])).max()) == 0


def test_hidden_patches_are_not_seen_and_tokens_give_no_gradient_back():
    params = NET[True].init(jax.random.key(0), BATCH)["params"]
    moved = BATCH["patches"].copy()
    moved[:, [0, 2]] += 5
    kept = ["tokens", "rebuilt"]
    before, after = (features(params, {**BATCH, "patches": x}) for x in (BATCH["patches"], moved))
    for name in kept:
        np.testing.assert_allclose(after[name], before[name], atol=1e-5)
    for flag in (True, False):
        slope = jax.jit(
            jax.grad(lambda p, flag=flag: jnp.sum(features(p, BATCH, flag)["tokens"] ** 2))
        )(params)
        largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(slope["point1"]))
        assert (largest == 0) == flag


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0)])
def test_recon_weighs_rebuilding_against_teachers(weights):
    generative, contrastive = weights
    method = hidden_points.recon(
        image_width=6, text_width=4, hidden=0.4, generative=generative, contrastive=contrastive
    )
    state, step = _prepared(method)
    rows = {
        "patches": BATCH["patches"],
        "centres": BATCH["centres"],
        "label": np.array([0, 1, 0, 1]),
        "image_feature": RNG.normal(size=(4, 6)).astype(np.float32),
        "text_feature": RNG.normal(size=(4, 4)).astype(np.float32),
        "index": np.arange(4),
    }
    after, metrics = step(state, {}, {"points": rows})
    assert float(metrics["rebuilt"][1]) == 4 * 2, "two of five patches of four examples"
    gap = {
        name: max(
            float(jnp.abs(a - b).max())
            for a, b in zip(
                jax.tree.leaves(state.params["student"][name]),
                jax.tree.leaves(after.params["student"][name]),
                strict=True,
            )
        )
        for name in ("points", "reading1")
    }
    assert (gap["points"] > 0) == (generative > 0)
    assert (gap["reading1"] > 0) == (contrastive > 0)


def _prepared(method):
    shapes = {"student": networks.output_shapes(NET[True], BATCH)}
    made = {name: make(shapes) for name, make in method.players.items()}
    nets = {"student": NET[True], **{name: net for name, (net, _) in made.items()}}
    inputs = {"student": BATCH, **{name: shape for name, (_, shape) in made.items()}}
    optimisers = dict.fromkeys(nets, optax.sgd(0.1))
    state = jax.jit(
        lambda: init_state(jax.random.key(0), nets, inputs, optimisers, hyper=method.hyper)
    )()
    return state, jax.jit(build_train_step(nets, method.phases, optimisers))
