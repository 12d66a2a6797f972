"""A vision transformer as a sum of paths: the same function, its parts, its scale, its exits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import networks

SHAPE = {"width": 8, "depth": 3, "heads": 2, "patch": 2}
X = np.random.default_rng(0).normal(size=(4, 4, 4, 1)).astype(np.float32)
ENSEMBLE = networks.path_ensemble(5, features=("paths", "exits"), **SHAPE)


def applied(network, params):
    variables = {"params": params, "model": {}, "frozen": {}}
    return network.apply(variables, X, train=False, rngs={})[0]


@pytest.fixture(scope="module")
def params():
    drawn = ENSEMBLE.init(jax.random.key(0), X)["params"]
    drawn["heads"]["head"]["bias"] = jnp.arange(5.0)
    return drawn


def test_the_paths_sum_up_to_the_transformer(params):
    whole = networks.vision_transformer(5, features=("block2", "block3"), **SHAPE)
    own = {**params["trunk"], "norm": params["heads"]["norm"], "head": params["heads"]["head"]}
    expected, given = applied(whole, own), applied(ENSEMBLE, params)
    np.testing.assert_allclose(given.logits, expected.logits, atol=1e-5)
    paths = given.features["paths"]
    assert paths.shape == (4, 7, 8)
    np.testing.assert_allclose(paths.sum(1), expected.features["block3"][:, 0], atol=1e-5)
    np.testing.assert_allclose(paths[:, :5].sum(1), expected.features["block2"][:, 0], atol=1e-5)


def test_the_scale_changes_what_the_head_reads_and_no_path(params):
    scale = jnp.ones((7, 8)).at[3].set(0.0)
    changed = {**params, "heads": {**params["heads"], "scale": scale}}
    before, after = applied(ENSEMBLE, params), applied(ENSEMBLE, changed)
    for name in ("paths", "exits"):
        np.testing.assert_array_equal(after.features[name], before.features[name])
    kept = before.features["paths"].sum(1) - before.features["paths"][:, 3]
    centred = (kept - kept.mean(1, keepdims=True)) / jnp.sqrt(kept.var(1, keepdims=True) + 1e-6)
    expected = centred @ params["heads"]["head"]["kernel"] + jnp.arange(5.0)[None]
    np.testing.assert_allclose(after.logits, expected, atol=1e-4)


def test_an_exit_reads_the_first_paths_only(params):
    def exits(params):
        return applied(ENSEMBLE, params).features["exits"]

    assert exits(params).shape == (4, 2, 5)
    slope = jax.grad(lambda p: jnp.sum(exits(p)[:, 0] ** 2))(params)["trunk"]
    size = {
        name: float(jnp.abs(slope[name]["dense2"]["kernel"]).max())
        for name in slope
        if "block" in name
    }
    assert size["block1"] > 0 and size["block2"] == size["block3"] == 0
    with pytest.raises(ValueError, match="depth"):
        networks.path_ensemble(5, **{**SHAPE, "depth": 1})
