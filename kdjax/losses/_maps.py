"""What the losses on channel-last feature maps `[B, H, W, C]` share."""

import jax.numpy as jnp
import numpy as np

from kdjax.losses import _arrays


def aligned(where, **maps):
    """Maps `[B, H, W, C]` of one batch and one spatial size, checked and masked, in order."""
    promoted = dict(zip(maps, _arrays.floating(**maps), strict=True))
    _arrays.check_rank(4, **promoted)
    _arrays.check_same_batch(3, **promoted)
    first = next(iter(promoted.values()))
    _arrays.check_where(where, first.shape[:1])
    return _arrays.select(where, *promoted.values())


def pixels(maps):
    """`[B, H, W, C]` -> `[B, H * W, C]`."""
    return maps.reshape(maps.shape[0], maps.shape[1] * maps.shape[2], maps.shape[3])


def adaptive_average_pool(maps, height, width):
    """`[B, H, W, C]` -> `[B, height, width, C]`, also where the sizes do not divide.

    Window i of n over a side of length h runs from floor(i h / n) to ceil((i + 1) h / n).
    """
    rows = jnp.asarray(_window_weights(maps.shape[1], height), maps.dtype)
    columns = jnp.asarray(_window_weights(maps.shape[2], width), maps.dtype)
    return jnp.einsum("ih,jw,bhwc->bijc", rows, columns, maps, precision="highest")


def _window_weights(length, windows):
    weights = np.zeros((windows, length))
    for i in range(windows):
        start, end = i * length // windows, -(-(i + 1) * length // windows)
        weights[i, start:end] = 1 / (end - start)
    return weights
