"""Small causal language models that may read another model's hidden states by cross-attention.

Tokens `[B, L]`, or a dict with `tokens` and `source` `[B, L, D]`, the last hidden states of a frozen
model, to logits `[B, L, V]`. Features: `hidden` `[B, L, width]`, the normalised end of the stream.

`graft` is None: embedding, positions and blocks. "front": the states alone are the input. They pass a
dense layer, a narrowing pair of them and two enhanced cross-attentions, whose sum with another map of
the states enters the blocks; there is no embedding and there are no positions. "gated": the model keeps
its own embedding, and one enhanced cross-attention is gated in, nearly closed at first.

An enhanced cross-attention gives g · a' + (1 - g) · h, with a' the attention of h over the states behind
an adapter, and a gate g of both for every channel. `causal` False lets it look at states of later
tokens: a leak that the published code has.

Reference:
    Kolomeitsev, "LLM Modules: Knowledge Transfer from a Large to a Small Model using Enhanced
    Cross-Attention", 2025, with 8 heads, an adapter of 256 and a dropout of 0.1 in the attention.
"""

import jax.numpy as jnp
from flax import linen as nn

from kdjax.networks import _transformer, adapters
from kdjax.networks.network import Network, Outputs
from kdjax.networks.vit import TransformerBlock

GRAFTS = (None, "front", "gated")
_CLOSED = -6.0  # the bias of a gate that lets through a quarter of a per cent


class EnhancedCrossAttention(nn.Module):
    """`[B, L, width]` and states `[B, L, D]` -> `[B, L, width]`."""

    heads: int
    bottleneck: int
    gate_bias: float

    @nn.compact
    def __call__(self, states, x, mask):
        width = x.shape[-1]
        query, source = nn.LayerNorm(name="query_norm")(x), nn.LayerNorm(name="source_norm")(states)
        attention = _transformer.Attention(self.heads, width // self.heads, width, name="attention")
        read, _ = attention(query, source, source, mask=mask)
        y = nn.gelu(nn.Dense(self.bottleneck, name="up")(read))
        read = read + nn.LayerNorm(name="adapter_norm")(nn.Dense(width, name="down")(y))
        gate = nn.Dense(width, bias_init=nn.initializers.constant(self.gate_bias), name="gate")
        open_share = nn.sigmoid(gate(jnp.concatenate([x, read], axis=-1)))
        return open_share * read + (1 - open_share) * x


class ModularDecoder(nn.Module):
    """The model; `width` and `depth` of its own blocks, `bottleneck` of the adapters."""

    vocabulary: int
    width: int
    depth: int
    heads: int
    positions: int
    graft: str | None = None
    bottleneck: int = 16
    causal: bool = True

    couples = False

    @nn.compact
    def __call__(self, inputs, *, train):
        tokens, given = _transformer.tokens_of(inputs)
        length = tokens.shape[1]
        before = jnp.tril(jnp.ones((length, length), bool))[None, None]
        seen = before if self.causal else None
        x = self._front(given["source"], seen) if self.graft == "front" else self._own(tokens)
        if self.graft == "gated":
            x = self._attention("cross", _CLOSED)(given["source"], x, seen)
        for number in range(1, self.depth + 1):
            block = TransformerBlock(self.heads, 2 * self.width, train, name=f"block{number}")
            x, _ = block(x, before)
        x = nn.LayerNorm(name="norm")(x)
        return Outputs(nn.Dense(self.vocabulary, name="head")(x), {"hidden": x})

    def _own(self, tokens):
        initial = nn.initializers.normal(0.1)
        table = self.param("embedding", initial, (self.vocabulary, self.width))
        positions = self.param("positions", initial, (self.positions, self.width))
        return jnp.take(table, tokens, axis=0) + positions[None, : tokens.shape[1]]

    def _front(self, source, seen):
        states = nn.Dense(source.shape[-1], name="states")(source)
        middle = nn.Dense((source.shape[-1] + self.width) // 2, name="narrow1")(states)
        x = nn.gelu(nn.LayerNorm(name="narrow1_norm")(middle))
        x = nn.LayerNorm(name="narrow2_norm")(nn.Dense(self.width, name="narrow2")(x))
        for number in (1, 2):
            x = x + self._attention(f"cross{number}", 0.0)(states, x, seen)
        return x + nn.Dense(self.width, name="shortcut")(states)

    def _attention(self, name, gate_bias):
        return EnhancedCrossAttention(self.heads, self.bottleneck, gate_bias, name=name)


def modular_decoder(vocabulary, *, features=(), **options) -> Network:
    """A `ModularDecoder`; `options` are its fields, `width`, `depth`, `heads` and `positions` first.

    Raises:
        ValueError: an unknown graft.
    """
    if options.get("graft") not in GRAFTS:
        raise ValueError(f"graft must be one of {GRAFTS}, got {options['graft']!r}")
    return adapters.from_linen(ModularDecoder(vocabulary, **options), features=features)
