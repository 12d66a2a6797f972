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
    """The t interval of the mean of `values - baseline`, pair by pair (the same seeds in order).

    >>> paired_interval([2.0, 3.0, 4.0], [1.0, 1.0, 1.0])
    Interval(mean=2.0, low=-0.484137711719, high=4.484137711719)
    """
    differences = _differences(values, baseline)
    mean = float(differences.mean())
    if len(differences) < 2:
        return Interval(mean, math.nan, math.nan)
    error = differences.std(ddof=1) / math.sqrt(len(differences))
    half = float(stats.t.ppf(0.5 + level / 2, len(differences) - 1) * error)
    return Interval(mean, round(mean - half, 12), round(mean + half, 12))


def paired_p_value(values: Sequence[float], baseline: Sequence[float]) -> float:
    """The two-sided p-value of the paired t test; 1 where all differences are zero."""
    differences = _differences(values, baseline)
    if not differences.any():
        return 1.0
    if len(differences) < 2:
        return math.nan
    if differences.std() == 0:
        return 0.0
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given.

    Holm, "A Simple Sequentially Rejective Multiple Test Procedure", 1979.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, float)
    order = np.argsort(p)
    scaled = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(scaled, 1.0)
    return [round(float(x), 12) for x in adjusted]


def _differences(values, baseline):
    values, baseline = np.asarray(values, float), np.asarray(baseline, float)
    if values.shape != baseline.shape or values.ndim != 1 or not len(values):
        raise ValueError(f"values {values.shape} and baseline {baseline.shape} must be paired")
    return values - baseline
