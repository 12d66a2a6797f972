"""Paired comparisons over seeds: the interval of a gain, and its p-value among many."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


class Interval(NamedTuple):
    """A mean difference and its confidence bounds; nan bounds for a single pair."""

    mean: float
    low: float
    high: float


def paired_interval(values: Sequence[float], baseline: Sequence[float], *, level=0.95) -> Interval:
    r"""The t interval of the mean of `values - baseline`, pair by pair (the same seeds in order).

    .. math::
        \bar d \pm t_{n-1,\,(1 + \mathrm{level})/2}\; s_d / \sqrt{n}

    Args:
        values: `[n]`.
        baseline: `[n]`.
        level: the coverage, between 0 and 1.

    Returns:
        The mean difference and both bounds; the bounds are nan for one pair.

    Raises:
        ValueError: sequences that are empty or of different lengths.

    >>> [round(bound, 3) for bound in paired_interval([2.0, 3.0, 4.0], [1.0, 1.0, 1.0])]
    [2.0, -0.484, 4.484]
    """
    mean, error, freedom = _mean_and_error(values, baseline)
    if not freedom:
        return Interval(mean, math.nan, math.nan)
    half = float(stats.t.ppf(0.5 + level / 2, freedom)) * error
    return Interval(mean, mean - half, mean + half)


def paired_p_value(values: Sequence[float], baseline: Sequence[float]) -> float:
    """The two-sided p-value of the paired t test.

    Args:
        values: `[n]`.
        baseline: `[n]`.

    Returns:
        The p-value: 1 where all differences are zero, 0 where they are all the same and not zero,
        nan for one pair.

    Raises:
        ValueError: sequences that are empty or of different lengths.

    >>> round(paired_p_value([2.0, 3.0, 4.0], [1.0, 1.0, 1.0]), 4)
    0.0742
    """
    mean, error, freedom = _mean_and_error(values, baseline)
    if not freedom:
        return math.nan
    if error == 0:
        return 0.0 if mean else 1.0
    return float(2 * stats.t.sf(abs(mean) / error, freedom))


def holm(p_values: Sequence[float]) -> list[float]:
    r"""Holm's adjusted p-values, in the order given.

    With the `m` values sorted, the i-th becomes the largest of :math:`(m - j + 1)\, p_{(j)}` over
    :math:`j \le i`, and at most 1. A nan stays nan and counts as one of the `m`.

    Holm, "A Simple Sequentially Rejective Multiple Test Procedure", 1979.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, float)
    order = np.argsort(p)
    scaled = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(scaled, 1.0)
    return adjusted.tolist()


def _mean_and_error(values, baseline):
    """(mean difference, its standard error, degrees of freedom)."""
    values, baseline = np.asarray(values, float), np.asarray(baseline, float)
    if values.shape != baseline.shape or values.ndim != 1 or not len(values):
        raise ValueError(f"values {values.shape} and baseline {baseline.shape} must be paired")
    differences = values - baseline
    n = len(differences)
    error = float(differences.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan
    return float(differences.mean()), error, n - 1
