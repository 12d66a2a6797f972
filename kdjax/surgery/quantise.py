r"""Weights on a grid of few bits, for training students that will be stored that way.

Notation: a kernel W `[..., O]` has a scale for each output o, the largest absolute weight over the
largest integer: s_o = max |W_o| / (2^(b - 1) - 1).
"""

import re
from collections.abc import Sequence

import jax
import jax.numpy as jnp


def quantised_values(kernel, *, bits: int):
    r"""The nearest weights on a symmetric grid of each output: s · round(W / s).

    Args:
        kernel: `[..., O]`
        bits: b, at least 2.

    Returns:
        `[..., O]` in the dtype of `kernel`; an output whose weights are all zero stays.

    Raises:
        TypeError: a kernel that is not floating-point. ValueError: bits below 2.

    >>> quantised_values(jnp.array([[1.0], [0.3], [-0.9]]), bits=2)[:, 0]
    Array([ 1.,  0., -1.], dtype=float32)
    """
    if bits < 2:
        raise ValueError(f"bits must be at least 2, got {bits}")
    if not jnp.issubdtype(kernel.dtype, jnp.floating):
        raise TypeError(f"kernel must be floating-point, got {kernel.dtype}")
    wide = kernel.astype(jnp.promote_types(kernel.dtype, jnp.float32))
    largest = jnp.max(jnp.abs(wide), axis=tuple(range(wide.ndim - 1)), keepdims=True)
    scale = jnp.where(largest > 0, largest, 1) / (2 ** (bits - 1) - 1)
    return (jnp.round(wide / scale) * scale).astype(kernel.dtype)


def fake_quantised(params, patterns: Sequence[str], *, bits: int):
    """The tree with some kernels on their grids, whose gradient passes as if nothing was rounded.

    Args:
        params: a tree of parameters.
        patterns: regular expressions, searched in the names joined by "/".
        bits: as in `quantised_values`.

    Raises:
        ValueError: a pattern that matches nothing, bits below 2.

    >>> jax.grad(lambda w: fake_quantised({"w": w}, ["w"], bits=3)["w"].sum())(jnp.ones((2, 1)))
    Array([[1.],
           [1.]], dtype=float32)

    Reference:
        Bengio, Léonard, Courville, "Estimating or Propagating Gradients Through Stochastic Neurons
        for Conditional Computation", 2013, for the gradient; Liu, Oguz, Zhao, Chang, Stock, Mehdad,
        Shi, Krishnamoorthi, Chandra, "LLM-QAT: Data-Free Quantization Aware Training for Large
        Language Models", 2024, for a quantised student of its own full-precision teacher.
    """
    leaves = jax.tree.leaves_with_path(params)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    idle = [p for p in patterns if not any(re.search(p, name) for name in names)]
    if idle or not patterns:
        raise ValueError(f"patterns {idle or list(patterns)} match no parameter; there are {names}")

    def one(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if not any(re.search(pattern, name) for pattern in patterns):
            return leaf
        return leaf + jax.lax.stop_gradient(quantised_values(leaf, bits=bits) - leaf)

    return jax.tree.map_with_path(one, params)
