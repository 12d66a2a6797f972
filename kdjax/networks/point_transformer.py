"""A transformer over patches of points, and tokens that only read from it.

Inputs: `patches` `[B, P, K, 2]` from their centres, `centres` `[B, P, 2]`, `hidden` `[B, P]`, the patches that
are not seen. Features: `local` `[B, P, D]`, `tokens` `[B, 3, D]` (class, image, text), `rebuilt`
`[B, P, K, 2]`, every patch as the decoder has it.

Reference:
    Qi, Dong, Fan, Ge, Zhang, Ma, Yi, "Contrast with Reconstruct: Contrastive 3D Representation Learning
    Guided by Generative Pretraining", 2023: tokens that take from the points by cross-attention
    without giving a gradient back.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from kdjax.networks import adapters
from kdjax.networks._transformer import Attention
from kdjax.networks.network import Network, Outputs
from kdjax.networks.vit import TransformerBlock

TOKENS = 3


class PointTransformer(nn.Module):
    """`detached`: the tokens read the patches without a gradient."""

    width: int
    depth: int
    heads: int
    detached: bool

    couples = False

    @nn.compact
    def __call__(self, inputs):
        patches, centres = inputs["patches"], inputs["centres"]
        seen = ~inputs["hidden"]
        each = nn.gelu(nn.Dense(self.width, name="point1")(patches))
        x = jnp.max(nn.Dense(self.width, name="point2")(each), axis=2)
        places = nn.Dense(self.width, name="place2")(
            nn.gelu(nn.Dense(self.width, name="place1")(centres))
        )
        x = x + places
        start = self.param("tokens", nn.initializers.normal(0.02), (1, TOKENS, self.width))
        tokens = jnp.broadcast_to(start, (len(x), TOKENS, self.width))
        mask = seen[:, None, None, :]
        for i in range(1, self.depth + 1):
            x, _ = TransformerBlock(self.heads, name=f"block{i}")(x, mask)
            read = jax.lax.stop_gradient(x) if self.detached else x
            tokens = self._read(tokens, read, mask, i)
        empty = self.param("empty", nn.initializers.normal(0.02), (1, 1, self.width))
        whole = jnp.where(seen[..., None], x, empty) + places
        whole, _ = TransformerBlock(self.heads, name="decoder")(whole)
        whole = nn.LayerNorm(name="decoder_norm")(whole)
        rebuilt = nn.Dense(patches.shape[2] * 2, name="points")(whole).reshape(patches.shape)
        return Outputs(None, {"local": x, "tokens": tokens, "rebuilt": rebuilt})

    def _read(self, tokens, x, mask, i):
        query = nn.LayerNorm(name=f"query_norm{i}")(tokens)
        key = nn.LayerNorm(name=f"key_norm{i}")(x)
        attention = Attention(self.heads, self.width // self.heads, self.width, name=f"reading{i}")
        tokens = tokens + attention(query, key, key, mask=mask)[0]
        inside = nn.gelu(
            nn.Dense(2 * self.width, name=f"in{i}")(nn.LayerNorm(name=f"norm{i}")(tokens))
        )
        return tokens + nn.Dense(self.width, name=f"out{i}")(inside)


def point_transformer(*, width=32, depth=2, heads=4, detached=True) -> Network:
    """A `PointTransformer` with all its features."""
    module = PointTransformer(width, depth, heads, detached)
    return adapters.from_linen(module, features=("local", "tokens", "rebuilt"))
