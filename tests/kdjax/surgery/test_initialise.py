"""A student that begins as some of its teacher's layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.networks import decoder_transformer
from kdjax.surgery import kept_layers

TOKENS = np.arange(8).reshape(2, 4) % 7
SIZES = {"width": 8, "heads": 2, "key_heads": 1, "hidden": 8}


def layer(params, number, scan):
    if scan:
        return jax.tree.map(lambda x: x[number], params["layers"])
    return params[f"layer{number + 1}"]


@pytest.mark.parametrize("scan", [True, False])
def test_the_layers_that_stay_are_the_first_the_last_and_those_between(scan):
    teacher = decoder_transformer(7, depth=5, scan=scan, **SIZES)
    student = decoder_transformer(7, depth=3, scan=scan, **SIZES)
    shapes, wanted = (
        jax.eval_shape(network.init, jax.random.key(0), TOKENS)["params"]
        for network in (teacher, student)
    )
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape), shapes)
    begun = kept_layers(params, 3)
    assert jax.tree.map(jnp.shape, begun) == jax.tree.map(jnp.shape, wanted)
    for new, old in enumerate((0, 2, 4)):
        mine, theirs = layer(begun, new, scan), layer(params, old, scan)
        jax.tree.map(np.testing.assert_array_equal, mine, theirs)
    np.testing.assert_array_equal(begun["embedding"], params["embedding"])


def test_all_layers_are_the_teacher_itself_and_others_are_refused():
    params = {"layer1": jnp.zeros(1), "layer2": jnp.ones(1), "head": jnp.ones(2)}
    assert kept_layers(params, 2) == params
    assert kept_layers(params, 1)["layer1"] is params["layer1"]
    for depth in (0, 3):
        with pytest.raises(ValueError, match=f"between 1 and the 2 layers there are, got {depth}"):
            kept_layers(params, depth)
