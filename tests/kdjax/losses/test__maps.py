"""Pooling to any size, and the checks that map losses share."""

import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.losses import _maps

MAPS = np.random.default_rng(0).standard_normal((2, 6, 7, 3)).astype(np.float32)


@pytest.mark.parametrize("size", [(4, 4), (2, 3), (1, 1), (6, 7), (5, 2)])
def test_pooling_averages_the_window_of_every_output(size):
    pooled = _maps.adaptive_average_pool(jnp.asarray(MAPS), *size)
    wanted = np.zeros((2, *size, 3))
    for i in range(size[0]):
        for j in range(size[1]):
            rows = slice(int(np.floor(i * 6 / size[0])), int(np.ceil((i + 1) * 6 / size[0])))
            columns = slice(int(np.floor(j * 7 / size[1])), int(np.ceil((j + 1) * 7 / size[1])))
            wanted[:, i, j] = MAPS[:, rows, columns].mean(axis=(1, 2))
    np.testing.assert_allclose(pooled, wanted, rtol=1e-5, atol=1e-6)


def test_maps_of_two_spatial_sizes_are_refused_by_name():
    with pytest.raises(ValueError, match="student_maps .* and teacher_maps"):
        _maps.aligned(None, student_maps=MAPS, teacher_maps=MAPS[:, :3])


def test_maps_without_channels_are_refused_by_name():
    with pytest.raises(ValueError, match="teacher_maps must have 4 axes"):
        _maps.aligned(None, student_maps=MAPS, teacher_maps=MAPS[..., 0])
