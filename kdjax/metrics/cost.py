"""What a function costs, read from its jaxpr: nothing is compiled or run."""

import math
from typing import Any

import jax
from jax.extend import core


def count_flops(function, *arguments: Any) -> int:
    """The floating-point operations of the products in `function(*arguments)`.

    Matrix products and convolutions count two operations per multiplication and addition;
    everything else (elementwise work, reductions, sorting, factorisations, kernels written by hand)
    counts nothing. The body of a `scan` counts as often as it runs, of a `cond` the dearest branch,
    of a `shard_map` once per device of the axes that it maps. A convolution counts its padding like any
    input. For the cost of one example, pass a batch of one.

    Args:
        function: any JAX function; close over what is not an array.
        arguments: trees of arrays or `jax.ShapeDtypeStruct`s.

    Returns:
        An integer.

    Raises:
        ValueError: a `while` loop with products in it, since nobody knows how often it runs.

    >>> x, w = jax.ShapeDtypeStruct((1, 3), "float32"), jax.ShapeDtypeStruct((3, 5), "float32")
    >>> count_flops(lambda x, w: x @ w, x, w)
    30
    """
    return _flops(jax.make_jaxpr(function)(*arguments).jaxpr)


def _flops(jaxpr):
    return sum(_equation_flops(equation) for equation in jaxpr.eqns)


def _equation_flops(equation):
    name, parameters = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        lhs, (out,) = equation.invars[0].aval.shape, equation.outvars
        return 2 * math.prod(out.aval.shape) * math.prod(lhs[i] for i in contracted)
    if name == "conv_general_dilated":
        kernel, (out,) = equation.invars[1].aval.shape, equation.outvars
        taps = math.prod(kernel) // kernel[parameters["dimension_numbers"].rhs_spec[0]]
        # A dilated input is mostly zeros that no implementation has to multiply.
        zeros = math.prod(parameters["lhs_dilation"])
        return 2 * math.prod(out.aval.shape) * taps // zeros
    if name == "cond":
        return max(_flops(branch.jaxpr) for branch in parameters["branches"])
    inner = sum(_flops(jaxpr) for jaxpr in _jaxprs_of(parameters))
    if name == "scan":
        return parameters["length"] * inner
    if name == "shard_map":
        sizes = parameters["mesh"].shape
        return math.prod(sizes[axis] for axis in _manual_axes(parameters)) * inner
    if name == "while" and inner:
        raise ValueError("a while loop has products in it: its cost depends on how often it runs")
    return inner


def _manual_axes(parameters):
    """The mesh axes whose devices each run the body on a part; over the others its shapes are whole."""
    return parameters["newly_manual_axes" if "newly_manual_axes" in parameters else "manual_axes"]


def _jaxprs_of(parameters):
    for value in parameters.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item
