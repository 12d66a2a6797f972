"""Decoders of the Llama family: tokens `[B, L]` -> logits `[B, L, V]`. Features: `hidden`, `head`.

`hidden` is the normalised end of the residual stream `[B, L, D]` and `head` what the logits multiply
it with, `[D, V]` (a tied embedding comes transposed): the two halves of a `HiddenHead` signal, for
losses that never hold all logits. Inputs are tokens, or a dict with `tokens`, and optionally
`segments` `[B, L]` (packed sequences: a token sees its own segment only) and `positions` `[B, L]`.

Token by token: inputs that hold a `cache` give the feature `cache`, the new one. It holds the keys and
values of M slots, `key` and `value` `[B, layers, M, K, E]`, the `segments` of the slots `[B, M]` and how
many are taken, `index` `[B]`; the new tokens take the next ones, and what was written past them is never
read: a lower `index` takes tokens back. An empty `cache`, `{}`, is one of M = L slots, all free; so the
shapes of a pass over M tokens are those of any cache. Nothing checks that the slots suffice.

Parameters: `embedding` `[V, D]`; `layers/` `attention_norm/scale`, `query`, `key`, `value`, `out`,
`dense_norm/scale`, `gate`, `up`, `down`, each with `/kernel`; `norm/scale`; `head` `[D, V]` unless tied. With
`scan` the leaves under `layers` have a leading axis of layers, else they are `layer1`, `layer2`...

Activations are named for whoever places them: `constrain(x, names)` gets `batch`, `length`, `width`,
`heads`, `key_heads`, `head_width`, `hidden`, `vocabulary`, one per axis, and returns x.

Reference:
    Grattafiori et al., "The Llama 3 Herd of Models", 2024; Ainslie et al., "GQA: Training Generalized
    Multi-Query Transformer Models from Multi-Head Checkpoints", 2023; Su et al., "RoFormer: Enhanced
    Transformer with Rotary Position Embedding", 2021; Shazeer, "GLU Variants Improve Transformer",
    2020; Zhang, Sennrich, "Root Mean Square Layer Normalization", 2019; Gemma Team, "Gemma 2:
    Improving Open Language Models at a Practical Size", 2024.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from kdjax.networks import _blockwise, adapters
from kdjax.networks.network import Network, Outputs

ACTIVATIONS = {"silu": nn.silu, "gelu": functools.partial(nn.gelu, approximate=True)}
_INITIAL = nn.initializers.normal(0.02)
_ALL = 2**30  # a window that no sequence fills


def _unconstrained(x, names):
    del names
    return x


def rotate(x, positions, *, base, scaling=None):
    r"""Rotary positions: the pair (e, e + E/2) of a head turns by position · base^(-2e/E).

    With a `scaling` (f, l, h, N), as Llama 3.1 has it, pairs that turn fewer than l times in N
    positions are f times slower, those that turn more than h times stay, those between are blended.

    Args:
        x: `[B, L, heads, E]`, E even.
        positions: `[B, L]`
        base: the wavelength of the slowest pair is about 2π base.
        scaling: four numbers, or None.

    Returns:
        `[B, L, heads, E]` in the dtype of x; the angles are in at least float32.

    >>> x = jnp.ones((1, 1, 1, 2))
    >>> rotate(x, jnp.zeros((1, 1)), base=10.0)
    Array([[[[1., 1.]]]], dtype=float32)
    """
    half = x.shape[-1] // 2
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    speeds = jnp.asarray(base, dtype) ** (-jnp.arange(half, dtype=dtype) / half)
    if scaling is not None:
        factor, low, high, length = scaling
        kept = jnp.clip((length * speeds / (2 * jnp.pi) - low) / (high - low), 0, 1)
        speeds *= kept + (1 - kept) / factor
    angles = positions.astype(dtype)[:, :, None, None] * speeds[None, None, None]
    first, second = x[..., :half].astype(dtype), x[..., half:].astype(dtype)
    turned = (
        first * jnp.cos(angles) - second * jnp.sin(angles),
        second * jnp.cos(angles) + first * jnp.sin(angles),
    )
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)


class _Rows(NamedTuple):
    """Where the tokens stand, `[B, L]` each; in a cache also their slots and all slots' segments."""

    segments: jax.Array | None
    positions: jax.Array
    slots: jax.Array | None = None
    held: jax.Array | None = None


class DecoderLayer(nn.Module):
    """Causal attention over grouped heads and a gated dense layer, each normalised before."""

    heads: int
    key_heads: int
    head_width: int
    hidden: int
    activation: str
    rotary_base: float
    rotary_scaling: tuple[float, ...] | None
    epsilon: float
    attention_bias: bool
    query_key_norm: bool
    output_norms: bool
    attention_scale: float | None
    attention_softcap: float | None
    reach: int | None
    block: int
    dtype: Any
    param_dtype: Any
    constrain: Callable[..., Any]

    @nn.compact
    def __call__(self, carried, rows, window, number):
        (x, cached), stream = carried, ("batch", "length", "width")
        y, cached = self._attention(self._norm("attention_norm", x), cached, rows, window, number)
        y = self._norm("attention_output_norm", y) if self.output_norms else y
        x = self.constrain(x + y, stream)
        y = self._dense(self._norm("dense_norm", x))
        y = self._norm("dense_output_norm", y) if self.output_norms else y
        return (self.constrain(x + y, stream), cached), None

    def _attention(self, x, cached, rows, window, number):
        query, key, value = (
            self._linear(name, x, (heads, self.head_width), bias=self.attention_bias)
            for name, heads in (
                ("query", self.heads),
                ("key", self.key_heads),
                ("value", self.key_heads),
            )
        )
        if self.query_key_norm:
            query, key = self._norm("query_norm", query), self._norm("key_norm", key)
        query, key = (
            rotate(y, rows.positions, base=self.rotary_base, scaling=self.rotary_scaling)
            for y in (query, key)
        )
        split, grouped = (("batch", "length", n, "head_width") for n in ("heads", "key_heads"))
        query, key, value = (
            self.constrain(y, names)
            for y, names in ((query, split), (key, grouped), (value, grouped))
        )
        options = {
            "scale": self.attention_scale,
            "softcap": self.attention_softcap,
            "window": window,
            "block": self.block,
        }
        if cached is None:
            y = _blockwise.causal_attention(
                query, key, value, rows.segments, reach=self.reach, **options
            )
        else:
            # The whole cache is carried and written in place: a scan would copy what it stacks.
            at = (jnp.arange(len(x))[:, None], number, rows.slots)
            cached = tuple(
                held.at[at].set(y, mode="drop")
                for held, y in zip(cached, (key, value), strict=True)
            )
            y = _blockwise.cached_attention(
                query, *(held[:, number] for held in cached), rows.slots, rows.segments, rows.held,
                **options,
            )  # fmt: skip
        y = self.constrain(y, split)
        return self._linear("out", y, x.shape[-1:], axes=2), cached

    def _dense(self, x):
        gate, up = (self._linear(name, x, (self.hidden,)) for name in ("gate", "up"))
        y = ACTIVATIONS[self.activation](gate) * up
        return self._linear("down", self.constrain(y, ("batch", "length", "hidden")), x.shape[-1:])

    def _linear(self, name, x, outputs, *, axes=1, bias=False):
        return nn.DenseGeneral(
            outputs,
            axis=tuple(range(-axes, 0)),
            use_bias=bias,
            kernel_init=_INITIAL,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name=name,
        )(x)

    def _norm(self, name, x):
        return _norm(self, name)(x)


def _norm(module, name):
    """The statistics are in float32; a scale that public weights store as 1 + w is held whole."""
    return nn.RMSNorm(
        epsilon=module.epsilon, dtype=module.dtype, param_dtype=module.param_dtype, name=name
    )


class Decoder(nn.Module):
    """Embedding, layers, norm and head. `head_width` None is `width / heads`.

    `remat` keeps only each layer's input for the backward pass. `logits=False` leaves them out of the
    outputs: nothing of the size `[B, L, V]` is formed. `softcap` bounds the logits, `attention_softcap`
    the scores. `embedding_scale` multiplies what the layers read, not a tied head. `rotary_scaling` is
    that of `rotate`. `windows` are how many positions the layers see, in turn and again from the first:
    `(4096, None)` is every second layer over the last 4,096 tokens, the others over all.
    """

    vocabulary: int
    width: int
    depth: int
    heads: int
    key_heads: int
    hidden: int
    head_width: int | None = None
    activation: str = "silu"
    tied: bool = False
    softcap: float | None = None
    embedding_scale: float = 1.0
    rotary_base: float = 10_000.0
    rotary_scaling: tuple[float, ...] | None = None
    windows: tuple[int | None, ...] = ()
    epsilon: float = 1e-5
    attention_bias: bool = False
    query_key_norm: bool = False
    output_norms: bool = False
    attention_scale: float | None = None
    attention_softcap: float | None = None
    block: int = _blockwise.BLOCK
    logits: bool = True
    scan: bool = True
    remat: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    constrain: Callable[..., Any] = _unconstrained

    couples = False

    @nn.compact
    def __call__(self, inputs):
        given = inputs if isinstance(inputs, dict) else {"tokens": inputs}
        tokens, cache = given["tokens"], given.get("cache")
        if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise ValueError(f"tokens must be integers [B, L], got {tokens.dtype} {tokens.shape}")
        rows = self._rows(tokens, given.get("segments"), given.get("positions"), cache)
        shape = (self.vocabulary, self.width)
        embedding = self.param("embedding", _INITIAL, shape, self.param_dtype).astype(self.dtype)
        embedding = self.constrain(embedding, ("vocabulary", "width"))
        x = jnp.take(embedding, tokens, axis=0) * jnp.asarray(self.embedding_scale, self.dtype)
        x = self.constrain(x, ("batch", "length", "width"))
        cached = None if cache is None else self._cached(tokens, cache)
        x, cached = self._layers(x, cached, rows)
        hidden = _norm(self, "norm")(x)
        if self.tied:
            head = embedding.T
        else:
            head = self.param("head", _INITIAL, shape[::-1], self.param_dtype).astype(self.dtype)
        head = self.constrain(head, ("width", "vocabulary"))
        features: dict[str, Any] = {"hidden": hidden, "head": head}
        if cached is not None:
            taken = rows.slots[:, -1] + 1
            features["cache"] = {
                "key": cached[0], "value": cached[1], "segments": rows.held, "index": taken
            }  # fmt: skip
        return Outputs(self._logits(hidden, head) if self.logits else None, features)

    def _rows(self, tokens, segments, positions, cache):
        slots = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
        if cache is None:
            return _Rows(segments, slots if positions is None else positions)
        slots = slots + cache["index"][:, None] if cache else slots
        positions = slots if positions is None else positions
        zeros = jnp.zeros(tokens.shape, jnp.int32)
        segments = zeros if segments is None else segments.astype(jnp.int32)
        held = cache["segments"] if cache else zeros
        held = held.at[jnp.arange(len(tokens))[:, None], slots].set(segments, mode="drop")
        return _Rows(segments, positions, slots, held)

    def _cached(self, tokens, cache):
        if cache:
            return cache["key"], cache["value"]
        batch, length = tokens.shape
        shape = (batch, self.depth, length, self.key_heads, self._head_width)
        return jnp.zeros(shape, self.dtype), jnp.zeros(shape, self.dtype)

    @property
    def _head_width(self):
        return self.head_width or self.width // self.heads

    def _layers(self, x, cached, rows):
        layer = DecoderLayer
        if self.remat:
            layer = nn.remat(layer, prevent_cse=not self.scan)
        windows = [self.windows[i % len(self.windows)] for i in range(self.depth) if self.windows]
        bounded = None not in windows
        given = {
            "head_width": self._head_width,
            "reach": max(windows) if windows and bounded else None,
        }
        options = {
            name: given[name] if name in given else getattr(self, name)
            for name in DecoderLayer.__dataclass_fields__
            if name not in ("parent", "name")
        }
        sizes = [_ALL if window is None else window for window in windows]
        if not self.scan:
            for i in range(self.depth):
                window = sizes[i] if windows else None
                (x, cached), _ = layer(**options, name=f"layer{i + 1}")(
                    (x, cached), rows, window, i
                )
            return x, cached
        layers = nn.scan(
            layer,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast, 0, 0),
            length=self.depth,
        )
        window = jnp.asarray(sizes, jnp.int32) if windows else None
        numbers = None if cached is None else jnp.arange(self.depth)
        return layers(**options, name="layers")((x, cached), rows, window, numbers)[0]

    def _logits(self, hidden, head):
        dtype = jnp.promote_types(self.dtype, jnp.float32)
        logits = jnp.einsum("bld,dv->blv", hidden, head, preferred_element_type=dtype)
        logits = self.constrain(logits, ("batch", "length", "vocabulary"))
        return logits if self.softcap is None else self.softcap * jnp.tanh(logits / self.softcap)


def decoder_transformer(vocabulary, *, features=(), **options) -> Network:
    """A `Decoder`; `options` are its fields, `width`, `depth`, `heads`, `key_heads`, `hidden` first."""
    if options.get("activation", "silu") not in ACTIVATIONS:
        raise ValueError(
            f"activation must be one of {sorted(ACTIVATIONS)}, got {options['activation']!r}"
        )
    windows = options.get("windows", ())
    if any(window is not None and window < 1 for window in windows):
        raise ValueError(f"windows must be at least 1, or None, got {tuple(windows)}")
    module = Decoder(vocabulary, **options)
    named = dict(features) if isinstance(features, Mapping) else {name: name for name in features}
    whole = adapters.from_linen(module, features=features)
    cached = adapters.from_linen(module, features={**named, "cache": "cache"})

    def apply(variables, inputs, *, train, rngs):
        network = cached if isinstance(inputs, dict) and "cache" in inputs else whole
        return network.apply(variables, inputs, train=train, rngs=rngs)

    return Network(whole.init, apply, whole.couples)


_LLAMA_3 = {"key_heads": 8, "rotary_base": 500_000.0}

llama3_8b = functools.partial(
    decoder_transformer, width=4096, depth=32, heads=32, hidden=14_336, **_LLAMA_3
)
llama3_1b = functools.partial(
    decoder_transformer, width=2048, depth=16, heads=32, hidden=8192, tied=True, **_LLAMA_3
)
