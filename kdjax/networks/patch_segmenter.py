"""A vision transformer that labels every pixel. Features: `low` and `high` `[B, H / P, W / P, D]`.

`low` holds the patches behind the first block, `high` those that the head reads.
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from kdjax.networks import _layers, adapters
from kdjax.networks.network import Network, Outputs
from kdjax.networks.vit import VisionTransformer


class PatchSegmenter(nn.Module):
    """Blocks over patches, whose tokens give the logits of all their pixels: `[B, H, W, classes]`."""

    labels: int
    patch: int
    width: int
    depth: int
    heads: int
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    couples = False

    @property
    def classes(self):
        return self.labels * self.patch**2

    @nn.compact
    def __call__(self, x, *, train):
        b, height, width, _ = x.shape
        rows, columns = height // self.patch, width // self.patch
        body = VisionTransformer(
            None, self.width, self.depth, self.heads, self.patch,
            dtype=self.dtype, param_dtype=self.param_dtype, name="body",
        )  # fmt: skip
        inside = body(x, train=train).features
        low, high = (
            inside[name][:, 1:].reshape(b, rows, columns, self.width)
            for name in ("block1", "tokens")
        )
        logits = _layers.head(self, high)
        logits = logits.reshape(b, rows, columns, self.patch, self.patch, self.labels)
        logits = logits.transpose(0, 1, 3, 2, 4, 5).reshape(b, height, width, self.labels)
        return Outputs(logits, {"low": low, "high": high})


def patch_segmenter(classes, *, patch, width, depth, heads, features=(), **options) -> Network:
    """A `PatchSegmenter` of images whose sides `patch` divides; `options`: dtype, param_dtype."""
    module = PatchSegmenter(classes, patch, width, depth, heads, **options)
    return adapters.from_linen(module, features=features)
