"""A head in which a query, of this network or of another, looks for what it needs among tokens.

Reference:
    Song, Xie, Zhang, Luo, "Multi-Mode Online Knowledge Distillation for Self-Supervised Visual
    Representation Learning", 2023, whose head is a transformer; this is one cross-attention.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from kdjax.networks import adapters
from kdjax.networks.network import Network, Outputs


class SearchHead(nn.Module):
    """Prototypes of what a query finds among tokens: cross-attention, then two dense layers."""

    prototypes: int
    hidden: int

    couples = False

    @nn.compact
    def __call__(self, inputs, *, train):
        del train  # nothing is drawn
        query, tokens = inputs["query"], inputs["tokens"]
        width = tokens.shape[-1]
        tokens = tokens.reshape(len(tokens), -1, width)
        keys, values = (nn.Dense(width, name=name)(tokens) for name in ("keys", "values"))
        scores = jnp.einsum("bd,bnd->bn", nn.Dense(width, name="query")(query), keys)
        found = jnp.einsum("bn,bnd->bd", jax.nn.softmax(scores / jnp.sqrt(width)), values)
        hidden = nn.gelu(nn.Dense(self.hidden, name="hidden")(query + found))
        return Outputs(nn.Dense(self.prototypes, name="prototypes")(hidden))


def search_head(prototypes, *, hidden=64) -> Network:
    """`{"query": [B, D], "tokens": [B, N, D] or [B, H, W, D]}` -> `[B, prototypes]`."""
    return adapters.from_linen(SearchHead(prototypes, hidden))
