"""The small network pieces inside recorded losses, with torch's weight layouts, on channel-last maps.

Weights are as recorded: convolutions `[out, in, h, w]`, linear maps `[out, in]`. `x` in `weights(x,
"conv1.1")` is an entry's arrays, which hold parameters as `param/NAME`.
"""

import jax
import jax.numpy as jnp


def weights(x, module):
    """{"weight": ..., "bias": ...} of the recorded module, by the last component of their names."""
    prefix = f"param/{module}."
    found = {name.removeprefix(prefix): x[name] for name in x if name.startswith(prefix)}
    return {name: array for name, array in found.items() if "." not in name}


def convolve(maps, weight, bias=None):
    """Convolution with stride 1 that keeps the size (kernel sides are odd)."""
    out = jax.lax.conv_general_dilated(
        maps,
        jnp.asarray(weight, maps.dtype),
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "OIHW", "NHWC"),
        precision=jax.lax.Precision.HIGHEST,
    )
    return out if bias is None else out + _per_channel(bias, out)


def linear(x, weight, bias=None):
    out = jnp.matmul(x, jnp.asarray(weight, x.dtype).T, precision="highest")
    return out if bias is None else out + _per_channel(bias, out)


def batch_norm(
    x, weight=None, bias=None, running_mean=None, running_var=None, *, eps=1e-5, **counters
):
    """Batch normalisation over all axes but the last, by running statistics where they are given."""
    axes = tuple(range(x.ndim - 1))
    if running_mean is None:
        mean, variance = jnp.mean(x, axis=axes, keepdims=True), jnp.var(x, axis=axes, keepdims=True)
    else:
        mean, variance = _per_channel(running_mean, x), _per_channel(running_var, x)
    out = (x - mean) / jnp.sqrt(variance + eps)
    if weight is not None:
        out = out * _per_channel(weight, x) + _per_channel(bias, x)
    return out


def batch_norm_in_training(x, weight=None, bias=None, *, eps=1e-5, **statistics):
    """Batch normalisation by the batch's own statistics; recorded running ones are not read."""
    return batch_norm(x, weight, bias, eps=eps)


def adaptive_max_pool(maps, height, width):
    """Maximum over the windows of torch's adaptive pooling."""
    pooled = _windowed_max(maps, 1, height)
    return _windowed_max(pooled, 2, width)


def _windowed_max(maps, axis, windows):
    length = maps.shape[axis]
    ends = [(i * length // windows, -(-(i + 1) * length // windows)) for i in range(windows)]
    slices = [jax.lax.slice_in_dim(maps, start, end, axis=axis) for start, end in ends]
    return jnp.stack([jnp.max(each, axis=axis) for each in slices], axis=axis)


def resize_bilinear(maps, height, width):
    """Bilinear resize with half-pixel centres (`align_corners=False`), without antialiasing."""
    shape = (maps.shape[0], height, width, maps.shape[3])
    return jax.image.resize(
        maps, shape, "linear", antialias=False, precision=jax.lax.Precision.HIGHEST
    )


def resize_nearest(maps, height, width):
    """Nearest resize: output i reads input floor(i * length / windows)."""
    rows = jnp.arange(height) * maps.shape[1] // height
    columns = jnp.arange(width) * maps.shape[2] // width
    return maps[:, rows][:, :, columns]


def _per_channel(values, x):
    return jnp.broadcast_to(jnp.asarray(values, x.dtype), x.shape)
