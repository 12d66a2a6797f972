"""Vision transformers. Features: `block1`.. `[B, 1 + N, D]`, `tokens`, `cls`, `embedding`.

`blockN` is the residual stream after that block, `tokens` the normalised end of it, `cls` its first
token `[B, D]`, which is the `embedding` that the head reads. Of each block's attention: `queriesN`,
`keysN`, `valuesN` `[B, H, L, E]`, `scoresN` `[B, H, L, L]` before the softmax, `attentionN` after it.
With a distillation token, the second of the sequence: `distillation` `[B, D]`, and `class_logits` and
`distillation_logits` `[B, classes]`, of which the logits are the mean.

Reference:
    Dosovitskiy et al., "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale",
    2021; the tiny and small sizes, the distillation token and its head from Touvron et al., "Training
    data-efficient image transformers & distillation through attention", 2021.
"""

import functools
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from kdjax.networks import _convolution, _layers, _transformer, adapters
from kdjax.networks.network import Network, Outputs


class TransformerBlock(nn.Module):
    """Attention and a wider dense layer, each after a normalisation and with a shortcut.

    `hidden` None is four times the width.
    """

    heads: int
    hidden: int | None = None
    train: bool = False
    dropout: float = 0.0
    activation: str = "gelu"
    epsilon: float = 1e-6
    attention_bias: bool = True
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, mask=None):
        precision = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        width = x.shape[-1]
        y = nn.LayerNorm(epsilon=self.epsilon, name="norm1", **precision)(x)
        attention = _transformer.Attention(
            self.heads,
            width // self.heads,
            width,
            bias=self.attention_bias,
            name="attention",
            **precision,
        )
        y, inside = attention(y, y, y, mask=mask)
        x = x + nn.Dropout(self.dropout, deterministic=not self.train)(y)
        y = nn.LayerNorm(epsilon=self.epsilon, name="norm2", **precision)(x)
        y = nn.Dense(self.hidden or 4 * width, name="dense1", **precision)(y)
        y = _transformer.ACTIVATIONS[self.activation](y)
        y = nn.Dense(width, name="dense2", **precision)(y)
        return x + nn.Dropout(self.dropout, deterministic=not self.train)(y), inside


class VisionTransformer(nn.Module):
    """Patches of `patch` x `patch` pixels and a class token: `[B, H, W, C] -> [B, classes]`.

    Positions are learned for the image size that the network is created with. `classes` None gives no
    logits. `distillation` adds the distillation token; `distillation_head` its head. `pooler` puts a
    dense layer with a tanh behind the class token; `mean_pool` lets the head read the mean of the
    patches in its place. `hidden` None is four times the width. `remat` recomputes each block in the
    backward pass.
    """

    classes: int | None
    width: int
    depth: int
    heads: int
    patch: int
    hidden: int | None = None
    dropout: float = 0.0
    activation: str = "gelu"
    epsilon: float = 1e-6
    attention_bias: bool = True
    distillation: bool = False
    distillation_head: bool = False
    pooler: bool = False
    mean_pool: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    remat: bool = False

    couples = False

    @nn.compact
    def __call__(self, x, *, train):
        check_images(x, self.patch)
        precision = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        block = nn.remat(TransformerBlock) if self.remat else TransformerBlock
        x = patches(self, x, bias=True)
        tokens = [self._token("class_token", x)]
        if self.distillation:
            tokens.append(self._token("distillation_token", x))
        x = jnp.concatenate([*tokens, x], axis=1)
        positions = nn.initializers.normal(0.02)
        x = x + self.param("positions", positions, (1, *x.shape[1:]), self.param_dtype).astype(
            x.dtype
        )
        names = set(TransformerBlock.__dataclass_fields__) - {"parent", "name", "train"}
        options = {name: getattr(self, name) for name in names}
        features = {}
        for i in range(1, self.depth + 1):
            x, inside = block(**options, train=train, name=f"block{i}")(x)
            features |= {f"block{i}": x, **inside.features(i)}
        x = nn.LayerNorm(epsilon=self.epsilon, name="norm", **precision)(x)
        patch_tokens = x[:, len(tokens) :]
        embedding = patch_tokens.mean(axis=1) if self.mean_pool else x[:, 0]
        if self.pooler:
            embedding = jnp.tanh(nn.Dense(self.width, name="pooler", **precision)(embedding))
        features |= {"tokens": x, "cls": x[:, 0], "embedding": embedding}
        if self.distillation:
            features["distillation"] = x[:, 1]
        if self.classes is None:
            return Outputs(None, features)
        logits = _layers.head(self, embedding)
        if self.distillation_head:
            dtype = jnp.promote_types(self.dtype, jnp.float32)
            head = nn.Dense(
                self.classes,
                dtype=dtype,
                param_dtype=self.param_dtype,
                name="distillation_head",
            )
            features |= {"class_logits": logits, "distillation_logits": head(x[:, 1])}
            logits = (logits + features["distillation_logits"]) / 2
        return Outputs(logits, features)

    def _token(self, name, x):
        shape = (1, 1, self.width)
        token = self.param(name, nn.initializers.zeros, shape, self.param_dtype)
        return jnp.broadcast_to(token.astype(x.dtype), (x.shape[0], *shape[1:]))


def check_images(x, patch):
    """Refuses images that patches do not divide."""
    if x.ndim != 4 or x.shape[1] % patch or x.shape[2] % patch:
        raise ValueError(
            f"inputs must be [B, H, W, C] with H and W multiples of patch {patch}, got {x.shape}"
        )


def patches(module, x, *, bias):
    """`[B, H, W, C] -> [B, N, D]`: the module's patches, row by row, each through one dense layer."""
    size = (module.patch, module.patch)
    convolution = nn.Conv(
        module.width,
        size,
        size,
        padding="VALID",
        use_bias=bias,
        conv_general_dilated=_convolution.conv_general_dilated,
        dtype=module.dtype,
        param_dtype=module.param_dtype,
        name="patches",
    )
    return convolution(x).reshape(x.shape[0], -1, module.width)


def vision_transformer(classes, *, width, depth, heads, patch, features=(), **options) -> Network:
    """A `VisionTransformer`; `options` are its other fields.

    Raises:
        ValueError: an unknown activation, a distillation head without the token.
    """
    _transformer.check_activation(options.get("activation", "gelu"))
    if options.get("distillation_head") and not options.get("distillation"):
        raise ValueError("distillation_head reads the distillation token: set distillation too")
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
