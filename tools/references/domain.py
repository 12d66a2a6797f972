"""Examples of `kdjax.losses.domain`; no recorded entry is about domains."""

import numpy as np

from tools.references.registry import Example


def _normal(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def _two_sets(rng, batch):
    return (_normal(rng, batch, 3), _normal(rng, batch, 3)), {}


def _sets_and_classes(rng, batch):
    features, _ = _two_sets(rng, batch)
    classes = [np.eye(2, dtype=np.float32)[np.arange(batch) % 2] for _ in range(2)]
    return (*features, *classes), {}


def _sets_and_directions(rng, batch):
    features, _ = _two_sets(rng, batch)
    return (*features, _normal(rng, 4, 3)), {}


def _logits(rng, batch):
    return (_normal(rng, batch, 4),), {}


def _logits_and_threshold(rng, batch):
    return (_normal(rng, batch, 4), np.full((), -5.0, np.float32)), {}


def _scalar(not_derivative=""):
    """A loss of two sets that gives one number."""
    return Example(_two_sets, where=None, not_derivative=not_derivative)


EXAMPLES = {
    "mean_discrepancy": _scalar(),
    "conditional_mean_discrepancy": Example(_sets_and_classes, where=lambda batch: (2,)),
    "maximum_mean_discrepancy": _scalar("the bandwidth is a constant of the definition"),
    "correlation_alignment": _scalar(),
    "central_moment_discrepancy": _scalar(),
    "moment_distance": _scalar(),
    "sliced_wasserstein_distance": Example(_sets_and_directions, where=lambda batch: (4,)),
    "free_energy_excess": Example(
        _logits_and_threshold, teacher=(), classes=(0,), same=False, zero_at_teacher=False
    ),
    "information_maximization": Example(
        _logits, teacher=(), classes=(0,), same=False, zero_at_teacher=False
    ),
}
