"""Networks that label every place of a sequence, on the states of another network."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from kdjax.networks import adapters
from kdjax.networks.adapters import from_function
from kdjax.networks.network import Network, Outputs


class NeighbourTagger(nn.Module):
    """States `[B, L, D]` -> logits `[B, L, classes]`, from a place and its neighbours: h + g(h) · conv(h).

    `window` is how many places the convolution sees, 0 for none of it, 1 for the place alone.
    """

    classes: int
    window: int = 3

    @nn.compact
    def __call__(self, states):
        if self.window:
            width = states.shape[-1]
            near = nn.Dense(width, name="neighbours")(_side_by_side(states, self.window))
            states = states + nn.sigmoid(nn.Dense(width, name="gate")(states)) * near
        return Outputs(nn.Dense(self.classes, name="head")(states))


def _side_by_side(states, window):
    """`[B, L, window D]`: a place and its neighbours; a dense map of them is the convolution.

    Over several seeds at once a convolution is far slower than this.
    """
    before = window // 2
    length = states.shape[1]
    padded = jnp.pad(states, ((0, 0), (before, window - 1 - before), (0, 0)))
    return jnp.concatenate([padded[:, i : i + length] for i in range(window)], axis=-1)


def neighbour_tagger(classes: int, *, window: int = 3) -> Network:
    """A `NeighbourTagger`: what a frozen language model lost of its neighbourhood is put back.

    Kim, Han, Nam, Chae, "Good Neighbors Are All You Need for Chinese Grapheme-to-Phoneme
    Conversion", 2023, whose module is not public in detail: the gate and the width are ours.
    """
    return adapters.from_linen(NeighbourTagger(classes, window))


class Prefix(NamedTuple):
    """Trained keys and values in front of a decoder's text: `length` slots in each of its layers."""

    length: int
    layers: int
    heads: int
    head_width: int


def state_tagger(
    body: Network,
    classes: int,
    *,
    width: int,
    feature: str = "hidden",
    trained: bool = True,
    prefix: Prefix | None = None,
) -> Network:
    """Tokens `[B, L]` -> logits `[B, L, classes]`: a linear head on a state `[B, L, D]` of `body`.

    Parameters: `kernel`, `bias`; `body`, trained, or else read from frozen leaves: `frozen[NAME] =
    {"body": params}`; with a prefix `key` and `value` `[layers, length, heads, head_width]`, which all
    tokens see before the text, so that a frozen decoder is tuned by them alone (the prefix tuning of Li,
    Liang, "Prefix-Tuning: Optimizing Continuous Prompts for Generation", 2021).

    Args:
        body: a network over dicts with `tokens`; with a prefix one of
            `kdjax.networks.decoder`.
        classes: how many labels there are.
        width: D of the state.
        feature: its name.
        trained: whether the body is trained too, from its own initialisation.
        prefix: its sizes, those of the body.
    """

    def init(key, tokens):
        keys = jax.random.split(key, 4)
        params = {
            "kernel": jax.random.normal(keys[0], (width, classes)) * width**-0.5,
            "bias": jnp.zeros(classes),
        }
        if trained:
            params["body"] = body.init(keys[1], {"tokens": tokens})["params"]
        if prefix is not None:
            shape = (prefix.layers, prefix.length, prefix.heads, prefix.head_width)
            params |= {
                name: 0.5 * jax.random.normal(key, shape)
                for name, key in zip(("key", "value"), keys[2:], strict=True)
            }
        return params

    def apply(params, tokens):
        given = {"tokens": tokens}
        if prefix is not None:
            given["cache"] = _filled(params["key"], params["value"], tokens)
        outputs, _ = body.apply({"params": params["body"]}, given, train=False, rngs={})
        return outputs.features[feature] @ params["kernel"] + params["bias"][None, None]

    return from_function(init, apply)


def _filled(key, value, tokens):
    """A decoder's cache that begins with the prefix and has room for the tokens."""
    batch, length = tokens.shape

    def slots(x):
        x = jnp.pad(x, ((0, 0), (0, length), (0, 0), (0, 0)))
        return jnp.broadcast_to(x, (batch, *x.shape))

    count = key.shape[1]
    return {
        "key": slots(key),
        "value": slots(value),
        "segments": jnp.zeros((batch, count + length), jnp.int32),
        "index": jnp.full(batch, count, jnp.int32),
    }
