"""Layers that several models share, in the precision of the module that asks for them."""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from kdjax.networks import _convolution


def head(module, x):
    """The logits of a classifier, in at least float32 whatever the precision before them."""
    dtype = jnp.promote_types(module.dtype, jnp.float32)
    return nn.Dense(module.classes, dtype=dtype, param_dtype=module.param_dtype, name="head")(x)


def he_normal(key, shape, dtype=jnp.float32):
    """Kernels `[..., in, out]` of variance 2 / fan-out, for layers before a ReLU.

    Drawn flat: the values are the same, and XLA's CPU compiler takes several times as long over
    random bits of four axes as over those of one.
    """
    fan_out = math.prod(shape) // shape[-2]
    values = jax.random.normal(key, (math.prod(shape),), dtype).reshape(shape)
    return values * jnp.sqrt(2 / fan_out).astype(dtype)


def convolution(module, filters, size, stride, *, name):
    """A convolution without bias.

    Padded by size // 2 on every side, where SAME would pad a stride of two on one side only: public
    weights were trained that way.
    """
    return nn.Conv(
        filters,
        (size, size),
        stride,
        padding=size // 2,
        use_bias=False,
        conv_general_dilated=_convolution.conv_general_dilated,
        kernel_init=he_normal,
        dtype=module.dtype,
        param_dtype=module.param_dtype,
        name=name,
    )


def batch_norm(module, train, *, name):
    """Batch normalisation, its statistics in float32, joined over the module's `axis_name`."""
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        dtype=module.dtype,
        param_dtype=module.param_dtype,
        axis_name=module.axis_name,
        name=name,
    )
