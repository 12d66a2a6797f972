"""Small decoders with weights wide enough that texts differ, shared by the tests of generation."""

import functools

import jax
import numpy as np

from kdjax import networks

SHAPE = {"heads": 2, "key_heads": 1, "hidden": 12, "block": 4}


@functools.cache
def decoder(vocabulary, *, seed=0, width=8, depth=2, windows=(), scale=12.0):
    """(network, variables): the same object every time, so that programs are compiled once."""
    network = networks.decoder_transformer(
        vocabulary, width=width, depth=depth, windows=windows, **SHAPE
    )
    variables = network.init(jax.random.key(seed), np.zeros((1, 2), np.int32))
    rng = np.random.default_rng(seed)

    def draw(path, x):
        # Embeddings and head as they come; a mean of the rest would forget the text.
        return x if path[-1].key == "scale" else 0.02 * scale * rng.normal(size=x.shape)

    params = jax.tree_util.tree_map_with_path(draw, variables["params"])
    return network, {"params": jax.tree.map(np.float32, params)}


@functools.cache
def forward(network):
    return jax.jit(functools.partial(network.apply, train=False, rngs={}))


def log_probs(network, variables, tokens):
    """`[B, L, V]` of whole texts, in one pass, in float64."""
    logits = np.float64(forward(network)(variables, tokens)[0].logits)
    logits -= logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))
