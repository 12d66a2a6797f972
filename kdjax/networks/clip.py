"""CLIP: a tower for images and one for text, whose embeddings meet in one space.

Inputs are a dict with `images` `[B, H, W, C]` and `tokens` `[B', L]`, and optionally `mask` `[B', L]`
(true for tokens, false for padding). Logits are `[B, B']`: the cosine of each image with each text,
times the learned scale. A dict with one of the two gives that tower's features and no logits.

Features: `image_embedding` and `text_embedding` `[B, E]`, of unit length; `scale`, a scalar;
`image_blockN` `[B, 1 + N, D]` and `text_blockN` `[B', L, D']`, the residual streams, with `queriesN`,
`keysN`, `valuesN`, `scoresN`, `attentionN` of each tower under the same prefixes.

Parameters: `image/` `patches`, `class_token`, `positions`, `norm_before`, `block1`.., `norm`,
`projection`; `text/` `embedding`, `positions`, `block1`.., `norm`, `projection`; `log_scale`.

Reference:
    Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021.
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from kdjax.networks import _transformer, adapters, vit
from kdjax.networks.network import Network, Outputs

_INITIAL = nn.initializers.normal(0.02)
_INITIAL_LOG_SCALE = 2.6592  # log(1 / 0.07)


class _Tower(nn.Module):
    """What both towers are made of: blocks, a normalisation, a projection of one token."""

    width: int
    depth: int
    heads: int
    hidden: int
    projection: int
    activation: str
    epsilon: float
    remat: bool
    dtype: Any
    param_dtype: Any

    def _blocks(self, x, mask, prefix):
        block = nn.remat(vit.TransformerBlock) if self.remat else vit.TransformerBlock
        features = {}
        for i in range(1, self.depth + 1):
            x, inside = block(
                heads=self.heads,
                hidden=self.hidden,
                train=False,
                dropout=0.0,
                activation=self.activation,
                epsilon=self.epsilon,
                attention_bias=True,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                name=f"block{i}",
            )(x, mask)
            features |= {f"{prefix}block{i}": x, **inside.features(i, prefix)}
        return x, features

    def _norm(self, name, x):
        return nn.LayerNorm(
            epsilon=self.epsilon, dtype=self.dtype, param_dtype=self.param_dtype, name=name
        )(x)

    def _projected(self, x):
        dtype = jnp.promote_types(self.dtype, jnp.float32)
        dense = nn.Dense(
            self.projection,
            use_bias=False,
            kernel_init=_INITIAL,
            dtype=dtype,
            param_dtype=self.param_dtype,
            name="projection",
        )
        return dense(x)

    def _table(self, name, shape):
        return self.param(name, _INITIAL, shape, self.param_dtype).astype(self.dtype)


class ImageTower(_Tower):
    """Images to embeddings: a vision transformer with a normalisation before its blocks."""

    patch: int

    @nn.compact
    def __call__(self, images):
        vit.check_images(images, self.patch)
        x = vit.patches(self, images, bias=False)
        token = self._table("class_token", (self.width,))
        token = jnp.broadcast_to(token[None, None], (x.shape[0], 1, self.width))
        x = jnp.concatenate([token, x], axis=1)
        x = x + self._table("positions", x.shape[1:])[None]
        x, features = self._blocks(self._norm("norm_before", x), None, "image_")
        return self._projected(self._norm("norm", x[:, 0])), features


class TextTower(_Tower):
    """Texts to embeddings: a causal transformer, read at the text's end.

    The end is the first `end` token; with `end` None, the largest token of the text, which is what the
    first published weights have.
    """

    vocabulary: int
    positions: int
    end: int | None

    @nn.compact
    def __call__(self, tokens, mask):
        if tokens.shape[1] > self.positions:
            raise ValueError(
                f"tokens have length {tokens.shape[1]}, there are {self.positions} positions"
            )
        x = jnp.take(self._table("embedding", (self.vocabulary, self.width)), tokens, axis=0)
        x = x + self._table("positions", (self.positions, self.width))[None, : tokens.shape[1]]
        causal = jnp.tril(jnp.ones((tokens.shape[1],) * 2, bool))[None, None]
        if mask is not None:
            causal = causal & mask.astype(bool)[:, None, None, :]
        x, features = self._blocks(x, causal, "text_")
        x = self._norm("norm", x)
        ends = jnp.argmax(tokens if self.end is None else tokens == self.end, axis=1)
        last = jnp.take_along_axis(x, ends[:, None, None], axis=1)[:, 0]
        return self._projected(last), features


class Clip(nn.Module):
    """Both towers and the scale of their cosines; `image` and `text` are the towers' own options."""

    projection: int
    image: Any
    text: Any
    remat: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    couples = True

    @nn.compact
    def __call__(self, inputs):
        common = {
            "projection": self.projection,
            "remat": self.remat,
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
        }
        if not isinstance(inputs, dict) or not {"images", "tokens"} & set(inputs):
            raise ValueError("inputs must be a dict with images, tokens or both")
        initial = nn.initializers.constant(_INITIAL_LOG_SCALE)
        log_scale = self.param("log_scale", initial, (), self.param_dtype)
        features = {"scale": jnp.exp(log_scale.astype(jnp.promote_types(self.dtype, jnp.float32)))}
        if "images" in inputs:
            tower = ImageTower(**self.image, **common, name="image")
            embedding, inside = tower(inputs["images"])
            features |= {"image_embedding": _unit(embedding), **inside}
        if "tokens" in inputs:
            tokens, given = _transformer.tokens_of(inputs)
            tower = TextTower(**self.text, **common, name="text")
            embedding, inside = tower(tokens, given.get("mask"))
            features |= {"text_embedding": _unit(embedding), **inside}
        if not {"images", "tokens"} <= set(inputs):
            return Outputs(None, features)
        cosines = features["image_embedding"] @ features["text_embedding"].T
        return Outputs(features["scale"] * cosines, features)


def clip_model(*, projection, image, text, features=(), **options) -> Network:
    """A `Clip`: every logit depends on an image and on a text, so it couples the examples.

    Args:
        projection: E, the width of the common space.
        image: a dict of the image tower: `width`, `depth`, `heads`, `hidden`, `patch`, `activation`,
            `epsilon`.
        text: a dict of the text tower: `vocabulary`, `positions`, `width`, `depth`, `heads`, `hidden`,
            `end`, `activation`, `epsilon`.
        features: by name.
        options: `remat`, `dtype`, `param_dtype`.

    Raises:
        ValueError: an unknown activation.
    """
    for tower in (image, text):
        _transformer.check_activation(tower["activation"])
    # Frozen: Linen hashes a module's fields.
    module = Clip(projection, nn.FrozenDict(image), nn.FrozenDict(text), **options)
    return adapters.from_linen(module, features=features)


def _unit(x):
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), jnp.finfo(x.dtype).tiny)
