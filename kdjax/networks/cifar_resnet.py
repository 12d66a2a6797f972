"""Residual networks for 32x32 images: three stages of basic blocks, with batch statistics.

Features: `stem`, `stage1`..`stage3` (after the last ReLU of the stage),
`stage1_preactivation`.. (before it), `embedding` (the mean over the last map).

Reference:
    He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", 2016, section 4.2; with
    1x1 convolutions as shortcuts where shapes change, and the four times wider `x4` nets, as the
    benchmarks of distillation use them (Tian, Krishnan, Isola, "Contrastive Representation
    Distillation", 2020).
"""

import functools
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from kdjax.networks import _layers, adapters
from kdjax.networks.network import Network, Outputs


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; gives the block's output after and before its ReLU."""

    filters: int
    stride: int
    train: bool
    dtype: Any
    param_dtype: Any
    axis_name: str | None

    @nn.compact
    def __call__(self, x):
        shortcut = x
        if self.stride != 1 or x.shape[-1] != self.filters:
            shortcut = _layers.convolution(self, self.filters, 1, self.stride, name="shortcut")(x)
            shortcut = _layers.batch_norm(self, self.train, name="shortcut_norm")(shortcut)
        x = _layers.convolution(self, self.filters, 3, self.stride, name="conv1")(x)
        x = nn.relu(_layers.batch_norm(self, self.train, name="norm1")(x))
        x = _layers.convolution(self, self.filters, 3, 1, name="conv2")(x)
        x = _layers.batch_norm(self, self.train, name="norm2")(x) + shortcut
        return nn.relu(x), x


class ResNet(nn.Module):
    """A stem of `widths[0]` filters and stages of `widths[1:]`, of (depth - 2) / 6 blocks each.

    `axis_name` joins the batch statistics over a mapped axis; `remat` recomputes each block in the
    backward pass.
    """

    classes: int
    depth: int
    widths: tuple[int, int, int, int] = (16, 16, 32, 64)
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    axis_name: str | None = None
    remat: bool = False

    couples = True

    @nn.compact
    def __call__(self, x, *, train):
        blocks, rest = divmod(self.depth - 2, 6)
        if rest or blocks < 1:
            raise ValueError(f"depth must be 6 n + 2 with n > 0, got {self.depth}")
        kind = nn.remat(BasicBlock) if self.remat else BasicBlock
        options = (train, self.dtype, self.param_dtype, self.axis_name)

        def block(width, stride, *, name):
            return kind(width, stride, *options, name=name)

        x = _layers.convolution(self, self.widths[0], 3, 1, name="stem")(x)
        x = nn.relu(_layers.batch_norm(self, train, name="stem_norm")(x))
        features = {"stem": x}
        x, stages = _layers.residual_stages(x, block, self.widths[1:], (blocks,) * 3)
        features |= stages
        features["embedding"] = jnp.mean(x, axis=(1, 2))
        return Outputs(_layers.head(self, features["embedding"]), features)


def resnet(classes, *, depth, widths=(16, 16, 32, 64), features=(), **options) -> Network:
    """A `ResNet`; `options`: dtype, param_dtype, axis_name, remat."""
    return adapters.from_linen(ResNet(classes, depth, tuple(widths), **options), features=features)


_X4 = (32, 64, 128, 256)

resnet8 = functools.partial(resnet, depth=8)
resnet14 = functools.partial(resnet, depth=14)
resnet20 = functools.partial(resnet, depth=20)
resnet32 = functools.partial(resnet, depth=32)
resnet44 = functools.partial(resnet, depth=44)
resnet56 = functools.partial(resnet, depth=56)
resnet110 = functools.partial(resnet, depth=110)
resnet8x4 = functools.partial(resnet, depth=8, widths=_X4)
resnet32x4 = functools.partial(resnet, depth=32, widths=_X4)
