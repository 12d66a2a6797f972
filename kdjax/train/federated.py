"""Federated learning: clients are the replicas of one program, joined every few steps."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

Combine = Callable[[Any, jax.Array], Any]


def weighted_average(tree, weights):
    r"""The average over the leading axis of every leaf: Σ_k w_k x_k / Σ_k w_k.

    Args:
        tree: leaves `[K, ...]`, one row per client.
        weights: `[K]`, such as the numbers of the clients' examples.

    Returns:
        The tree with leaves `[...]`.

    >>> weighted_average({"w": jnp.array([[1.0], [4.0]])}, jnp.array([2.0, 1.0]))
    {'w': Array([2.], dtype=float32)}
    """
    share = weights / weights.sum()
    return jax.tree.map(lambda x: jnp.tensordot(share.astype(x.dtype), x, axes=1), tree)


def federated(
    weights,
    *,
    local_steps: int,
    combine: Combine = weighted_average,
    optimisers: Mapping[str, optax.GradientTransformation] | None = None,
) -> Callable[[Any], Any]:
    """A `Stage.aggregate`: after every `local_steps` steps, all clients go on from one combination.

    With the clients as replicas, `replicas=("client", K)`, and `seeds=range(K)` as their numbers
    (`IndexPlan(lambda client: examples[client], B)`), K clients over any number of rounds are one
    program. Parameters and model state are combined; integer leaves of the latter stay the client's.

    Args:
        weights: `[K]`.
        local_steps: the steps of a round.
        combine: `(tree [K, ...], weights) -> tree [...]`; a median, say, against bad clients.
        optimisers: those of the stage, where every round is to begin with new optimiser states;
            None leaves each client its own. With plain SGD there is no difference.

    Reference: McMahan, Moore, Ramage, Hampson, y Arcas, "Communication-Efficient Learning of Deep
    Networks from Decentralized Data", 2017: FedAvg, weights n_k, 1 to 20 local epochs of SGD.
    """
    weights = jnp.asarray(weights, jnp.float32)
    if weights.ndim != 1 or local_steps < 1:
        raise ValueError(
            f"weights must be [clients] and local_steps at least 1, got {weights.shape} and "
            f"{local_steps}"
        )

    def shared(tree):
        """`combine` of the leaves that are real numbers, given to every client."""
        leaves, structure = jax.tree.flatten(tree)
        real = [i for i, x in enumerate(leaves) if jnp.issubdtype(x.dtype, jnp.floating)]
        combined = combine([leaves[i] for i in real], weights)
        for i, x in zip(real, combined, strict=True):
            leaves[i] = jnp.broadcast_to(x, leaves[i].shape).astype(leaves[i].dtype)
        return jax.tree.unflatten(structure, leaves)

    def combined(state):
        params, model = shared((state.params, state.model))
        fresh = {name: jax.vmap(tx.init)(params[name]) for name, tx in (optimisers or {}).items()}
        return state.replace(params=params, model=model, opt={**state.opt, **fresh})

    def aggregate(state):
        if state.step.shape != weights.shape:
            raise ValueError(f"{weights.shape[0]} weights for clients {state.step.shape}")
        due = state.step[0] % local_steps == 0
        return jax.lax.cond(due, combined, lambda state: state, state)

    return aggregate
