"""A scorer that sees query and document together: no embedding of one stands without the other."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from kdjax.networks import adapters
from kdjax.networks.network import Network


class PairScorer(nn.Module):
    """A dense layer on the overlap of two bags and on how their embeddings agree and differ."""

    width: int
    hidden: int
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    couples = False

    @nn.compact
    def __call__(self, inputs, *, train):
        del train  # nothing is drawn

        def dense(name, width):
            precision = {"dtype": self.dtype, "param_dtype": self.param_dtype}
            return nn.Dense(width, name=name, **precision)

        q, d = inputs["query"], inputs["document"]
        u, v = dense("query", self.width)(q)[:, None], dense("document", self.width)(d)[None]
        overlap = dense("overlap", self.hidden)(q[:, None] * d[None])
        between = dense("between", self.hidden)(jnp.concatenate([u * v, jnp.abs(u - v)], axis=-1))
        return dense("score", 1)(nn.relu(overlap + between))[..., 0]


def pair_scorer(*, width=32, hidden=32, **options) -> Network:
    """A cross encoder of bags: `{"query": [Q, V], "document": [D, V]}` -> scores `[Q, D]`.

    `width` is that of the embeddings, `hidden` that of the layer before the score; `options`: dtype,
    param_dtype.
    """
    return adapters.from_linen(PairScorer(width, hidden, **options))
