"""Experts on shared stages, each fused with another depth, and classifiers of unit vectors.

Features of `fused_experts`: `experts` `[B, E, classes]`, the experts' logits, and `embeddings`
`[B, E, D]`, what their heads read; `logits` is the experts' mean. `cosine_heads` takes `[B, E, D]`.

Reference:
    Jin, Li, Lu, Cheung, Wang, "Long-Tailed Visual Recognition via Self-Heterogeneous Integration with
    Knowledge Excavation", 2023.
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from kdjax.networks import adapters
from kdjax.networks.network import Network, Outputs


class FusedExperts(nn.Module):
    """Dense stages that all share; expert i multiplies its own top layer with a map of stage i."""

    classes: int
    width: int
    experts: int
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    couples = False

    @nn.compact
    def __call__(self, x, *, train):
        del train  # nothing is drawn

        def dense(name, width, x):
            precision = {"dtype": self.dtype, "param_dtype": self.param_dtype}
            return nn.Dense(width, name=name, **precision)(x)

        x = x.reshape(x.shape[0], -1)
        stages = []
        for i in range(self.experts):
            x = nn.relu(dense(f"stage{i + 1}", self.width, x))
            stages.append(x)
        rows, logits = [], []
        for i, stage in enumerate(stages):
            own = nn.relu(dense(f"top{i + 1}", self.width, x))
            rows.append(own * nn.relu(dense(f"fusion{i + 1}", self.width, stage)))
            logits.append(dense(f"head{i + 1}", self.classes, rows[-1]))
        features = {"experts": jnp.stack(logits, 1), "embeddings": jnp.stack(rows, 1)}
        return Outputs(features["experts"].mean(1), features)


def fused_experts(classes, *, width=32, experts=3, features=(), **options) -> Network:
    """A `FusedExperts` with a shared stage for every expert; `options`: dtype, param_dtype."""
    return adapters.from_linen(FusedExperts(classes, width, experts, **options), features=features)


class CosineHeads(nn.Module):
    """scale · the cosine of an expert's embedding with each of its class vectors."""

    classes: int
    scale: float
    param_dtype: Any = jnp.float32

    couples = False

    @nn.compact
    def __call__(self, x, *, train):
        del train  # nothing is drawn
        shape = (x.shape[1], x.shape[2], self.classes)
        vectors = self.param("vectors", nn.initializers.normal(1.0), shape, self.param_dtype)
        x, vectors = (
            a / jnp.maximum(jnp.linalg.norm(a + 1e-12, axis=axis, keepdims=True), 1e-6)
            for a, axis in ((x, -1), (vectors, 1))
        )
        experts = self.scale * jnp.einsum("bed,edc->bec", x, vectors)
        return Outputs(experts.mean(1), {"experts": experts})


def cosine_heads(classes, *, scale=30.0, **options) -> Network:
    """A `CosineHeads`: `[B, E, D]` -> `[B, classes]`, the mean of `experts`; `options`: param_dtype."""
    return adapters.from_linen(CosineHeads(classes, scale, **options), features=("experts",))
