"""Points drawn from images, and their patches."""

import numpy as np
import pytest

from kdjax.data import point_sets

RNG = np.random.default_rng(0)


def test_grouped_patches_are_the_neighbours_of_far_centres():
    drawn = point_sets.drawn_points(RNG, np.eye(8)[None].repeat(3, 0), 30)
    assert drawn.shape == (3, 30, 2) and np.abs(drawn).max() <= 1
    assert np.abs(drawn[..., 0] - drawn[..., 1]).max() <= 0.25 + 1e-6, "on the diagonal's pixels"
    near, centres = point_sets.grouped(drawn, 4, 5)
    for i in range(3):
        distances = np.linalg.norm(drawn[i][None] - centres[i][:, None], axis=-1)
        np.testing.assert_allclose(
            np.linalg.norm(near[i], axis=-1), np.sort(distances, axis=1)[:, :5], atol=1e-5
        )
    with pytest.raises(ValueError, match="make no 40 patches"):
        point_sets.grouped(drawn, 40, 5)
