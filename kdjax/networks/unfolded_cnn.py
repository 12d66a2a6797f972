"""Convolutions as dense layers over stacked neighbours: fast also where parameters have a seed axis.

Features: `stage1`.. `[B, H, W, widths[N - 1]]`, `embedding` `[B, widths[-1]]`, the mean over positions.
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from kdjax.networks import _layers, adapters
from kdjax.networks.network import Network, Outputs

REACH = (-1, 0, 1)


class UnfoldedCNN(nn.Module):
    """3x3 convolutions with ReLU at full resolution, then a head: `[B, H, W, C]` images.

    The head reads the mean over positions, or with `by_pixel` every position: logits `[B, H, W,
    classes]`. `circular` wraps images around, which makes the mean invariant to circular shifts;
    otherwise they are surrounded by zeros. `strides[N - 1]` is how far stage N's neighbours are apart.
    """

    classes: int
    widths: tuple[int, ...]
    strides: tuple[int, ...]
    circular: bool = False
    by_pixel: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    couples = False

    @nn.compact
    def __call__(self, x, *, train):
        del train  # nothing is drawn
        features = {}
        for i, (width, apart) in enumerate(zip(self.widths, self.strides, strict=True), 1):
            dense = nn.Dense(width, dtype=self.dtype, param_dtype=self.param_dtype, name=f"conv{i}")
            x = features[f"stage{i}"] = nn.relu(dense(self._neighbours(x, apart)))
        features["embedding"] = x.mean((1, 2))
        return Outputs(_layers.head(self, x if self.by_pixel else features["embedding"]), features)

    def _neighbours(self, x, apart):
        height, width = x.shape[1:3]
        if self.circular:
            moved = [jnp.roll(x, (apart * i, apart * j), (1, 2)) for i in REACH for j in REACH]
        else:
            around = jnp.pad(x, ((0, 0), (apart, apart), (apart, apart), (0, 0)))
            moved = [
                around[:, apart * (1 + i) :, apart * (1 + j) :][:, :height, :width]
                for i in REACH
                for j in REACH
            ]
        return jnp.concatenate(moved, axis=-1)


def unfolded_cnn(classes, *, widths=(8, 16), strides=None, features=(), **options) -> Network:
    """An `UnfoldedCNN` with a stage per entry of `widths`; `options` are its other fields."""
    strides = (1,) * len(widths) if strides is None else tuple(strides)
    return adapters.from_linen(
        UnfoldedCNN(classes, tuple(widths), strides, **options), features=features
    )
