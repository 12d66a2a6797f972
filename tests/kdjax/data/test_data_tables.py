"""Tables, and rows drawn from what is known of a table."""

import numpy as np
import pytest

from kdjax.data import tables


def test_the_tumours_are_numbers_between_0_and_1_of_two_classes():
    rows, label = tables.breast_cancer(5)
    assert rows.shape == (569, 5) and rows.min() == 0 and rows.max() == 1
    assert np.bincount(label).tolist() == [212, 357]
    with pytest.raises(ValueError, match="1 to 30"):
        tables.breast_cancer(31)


def test_rows_from_moments_are_like_their_classes_and_less_so_with_noise():
    rng, label = np.random.default_rng(0), np.repeat([0, 1], (300, 100))
    rows = np.clip(0.3 + 0.3 * label[:, None] + 0.1 * rng.normal(size=(400, 3)), 0, 1)

    def off(noise):
        drawn, said = tables.from_moments(np.random.default_rng(1), rows, label, 500, noise=noise)
        assert drawn.min() >= 0 and drawn.max() <= 1 and np.bincount(said).tolist() == [500, 500]
        pairs = [(drawn[said == c], rows[label == c]) for c in (0, 1)]
        return [abs(a.mean(0) - b.mean(0)).max() + abs(a.std(0) - b.std(0)).max() for a, b in pairs]

    assert max(off(0.0)) < 0.03 and max(off(100.0)) > 0.1
