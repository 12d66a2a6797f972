"""Low-rank adapters: a network whose weights stay and whose trained parameters are small factors.

Notation: a kernel W is read as a matrix `[I, O]`, its factors are A `[I, r]` and B `[r, O]`. A kernel
under `layers/` has a first axis of layers (a scan over them made it): so have its factors.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from kdjax.networks.network import Network

_STACK = "layers"
Patterns = Sequence[str] | Mapping[str, int]


def low_rank(network: Network, patterns: Patterns, *, rank: int, alpha: float) -> Network:
    r"""The network with W + (α / r) A B for some of its kernels W, which stay; A and B are trained.

    .. math:: W' = W + \frac{\alpha}{r} A B, \quad A_{ij} \sim N(0, 1/I), \quad B = 0

    The wrapped network's parameters are the factors alone, `.../kernel/a` and `.../kernel/b`. The
    weights of `network` are read from `frozen[player]`: put there what `network.init` or a
    checkpoint gave. It starts as `network` itself, since B is zero. W' is formed in every pass: any
    network can be wrapped, at the price of one more copy of the adapted kernels while a step runs.

    Args:
        network: any network, a student's or a teacher's.
        patterns: regular expressions searched in the parameters' names joined by "/". A kernel's last
            axis is its outputs and the axes before it are its inputs, as for dense layers and
            convolutions; a mapping from pattern to the number of input axes says otherwise:
            `{"query/kernel": 1}` for attention heads `[I, heads, width]`. An axis of layers does not
            count.
        rank: r, at least 1.
        alpha: α, the scale of the update at rank r.

    Raises:
        ValueError: a rank below 1; at `init`, a pattern that matches no kernel, a kernel with fewer
            than two axes; at `apply`, weights that are not in `frozen`.

    >>> from kdjax.networks import from_function
    >>> dense = from_function(
    ...     lambda key, x: {"kernel": jnp.ones((3, 2))}, lambda params, x: x @ params["kernel"])
    >>> x = jnp.ones((1, 3))
    >>> adapted = low_rank(dense, ["kernel"], rank=1, alpha=1.0)
    >>> params = adapted.init(jax.random.key(0), x)["params"]
    >>> jax.tree.map(jnp.shape, params)
    {'kernel': {'a': (3, 1), 'b': (1, 2)}}
    >>> base = dense.init(jax.random.key(0), x)["params"]
    >>> adapted.apply({"params": params, "frozen": base}, x, train=False, rngs={})[0].logits
    Array([[3., 3.]], dtype=float32)

    Reference:
        Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang, Chen, "LoRA: Low-Rank Adaptation of Large
        Language Models", 2022, who adapted the query and value projections of GPT-3 with ranks 1 to
        64 and kept α at the first rank tried.
    """
    if rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}")

    def init(key, inputs):
        shapes = jax.eval_shape(network.init, key, inputs)
        factors: dict[str, Any] = {}
        for number, (path, leaf, input_axes) in enumerate(_kernels(shapes["params"], patterns)):
            node = factors
            for name in path:
                node = node.setdefault(name, {})
            dtype = jnp.promote_types(leaf.dtype, jnp.float32)
            layers, shape = _split_layers(path, leaf.shape)
            ins, outs = math.prod(shape[:input_axes]), math.prod(shape[input_axes:])
            a = jax.random.normal(jax.random.fold_in(key, number), (*layers, ins, rank), dtype)
            node.update(a=a / math.sqrt(ins), b=jnp.zeros((*layers, rank, outs), dtype))
        model = shapes.get("model", {})
        if jax.tree.leaves(model):
            model = network.init(key, inputs)["model"]
        return {"params": factors, "model": model}

    def apply(variables, inputs, *, train, rngs):
        params = merged(variables["frozen"], variables["params"], alpha=alpha)
        return network.apply(
            {**variables, "params": params, "frozen": {}}, inputs, train=train, rngs=rngs
        )

    return Network(init, apply, network.couples)


def merged(base, factors, *, alpha: float):
    """Plain weights: the base's, with (α / r) A B added to the kernels that have factors.

    They give the logits of the adapted network in the network itself; the rest of `base` is handed
    on as it is. Computed in at least float32 and returned in the dtype of `base`.

    Args:
        base: the weights of the network that was wrapped.
        factors: the trained parameters of its `low_rank`.
        alpha: the α that they were trained with.

    Raises:
        ValueError: factors of a kernel that `base` does not have.

    >>> factors = {"kernel": {"a": jnp.ones((3, 2)), "b": jnp.ones((2, 2))}}
    >>> merged({"kernel": jnp.zeros((3, 2))}, factors, alpha=1.0)["kernel"][0]
    Array([1., 1.], dtype=float32)
    """
    return _merged(base, factors, alpha, ())


def _merged(base, factors, alpha, path):
    whole = dict(base)
    for name, node in factors.items():
        place = (*path, name)
        if name not in base:
            raise ValueError(
                f"{'/'.join(place)} has low-rank factors and no weights in frozen, which has "
                f"{sorted(base)} there"
            )
        if isinstance(base[name], Mapping):
            whole[name] = _merged(base[name], node, alpha, place)
        else:
            whole[name] = _updated(base[name], node["a"], node["b"], alpha)
    return whole


def _updated(kernel, a, b, alpha):
    change = jnp.matmul(a, b) * (alpha / a.shape[-1])
    return (kernel + change.reshape(kernel.shape)).astype(kernel.dtype)


def _kernels(params, patterns: Patterns):
    """(path, leaf, its number of input axes) of the leaves that a pattern is found in."""
    axes = dict(patterns) if isinstance(patterns, Mapping) else dict.fromkeys(patterns)
    leaves = {
        tuple(part.key for part in path): leaf for path, leaf in jax.tree.leaves_with_path(params)
    }
    matched: dict[tuple[str, ...], int | None] = {}
    for pattern, count in axes.items():
        found = [path for path in leaves if re.search(pattern, "/".join(path))]
        if not found:
            names = ["/".join(path) for path in leaves]
            raise ValueError(f"pattern {pattern!r} matches no parameter; there are {names}")
        matched.update(dict.fromkeys(found, count))
    for path, count in matched.items():
        leaf = leaves[path]
        axes_left = len(_split_layers(path, leaf.shape)[1])
        inputs = axes_left - 1 if count is None else count
        if not 0 < inputs < axes_left:
            raise ValueError(
                f"{'/'.join(path)} {leaf.shape} is no kernel with {inputs} input axes: low-rank "
                "factors need an input and an output axis"
            )
        yield path, leaf, inputs


def _split_layers(path, shape):
    """(the axis of layers, if there is one; the axes of one kernel)"""
    count = 1 if path[0] == _STACK else 0
    return shape[:count], shape[count:]
