"""Residual networks for large images: a 7x7 stem, four stages of basic or bottleneck blocks.

Features: `stem` (before its pooling), `stage1`.. (after the last ReLU of the stage),
`stage1_preactivation`.. (before it), `embedding` (the mean over the last map).

Reference:
    He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", 2016, table 1; the stride of a
    bottleneck in its 3x3 convolution as Goyal et al., "Accurate, Large Minibatch SGD: Training
    ImageNet in 1 Hour", 2017, have it.
"""

import functools
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from kdjax.networks import _layers, adapters, cifar_resnet
from kdjax.networks.network import Network, Outputs

BLOCKS = ("basic", "bottleneck")
_REDUCTION = 4


class BottleneckBlock(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut; gives the output after and before its ReLU.

    `early_stride` has the stride in the first convolution, not in the second.
    """

    filters: int
    stride: int
    train: bool
    dtype: Any
    param_dtype: Any
    axis_name: str | None
    early_stride: bool

    @nn.compact
    def __call__(self, x):
        shortcut = x
        if self.stride != 1 or x.shape[-1] != self.filters:
            shortcut = self._normed(x, self.filters, 1, self.stride, "shortcut", "shortcut_norm")
        narrow = self.filters // _REDUCTION
        first, second = (self.stride, 1) if self.early_stride else (1, self.stride)
        x = nn.relu(self._normed(x, narrow, 1, first, "conv1", "norm1"))
        x = nn.relu(self._normed(x, narrow, 3, second, "conv2", "norm2"))
        x = self._normed(x, self.filters, 1, 1, "conv3", "norm3") + shortcut
        return nn.relu(x), x

    def _normed(self, x, filters, size, stride, name, norm):
        x = _layers.convolution(self, filters, size, stride, name=name)(x)
        return _layers.batch_norm(self, self.train, name=norm)(x)


class ImagenetResNet(nn.Module):
    """A stem of `stem` filters, halved twice, and stages of `widths` filters and `depths` blocks.

    The first block of every stage but the first halves the map; `first_stride` 2 lets the first halve
    it too. `axis_name` joins the batch statistics over a mapped axis; `remat` recomputes each block in
    the backward pass. `classes` None gives no logits.
    """

    classes: int | None
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    block: str
    stem: int = 64
    first_stride: int = 1
    early_stride: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    axis_name: str | None = None
    remat: bool = False

    couples = True

    @nn.compact
    def __call__(self, x, *, train):
        precision = (train, self.dtype, self.param_dtype, self.axis_name)
        bottleneck = self.block == "bottleneck"
        kind: Any = BottleneckBlock if bottleneck else cifar_resnet.BasicBlock
        kind = nn.remat(kind) if self.remat else kind
        options = (*precision, self.early_stride) if bottleneck else precision
        x = _layers.convolution(self, self.stem, 7, 2, name="stem")(x)
        x = nn.relu(_layers.batch_norm(self, train, name="stem_norm")(x))
        features = {"stem": x}
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))

        def block(width, stride, *, name):
            return kind(width, stride, *options, name=name)

        x, stages = _layers.residual_stages(
            x, block, self.widths, self.depths, first_stride=self.first_stride
        )
        features |= stages
        features["embedding"] = jnp.mean(x, axis=(1, 2))
        logits = None if self.classes is None else _layers.head(self, features["embedding"])
        return Outputs(logits, features)


def imagenet_resnet(classes, *, depths, widths, block, features=(), **options) -> Network:
    """An `ImagenetResNet`; `options` are its other fields.

    Raises:
        ValueError: an unknown block, not as many depths as widths.
    """
    if block not in BLOCKS:
        raise ValueError(f"block must be one of {BLOCKS}, got {block!r}")
    if len(depths) != len(widths):
        raise ValueError(f"depths {depths} and widths {widths} must be as many")
    module = ImagenetResNet(classes, tuple(depths), tuple(widths), block, **options)
    return adapters.from_linen(module, features=features)


_BASIC = {"block": "basic", "widths": (64, 128, 256, 512)}
_BOTTLENECK = {"block": "bottleneck", "widths": (256, 512, 1024, 2048)}

imagenet_resnet18 = functools.partial(imagenet_resnet, depths=(2, 2, 2, 2), **_BASIC)
imagenet_resnet34 = functools.partial(imagenet_resnet, depths=(3, 4, 6, 3), **_BASIC)
imagenet_resnet50 = functools.partial(imagenet_resnet, depths=(3, 4, 6, 3), **_BOTTLENECK)
imagenet_resnet101 = functools.partial(imagenet_resnet, depths=(3, 4, 23, 3), **_BOTTLENECK)
imagenet_resnet152 = functools.partial(imagenet_resnet, depths=(3, 8, 36, 3), **_BOTTLENECK)
