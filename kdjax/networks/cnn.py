"""A small convolutional network without batch statistics. Features: `stage1`.., `embedding`."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from kdjax.networks import _convolution, _layers, adapters
from kdjax.networks.network import Network, Outputs


class CNN(nn.Module):
    """3x3 convolution, ReLU and 2x2 maximum per stage, then a dense layer: `[B, H, W, C]` images.

    `stageN` is the pooled map `[B, H / 2^N, W / 2^N, widths[N - 1]]`, `embedding` is `[B, hidden]`.
    """

    classes: int
    widths: tuple[int, ...] = (32, 64)
    hidden: int = 128
    dropout: float = 0.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    couples = False

    @nn.compact
    def __call__(self, x, *, train):
        precision = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        features = {}
        for i, width in enumerate(self.widths, 1):
            conv = nn.Conv(
                width,
                (3, 3),
                kernel_init=_layers.he_normal,
                conv_general_dilated=_convolution.conv_general_dilated,
                name=f"conv{i}",
                **precision,
            )
            x = nn.relu(conv(x))
            x = features[f"stage{i}"] = nn.max_pool(x, (2, 2), (2, 2))
        x = x.reshape(x.shape[0], -1)
        x = features["embedding"] = nn.relu(nn.Dense(self.hidden, name="dense", **precision)(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return Outputs(_layers.head(self, x), features)


def small_cnn(classes, *, widths=(32, 64), hidden=128, features=(), **options) -> Network:
    """A `CNN` with a stage per entry of `widths`; `options`: dropout, dtype, param_dtype."""
    return adapters.from_linen(CNN(classes, tuple(widths), hidden, **options), features=features)
