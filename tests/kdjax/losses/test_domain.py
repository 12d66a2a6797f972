"""Losses between two domains, against float64 NumPy, and what masks and symmetries ask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import losses

N, M, D = 6, 4, 3
SOURCE, TARGET = np.arange(N) != 2, np.arange(M) != 0
TWO_SETS = (
    "central_moment_discrepancy",
    "correlation_alignment",
    "maximum_mean_discrepancy",
    "mean_discrepancy",
    "moment_distance",
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def sets(rng):
    return rng.normal(size=(N, D)), rng.normal(size=(M, D)) + 0.5


def gaussian_discrepancy(s, t):
    pool = np.concatenate([s, t])
    distances = np.array([[np.sum((x - y) ** 2) for y in pool] for x in pool])
    bandwidth = distances.sum() / (len(pool) * (len(pool) - 1))
    kernel = np.mean([np.exp(-distances / (a * bandwidth)) for a in (0.25, 0.5, 1, 2, 4)], axis=0)
    n = len(s)
    return kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean()


def central_moments(s, t):
    value = np.linalg.norm(s.mean(0) - t.mean(0))
    for k in range(2, 6):
        moments = [((x - x.mean(0)) ** k).mean(0) for x in (s, t)]
        value += np.linalg.norm(moments[0] - moments[1])
    return value


DEFINITIONS = {
    "mean_discrepancy": lambda s, t: np.sum((s.mean(0) - t.mean(0)) ** 2),
    "maximum_mean_discrepancy": gaussian_discrepancy,
    "correlation_alignment": lambda s, t: (
        np.sum((np.cov(s, rowvar=False) - np.cov(t, rowvar=False)) ** 2) / (4 * D**2)
    ),
    "central_moment_discrepancy": central_moments,
    "moment_distance": lambda s, t: sum(
        np.linalg.norm((s**k).mean(0) - (t**k).mean(0)) for k in (1, 2)
    ),
}


@pytest.mark.parametrize("name", TWO_SETS)
def test_discrepancy_is_its_definition_over_the_kept_examples(sets, name):
    s, t = sets
    loss, definition = getattr(losses, name), DEFINITIONS[name]
    np.testing.assert_allclose(loss(s, t), definition(s, t), 1e-9)
    masked = loss(s, t, source_where=SOURCE, target_where=TARGET)
    np.testing.assert_allclose(masked, definition(s[SOURCE], t[TARGET]), 1e-9)


@pytest.mark.parametrize("name", TWO_SETS)
def test_discrepancy_ignores_what_dropped_examples_hold(sets, name):
    s, t = sets
    loss = getattr(losses, name)
    spoiled = np.where(SOURCE[:, None], s, np.nan)
    value, gradient = jax.value_and_grad(
        lambda x: loss(x, t, source_where=SOURCE, target_where=TARGET)
    )(spoiled)
    np.testing.assert_allclose(value, loss(s, t, source_where=SOURCE, target_where=TARGET), 1e-12)
    assert np.all(gradient[~SOURCE] == 0) and np.all(np.isfinite(gradient))
    nobody = np.zeros(M, bool)
    value, gradient = jax.value_and_grad(lambda x: loss(x, t, target_where=nobody))(s)
    assert value == 0 and np.all(gradient == 0)


@pytest.mark.parametrize("name", TWO_SETS)
def test_discrepancy_is_symmetric_blind_to_order_and_zero_between_equal_sets(sets, name):
    s, t = sets
    loss = getattr(losses, name)
    np.testing.assert_allclose(loss(s, t), loss(t, s), 1e-9)
    np.testing.assert_allclose(loss(s, t), loss(s[::-1], t), 1e-9)
    np.testing.assert_allclose(loss(s, s[::-1]), 0, atol=1e-12)
    assert loss(s, t) > 1e-4


@pytest.mark.parametrize("name", ["correlation_alignment", "maximum_mean_discrepancy"])
def test_a_shift_of_both_domains_changes_nothing(sets, name):
    s, t = sets
    loss = getattr(losses, name)
    np.testing.assert_allclose(loss(s + 9, t + 9), loss(s, t), 1e-9)


def test_maximum_mean_discrepancy_passes_no_gradient_through_the_bandwidth(sets):
    s, t = sets
    pool = np.concatenate([s, t])
    distances = np.sum((pool[:, None] - pool[None]) ** 2, -1)
    bandwidth = distances.sum() / (len(pool) * (len(pool) - 1))

    def fixed(x):
        def kernel(a, b):
            return jnp.exp(-jnp.sum((a[:, None] - b[None]) ** 2, -1) / bandwidth).mean()

        return kernel(x, x) + kernel(t, t) - 2 * kernel(x, t)

    wanted = jax.grad(fixed)(s)
    ours = jax.grad(lambda x: losses.maximum_mean_discrepancy(x, t, scales=(1.0,)))(s)
    np.testing.assert_allclose(ours, wanted, 1e-9)


def test_central_moments_scale_with_the_span(sets):
    s, t = sets
    stretched = losses.central_moment_discrepancy(2 * s, 2 * t, span=2.0)
    np.testing.assert_allclose(stretched, losses.central_moment_discrepancy(s, t), 1e-9)


def test_conditional_mean_discrepancy_is_its_definition_and_skips_a_missing_class(rng, sets):
    s, t = sets
    p_s, p_t = np.eye(4)[rng.integers(0, 3, N)], rng.uniform(size=(M, 4))
    values = losses.conditional_mean_discrepancy(s, t, p_s, p_t)
    for c in range(4):
        wanted = 0.0
        if p_s[:, c].any():
            wanted = np.sum((s[p_s[:, c] > 0].mean(0) - np.average(t, 0, p_t[:, c])) ** 2)
        np.testing.assert_allclose(values[c], wanted, 1e-9)
    assert not p_s[:, 3].any()


def test_sliced_wasserstein_is_the_best_pairing_along_each_direction(rng):
    s, t, directions = (rng.normal(size=shape) for shape in ((4, D), (4, D), (5, D)))
    values = losses.sliced_wasserstein_distance(s, t, directions)
    orders = np.array(np.meshgrid(*[range(4)] * 4)).reshape(4, -1).T
    orders = [order for order in orders if len(set(order)) == 4]
    for m, direction in enumerate(directions / np.linalg.norm(directions, axis=1, keepdims=True)):
        best = min(np.mean((s @ direction - (t @ direction)[order]) ** 2) for order in orders)
        np.testing.assert_allclose(values[m], best, 1e-9)


def test_free_energy_excess_is_its_definition(rng):
    logits, threshold = rng.normal(size=(N, D)), rng.normal(size=N) - 1
    energy = -2 * np.log(np.sum(np.exp(logits / 2), axis=1))
    values = losses.free_energy_excess(logits, threshold, temperature=2.0)
    np.testing.assert_allclose(values, np.maximum(energy - threshold, 0), 1e-9)
    assert 0 < np.mean(np.asarray(values) > 0) < 1


def entropy(p):
    return -np.sum(p * np.log(p), axis=-1)


def test_mean_information_is_mean_entropy_less_entropy_of_the_mean(rng):
    logits = rng.normal(size=(N, D))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    wanted = entropy(p).mean() - entropy(p.mean(0))
    np.testing.assert_allclose(np.mean(losses.information_maximization(logits)), wanted, 1e-9)
    masked = losses.information_maximization(logits, where=SOURCE)
    wanted = entropy(p[SOURCE]).mean() - entropy(p[SOURCE].mean(0))
    np.testing.assert_allclose(np.mean(masked[SOURCE]), wanted, 1e-9)


def test_bad_input_is_refused_by_name(sets):
    s, t = sets
    with pytest.raises(ValueError, match="source_features .* target_features .*widths"):
        losses.mean_discrepancy(s, t[:, 1:])
    with pytest.raises(ValueError, match="orders must be at least 1"):
        losses.moment_distance(s, t, orders=0)
    with pytest.raises(ValueError, match="span must be above 0"):
        losses.central_moment_discrepancy(s, t, span=0.0)
    with pytest.raises(ValueError, match="scales must be above 0"):
        losses.maximum_mean_discrepancy(s, t, scales=(1.0, 0.0))
    with pytest.raises(ValueError, match="source_features .* target_features"):
        losses.sliced_wasserstein_distance(s, t, np.eye(D))
    with pytest.raises(ValueError, match="directions must have shape"):
        losses.sliced_wasserstein_distance(s, s, np.eye(D + 1))
    with pytest.raises(ValueError, match="class counts"):
        losses.conditional_mean_discrepancy(s, t, np.ones((N, 2)), np.ones((M, 3)))
    with pytest.raises(ValueError, match="threshold must have shape"):
        losses.free_energy_excess(s, np.ones(N + 1))
