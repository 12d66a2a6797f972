"""Splits: disjoint, complete, fixed by their seed, with every class in its proportion."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdjax.data import sources, splits


def source_of(labels, **split_sizes):
    stops = np.cumsum([0, *split_sizes.values()])
    parts = {
        name: np.arange(start, stop)
        for name, start, stop in zip(split_sizes, stops[:-1], stops[1:], strict=True)
    }
    return sources.load_arrays(label=np.asarray(labels), splits=parts or None)


LABELS = np.random.default_rng(0).choice(10, size=1797)


@settings(max_examples=40, deadline=None)
@given(
    size=st.integers(5, 300),
    classes=st.integers(1, 8),
    validation=st.integers(0, 2),
    test=st.integers(0, 2),
    seed=st.integers(0, 2**32 - 1),
)
def test_splits_are_disjoint_and_complete(size, classes, validation, test, seed):
    labels = np.random.default_rng(seed).integers(0, classes, size)
    parts = splits.split(source_of(labels), validation=validation, test=test, seed=seed)
    together = np.concatenate([parts.train, parts.validation, parts.test])
    np.testing.assert_array_equal(np.sort(together), np.arange(size))
    assert (len(parts.validation), len(parts.test)) == (validation, test)
    assert all(part.dtype == np.int32 for part in (parts.train, parts.validation, parts.test))


def test_every_part_has_the_classes_in_proportion():
    parts = splits.split(source_of(LABELS), validation=200, test=397)
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (1200, 200, 397)
    everywhere = np.bincount(LABELS) / len(LABELS)
    for part in (parts.train, parts.validation, parts.test):
        counts = np.bincount(LABELS[part], minlength=10)
        assert np.abs(counts - everywhere * len(part)).max() <= 2
    np.testing.assert_array_equal(parts.transfer, parts.train)


def test_a_split_is_fixed_by_its_seed():
    first, again, other = (
        splits.split(source_of(LABELS), validation=0.1, test=0.2, seed=seed) for seed in (1, 1, 2)
    )
    assert (len(first.validation), len(first.test)) == (180, 359)
    np.testing.assert_array_equal(first.test, again.test)
    np.testing.assert_array_equal(first.validation, again.validation)
    assert len(set(first.test) & set(other.test)) < 150


def test_the_sources_own_test_split_is_kept():
    source = source_of(LABELS, train=1500, test=297)
    parts = splits.split(source, validation=150)
    np.testing.assert_array_equal(parts.test, np.arange(1500, 1797))
    assert len(parts.validation) == 150 and len(parts.train) == 1350
    assert not set(parts.validation) & set(parts.train)
    own = splits.split(source_of(LABELS, train=1000, validation=500, test=297), validation=150)
    np.testing.assert_array_equal(own.validation, np.arange(1000, 1500))
    np.testing.assert_array_equal(own.train, np.arange(1000))


@pytest.mark.parametrize("n", [1, 7, 100, 105])
def test_a_labelled_subset_is_balanced_and_varies_with_the_seed(n):
    parts = splits.split(source_of(LABELS), validation=200, test=397)
    chosen = parts.labelled(n, 0)
    assert len(set(chosen)) == n and set(chosen) <= set(parts.train)
    counts = np.bincount(LABELS[chosen], minlength=10)
    assert set(counts) <= {n // 10, -(-n // 10)}
    np.testing.assert_array_equal(chosen, parts.labelled(n, 0))
    assert any((chosen != parts.labelled(n, seed)).any() for seed in range(1, 4))
    assert set(chosen) <= set(parts.labelled(n + 13, 0))
    if n == 7:  # the classes that get the remainder change with the seed
        without = {c for s in range(20) for c in set(range(10)) - set(LABELS[parts.labelled(7, s)])}
        assert without == set(range(10))


def test_an_unbalanced_subset_follows_the_set():
    labels = np.repeat([0, 1], [900, 100])
    parts = splits.split(source_of(labels), validation=0, test=0)
    chosen = parts.labelled(300, 0, balanced=False)
    assert len(set(chosen)) == 300
    assert 10 < (labels[chosen] == 1).sum() < 60


def test_a_source_without_labels_splits_too():
    source = sources.load_arrays(image=np.zeros((50, 2, 2, 1)))
    parts = splits.split(source, validation=5, test=10)
    assert parts.labels is None and len(parts.train) == 35
    assert len(parts.labelled(4, 0, balanced=False)) == 4
    with pytest.raises(ValueError, match="needs class labels"):
        parts.labelled(4, 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: splits.split(source_of(LABELS), validation=10), "no 'test' split: give test="),
        (
            lambda: splits.split(source_of(LABELS), validation=1000, test=797),
            "leave nothing of 1797 examples for training",
        ),
        (
            lambda: splits.split(source_of(LABELS), validation=-1, test=1),
            "validation must be a count or a fraction, got -1",
        ),
        (
            lambda: splits.split(source_of(LABELS, extra=1797), validation=1, test=1),
            "splits \\['extra'\\] and no 'train'",
        ),
        (
            lambda: splits.split(source_of([0] * 99 + [1]), validation=0, test=0).labelled(10, 0),
            "5 of each of 2 classes, class 1 has 1",
        ),
        (
            lambda: splits.split(source_of([0] * 9), validation=0, test=0).labelled(10, 0),
            "labelled must be between 1 and 9, got 10",
        ),
    ],
)
def test_bad_splits_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
