import numpy as np
import pytest

from kdjax import losses

RNG = np.random.default_rng(0)
S, T = (RNG.normal(size=(4, k, 5)).astype(np.float32) for k in (3, 2))


def bag_similarity(s, t):
    def cosine(a, b):
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    return np.array([[max(cosine(a, b) for a in bag for b in other) for other in t] for bag in s])


def test_each_pair_is_compared_with_every_other_bag_on_both_sides():
    similarity = bag_similarity(S.astype(np.float64), T.astype(np.float64))
    expected = [
        sum(
            max(0, 0.4 - similarity[i, i] + similarity[i, j])
            + max(0, 0.4 - similarity[i, i] + similarity[j, i])
            for j in range(4)
            if j != i
        )
        for i in range(4)
    ]
    np.testing.assert_allclose(losses.bag_margin(S, T, margin=0.4), expected, rtol=1e-5)


def test_masked_bags_are_in_no_pair():
    where = np.array([True, False, True, True])
    found = losses.bag_margin(S, T, where=where)
    np.testing.assert_allclose(found[where], losses.bag_margin(S[where], T[where]), rtol=1e-6)
    assert found[1] == 0


def test_one_embedding_that_matches_is_enough():
    t = np.stack([np.eye(4), -np.eye(4)], axis=1).astype(np.float32)
    s = t[:, ::-1]
    np.testing.assert_array_equal(losses.bag_margin(s, t, margin=0.9), 0)


def test_widths_that_differ_are_refused():
    with pytest.raises(ValueError, match="one width"):
        losses.bag_margin(S, T[..., :3])


def test_heads_that_see_different_places_are_diverse():
    apart, same = np.eye(3, 5, dtype=np.float32), np.tile(np.eye(1, 5, dtype=np.float32), (3, 1))
    found = losses.attention_diversity(np.stack([apart, same]))
    np.testing.assert_allclose(found, [0, 6])
    even = np.full((1, 2, 4), 0.25, np.float32)
    np.testing.assert_allclose(losses.attention_diversity(even), [2 * 0.75**2 + 2 * 0.25**2])
