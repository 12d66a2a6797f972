"""Trials of hyperparameters as replicas of one program."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp


def with_trials(state, hyper: Mapping[str, Any], optimisers: Mapping[str, Any] | None = None):
    """The state with numbers of its own for every replica.

    A trial of the method's numbers, of the optimiser's or of both is one more replica: the state of n
    trials comes from `jax.vmap` of `init_state` over n keys, equal ones where trials start alike, and
    trains under `place(..., replicas=("trial", n))`. A grid over k seeds is n · k replicas.

    Args:
        state: with an axis of n replicas.
        hyper: `{name: [n]}`, names of `state.hyper`.
        optimisers: `{player: {name: [n]}}`, numbers that `optax.inject_hyperparams` holds. One that
            follows a schedule cannot be tried; put `optax.inject_hyperparams(optax.scale)(1.0)` behind
            the optimiser and try its `step_size`, which multiplies the learning rate.

    Returns:
        A state of the same names, shapes and dtypes.

    Raises:
        ValueError: a name that the state does not have, a number that follows a schedule, a length
            that is not n.

    Example: `with_trials(state, {"temperature": [2, 4]}, {"student": {"learning_rate": [0.1, 0.2]}})`.
    """
    changed = dict(state.hyper)
    for name, values in hyper.items():
        if name not in changed:
            raise ValueError(f"there is no hyper {name!r}; there are {sorted(changed)}")
        changed[name] = _replaced(f"hyper {name!r}", changed[name], values)
    opt = dict(state.opt)
    for player, numbers in (optimisers or {}).items():
        if player not in opt:
            raise ValueError(f"there is no optimiser of {player!r}; there are {sorted(opt)}")
        opt[player] = _with_numbers(player, opt[player], numbers)
    return state.replace(hyper=changed, opt=opt)


def _with_numbers(player, opt, numbers):
    """An optimiser's state whose injected hyperparameters are replaced by name."""
    found: set[str] = set()

    def one(node):
        if not _injected(node):
            return node
        held = dict(node.hyperparams)
        for name in numbers.keys() & held.keys():
            what = f"{name!r} of the optimiser of {player!r}"
            if name in getattr(node, "hyperparams_states", {}):
                raise ValueError(f"{what} follows a schedule: every step sets it anew")
            found.add(name)
            held[name] = _replaced(what, held[name], numbers[name])
        return node._replace(hyperparams=held, inner_state=_mapped(one, node.inner_state))

    changed = _mapped(one, opt)
    unknown = sorted(set(numbers) - found)
    if unknown:
        there = sorted({name for node in _nodes(opt) for name in node.hyperparams})
        raise ValueError(
            f"the optimiser of {player!r} has no injected {unknown}; there are {there}"
        )
    return changed


def _injected(node):
    return hasattr(node, "hyperparams") and hasattr(node, "inner_state")


def _mapped(function, tree):
    return jax.tree.map(function, tree, is_leaf=_injected)


def _nodes(tree):
    for node in jax.tree.leaves(tree, is_leaf=_injected):
        if _injected(node):
            yield node
            yield from _nodes(node.inner_state)


def _replaced(what, held, values):
    values = jnp.asarray(values, held.dtype)
    if values.shape != held.shape:
        raise ValueError(f"{what} is {held.shape} in the state, the trials give {values.shape}")
    return values
