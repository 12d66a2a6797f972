"""Partial training: which leaves of a network are trained and which are frozen.

`kdjax.networks.merge(trained, frozen)` is the way back; every adapter's `apply` goes it, so that a
step sees the trained leaves as the player's parameters and the others under its name in `frozen`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from kdjax.networks.network import Network


def split(params, patterns: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(trained, frozen): the leaves whose path one of the patterns is found in, and the others.

    Args:
        params: nested dicts of arrays.
        patterns: regular expressions, searched in the names joined by "/": `"head"`, `"bias$"`.

    Returns:
        Two nested dicts without empty ones, whose union is `params`.

    Raises:
        ValueError: a pattern that matches no leaf; the names there are.

    >>> split({"body": {"w": 1, "b": 2}, "head": {"w": 3}}, ["head", "b$"])
    ({'body': {'b': 2}, 'head': {'w': 3}}, {'body': {'w': 1}})
    """
    leaves = dict(_leaves(params))
    idle = [pattern for pattern in patterns if not any(re.search(pattern, n) for n in leaves)]
    if idle:
        raise ValueError(f"patterns {idle} match no parameter; there are {list(leaves)}")
    chosen = {n for n in leaves if any(re.search(pattern, n) for pattern in patterns)}
    return _part(params, lambda name: name in chosen), _part(
        params, lambda name: name not in chosen
    )


def restrict(network: Network, patterns: Sequence[str]) -> Network:
    """The network with only the leaves that `patterns` name as parameters.

    The others are read from `frozen[player]`, where the caller puts them, from a pretrained network
    with `split`, say. The optimiser, the gradient and the checkpoint see the trained leaves alone.

    >>> import jax.numpy as jnp
    >>> whole = Network(lambda key, x: {"params": {"w": jnp.ones(2), "b": jnp.zeros(2)}}, None)
    >>> restrict(whole, ["b"]).init(None, None)["params"]
    {'b': Array([0., 0.], dtype=float32)}
    """

    def init(key, inputs):
        variables = network.init(key, inputs)
        return {**variables, "params": split(variables["params"], patterns)[0]}

    return network._replace(init=init)


def _leaves(tree, prefix=""):
    for name, node in tree.items():
        path = f"{prefix}{name}"
        if isinstance(node, Mapping):
            yield from _leaves(node, f"{path}/")
        else:
            yield path, node


def _part(tree, kept, prefix=""):
    part = {}
    for name, node in tree.items():
        path = f"{prefix}{name}"
        if isinstance(node, Mapping):
            below = _part(node, kept, f"{path}/")
            if below:
                part[name] = below
        elif kept(path):
            part[name] = node
    return part
