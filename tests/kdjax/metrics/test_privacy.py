"""Privacy accounting against exact divergences of the mechanisms, and exposure against its meaning."""

import math
from statistics import NormalDist

import numpy as np
import pytest

from kdjax.metrics import privacy

CDF = NormalDist().cdf
ORDERS = np.array([1.5, 2.0, 4.0, 8.0, 16.0])


def divergence(p, q, order):
    """Rényi divergence of two distributions over the same few outcomes."""
    return math.log(sum(a**order * b ** (1 - order) for a, b in zip(p, q, strict=True))) / (
        order - 1
    )


def coin(p):
    return (p, 1 - p)


def integrated(rate, sigma, order):
    """The divergence of a mixture of two Gaussians from one of them, as an integral."""
    x = np.linspace(-40 * sigma, 40 * sigma, 400_001)
    plain = np.exp(-(x**2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))
    ratio = 1 - rate + rate * np.exp((2 * x - 1) / (2 * sigma**2))
    return math.log(np.sum(plain * ratio**order) * (x[1] - x[0])) / (order - 1)


@pytest.mark.parametrize("rate, sigma, order", [(0.1, 1.0, 2), (0.05, 0.8, 6), (0.5, 3.0, 11)])
def test_sampled_gaussian_rdp_is_the_integral_of_its_definition(rate, sigma, order):
    found = privacy.sampled_gaussian_rdp(rate, sigma, [order])[0]
    np.testing.assert_allclose(found, integrated(rate, sigma, order), rtol=1e-5)


def test_noise_for_spends_what_it_is_given():
    sigma = privacy.noise_for(2.0, 1e-4, rate=0.1, steps=200)
    orders = privacy.WHOLE_ORDERS
    spent = privacy.epsilon(200 * privacy.sampled_gaussian_rdp(0.1, sigma, orders), orders, 1e-4)
    assert 1.98 < spent <= 2.0


@pytest.mark.parametrize("votes", [(50, 0), (45, 5), (35, 15), (26, 24)])
def test_noisy_max_rdp_bounds_the_exact_divergence_and_sees_consensus(votes):
    sigma = 5.0
    bound = privacy.noisy_max_rdp([votes], ORDERS, sigma=sigma)[0]
    first = CDF((votes[0] - votes[1]) / (math.sqrt(2) * sigma))
    for step in (-1, 1):
        moved = CDF((votes[0] - votes[1] + 2 * step) / (math.sqrt(2) * sigma))
        exact = [divergence(coin(first), coin(moved), order) for order in ORDERS]
        assert (np.asarray(exact) <= bound + 1e-12).all()
    whatever = ORDERS / sigma**2
    assert (bound <= whatever + 1e-12).all()
    if votes[0] == 50:
        assert bound[2] < 0.05 * whatever[2]


@pytest.mark.parametrize("highest", [50, 40, 31, 12])
def test_threshold_rdp_bounds_the_exact_divergence(highest):
    sigma, threshold = 4.0, 30.0
    bound = privacy.threshold_rdp(
        [(highest, 50 - highest, 0)], ORDERS, threshold=threshold, sigma=sigma
    )[0]
    highest = max(highest, 50 - highest)
    answered, moved = (CDF((n - threshold) / sigma) for n in (highest, highest - 1))
    exact = [divergence(coin(answered), coin(moved), order) for order in ORDERS]
    assert (np.asarray(exact) <= bound + 1e-12).all()
    assert (bound <= ORDERS / (2 * sigma**2) + 1e-12).all()


def test_confident_noisy_max_answers_as_often_as_its_noise_says():
    counts = np.tile([30.0, 15.0, 5.0], (20_000, 1))
    answered, labels = privacy.confident_noisy_max(
        np.random.default_rng(0), counts, threshold=35.0, sigma_threshold=5.0, sigma=8.0
    )
    assert abs(answered.mean() - CDF(-1.0)) < 0.01
    two = CDF(15 / (8 * math.sqrt(2))) - CDF(-25 / (8 * math.sqrt(2)))
    assert abs((labels == 0).mean() - two) < 0.015
    assert abs(np.corrcoef(answered, labels == 0)[0, 1]) < 0.03, "the two draws are independent"


def test_answers_end_where_the_next_would_cost_more_than_the_target():
    counts = np.random.default_rng(0).multinomial(40, [0.8, 0.1, 0.1], size=60)
    noises = {"threshold": 24.0, "sigma_threshold": 6.0, "sigma": 4.0}

    def within(target):
        rng = np.random.default_rng(1)
        return privacy.answers_within(rng, counts, **noises, target=target, delta=1e-3)

    answered, labels = privacy.confident_noisy_max(np.random.default_rng(1), counts, **noises)
    spent = within(1e6)[2]
    for target in (0.5 * spent, spent, 1e6):
        some, same, cost = within(target)
        np.testing.assert_array_equal(same, labels)
        last = np.flatnonzero(some).max() + 1
        np.testing.assert_array_equal(some[:last], answered[:last])
        assert cost <= target and (last < len(counts) or target >= spent)
    assert within(0.01)[2] <= 0.01


def test_exposure_is_the_rank_of_the_secret_in_bits():
    others = np.arange(1.0, 1024.0)
    found = privacy.exposure(np.array([0.0, 1023.5, 511.5]), np.tile(others, (3, 1)))
    np.testing.assert_allclose(found, [10.0, 0.0, 1.0], atol=0.01)
    drawn = np.random.default_rng(0).normal(size=(4000, 64))
    unplanted = privacy.exposure(drawn[:, 0], drawn[:, 1:])
    assert abs(unplanted.mean() - 1.44) < 0.1, (
        "of nothing learned it is exponential with mean log2 e"
    )


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match="sigma must be above 0"):
        privacy.gaussian_rdp(0.0, ORDERS)
    with pytest.raises(ValueError, match="orders whole"):
        privacy.sampled_gaussian_rdp(0.1, 1.0, [2.5])
