"""Vision transformers. Features: `block1`.. `[B, 1 + N, D]`, `tokens`, `cls`, `embedding`.

`blockN` is the residual stream after that block, `tokens` the normalised end of it, `cls` its first
token `[B, D]`, which is the `embedding` that the head reads.

Reference:
    Dosovitskiy et al., "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale",
    2021; the tiny and small sizes from Touvron et al., "Training data-efficient image transformers
    & distillation through attention", 2021.
"""

import functools
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from kdjax.networks import _convolution, _layers, adapters
from kdjax.networks.network import Network, Outputs

_EPSILON = 1e-6


class TransformerBlock(nn.Module):
    """Attention and a four times wider dense layer, each after a normalisation and with a shortcut."""

    heads: int
    train: bool
    dropout: float
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x):
        precision = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        y = nn.LayerNorm(epsilon=_EPSILON, name="norm1", **precision)(x)
        y = nn.MultiHeadDotProductAttention(
            self.heads, force_fp32_for_softmax=True, name="attention", **precision
        )(y)
        x = x + nn.Dropout(self.dropout, deterministic=not self.train)(y)
        y = nn.LayerNorm(epsilon=_EPSILON, name="norm2", **precision)(x)
        y = nn.gelu(nn.Dense(4 * x.shape[-1], name="dense1", **precision)(y), approximate=False)
        y = nn.Dense(x.shape[-1], name="dense2", **precision)(y)
        return x + nn.Dropout(self.dropout, deterministic=not self.train)(y)


class VisionTransformer(nn.Module):
    """Patches of `patch` x `patch` pixels and a class token: `[B, H, W, C] -> [B, classes]`.

    Positions are learned for the image size that the network is created with. `remat` recomputes
    each block in the backward pass.
    """

    classes: int
    width: int
    depth: int
    heads: int
    patch: int
    dropout: float = 0.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    remat: bool = False

    couples = False

    @nn.compact
    def __call__(self, x, *, train):
        if x.ndim != 4 or x.shape[1] % self.patch or x.shape[2] % self.patch:
            raise ValueError(
                f"inputs must be [B, H, W, C] with H and W multiples of patch {self.patch}, "
                f"got {x.shape}"
            )
        precision = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        block = nn.remat(TransformerBlock) if self.remat else TransformerBlock
        patch = (self.patch, self.patch)
        patches = nn.Conv(
            self.width,
            patch,
            patch,
            padding="VALID",
            conv_general_dilated=_convolution.conv_general_dilated,
            name="patches",
            **precision,
        )
        x = patches(x)
        x = x.reshape(x.shape[0], -1, self.width)
        shape = (1, 1, self.width)
        token = self.param("class_token", nn.initializers.zeros, shape, self.param_dtype)
        token = jnp.broadcast_to(token.astype(x.dtype), (x.shape[0], *shape[1:]))
        x = jnp.concatenate([token, x], axis=1)
        positions = nn.initializers.normal(0.02)
        x = x + self.param("positions", positions, (1, *x.shape[1:]), self.param_dtype).astype(
            x.dtype
        )
        features = {}
        for i in range(1, self.depth + 1):
            options = (self.heads, train, self.dropout, self.dtype, self.param_dtype)
            x = features[f"block{i}"] = block(*options, name=f"block{i}")(x)
        x = features["tokens"] = nn.LayerNorm(epsilon=_EPSILON, name="norm", **precision)(x)
        features["cls"] = features["embedding"] = x[:, 0]
        return Outputs(_layers.head(self, x[:, 0]), features)


def vision_transformer(classes, *, width, depth, heads, patch, features=(), **options) -> Network:
    """A `VisionTransformer`; `options`: dropout, dtype, param_dtype, remat."""
    module = VisionTransformer(classes, width, depth, heads, patch, **options)
    return adapters.from_linen(module, features=features)


_TINY = {"width": 192, "depth": 12, "heads": 3}
_SMALL = {"width": 384, "depth": 12, "heads": 6}
_BASE = {"width": 768, "depth": 12, "heads": 12}
_LARGE = {"width": 1024, "depth": 24, "heads": 16}
_HUGE = {"width": 1280, "depth": 32, "heads": 16}

vit_tiny16 = functools.partial(vision_transformer, patch=16, **_TINY)
vit_small16 = functools.partial(vision_transformer, patch=16, **_SMALL)
vit_small32 = functools.partial(vision_transformer, patch=32, **_SMALL)
vit_base16 = functools.partial(vision_transformer, patch=16, **_BASE)
vit_base32 = functools.partial(vision_transformer, patch=32, **_BASE)
vit_large16 = functools.partial(vision_transformer, patch=16, **_LARGE)
vit_huge14 = functools.partial(vision_transformer, patch=14, **_HUGE)
