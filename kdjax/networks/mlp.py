"""Multilayer perceptrons over flattened inputs. Features: `hidden1`.., `embedding` (the last)."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from kdjax.networks import _layers, adapters
from kdjax.networks.network import Network, Outputs


class MLP(nn.Module):
    """Dense layers with ReLU: `[B, ...] -> [B, classes]`."""

    classes: int
    widths: tuple[int, ...]
    dropout: float = 0.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    couples = False

    @nn.compact
    def __call__(self, x, *, train):
        x = x.reshape(x.shape[0], -1)
        features = {}
        for i, width in enumerate(self.widths, 1):
            dense = nn.Dense(
                width, dtype=self.dtype, param_dtype=self.param_dtype, name=f"dense{i}"
            )
            x = features[f"hidden{i}"] = nn.relu(dense(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        features["embedding"] = features[f"hidden{len(self.widths)}"] if self.widths else x
        return Outputs(_layers.head(self, x), features)


def multilayer_perceptron(classes, *, widths=(128,), features=(), **options) -> Network:
    """An `MLP` with hidden layers of `widths`; `options`: dropout, dtype, param_dtype."""
    return adapters.from_linen(MLP(classes, tuple(widths), **options), features=features)
