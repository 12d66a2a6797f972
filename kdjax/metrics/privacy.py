"""What a release costs in privacy, and how much a language model gives away of planted secrets.

Rényi differential privacy (RDP): `rdp` `[A]` bounds the divergence of order `orders` `[A]` between the
outcomes on two data sets that differ in one example (or one teacher's vote). It adds up over releases,
and `epsilon` turns the sum into (ε, δ). Everything here runs on the host, in float64.

Reference:
    Mironov, "Rényi Differential Privacy of the Gaussian Mechanism", 2017; Papernot, Song, Mironov,
    Raghunathan, Talwar, Erlingsson, "Scalable Private Learning with PATE", 2018; Mironov, Talwar,
    Zhang, "Rényi Differential Privacy of the Sampled Gaussian Mechanism", 2019.
"""

import math

import numpy as np

ORDERS = np.array([*np.arange(1.25, 12, 0.25), *range(12, 65, 2), 80, 128, 256])
WHOLE_ORDERS = np.arange(2, 129)

_erfc = np.vectorize(math.erfc, otypes=[float])
_lgamma = np.vectorize(math.lgamma, otypes=[float])


def epsilon(rdp, orders, delta: float) -> float:
    """The least ε of min_α rdp(α) + log(1 / δ) / (α - 1).

    >>> round(epsilon(gaussian_rdp(4.0, ORDERS), ORDERS, 1e-5), 2)
    1.23
    """
    _positive(delta=delta)
    return float(np.min(np.asarray(rdp) + math.log(1 / delta) / (np.asarray(orders) - 1)))


def gaussian_rdp(sigma: float, orders):
    """α / (2σ²), of a number that one example moves by at most 1, plus N(0, σ²). `[A]`."""
    _positive(sigma=sigma)
    return np.asarray(orders, float) / (2 * sigma**2)


def sampled_gaussian_rdp(rate: float, sigma: float, orders):
    r"""A step of DP-SGD: every example joins with probability `rate`, the noise is σ times the norm.

    .. math:: \frac{1}{\alpha - 1} \log \sum_{k=0}^{\alpha} \binom{\alpha}{k} (1 - r)^{\alpha - k} r^k
        e^{(k^2 - k) / 2 \sigma^2}

    Args:
        rate: r in (0, 1].
        orders: whole numbers from 2.

    Raises:
        ValueError: numbers out of range, or orders that are not whole.
    """
    _positive(sigma=sigma, rate=rate)
    orders = np.asarray(orders)
    if rate > 1 or (orders < 2).any() or (orders != np.round(orders)).any():
        raise ValueError(
            f"rate must be at most 1 and orders whole and from 2, got {rate}, {orders}"
        )
    if rate == 1:
        return gaussian_rdp(sigma, orders)

    def one(order):
        k = np.arange(order + 1)
        choose = math.lgamma(order + 1) - _lgamma(k + 1) - _lgamma(order - k + 1)
        logs = choose + (order - k) * math.log1p(-rate) + k * math.log(rate)
        return np.logaddexp.reduce(logs + (k**2 - k) / (2 * sigma**2)) / (order - 1)

    return np.array([one(int(order)) for order in orders])


def noise_for(target: float, delta: float, *, rate: float, steps: int) -> float:
    """The least σ with which `steps` steps of DP-SGD cost at most ε = `target`, to 0.1 %.

    Raises:
        ValueError: a `target` that a σ of 500 does not reach.
    """
    _positive(target=target)

    def spent(sigma):
        return epsilon(steps * sampled_gaussian_rdp(rate, sigma, WHOLE_ORDERS), WHOLE_ORDERS, delta)

    low, high = 0.05, 500.0
    if spent(high) > target:
        raise ValueError(f"no noise up to {high:g} keeps target {target}, it costs {spent(high)}")
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if spent(middle) <= target else (middle, high)
    return high


def confident_noisy_max(rng, counts, *, threshold: float, sigma_threshold: float, sigma: float):
    """Confident-GNMax: a query is answered where max n + N(0, σ₁²) > T, with argmax(n + N(0, σ²)).

    Args:
        rng: a NumPy generator.
        counts: `[Q, C]` votes of the teachers.
        threshold: T; sigma_threshold: σ₁.

    Returns:
        (answered `bool[Q]`, labels `int[Q]`).
    """
    counts = np.asarray(counts, float)
    highest = counts.max(axis=-1) + sigma_threshold * rng.normal(size=counts.shape[:-1])
    labels = np.argmax(counts + sigma * rng.normal(size=counts.shape), axis=-1)
    return highest > threshold, labels


def answers_within(
    rng,
    counts,
    *,
    threshold: float,
    sigma_threshold: float,
    sigma: float,
    target: float,
    delta: float,
):
    """Queries to `confident_noisy_max` one by one, until the next would cost more than ε = `target`.

    The accountant sees the votes: what was spent is itself not private.

    Args:
        rng: a NumPy generator.
        counts: `[Q, C]` votes of the teachers.
        threshold, sigma_threshold, sigma: of `confident_noisy_max`.

    Returns:
        (answered `bool[Q]`, labels `int[Q]`, the ε that was spent).
    """
    noises = {"threshold": threshold, "sigma_threshold": sigma_threshold, "sigma": sigma}
    answered, labels = confident_noisy_max(rng, counts, **noises)
    cost = threshold_rdp(counts, ORDERS, threshold=threshold, sigma=sigma_threshold)
    cost += answered[:, None] * noisy_max_rdp(counts, ORDERS, sigma=sigma)
    spent = np.array([epsilon(rdp, ORDERS, delta) for rdp in np.cumsum(cost, axis=0)])
    within = spent <= target
    return answered & within, labels, float(spent[within].max(initial=0.0))


def threshold_rdp(counts, orders, *, threshold: float, sigma: float):
    """What it costs to say whether max n + N(0, σ²) > T, given the votes. `[Q, A]`.

    Args:
        counts: `[Q, C]`
    """
    z = (threshold - np.asarray(counts, float).max(axis=-1)) / (sigma * math.sqrt(2))
    unlikely = np.minimum(_erfc(z), _erfc(-z)) / 2
    return _by_consensus(unlikely, 1 / (2 * sigma**2), orders)


def noisy_max_rdp(counts, orders, *, sigma: float):
    r"""What argmax(n + N(0, σ²)) costs given the votes `[Q, C]`: little where they agree. `[Q, A]`.

    One vote changed moves two counts: α / σ² whatever the votes. Another class than the first, j*, comes
    out with a probability of at most

    .. math:: q = \sum_{j \ne j^*} \tfrac12 \operatorname{erfc}\frac{n_{j^*} - n_j}{2 \sigma}
    """
    counts = np.asarray(counts, float)
    gaps = counts.max(axis=-1, keepdims=True) - counts
    wrong = _erfc(gaps / (2 * sigma)).sum(axis=-1) / 2 - 0.5
    wrong = np.maximum(wrong, 1e-16)  # what the difference cannot tell from none is not free
    return _by_consensus(wrong, 1 / sigma**2, orders)


def _by_consensus(q, slope, orders):
    """The RDP of a mechanism whose usual outcome fails with probability <= q `[Q]`, and slope · α else.

    Papernot et al., theorem 6, with μ₂ = √(log(1 / q) / slope) and μ₁ = μ₂ + 1.
    """
    orders = np.asarray(orders, float)
    q = np.asarray(q, float)[..., None]
    whatever = np.broadcast_to(slope * orders, (*q.shape[:-1], len(orders)))
    with np.errstate(all="ignore"):  # where the conditions fail, so may the formula
        second = np.sqrt(-np.log(q) / slope)
        first = second + 1
        most = (
            np.exp((second - 1) * slope * second)
            / (first / (first - 1) * second / (second - 1)) ** second
        )
        usual = (1 - q) / (1 - (q * np.exp(slope * second)) ** ((second - 1) / second))
        failed = np.exp(slope * first) / q ** (1 / (first - 1))
        bound = np.log(
            (1 - q) * usual ** (orders - 1) + q * failed ** (orders - 1)
        ) / (orders - 1)  # fmt: skip
        holds = (second > 1) & (first >= orders) & (q <= most) & (q > 0) & np.isfinite(bound)
    bound = np.where(holds, np.minimum(bound, whatever), whatever)
    return np.where(q > 0, bound, 0.0)


def exposure(secret_loss, other_losses):
    """log₂ of how many candidates there are less log₂ of the secret's rank among them.

    Args:
        secret_loss: `[...]`, the model's negative log-likelihood of a planted secret.
        other_losses: `[..., R]`, of candidates that were not planted; the secret is one more.

    Returns:
        `[...]`, from 0 (last) to log₂(R + 1) (first). An equal candidate counts as half ahead.

    Reference:
        Carlini, Liu, Erlingsson, Kos, Song, "The Secret Sharer: Evaluating and Testing Unintended
        Memorization in Neural Networks", 2019.

    >>> exposure(1.0, np.array([2.0, 3.0, 0.5])).item()
    1.0
    """
    secret, others = np.asarray(secret_loss, float)[..., None], np.asarray(other_losses, float)
    rank = 1 + np.sum(others < secret, axis=-1) + np.sum(others == secret, axis=-1) / 2
    return math.log2(others.shape[-1] + 1) - np.log2(rank)


def _positive(**numbers):
    for name, number in numbers.items():
        if not number > 0:
            raise ValueError(f"{name} must be above 0, got {number}")
