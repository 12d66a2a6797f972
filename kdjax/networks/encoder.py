"""Encoders of the BERT family: tokens `[B, L]` -> logits of every token, or of the text, or none.

Inputs are tokens, or a dict with `tokens`, and optionally `mask` `[B, L]` (true for tokens, false for
padding, which nothing looks at) and `kinds` `[B, L]` (0 or 1: which of two texts).

Features: `hidden0` (the embeddings) .. `hiddenN` `[B, L, D]`, the residual stream behind each layer;
`queriesN`, `keysN`, `valuesN` `[B, H, L, E]`; `scoresN` `[B, H, L, L]` before the softmax, -inf at
padding; `attentionN` behind it; `embedding` `[B, D]`, the pooled first token.

Parameters: `embedding` `[V, E]`, `positions`, `kinds`, `embedding_norm`; per layer `attention`
(`query`, `key`, `value`, `out`), `attention_norm`, `up`, `down`, `output_norm`; of MobileBERT also
`bottleneck_input`, `bottleneck_attention`, `up1`, `down1`, `dense_norm1`.., `bottleneck_output`, and
their norms; `pooler`; `transform`, `transform_norm`, `head_extra`, `head_bias`, or `head`.

Reference:
    Devlin, Chang, Lee, Toutanova, "BERT: Pre-training of Deep Bidirectional Transformers for Language
    Understanding", 2019; Liu et al., "RoBERTa: A Robustly Optimized BERT Pretraining Approach", 2019;
    Sun, Yu, Song, Liu, Yang, Zhou, "MobileBERT: a Compact Task-Agnostic BERT for Resource-Limited
    Devices", 2020; Sanh, Debut, Chaumond, Wolf, "DistilBERT, a distilled version of BERT: smaller,
    faster, cheaper and lighter", 2019.
"""

import functools
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from kdjax.networks import _transformer, adapters
from kdjax.networks.network import Network, Outputs

HEADS = ("masked", "classification", None)
NORMS = ("layer", "affine")
POOLERS = {"tanh": nn.tanh, "relu": nn.relu}
_INITIAL = nn.initializers.normal(0.02)


class Affine(nn.Module):
    """x · scale + bias: the normalisation without statistics of MobileBERT."""

    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], self.param_dtype)
        lead = (None,) * (x.ndim - 1)
        return x * scale.astype(self.dtype)[lead] + bias.astype(self.dtype)[lead]


class EncoderLayer(nn.Module):
    """Attention and dense layers, each normalised after its shortcut; between bottlenecks if asked."""

    heads: int
    hidden: int
    activation: str
    epsilon: float
    loose_epsilon: float | None
    dropout: float
    attention_dropout: float
    bottleneck: int | None
    bottleneck_attention: bool
    shared_bottleneck: bool
    dense_layers: int
    norm: str
    train: bool
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x, mask):
        width = self.bottleneck or x.shape[-1]
        query = value = residual = x
        if self.bottleneck:
            residual = self._norm(
                "bottleneck_input_norm", self._dense("bottleneck_input", width, x)
            )
            if self.bottleneck_attention:
                query = value = residual
            elif self.shared_bottleneck:
                query = self._dense("bottleneck_attention", width, x)
                query = self._norm("bottleneck_attention_norm", query)
        y, inside = _transformer.Attention(
            self.heads,
            width // self.heads,
            width,
            dropout=self.attention_dropout,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            initial=_INITIAL,
            name="attention",
        )(query, query, value, mask=mask, train=self.train)
        # MobileBERT drops out behind its last bottleneck only.
        y = y if self.bottleneck else self._dropped(y)
        y = self._norm("attention_norm", residual + y)
        for number in range(1, self.dense_layers):
            z = self._feed_forward(y, f"up{number}", f"down{number}", width)
            y = self._norm(f"dense_norm{number}", y + z)
        z = self._feed_forward(y, "up", "down", width)
        z = z if self.bottleneck else self._dropped(z)
        y = self._norm("output_norm", y + z, self.loose_epsilon)
        if self.bottleneck:
            z = self._dropped(self._dense("bottleneck_output", x.shape[-1], y))
            y = self._norm("bottleneck_output_norm", x + z)
        return y, inside

    def _feed_forward(self, x, up, down, width):
        x = _transformer.ACTIVATIONS[self.activation](self._dense(up, self.hidden, x))
        return self._dense(down, width, x)

    def _dropped(self, x):
        return nn.Dropout(self.dropout, deterministic=not self.train)(x)

    def _dense(self, name, width, x):
        return _dense(self, name, width)(x)

    def _norm(self, name, x, epsilon=None):
        return _norm(self, self.norm, name, epsilon or self.epsilon)(x)


class Encoder(nn.Module):
    """Embeddings, layers and a head.

    `head` "masked" gives `[B, L, V]` through the tied embedding, "classification" `[B, classes]` from
    the pooled first token, None no logits. `pooler` names the activation of the pooling layer, None
    takes the first token as it is. `padding` is the padding token where positions are counted over
    the other tokens and start behind it (RoBERTa). `embedding_width` None is `width`. `remat`
    recomputes each layer in the backward pass.

    Of MobileBERT: `trigrams` (a token is embedded with its neighbours), `bottleneck` (the width inside
    a layer), `bottleneck_attention` (the attention reads the bottleneck) or else `shared_bottleneck`
    (queries and keys share one of their own), `dense_layers` in a row, `norm` "affine".
    `loose_epsilon` is that of the norms behind the embedding and the last dense layer.
    """

    vocabulary: int
    width: int
    depth: int
    heads: int
    hidden: int
    positions: int
    kinds: int = 2
    head: str | None = "masked"
    classes: int | None = None
    pooler: str | None = None
    padding: int | None = None
    activation: str = "gelu"
    epsilon: float = 1e-12
    loose_epsilon: float | None = None
    dropout: float = 0.0
    attention_dropout: float = 0.0
    embedding_width: int | None = None
    trigrams: bool = False
    bottleneck: int | None = None
    bottleneck_attention: bool = False
    shared_bottleneck: bool = False
    dense_layers: int = 1
    norm: str = "layer"
    remat: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    couples = False

    @nn.compact
    def __call__(self, inputs, *, train):
        tokens, given = _transformer.tokens_of(inputs)
        if tokens.shape[1] > self.positions:
            raise ValueError(
                f"tokens have length {tokens.shape[1]}, there are {self.positions} positions"
            )
        mask = given.get("mask")
        mask = None if mask is None else mask.astype(bool)[:, None, None, :]
        table = self._table("embedding", (self.vocabulary, self.embedding_width or self.width))
        x = self._embed(table, tokens, given.get("kinds"))
        x = _norm(self, self.norm, "embedding_norm", self.loose_epsilon or self.epsilon)(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        features = {"hidden0": x}
        layer = nn.remat(EncoderLayer) if self.remat else EncoderLayer
        names = set(EncoderLayer.__dataclass_fields__) - {"parent", "name", "train"}
        options = {name: getattr(self, name) for name in names}
        for i in range(1, self.depth + 1):
            x, inside = layer(**options, train=train, name=f"layer{i}")(x, mask)
            features |= {f"hidden{i}": x, **inside.features(i)}
        pooled = x[:, 0]
        if self.pooler is not None:
            pooled = POOLERS[self.pooler](_dense(self, "pooler", self.width)(pooled))
        features["embedding"] = pooled
        return Outputs(self._logits(x, pooled, table, train), features)

    def _table(self, name, shape):
        return self.param(name, _INITIAL, shape, self.param_dtype).astype(self.dtype)

    def _embed(self, table, tokens, kinds):
        x = jnp.take(table, tokens, axis=0)
        if self.trigrams:
            ends = ((0, 0), (0, 1), (0, 0)), ((0, 0), (1, 0), (0, 0))
            after, before = jnp.pad(x[:, 1:], ends[0]), jnp.pad(x[:, :-1], ends[1])
            x = jnp.concatenate([after, x, before], axis=-1)
        if x.shape[-1] != self.width or self.trigrams:
            x = _dense(self, "embedding_projection", self.width)(x)
        if self.padding is None:
            numbers = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
        else:
            kept = (tokens != self.padding).astype(jnp.int32)
            numbers = jnp.cumsum(kept, axis=1) * kept + self.padding
        x = x + jnp.take(self._table("positions", (self.positions, self.width)), numbers, axis=0)
        if self.kinds:
            kinds = jnp.zeros_like(tokens) if kinds is None else kinds
            x = x + jnp.take(self._table("kinds", (self.kinds, self.width)), kinds, axis=0)
        return x

    def _logits(self, x, pooled, table, train):
        dtype = jnp.promote_types(self.dtype, jnp.float32)
        if self.head is None:
            return None
        if self.head == "classification":
            pooled = nn.Dropout(self.dropout, deterministic=not train)(pooled)
            return nn.Dense(
                self.classes,
                dtype=dtype,
                param_dtype=self.param_dtype,
                kernel_init=_INITIAL,
                name="head",
            )(pooled)
        x = _transformer.ACTIVATIONS[self.activation](_dense(self, "transform", self.width)(x))
        x = _norm(self, "layer", "transform_norm", self.epsilon)(x)
        head = table.T
        if table.shape[1] != self.width:
            extra = (self.width - table.shape[1], self.vocabulary)
            head = jnp.concatenate([head, self._table("head_extra", extra)], axis=0)
        bias = self.param("head_bias", nn.initializers.zeros, (self.vocabulary,), self.param_dtype)
        logits = jnp.einsum("bld,dv->blv", x, head, preferred_element_type=dtype)
        return logits + bias.astype(dtype)[None, None]


def encoder_transformer(vocabulary, *, features=(), **options) -> Network:
    """An `Encoder`; `options` are its fields, `width`, `depth`, `heads`, `hidden`, `positions` first.

    Raises:
        ValueError: an unknown activation, head, norm or pooler; a classification head without
            `classes`.
    """
    _transformer.check_activation(options.get("activation", "gelu"))
    for name, default, allowed in (
        ("head", "masked", HEADS),
        ("norm", "layer", NORMS),
        ("pooler", None, (*POOLERS, None)),
    ):
        if options.get(name, default) not in allowed:
            raise ValueError(f"{name} must be one of {allowed}, got {options[name]!r}")
    if options.get("head") == "classification" and not options.get("classes"):
        raise ValueError(f"classes must be above 0 for a head, got {options.get('classes')}")
    return adapters.from_linen(Encoder(vocabulary, **options), features=features)


def _dense(module, name, width):
    return nn.Dense(
        width,
        kernel_init=_INITIAL,
        dtype=module.dtype,
        param_dtype=module.param_dtype,
        name=name,
    )


def _norm(module, kind, name, epsilon):
    precision = {"dtype": module.dtype, "param_dtype": module.param_dtype, "name": name}
    return Affine(**precision) if kind == "affine" else nn.LayerNorm(epsilon=epsilon, **precision)


_BASE = {"width": 768, "heads": 12, "hidden": 3072, "positions": 512}

bert_base = functools.partial(encoder_transformer, 30_522, depth=12, **_BASE)
distilbert_base = functools.partial(encoder_transformer, 30_522, depth=6, kinds=0, **_BASE)
