"""Wide residual networks for 32x32 images: three stages of pre-activation blocks.

Features: `stem`, `stage1`..`stage3` (the sum at the end of the stage, before the next normalisation
and ReLU), `embedding` (the mean over the last map, after both).

Reference:
    Zagoruyko, Komodakis, "Wide Residual Networks", 2016.
"""

import functools
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from kdjax.networks import _layers, adapters
from kdjax.networks.network import Network, Outputs


class PreactivationBlock(nn.Module):
    """Normalisation, ReLU and 3x3 convolution, twice; the shortcut is a 1x1 convolution or x itself."""

    filters: int
    stride: int
    train: bool
    dropout: float
    dtype: Any
    param_dtype: Any
    axis_name: str | None

    @nn.compact
    def __call__(self, x):
        shortcut = x
        x = nn.relu(_layers.batch_norm(self, self.train, name="norm1")(x))
        if shortcut.shape[-1] != self.filters:
            shortcut = _layers.convolution(self, self.filters, 1, self.stride, name="shortcut")(x)
        x = _layers.convolution(self, self.filters, 3, self.stride, name="conv1")(x)
        x = nn.relu(_layers.batch_norm(self, self.train, name="norm2")(x))
        x = nn.Dropout(self.dropout, deterministic=not self.train)(x)
        return _layers.convolution(self, self.filters, 3, 1, name="conv2")(x) + shortcut


class WideResNet(nn.Module):
    """Stages of 16, 32, 64 filters times `width`, of (depth - 4) / 6 blocks each.

    `axis_name` joins the batch statistics over a mapped axis; `remat` recomputes each block in the
    backward pass.
    """

    classes: int
    depth: int
    width: int
    dropout: float = 0.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    axis_name: str | None = None
    remat: bool = False

    couples = True

    @nn.compact
    def __call__(self, x, *, train):
        blocks, rest = divmod(self.depth - 4, 6)
        if rest or blocks < 1:
            raise ValueError(f"depth must be 6 n + 4 with n > 0, got {self.depth}")
        block = nn.remat(PreactivationBlock) if self.remat else PreactivationBlock
        options = (train, self.dropout, self.dtype, self.param_dtype, self.axis_name)
        x = _layers.convolution(self, 16, 3, 1, name="stem")(x)
        features = {"stem": x}
        for i in (1, 2, 3):
            filters = 8 * 2**i * self.width
            for j in range(1, blocks + 1):
                stride = 2 if i > 1 and j == 1 else 1
                x = block(filters, stride, *options, name=f"stage{i}_block{j}")(x)
            features[f"stage{i}"] = x
        x = nn.relu(_layers.batch_norm(self, train, name="norm")(x))
        features["embedding"] = jnp.mean(x, axis=(1, 2))
        return Outputs(_layers.head(self, features["embedding"]), features)


def wrn(classes, *, depth, width, features=(), **options) -> Network:
    """A `WideResNet`; `options`: dropout, dtype, param_dtype, axis_name, remat."""
    return adapters.from_linen(WideResNet(classes, depth, width, **options), features=features)


wrn_16_1 = functools.partial(wrn, depth=16, width=1)
wrn_16_2 = functools.partial(wrn, depth=16, width=2)
wrn_16_4 = functools.partial(wrn, depth=16, width=4)
wrn_28_10 = functools.partial(wrn, depth=28, width=10)
wrn_40_1 = functools.partial(wrn, depth=40, width=1)
wrn_40_2 = functools.partial(wrn, depth=40, width=2)
wrn_40_4 = functools.partial(wrn, depth=40, width=4)
