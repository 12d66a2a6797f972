"""Ranks of a query's own document, and the chance to find it among some."""

import numpy as np
import pytest

from kdjax.metrics import retrieval


def test_recall_among_drawn_candidates_is_that_of_drawing_them():
    rng, scores = np.random.default_rng(0), np.random.default_rng(1).normal(size=(30, 30))
    ranks = retrieval.own_ranks(scores)
    np.testing.assert_array_equal(ranks, [(row > row[i]).sum() for i, row in enumerate(scores)])
    expected = retrieval.recall_among(ranks, 30, candidates=5).mean()
    found = []
    for _ in range(400):
        for i, row in enumerate(scores):
            others = rng.choice(np.delete(np.arange(30), i), 4, replace=False)
            found.append(row[i] > row[others].max())
    np.testing.assert_allclose(np.mean(found), expected, atol=0.02)
    with pytest.raises(ValueError, match="candidates"):
        retrieval.recall_among(ranks, 30, candidates=31)
