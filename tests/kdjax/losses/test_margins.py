import jax.numpy as jnp
import numpy as np
import pytest
from embedded import RNG, SIZE, WHERE, S, T, U, double

from kdjax import losses


def test_relative_boosting_is_the_definitions():
    s, t, m = RNG.standard_normal((5, 5)), RNG.standard_normal((5, 5)), 0.3
    wanted = np.zeros(5)
    for i in range(5):
        others = [j for j in range(5) if j != i]
        wanted[i] += max(max(0, m + t[i, i] - t[i, j] - s[i, i] + s[i, j]) for j in others)
        wanted[i] += max(max(0, m + t[i, i] - t[j, i] - s[i, i] + s[j, i]) for j in others)
    np.testing.assert_allclose(double(losses.relative_boosting, s, t, margin=m), wanted)


def test_absolute_boosting_is_the_definitions():
    s, t, m, g = RNG.standard_normal((5, 5)), RNG.standard_normal((5, 5)), 0.3, 0.7
    wanted = np.zeros(5)
    for i in range(5):
        others = [j for j in range(5) if j != i]
        wanted[i] = 2 * max(0, g * m + t[i, i] - s[i, i])
        wanted[i] += max(max(0, (1 - g) * m + s[i, j] - t[i, j]) for j in others)
        wanted[i] += max(max(0, (1 - g) * m + s[j, i] - t[j, i]) for j in others)
    ours = double(losses.absolute_boosting, s, t, margin=m, balance=g)
    np.testing.assert_allclose(ours, wanted)


@pytest.mark.parametrize("loss", [losses.relative_boosting, losses.absolute_boosting])
def test_boosting_of_masked_pairs_is_that_of_the_smaller_matrix(loss):
    s, t = RNG.standard_normal((SIZE, SIZE)), RNG.standard_normal((SIZE, SIZE))
    masked = double(loss, s, t, where=WHERE)
    wanted = np.zeros(SIZE)
    wanted[WHERE] = double(loss, s[WHERE][:, WHERE], t[WHERE][:, WHERE])
    np.testing.assert_allclose(masked, wanted)


def test_triplets_are_the_definitions():
    near, far = np.linalg.norm(S - T, axis=1), np.linalg.norm(S - U, axis=1)
    ours = double(losses.triplet_margin, S, T, U, margin=0.5)
    np.testing.assert_allclose(ours, np.maximum(0, 0.5 + near - far))
    wanted = -np.log(1 / (1 + np.exp(near - far)))
    np.testing.assert_allclose(double(losses.triplet_preference, S, T, U), wanted)


def test_scores_that_are_not_square_are_refused():
    with pytest.raises(ValueError, match="square"):
        losses.relative_boosting(jnp.ones((2, 3)), jnp.ones((2, 3)))
