"""Incremental passes over any network that takes a `cache`, as `kdjax.networks.decoder` does.

Such a network's inputs are a dict with `tokens` `[B, S]`, `segments`, `positions` and `cache`; with the
last it gives the feature `cache`, the new one. All leaves of a cache begin with the examples, and its
`index` `[B]` counts the slots that are taken. Prompts are padded on the left: the padding is segment 0,
text is segment 1 and its positions count from its first token.
"""

import jax
import jax.numpy as jnp


def init_cache(network, variables, batch: int, length: int):
    """An empty cache of `length` slots for `batch` examples, in the types that the network computes in.

    Raises:
        ValueError: a network that gives no logits, or no cache.
    """

    def forward(variables, tokens):
        outputs, _ = network.apply(variables, {"tokens": tokens, "cache": {}}, train=False, rngs={})
        if "cache" not in outputs.features or outputs.logits is None:
            lacks = "no logits" if outputs.logits is None else "no feature `cache`"
            raise ValueError(f"the network gives {lacks}: it does not decode token by token")
        return outputs.features["cache"]

    tokens = jax.ShapeDtypeStruct((batch, length), jnp.int32)
    shapes = jax.eval_shape(forward, variables, tokens)
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def extend(network, variables, cache, tokens, padding):
    """`(logits [B, S, V], cache)` after the next tokens.

    Args:
        network, variables: a network that takes a cache.
        cache: of `init_cache` or of the pass before.
        tokens: `[B, S]`
        padding: `[B]`, how many slots at the start of each example are no text.
    """
    slots = cache["index"][:, None] + jnp.arange(tokens.shape[1])[None]
    positions = slots - padding[:, None]
    inputs = {
        "tokens": tokens,
        "segments": (positions >= 0).astype(jnp.int32),
        "positions": jnp.maximum(positions, 0),
        "cache": cache,
    }
    outputs, _ = network.apply(variables, inputs, train=False, rngs={})
    return outputs.logits, outputs.features["cache"]


def prefilled(network, variables, prompts, padding, length):
    """The cache of all tokens of the prompts but the last, whose logits are what comes next."""
    cache = init_cache(network, variables, len(prompts), length)
    if prompts.shape[1] == 1:
        return cache
    return extend(network, variables, cache, prompts[:, :-1], padding)[1]
