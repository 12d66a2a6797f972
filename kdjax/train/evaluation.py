"""Exact totals over a whole split, on any number of devices."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from kdjax.train.scope import Scope


def build_evaluation(
    networks: Mapping[str, Any],
    measure: Callable[[Scope], Mapping[str, jax.Array]],
    *,
    replicas: tuple[str, int] | None = None,
):
    """Compiles `evaluate(state, frozen, batches) -> {name: (total, count)}`.

    Args:
        networks: `{name: Network}`, players and teachers; none is in training mode.
        measure: like an objective: a function of the scope, giving values `[B, ...]` per example by
            name. Totals are summed over the examples that the batch's `where` `[B]` keeps.
        replicas: `("seed", n)` for a state with a seed axis: totals get it too.

    `batches` are the arrays of a split, `[batches, B, ...]`, with the boolean `where`; `evaluate`
    reads them one batch at a time.
    """

    def totals(state, frozen, batch):
        key = jax.random.fold_in(state.key, state.step)
        scope = Scope(networks, state, {}, frozen, batch, key, axis=None, micro_batches=1)
        where = batch["where"]

        def total(values):
            mask = where.reshape(where.shape + (1,) * (values.ndim - 1))
            return jnp.sum(jnp.where(mask, values, 0), axis=0, dtype=jnp.float32)

        return {name: total(values) for name, values in measure(scope).items()}, where.sum()

    def evaluate(state, frozen, batches):
        sums = jax.lax.map(lambda batch: totals(state, frozen, batch), batches)
        total, count = jax.tree.map(lambda x: x.sum(0), sums)
        return {name: (value, count) for name, value in total.items()}

    return jax.jit(evaluate if replicas is None else jax.vmap(evaluate, in_axes=(0, None, None)))
