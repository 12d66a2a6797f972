"""A small decoder on another model's states: what it reads, when it is its own, what leaks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import networks
from kdjax.networks.modules import modular_decoder

RNG = np.random.default_rng(0)
INPUTS = {
    "tokens": RNG.integers(0, 7, size=(2, 6)).astype(np.int32),
    "source": RNG.normal(size=(2, 6, 10)).astype(np.float32),
}
SHAPE = {"width": 8, "depth": 1, "heads": 2, "positions": 6, "bottleneck": 4}


def logits(graft, params, inputs=INPUTS, **options):
    network = modular_decoder(7, graft=graft, **SHAPE, **options)
    return np.asarray(network.apply({"params": params}, inputs, train=False, rngs={})[0].logits)


def drawn(graft):
    return modular_decoder(7, graft=graft, **SHAPE).init(jax.random.key(0), INPUTS)["params"]


def changed(name, place):
    other = INPUTS[name].copy()
    # Another token; or other channels, since a shift of all of them is normalised away.
    other[:, place] = (other[:, place] + 1) % 7 if name == "tokens" else other[:, place, ::-1]
    return {**INPUTS, name: other}


@pytest.mark.parametrize(
    ("graft", "name"), [(None, "tokens"), ("front", "source"), ("gated", "source")]
)
def test_a_token_does_not_see_later_ones(graft, name):
    params = drawn(graft)
    before, after = logits(graft, params), logits(graft, params, changed(name, 4))
    np.testing.assert_allclose(after[:, :4], before[:, :4], atol=1e-6)
    assert np.abs(after[:, 4:] - before[:, 4:]).max() > 1e-4


def test_without_the_causal_mask_the_states_of_later_tokens_leak():
    params = drawn("front")
    before, after = (
        logits("front", params, inputs, causal=False) for inputs in (INPUTS, changed("source", 4))
    )
    assert np.abs(after[:, :4] - before[:, :4]).max() > 1e-4


def test_the_front_reads_states_alone_and_a_closed_gate_leaves_the_model_its_own():
    front = drawn("front")
    np.testing.assert_array_equal(
        logits("front", front, changed("tokens", 1)), logits("front", front)
    )
    assert "embedding" not in front and "positions" not in front
    gated = drawn("gated")
    own = {name: part for name, part in gated.items() if name != "cross"}
    plain = logits(None, own)
    assert np.abs(logits("gated", gated) - plain).max() < 0.2 * np.abs(plain).max()
    wide = jax.tree.map(lambda x: x, gated)
    wide["cross"]["gate"]["bias"] = jnp.full(8, -20.0)
    np.testing.assert_allclose(logits("gated", wide), plain, atol=1e-5)
    wide["cross"]["gate"]["bias"] = jnp.full(8, 20.0)
    assert np.abs(logits("gated", wide) - plain).max() > 0.1


def test_modular_decoder_refuses_an_unknown_graft():
    with pytest.raises(ValueError, match="graft"):
        networks.modular_decoder(7, graft="behind", **SHAPE)
