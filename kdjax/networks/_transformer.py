"""What the bidirectional and encoder-decoder transformers share: attention that shows its inside."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": functools.partial(nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(nn.gelu, approximate=True),
    "gelu_sigmoid": lambda x: x * nn.sigmoid(1.702 * x),
    "relu": nn.relu,
    "silu": nn.silu,
}


class Inside(NamedTuple):
    """Of one attention: `[B, H, L, E]` vectors; `[B, H, L, M]` scores before the softmax (-inf where
    the mask forbids) and the attention after it."""

    queries: jax.Array
    keys: jax.Array
    values: jax.Array
    scores: jax.Array
    attention: jax.Array

    def features(self, number, prefix=""):
        """By name: `queries1`, `keys1`, `values1`, `scores1`, `attention1`, for layer 1."""
        return {f"{prefix}{name}{number}": x for name, x in self._asdict().items()}


class Attention(nn.Module):
    """`[B, L, D]` queries over `[B, M, D']` keys and values -> `[B, L, width]`, and its `Inside`.

    The scores and their softmax are in at least float32. `scale` None is `head_width ** -0.5`.
    """

    heads: int
    head_width: int
    width: int
    bias: bool = True
    out_bias: bool = True
    scale: float | None = None
    dropout: float = 0.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    initial: Callable[..., jax.Array] = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, query, key, value, *, mask=None, bias=None, train=False):
        """`mask` is true where a query may look, `bias` is added to the scores; both `[., ., L, M]`."""
        q, k, v = (
            jnp.moveaxis(self._projection((self.heads, self.head_width), name)(x), 2, 1)
            for name, x in (("query", query), ("key", key), ("value", value))
        )
        dtype = jnp.promote_types(self.dtype, jnp.float32)
        scale = self.head_width**-0.5 if self.scale is None else self.scale
        scores = jnp.einsum("bhle,bhme->bhlm", q, k, preferred_element_type=dtype) * scale
        if bias is not None:
            scores = scores + bias.astype(dtype)
        finite = scores
        if mask is not None:
            # A row that may look nowhere, a padded query, stays finite.
            finite = jnp.where(mask, scores, jnp.finfo(dtype).min)
            scores = jnp.where(mask, scores, -jnp.inf)
        attention = nn.softmax(finite, axis=-1)
        dropped = nn.Dropout(self.dropout, deterministic=not train)(attention)
        y = jnp.einsum("bhlm,bhme->blhe", dropped.astype(self.dtype), v)
        out = nn.DenseGeneral(
            self.width,
            axis=(-2, -1),
            use_bias=self.out_bias,
            kernel_init=self.initial,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="out",
        )
        return out(y), Inside(q, k, v, scores, attention)

    def _projection(self, outputs, name):
        return nn.DenseGeneral(
            outputs,
            use_bias=self.bias,
            kernel_init=self.initial,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name=name,
        )


def tokens_of(inputs):
    """(tokens, the dict of inputs) of a network that takes tokens alone or a dict with them.

    Raises:
        ValueError: tokens that are not integers `[B, L]`.
    """
    given = inputs if isinstance(inputs, dict) else {"tokens": inputs}
    tokens = given["tokens"]
    if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise ValueError(f"tokens must be integers [B, L], got {tokens.dtype} {tokens.shape}")
    return tokens, given


def check_activation(name):
    if name not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {sorted(ACTIVATIONS)}, got {name!r}")
