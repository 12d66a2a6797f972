r"""Encoder-decoders of the T5 family: source tokens and target tokens -> logits `[B, M, V]`.

Inputs are a dict with `tokens` `[B, L]`, the source, and `targets` `[B, M]`, what the decoder reads
(the text moved right by one, behind a start token), and optionally `mask` `[B, L]` and `target_mask`
`[B, M]` (true for tokens, false for padding).

Features: `hidden` `[B, M, D]` and `head` `[D, V]`, whose product the logits are; `memory` `[B, L, D]`,
what the encoder gives; `encoder_hidden0`.. and `decoder_hidden0`.., the residual streams; of every
layer's attention `queriesN`, `keysN`, `valuesN`, `scoresN`, `attentionN` behind the prefixes
`encoder_`, `decoder_` and `cross_`.

Positions are a bias on the scores by the distance between query and key, shared by the layers: with b
buckets on a side, those of the first b/2 distances are exact, the others grow logarithmically up to
`max_distance`.

Parameters: `embedding`; `encoder_positions`, `decoder_positions` `[buckets, heads]`; per layer
`encoderN/`, `decoderN/`: `attention`, `attention_norm`, `cross`, `cross_norm`, `gate`, `up`, `down`,
`dense_norm`; `encoder_norm`, `decoder_norm`; `head` `[D, V]` unless tied.

Reference:
    Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
    Transformer", 2020; the gated layers from Shazeer, "GLU Variants Improve Transformer", 2020.
"""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from kdjax.networks import _transformer, adapters
from kdjax.networks.network import Network, Outputs

_INITIAL = nn.initializers.normal(0.02)


def distance_buckets(queries, keys, *, buckets, max_distance, both_sides):
    """`[queries, keys]`: the bucket of the distance from each query's position to each key's.

    Args:
        queries, keys: how many positions there are, from 0.
        buckets: how many there are; half of them for keys behind the query where `both_sides`.
        max_distance: from which on all distances share the last bucket.
        both_sides: False counts every key behind its query as at distance 0.

    >>> distance_buckets(1, 6, buckets=8, max_distance=16, both_sides=True)
    array([[0, 5, 6, 6, 6, 6]])
    """
    distance = np.arange(keys)[None, :] - np.arange(queries)[:, None]
    start = np.zeros_like(distance)
    if both_sides:
        buckets //= 2
        start = np.where(distance > 0, buckets, 0)
        distance = np.abs(distance)
    else:
        distance = np.maximum(-distance, 0)
    exact = buckets // 2
    # In float32, as the published models were trained: rounding decides at the edges of a bucket.
    growth = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    growth = growth / np.float32(math.log(max_distance / exact)) * np.float32(buckets - exact)
    far = np.minimum(exact + growth.astype(np.int64), buckets - 1)
    return start + np.where(distance < exact, distance, far)


class EncoderDecoderLayer(nn.Module):
    """Attention, where `cross` also over the memory, and a dense layer, each normalised before."""

    heads: int
    head_width: int
    hidden: int
    activation: str
    gated: bool
    epsilon: float
    dropout: float
    cross: bool
    train: bool
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x, mask, bias, memory=None, memory_mask=None):
        y = self._norm("attention_norm", x)
        y, inside = self._attention("attention", y, y, mask, bias)
        x = x + self._dropped(y)
        across = None
        if self.cross:
            y = self._norm("cross_norm", x)
            y, across = self._attention("cross", y, memory, memory_mask, None)
            x = x + self._dropped(y)
        y = self._norm("dense_norm", x)
        z = self._dense("gate" if self.gated else "up", self.hidden, y)
        z = _transformer.ACTIVATIONS[self.activation](z)
        if self.gated:
            z = z * self._dense("up", self.hidden, y)
        x = x + self._dropped(self._dense("down", x.shape[-1], self._dropped(z)))
        return x, inside, across

    def _attention(self, name, query, key, mask, bias):
        return _transformer.Attention(
            self.heads,
            self.head_width,
            query.shape[-1],
            bias=False,
            out_bias=False,
            scale=1.0,
            dropout=self.dropout,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name=name,
        )(query, key, key, mask=mask, bias=bias, train=self.train)

    def _dense(self, name, width, x):
        return nn.Dense(
            width, use_bias=False, dtype=self.dtype, param_dtype=self.param_dtype, name=name
        )(x)

    def _dropped(self, x):
        return nn.Dropout(self.dropout, deterministic=not self.train)(x)

    def _norm(self, name, x):
        return _norm(self, name)(x)


class EncoderDecoder(nn.Module):
    """Embedding, two stacks of layers and a head.

    `tied` takes the embedding for the head; `scaled` divides what the head reads by the root of the
    width, as the first models do. `gated` multiplies the activation by a second dense layer. `remat`
    recomputes each layer in the backward pass. `logits=False` leaves them out of the outputs.
    """

    vocabulary: int
    width: int
    depth: int
    heads: int
    head_width: int
    hidden: int
    decoder_depth: int | None = None
    activation: str = "relu"
    gated: bool = False
    tied: bool = True
    scaled: bool = True
    buckets: int = 32
    max_distance: int = 128
    epsilon: float = 1e-6
    dropout: float = 0.0
    logits: bool = True
    remat: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    couples = False

    @nn.compact
    def __call__(self, inputs, *, train):
        if not isinstance(inputs, dict) or "targets" not in inputs:
            raise ValueError("inputs must be a dict with tokens and targets")
        tokens, given = _transformer.tokens_of(inputs)
        targets, _ = _transformer.tokens_of(inputs["targets"])
        shape = (self.vocabulary, self.width)
        table = self.param("embedding", _INITIAL, shape, self.param_dtype).astype(self.dtype)
        mask = given.get("mask")
        mask = None if mask is None else mask.astype(bool)[:, None, None, :]
        memory, features = self._stack("encoder", table, tokens, self.depth, train, mask)
        features["memory"] = memory
        causal = jnp.tril(jnp.ones((targets.shape[1],) * 2, bool))[None, None]
        if "target_mask" in given:
            causal = causal & given["target_mask"].astype(bool)[:, None, None, :]
        depth = self.depth if self.decoder_depth is None else self.decoder_depth
        hidden, more = self._stack("decoder", table, targets, depth, train, causal, memory, mask)
        if self.scaled:
            hidden = hidden * jnp.asarray(self.width**-0.5, hidden.dtype)
        if self.tied:
            head = table.T
        else:
            head = self.param("head", _INITIAL, shape[::-1], self.param_dtype).astype(self.dtype)
        features |= {**more, "hidden": hidden, "head": head}
        if not self.logits:
            return Outputs(None, features)
        dtype = jnp.promote_types(self.dtype, jnp.float32)
        logits = jnp.einsum("bld,dv->blv", hidden, head, preferred_element_type=dtype)
        return Outputs(logits, features)

    def _stack(self, name, table, tokens, depth, train, mask, memory=None, memory_mask=None):
        length = tokens.shape[1]
        numbers = distance_buckets(
            length,
            length,
            buckets=self.buckets,
            max_distance=self.max_distance,
            both_sides=memory is None,
        )
        shape = (self.buckets, self.heads)
        by_distance = self.param(f"{name}_positions", _INITIAL, shape, self.param_dtype)
        bias = jnp.moveaxis(jnp.take(by_distance, jnp.asarray(numbers), axis=0), 2, 0)[None]
        layer = nn.remat(EncoderDecoderLayer) if self.remat else EncoderDecoderLayer
        names = set(EncoderDecoderLayer.__dataclass_fields__)
        names -= {"parent", "name", "train", "cross"}
        options = {field: getattr(self, field) for field in names}
        dropped = nn.Dropout(self.dropout, deterministic=not train)
        x = dropped(jnp.take(table, tokens, axis=0))
        features = {f"{name}_hidden0": x}
        for i in range(1, depth + 1):
            x, inside, across = layer(
                **options, cross=memory is not None, train=train, name=f"{name}{i}"
            )(x, mask, bias, memory, memory_mask)
            features |= {f"{name}_hidden{i}": x, **inside.features(i, f"{name}_")}
            features |= across.features(i, "cross_") if across else {}
        return dropped(_norm(self, f"{name}_norm")(x)), features


def encoder_decoder_transformer(vocabulary, *, features=(), **options) -> Network:
    """An `EncoderDecoder`; `options` are its fields, `width`, `depth`, `heads`, `head_width`, `hidden`
    first.

    Raises:
        ValueError: an unknown activation.
    """
    _transformer.check_activation(options.get("activation", "relu"))
    return adapters.from_linen(EncoderDecoder(vocabulary, **options), features=features)


def _norm(module, name):
    return nn.RMSNorm(
        epsilon=module.epsilon, dtype=module.dtype, param_dtype=module.param_dtype, name=name
    )
