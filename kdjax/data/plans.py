"""Which examples a step sees: index plans, with random access by (seed, step).

Notation: N examples in the set, B in a batch, C classes. A sampler is a pure function

    sampler(examples int32[N], batch_size, seed, steps: range) -> int32[len(steps), B]

of example numbers, where a row depends on (seed, step) and on nothing before it: a resumed run
needs the step alone, and any chunking of the steps gives the same rows.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from kdjax.data import _random

Sampler = Callable[[np.ndarray, int, int, range], np.ndarray]

# Grain's shuffle walks a block of at least 2**16 numbers until it meets one below N, so one index
# costs 2**16 / N rounds: 9 µs at N = 10**6, 33 µs at 1,000, 290 µs at 100 labelled images, where
# an epoch's order as a whole costs 40 µs. A whole order of 10**9 would not fit; Grain's does.
GRAIN_FROM = 2**16


def uniform(examples, batch_size, seed, steps):
    """Every example once per epoch, in a new order each epoch.

    The incomplete last batch of an epoch continues into the next epoch. From 65,536 examples on the
    order is that of `grain.MapDataset.range(N).seed(seed).shuffle().repeat().batch(B)`, without a
    table; below, each epoch is one stored permutation drawn by (seed, epoch).
    """
    if len(examples) >= GRAIN_FROM:
        return examples[_grain_positions(len(examples), batch_size, seed, steps)]
    size, start, stop = len(examples), steps.start * batch_size, steps.stop * batch_size
    positions = np.empty(stop - start, np.int32)
    for epoch in range(start // size, -(-stop // size)):
        first, last = max(epoch * size, start), min((epoch + 1) * size, stop)
        order = _epoch_order(size, seed, epoch)
        positions[first - start : last - start] = order[first - epoch * size : last - epoch * size]
    return examples[positions].reshape(len(steps), batch_size)


def class_balanced(labels):
    """A sampler whose every batch holds ⌊B / C⌋ or ⌈B / C⌉ examples of each class.

    The classes go round in an order drawn per step, so any C neighbours in a batch hold each class
    once; inside a class the examples are drawn with replacement.

    Args:
        labels: `[examples of the source]` integers, read at the plan's example numbers.
    """
    labels = _checked(labels)

    def sampler(examples, batch_size, seed, steps):
        classes = _Classes(labels, examples)
        drawn = _draw(len(classes.counts) + batch_size, seed, steps, _random.CLASSES)
        turns = np.argsort(drawn[:, : len(classes.counts)], axis=1, kind="stable")
        chosen = turns[:, np.arange(batch_size) % len(classes.counts)]
        return classes.pick(chosen, drawn[:, len(classes.counts) :])

    return sampler


def tempered(labels, alpha):
    r"""A sampler that draws class c with probability p_c ∝ n_c^α, then one of its n_c examples.

    α = 1 is the set's own class frequencies, α = 0 gives every class the same, and values between
    temper a long tail. Both draws are with replacement.

    Args:
        labels: `[examples of the source]` integers, read at the plan's example numbers.
        alpha: a number; 0 and above is usual.
    """
    labels = _checked(labels)

    def sampler(examples, batch_size, seed, steps):
        classes = _Classes(labels, examples)
        mass = classes.counts.astype(np.float64) ** alpha
        edges = np.cumsum(mass / mass.sum())[:-1]
        drawn = _draw(2 * batch_size, seed, steps, _random.CLASSES)
        chosen = np.searchsorted(edges, drawn[:, :batch_size], side="right")
        return classes.pick(chosen, drawn[:, batch_size:])

    return sampler


def one_group(groups):
    """A sampler whose every batch holds different examples of one group, which the step draws.

    Args:
        groups: `[examples of the source]` integers; each group there has a batch of examples at least.
    """
    groups = _checked(groups)

    def sampler(examples, batch_size, seed, steps):
        own = groups[examples]
        members = [examples[own == group] for group in np.unique(own)]
        rows = np.empty((len(steps), batch_size), np.int32)
        for row, step in zip(rows, steps, strict=True):
            rng = np.random.default_rng((seed, step))
            row[:] = rng.choice(members[rng.integers(len(members))], batch_size, replace=False)
        return rows

    return sampler


def opening(steps, *, parts=4):
    """A sampler over examples that stand from easy to hard: of the easiest part, then of more.

    The examples are cut into equal parts; of the `parts`, one more is open after every
    steps / (2 parts) steps, so that all are from half of the run on. Draws are with replacement.

    Args:
        steps: the length of the run.
        parts: at least 1.

    Raises:
        ValueError: steps or parts below 1.
    """
    if steps < 1 or parts < 1:
        raise ValueError(f"steps and parts must be at least 1, got {steps} and {parts}")

    def sampler(examples, batch_size, seed, chunk):
        drawn = _draw(batch_size, seed, chunk, _random.CLASSES)
        opened = np.minimum(parts, 1 + 2 * parts * np.asarray(chunk) // steps)
        there = -(-len(examples) * opened // parts)
        return examples[(drawn * there[:, None]).astype(np.int64)]

    return sampler


def episodes(labels, *, ways, shots, queries):
    """A sampler of few-shot episodes: `ways` classes, `shots` + `queries` different examples each.

    A batch reshapes to `[ways, shots + queries]`: the first `shots` of a row are the support, the
    rest are the queries. The batch size must be ways · (shots + queries), and only classes with
    enough examples are drawn.

    Args:
        labels: `[examples of the source]` integers, read at the plan's example numbers.
        ways: N, the classes of an episode.
        shots: K, the support examples of a class.
        queries: the query examples of a class.
    """
    labels, each = _checked(labels), shots + queries

    def sampler(examples, batch_size, seed, steps):
        if batch_size != ways * each:
            raise ValueError(
                f"batch_size must be ways * (shots + queries) = {ways * each}, got {batch_size}"
            )
        classes = _Classes(labels, examples)
        fit = np.flatnonzero(classes.counts >= each)
        if len(fit) < ways:
            raise ValueError(
                f"an episode needs {ways} classes with at least {each} examples, got {len(fit)}"
            )
        batches = np.empty((len(steps), ways, each), np.int32)
        for row, step in enumerate(steps):
            drawn = _random.uniforms(
                len(fit) + len(examples), seed=seed, stream=_random.EPISODES, counter=step
            )
            for way, c in enumerate(fit[np.argsort(drawn[: len(fit)], kind="stable")[:ways]]):
                start, stop = classes.starts[c], classes.starts[c] + classes.counts[c]
                order = np.argsort(drawn[len(fit) + start : len(fit) + stop], kind="stable")
                batches[row, way] = classes.members[start + order[:each]]
        return batches.reshape(len(steps), batch_size)

    return sampler


@dataclass(frozen=True, eq=False)
class IndexPlan:
    """Example numbers for every (seed, step).

    Args:
        examples: `int[N]` example numbers, or a function seed -> `int[N]` where the subset depends
            on the seed.
        batch_size: B.
        sampler: how batches are drawn from the examples, see the module.

    >>> plan = IndexPlan(np.arange(10), 4)
    >>> bool((plan.chunk(0, 0, 3)[2] == plan.indices(0, 2)).all())
    True
    >>> plan.chunk([0, 1], 0, 3).shape
    (3, 2, 4)
    """

    examples: np.ndarray | Callable[[int], np.ndarray]
    batch_size: int
    sampler: Sampler = uniform

    def __post_init__(self):
        if isinstance(self.batch_size, bool) or not isinstance(self.batch_size, (int, np.integer)):
            raise TypeError(f"batch_size must be an integer, got {self.batch_size!r}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if not callable(self.examples):
            object.__setattr__(self, "examples", _example_numbers(self.examples))

    def examples_of(self, seed: int) -> np.ndarray:
        """`int32[N]`, the example numbers that this seed draws from."""
        seed = _random.check_seed(seed)
        return _example_numbers(self.examples(seed)) if callable(self.examples) else self.examples

    def indices(self, seed: int, step: int) -> np.ndarray:
        """`int32[B]`, the example numbers of one batch."""
        return self.chunk(seed, step, 1)[0]

    def chunk(self, seeds: int | Sequence[int], start: int, steps: int) -> np.ndarray:
        """The batches of steps `start` to `start + steps`: the `xs` of a scan.

        Returns:
            `int32[steps, B]` for one seed, `int32[steps, seeds, B]` for a sequence of seeds.
        """
        if start < 0 or steps < 0:
            raise ValueError(f"start and steps must be at least 0, got {start} and {steps}")
        if np.ndim(seeds) == 0:
            seed = _random.check_seed(seeds)
            wanted = range(int(start), int(start) + int(steps))
            drawn = self.sampler(self.examples_of(seed), self.batch_size, seed, wanted)
            return np.asarray(drawn, np.int32)
        return np.stack([self.chunk(seed, start, steps) for seed in np.asarray(seeds)], axis=1)


@functools.lru_cache(maxsize=32)
def _epoch_order(size, seed, epoch):
    order = _random.permutation(size, seed=seed, stream=_random.ORDER, counter=epoch)
    order = order.astype(np.int32)
    order.flags.writeable = False
    return order


def _grain_positions(size, batch_size, seed, steps):
    # Here, since the training loop imports this module and Grain is heavy.
    import grain

    order = grain.MapDataset.range(size).seed(seed).shuffle().repeat().batch(batch_size)
    rows = [order[step] for step in steps]
    return np.stack(rows) if rows else np.empty((0, batch_size), np.int64)


def _draw(count, seed, steps, stream):
    rows = [_random.uniforms(count, seed=seed, stream=stream, counter=step) for step in steps]
    return np.stack(rows) if rows else np.empty((0, count))


class _Classes:
    """The plan's examples, grouped by class: `members[starts[c] : starts[c] + counts[c]]`."""

    def __init__(self, labels, examples):
        if examples.max() >= len(labels):
            raise ValueError(
                f"labels must cover every example of the plan: got {len(labels)} labels "
                f"and example number {examples.max()}"
            )
        _, inverse, self.counts = np.unique(
            labels[examples], return_inverse=True, return_counts=True
        )
        self.members = examples[np.argsort(inverse, kind="stable")]
        self.starts = np.cumsum(self.counts) - self.counts

    def pick(self, chosen, fractions):
        """The example at `fractions` (in [0, 1)) of the way through each chosen class."""
        within = (fractions * self.counts[chosen]).astype(np.int64)
        return self.members[self.starts[chosen] + within]


def _example_numbers(examples):
    examples = np.asarray(examples)
    if examples.ndim != 1 or not np.issubdtype(examples.dtype, np.integer):
        raise TypeError(
            f"examples must be one axis of integers, got {examples.dtype} of shape {examples.shape}"
        )
    if not len(examples):
        raise ValueError("examples must not be empty")
    if examples.min() < 0 or examples.max() > np.iinfo(np.int32).max:
        raise ValueError(
            "examples must be numbers from 0 to 2**31 - 1, "
            f"got {examples.min()} to {examples.max()}"
        )
    return examples.astype(np.int32)


def _checked(labels):
    labels = np.asarray(labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(
            f"labels must be one axis of integers, got {labels.dtype} of shape {labels.shape}"
        )
    return labels
