"""A convolution whose gradients XLA's CPU compiler also finds its fast form for inside a loop.

On the CPU, XLA brings convolutions to the layout of its fast kernel in a program's outermost
computation only. The gradients of a convolution have another layout; inside `lax.scan`, where all
training runs, they take tens of times as long as outside. Here they are written in that layout.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

LAYOUT = ("NHWC", "HWIO", "NHWC")


def conv_general_dilated(
    lhs,
    rhs,
    window_strides,
    padding,
    lhs_dilation=None,
    rhs_dilation=None,
    dimension_numbers=None,
    feature_group_count=1,
    batch_group_count=1,
    precision=None,
    preferred_element_type=None,
):
    """`lax.conv_general_dilated`, for the `conv_general_dilated` of a `linen.Conv`.

    A plain two-dimensional convolution, channels last and neither dilated nor grouped, has gradients
    of its own on the CPU; any other, and on any other platform, is JAX's. It cannot be differentiated
    forwards (`jax.jvp`); backwards, any number of times.
    """
    options = {"precision": precision, "preferred_element_type": preferred_element_type}
    native = functools.partial(
        lax.conv_general_dilated,
        window_strides=window_strides,
        padding=padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        batch_group_count=batch_group_count,
        **options,
    )
    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    plain = (
        lhs.ndim == 4
        and numbers == lax.conv_dimension_numbers(lhs.shape, rhs.shape, LAYOUT)
        and all(d == 1 for dilation in (lhs_dilation, rhs_dilation) for d in dilation or ())
        and feature_group_count == batch_group_count == 1
    )
    if not plain:
        return native(lhs, rhs)
    strides = tuple(window_strides)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], strides, padding)
    static = (strides, tuple(map(tuple, padding)), tuple(options.items()))
    return _convolution(lhs, rhs, static)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolution(x, kernel, static):
    return _native(x, kernel, static)


def _native(x, kernel, static):
    strides, padding, options = static
    return lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=LAYOUT, **dict(options)
    )


def _forward(x, kernel, static):
    return _native(x, kernel, static), (x, kernel)


def _backward(static, residuals, gradient):
    def by_jax(x, kernel, gradient):
        return jax.vjp(lambda x, kernel: _native(x, kernel, static), x, kernel)[1](gradient)

    def by_layout(x, kernel, gradient):
        strides, padding, options = static
        options = dict(options)
        sizes = zip(
            x.shape[1:3], kernel.shape[:2], strides, padding, gradient.shape[1:3], strict=True
        )
        # What the last window leaves over at the far end, when the stride does not divide it.
        rest = [n + sum(p) - k - (m - 1) * s for n, k, s, p, m in sizes]
        by_input = lax.conv_general_dilated(
            gradient,
            jnp.flip(kernel, (0, 1)).swapaxes(2, 3),
            (1, 1),
            [
                (k - 1 - low, k - 1 - high + left)
                for k, (low, high), left in zip(kernel.shape[:2], padding, rest, strict=True)
            ],
            lhs_dilation=strides,
            dimension_numbers=LAYOUT,
            **options,
        )
        # Examples are what is summed over: they take the place of the channels.
        by_kernel = lax.conv_general_dilated(
            x.transpose(3, 1, 2, 0),
            gradient.transpose(1, 2, 0, 3),
            (1, 1),
            [(low, high - left) for (low, high), left in zip(padding, rest, strict=True)],
            rhs_dilation=strides,
            dimension_numbers=LAYOUT,
            **options,
        )
        by_kernel = by_kernel.transpose(1, 2, 0, 3)
        return by_input.astype(x.dtype), by_kernel.astype(kernel.dtype)

    return lax.platform_dependent(*residuals, gradient, cpu=by_layout, default=by_jax)


_convolution.defvjp(_forward, _backward)
