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


def residual_stages(x, block, widths, depths, *, first_stride=1):
    """(end of the last stage, {"stageN", "stageN_preactivation"}) of `block(width, stride, name=...)`.

    The first block of every stage but the first halves the map, that of the first has `first_stride`.
    """
    features = {}
    for i, (width, depth) in enumerate(zip(widths, depths, strict=True), 1):
        for j in range(1, depth + 1):
            stride = 1 if j > 1 else first_stride if i == 1 else 2
            x, before = block(width, stride, name=f"stage{i}_block{j}")(x)
        features[f"stage{i}"], features[f"stage{i}_preactivation"] = x, before
    return x, features
