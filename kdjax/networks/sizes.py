"""Shapes and sizes of networks, without allocating them."""

import math
from typing import Any

import jax

from kdjax.networks.network import Network, Outputs


def variable_shapes(network: Network, inputs: Any) -> dict[str, Any]:
    """What `network.init` would give for `inputs` (arrays or shapes), as `jax.ShapeDtypeStruct`s."""
    return jax.eval_shape(network.init, jax.random.key(0), inputs)


def output_shapes(network: Network, inputs: Any) -> Outputs:
    """The `Outputs` of a forward pass over `inputs` (arrays or shapes), as shapes."""

    def forward(key, inputs):
        variables = network.init(key, inputs)
        return network.apply(variables, inputs, train=False, rngs={})[0]

    return jax.eval_shape(forward, jax.random.key(0), inputs)


def count_parameters(tree: Any) -> int:
    """The number of values in a tree of arrays or shapes.

    >>> count_parameters({"w": jax.ShapeDtypeStruct((3, 4), "float32"), "b": None})
    12
    """
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
