"""Points drawn from images, their patches, and contours."""

import jax
import jax.numpy as jnp
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


def disc(radius, side=28):
    x, y = np.meshgrid(*[np.linspace(-1, 1, side)] * 2)
    return np.clip(0.5 + (radius - np.hypot(x, y)) * 6, 0, 1)


def test_contours_of_a_disc_are_its_circle():
    points, count = point_sets.contours(np.stack([disc(0.5), disc(0.7)]), 90)
    for radius, row, number in zip((0.5, 0.7), points, count, strict=True):
        np.testing.assert_allclose(np.hypot(*row[:number].T), radius, atol=0.02)
        np.testing.assert_array_equal(row[number:], np.tile(row[0], (90 - number, 1)))
    assert count[0] < count[1] <= 90
    with pytest.raises(ValueError, match="image 1 has no contour"):
        point_sets.contours(np.stack([disc(0.5), np.zeros((28, 28))]), 90)


def test_sampled_queries_have_the_distance_to_the_whole_contour():
    points, count = point_sets.contours(disc(0.5)[None], 90)
    example = {"contour": jnp.asarray(points[0]), "count": jnp.asarray(count[0])}
    one, other = (
        point_sets.contour_samples(12, 40, 0.1)(jax.random.key(seed), example) for seed in (0, 1)
    )
    assert one["points"].shape == (12, 2) and not np.array_equal(one["points"], other["points"])
    true = np.abs(np.hypot(*np.asarray(one["queries"]).T) - 0.5)
    np.testing.assert_allclose(one["distances"], true, atol=0.06)
    assert np.median(one["distances"][:20]) < 0.15 < np.median(one["distances"][20:])
