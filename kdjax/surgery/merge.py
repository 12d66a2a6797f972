"""Models of one origin made into one: their weights averaged, their changes added, or a choice of them.

All functions take trees of one structure with floating-point leaves; no data are read.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def weight_average(trees: Sequence[Any]) -> Any:
    """The mean of every weight.

    Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves accuracy
    without increasing inference time", 2022.

    >>> weight_average([{"w": 1.0}, {"w": 3.0}])
    {'w': 2.0}
    """
    return jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *trees)


def task_arithmetic(base, trees: Sequence[Any], *, scale: float) -> Any:
    """base + scale · Σ (tree - base).

    Ilharco, Ribeiro, Wortsman, Gururangan, Schmidt, Hajishirzi, Farhadi, "Editing Models with Task
    Arithmetic", 2023, who chose the scale on validation, 0.3 to 0.5 for several tasks.

    >>> task_arithmetic({"w": 1.0}, [{"w": 2.0}, {"w": 0.0}], scale=0.5)
    {'w': 1.0}
    """
    return jax.tree.map(lambda b, *leaves: b + scale * sum(x - b for x in leaves), base, *trees)


def arcee_fusion(base, new) -> Any:
    r"""`base` with those of `new`'s changes that stand out of their tensor, and none of the others.

    .. math:: I = |\Delta| \cdot \mathrm{KL}(\operatorname{softmax}(\theta_{new}) \|
        \operatorname{softmax}(\theta_{base})), \quad
        \theta = \theta_{base} + \Delta \cdot [I \ge \tilde I + 1.5\,(Q_3 - Q_1)]

    with the softmax and the divergence along the last axis, the median and the quartiles over the
    whole tensor. The authors fold several models in one after the other.

    Goddard et al., "Arcee's MergeKit: A Toolkit for Merging Large Language Models", 2024 (the merge
    method arcee_fusion), as used by Sun et al., "TinyR1-32B-Preview: Boosting Accuracy with
    Branch-Merge Distillation", 2025.

    Args:
        base, new: trees with leaves of at least one axis.

    Raises:
        ValueError: a leaf that is a scalar.

    >>> new = jnp.array([0.1, 0.2, 0.3, 0.4, 0.1, 0.2, 0.3, 4.0])
    >>> fused = arcee_fusion({"w": jnp.zeros(8)}, {"w": new})
    >>> fused["w"].tolist()
    [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 4.0]
    """

    def fused(b, n):
        if jnp.ndim(b) < 1:
            raise ValueError("every tensor must have at least one axis, got a scalar")
        change = n - b
        log_new, log_base = jax.nn.log_softmax(n, axis=-1), jax.nn.log_softmax(b, axis=-1)
        rows = jnp.sum(jnp.exp(log_new) * (log_new - log_base), axis=-1, keepdims=True)
        importance = jnp.abs(change) * rows
        first, median, third = jnp.quantile(importance, jnp.array([0.25, 0.5, 0.75]))
        return b + jnp.where(importance >= median + 1.5 * (third - first), change, 0)

    return jax.tree.map(fused, base, new)
