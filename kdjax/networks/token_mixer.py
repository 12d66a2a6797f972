"""A small transformer over a few named vectors, some of which may be hidden. Feature: `mixed`.

Reference:
    Zhong, Chi, Gu, Wang, Yu, Tang, "Meta-DMoE: Adapting to Domain Shift by Meta-Distillation from
    Mixture-of-Experts", 2022: the aggregator of the experts' features.
"""

import jax.numpy as jnp
from flax import linen as nn

from kdjax.networks import adapters
from kdjax.networks.network import Network, Outputs
from kdjax.networks.vit import TransformerBlock


class TokenMixer(nn.Module):
    """`tokens` `[B, M, D]`, of which `where` `[M]` are there -> `mixed` `[B, out]`.

    Each place has its own embedding; the mean over the tokens that are there is mapped to `out`.
    """

    out: int
    width: int
    depth: int
    heads: int

    couples = False

    @nn.compact
    def __call__(self, inputs):
        tokens, where = inputs["tokens"], inputs["where"]
        places = self.param("places", nn.initializers.normal(0.02), (tokens.shape[1], self.width))
        x = nn.Dense(self.width, name="tokens")(tokens) + places[None]
        mask = jnp.broadcast_to(where[None, None, None, :], (1, 1, x.shape[1], x.shape[1]))
        for i in range(1, self.depth + 1):
            x, _ = TransformerBlock(self.heads, name=f"block{i}")(x, mask)
        kept = where.astype(x.dtype)[None, :, None]
        mean = jnp.sum(x * kept, axis=1) / jnp.maximum(jnp.sum(kept, axis=1), 1)
        return Outputs(None, {"mixed": nn.Dense(self.out, name="out")(mean)})


def token_mixer(out, *, width, depth=1, heads=4) -> Network:
    """A `TokenMixer`; inputs are `{"tokens": [B, M, D], "where": bool[M]}`."""
    return adapters.from_linen(TokenMixer(out, width, depth, heads), features=("mixed",))
