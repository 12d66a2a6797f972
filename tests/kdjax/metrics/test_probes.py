"""A linear probe in closed form."""

import numpy as np

from kdjax.metrics import probes


def test_a_probe_recovers_labels_that_are_linear_in_the_features():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 300, 3)) * [1.0, 5.0, 0.1] + 4
    labels = (x[0, :, 1] > 4).astype(int)
    given = probes.probe(np.stack([x[0], x[0]]), np.stack([x[0], -x[0]]), labels)
    assert given.shape == (2, 300)
    assert (given[0] == labels).mean() > 0.95 and (given[1] == labels).mean() < 0.6
