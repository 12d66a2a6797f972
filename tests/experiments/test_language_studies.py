"""What studies of text and strips prepare: contexts, labels, mistakes, edits."""

import numpy as np
from ml_collections import ConfigDict

from experiments.studies import _strips, language, spelling, tagging


def test_retrieved_drafts_read_the_chunks_that_share_most_with_the_end_and_the_end_itself():
    options = ConfigDict(
        {"length": 20, "contexts": 1, "drafted": 2, "read": 12, "chunks": 2, "chunk": 3}
    )
    tokens = np.arange(100, 121)
    # The end is the last 6 of 20; what is drafted, the last two of them, is no part of the query.
    tokens[14:18] = [1, 2, 3, 4]
    tokens[3:6], tokens[9:12] = [2, 3, 4], [1, 2, 9]
    long, short, targets = language._contexts(tokens[None], options)
    np.testing.assert_array_equal(long[0], tokens[:20])
    np.testing.assert_array_equal(short[0], [2, 3, 4, 1, 2, 9, *tokens[14:20]])
    np.testing.assert_array_equal(targets[0], tokens[19:21])


def test_verified_labels_are_those_of_windows_with_enough_right_ones():
    labels = np.array([[1, 2, 3, 4], [1, 2, 3, 4], [5, 5, 5, 5]])
    said = np.array([[1, 2, 3, 0], [1, 0, 0, 0], [0, 5, 5, 5]])
    mask = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 1, 1]], bool)
    right, kept = tagging._verified(said, labels, mask, 0.75)
    np.testing.assert_allclose(right, [0.75, 0.5, 1.0])
    assert kept.tolist() == [0, 2]


def test_spelling_rules_count_the_right_rule_at_the_right_word():
    rows = {"labels": np.array([[1, 0]]), "mask": np.ones((1, 2), bool)}
    assert spelling._f_half(rows["labels"][None], rows) == 1
    # Twice as many are said as are right: precision 1/2, recall 1.
    np.testing.assert_allclose(spelling._f_half(np.array([[[1, 2]]]), rows), 1.25 * 0.5 / 1.125)


def test_transcribed_strips_are_scored_by_collapsed_paths():
    assert _strips._collapsed([0, 3, 3, 0, 3, 5, 5]) == [3, 3, 5]
    best = np.array([[[0, 3, 3, 0, 3, 5, 5], [1, 1, 0, 0, 2, 0, 0]]])
    labels = np.array([[3, 3, 5], [1, 4, 0]])
    np.testing.assert_allclose(_strips.error_rate(np.eye(6)[best], labels), [1 / 5])
