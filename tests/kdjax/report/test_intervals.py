"""Intervals and p-values against scipy, their coverage, and Holm's procedure step by step."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from kdjax.report.intervals import holm, paired_interval, paired_p_value


@pytest.mark.parametrize("n", [2, 5, 30])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_agrees_with_scipy(n, level):
    rng = np.random.default_rng(n)
    values, baseline = rng.normal(3.0, 2.0, n), rng.normal(2.5, 0.1, n)
    theirs = stats.ttest_rel(values, baseline)
    interval = paired_interval(values, baseline, level=level)
    bounds = theirs.confidence_interval(level)
    np.testing.assert_allclose(interval.mean, (values - baseline).mean(), rtol=1e-12)
    np.testing.assert_allclose(interval[1:], (bounds.low, bounds.high), rtol=1e-10)
    np.testing.assert_allclose(paired_p_value(values, baseline), theirs.pvalue, rtol=1e-9)


def test_five_seeds_cover_the_true_gain_95_times_in_100():
    rng = np.random.default_rng(0)
    trials, gain = 3000, 1.5
    hits = 0
    for _ in range(trials):
        shared = rng.normal(0.0, 50.0, 5)  # what a seed does to both rows cancels in the pairs
        values = shared + gain + rng.normal(0.0, 1.0, 5)
        _, low, high = paired_interval(values, shared + rng.normal(0.0, 0.5, 5))
        hits += low <= gain <= high
    assert abs(hits / trials - 0.95) < 0.012  # three standard errors of a proportion


def test_pairs_matter():
    values, baseline = [1.0, 2.0, 3.0, 4.0], [0.9, 2.0, 2.8, 3.9]
    paired = paired_interval(values, baseline)
    shuffled = paired_interval(values, baseline[::-1])
    assert paired.high - paired.low < 0.1 * (shuffled.high - shuffled.low)
    assert paired.mean == pytest.approx(shuffled.mean)


def test_a_tiny_scale_is_kept():
    values, baseline = [3e-15, 5e-15, 4e-15], [1e-15, 1e-15, 1e-15]
    large = paired_interval(np.multiply(values, 1e15), np.multiply(baseline, 1e15))
    small = paired_interval(values, baseline)
    np.testing.assert_allclose(np.multiply(small, 1e15), large, rtol=1e-9)


def test_the_degenerate_cases():
    one = paired_interval([2.0], [1.5])
    assert one.mean == 0.5 and math.isnan(one.low) and math.isnan(one.high)
    assert math.isnan(paired_p_value([2.0], [1.5]))
    assert paired_interval([2.0, 3.0], [1.0, 2.0]) == (1.0, 1.0, 1.0)
    assert paired_p_value([2.0, 3.0], [1.0, 2.0]) == 0.0
    assert paired_p_value([2.0, 3.0], [2.0, 3.0]) == 1.0
    assert np.isnan(paired_interval([math.nan, 1.0], [0.0, 0.0])).all()
    for values, baseline in [([], []), ([1.0], [1.0, 2.0]), (1.0, 1.0), ([[1.0]], [[1.0]])]:
        with pytest.raises(ValueError, match="must be paired"):
            paired_interval(values, baseline)
        with pytest.raises(ValueError, match="must be paired"):
            paired_p_value(values, baseline)


def test_holm_on_a_known_case():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert holm([]) == [] and holm([0.7]) == [0.7] and holm([0.6, 0.7]) == [1.0, 1.0]


def test_holm_keeps_tiny_values_and_counts_a_nan():
    assert holm([1e-30, 0.5])[0] == pytest.approx(2e-30)
    adjusted = holm([math.nan, 0.01, 0.02])
    assert math.isnan(adjusted[0]) and adjusted[1:] == pytest.approx([0.03, 0.04])


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=12), st.floats(0.01, 0.9))
def test_holm_rejects_what_the_step_down_procedure_rejects(p, alpha):
    rejected = set()
    for rank, i in enumerate(np.argsort(p)):
        if p[i] * (len(p) - rank) > alpha:
            break
        rejected.add(int(i))
    assert {i for i, q in enumerate(holm(p)) if q <= alpha} == rejected
