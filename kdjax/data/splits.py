"""Fixed, disjoint splits of a source: train (labelled subset, transfer set), validation, test.

Validation chooses (checkpoint, early stop, tuning), test reports. The splits depend on the source
and on a split seed that is the same for every run; the labelled subset may vary with the run's seed.
"""

from dataclasses import dataclass

import numpy as np

from kdjax.data import _random


@dataclass(frozen=True, eq=False)
class Splits:
    """Disjoint example numbers `int32[n]`, ascending, and the labels of the whole source.

    `labels` is None for a source without class labels.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    labels: np.ndarray | None = None

    @property
    def transfer(self) -> np.ndarray:
        """What the student may see without labels: the whole training set."""
        return self.train

    def labelled(self, n: int, seed: int, *, balanced: bool = True) -> np.ndarray:
        """`n` examples of the training set whose labels a run may use, ascending.

        Balanced means ⌊n / C⌋ or ⌈n / C⌉ examples of each of the C classes. A larger n under the
        same seed holds the smaller subset.

        Raises:
            ValueError: more than the training set, or than a class, has.
        """
        if not 1 <= n <= len(self.train):
            raise ValueError(f"labelled must be between 1 and {len(self.train)}, got {n}")
        shuffled = self.train[
            _random.permutation(len(self.train), seed=seed, stream=_random.LABELLED)
        ]
        if not balanced:
            return np.sort(shuffled[:n])
        if self.labels is None:
            raise ValueError("a balanced subset needs class labels, and the source has none")
        classes, own, counts = np.unique(
            self.labels[shuffled], return_inverse=True, return_counts=True
        )
        least, most = n // len(classes), -(-n // len(classes))
        if (counts < least).any() or np.minimum(counts, most).sum() < n:
            raise ValueError(
                f"{n} balanced examples need {most} of each of {len(classes)} classes, class "
                f"{classes[np.argmin(counts)]} has {counts.min()} in the training set"
            )
        # Equal ranks keep their shuffled order: which classes get the remainder depends on the seed.
        return np.sort(shuffled[np.argsort(_rank_in_class(own), kind="stable")[:n]])


def split(source, *, validation, test=None, seed: int = 0) -> Splits:
    """Splits of a source, with the class frequencies of what they are cut from.

    The source's own "test" and "validation" splits are kept as they are; what is missing is cut
    from "train" in an order drawn by `seed`, in which each class is spread evenly.

    Args:
        source: a `kdjax.data.sources.Source`.
        validation: a count, or a fraction of "train"; ignored where the source has that split.
        test: the same for the test split; needed only where the source has none.
        seed: the split's own seed, not a run's: results of different split seeds do not compare.

    Raises:
        ValueError: no "train" split, no test split and no `test`, or nothing left for training.
    """
    own = source.splits
    if "train" not in own:
        raise ValueError(f"the source has splits {sorted(own)} and no 'train'")
    if "test" not in own and test is None:
        raise ValueError("the source has no 'test' split: give test=, a count or a fraction")
    labels = class_labels(source)
    pool = np.asarray(own["train"], np.int32)
    cuts = {"test": test, "validation": validation}
    sizes = {
        name: 0 if name in own else _count(name, wanted, len(pool)) for name, wanted in cuts.items()
    }
    if sum(sizes.values()) >= len(pool):
        raise ValueError(f"{sizes} leave nothing of {len(pool)} examples for training")
    ordered = _stratified(pool, None if labels is None else labels[pool], seed)
    parts = np.split(ordered, np.cumsum([sizes["test"], sizes["validation"]]))
    cut = dict(zip(("test", "validation", "train"), parts, strict=True))
    result = {name: np.asarray(own.get(name, part), np.int32) for name, part in cut.items()}
    result["train"] = cut["train"]
    return Splits(**{name: np.sort(numbers) for name, numbers in result.items()}, labels=labels)


def class_labels(source):
    """The source's labels where they are classes, `int[examples]`, else None."""
    labels = source.columns.get("label")
    if labels is None or labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        return None
    return labels


def _count(name, wanted, size):
    if wanted is None or wanted < 0:
        raise ValueError(f"{name} must be a count or a fraction, got {wanted}")
    return round(wanted * size) if isinstance(wanted, float) and wanted < 1 else int(wanted)


def _stratified(pool, labels, seed):
    """The pool in a random order in which every prefix has the pool's class frequencies."""
    shuffled = _random.permutation(len(pool), seed=seed, stream=_random.SPLIT)
    if labels is None:
        return pool[shuffled]
    _, own, counts = np.unique(labels[shuffled], return_inverse=True, return_counts=True)
    quantile = (_rank_in_class(own) + 0.5) / counts[own]
    return pool[shuffled[np.argsort(quantile, kind="stable")]]


def _rank_in_class(own):
    """For class numbers 0 .. C - 1 in some order: how many of the same class came before."""
    grouped = np.argsort(own, kind="stable")
    counts = np.bincount(own)
    rank = np.empty(len(own), np.int64)
    rank[grouped] = np.arange(len(own)) - np.repeat(np.cumsum(counts) - counts, counts)
    return rank
