"""The kernel over tasks against convolutions by hand, its likelihood, and what it transfers."""

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.methods import gaussian_process

RNG = np.random.default_rng(0)
PARAMETERS = {
    "mixing": jnp.asarray(RNG.normal(size=(2, 3)), jnp.float32),
    "log_own": jnp.asarray(RNG.normal(size=(2, 3)) - 1, jnp.float32),
    "log_lengths": jnp.log(jnp.array([0.3, 0.7])),
    "shared": jnp.asarray(0.4),
    "log_noise": jnp.asarray(-2.0),
}
POINTS = (jnp.linspace(0, 1, 12), jnp.arange(12) % 3)
kernel = jax.jit(gaussian_process.multitask_kernel, static_argnames=("transfer", "interaction"))


def convolved(first, second, shift):
    """∫ g(u) h(u - shift) du of Gaussian smoothing kernels whose own convolutions are one at zero."""
    u = np.linspace(-8, 8, 40001)
    g = np.exp(-(u**2) / first**2) * (2 / (np.pi * first**2)) ** 0.25
    h = np.exp(-((u - shift) ** 2) / second**2) * (2 / (np.pi * second**2)) ** 0.25
    return np.sum(g * h) * (u[1] - u[0])


def test_the_interaction_is_the_convolution_of_both_smoothing_kernels():
    left, right = (jnp.array([0.0]), jnp.array([1])), (jnp.array([0.45]), jnp.array([2]))
    a = np.asarray(PARAMETERS["mixing"])
    share = 1 / (1 + np.exp(-0.4))
    own = sum(a[q, 1] * a[q, 2] * convolved(x, x, 0.45) for q, x in enumerate((0.3, 0.7)))
    crossed = (a[0, 1] * a[1, 2] + a[1, 1] * a[0, 2]) * convolved(0.3, 0.7, 0.45)
    np.testing.assert_allclose(
        kernel(left, right, PARAMETERS)[0, 0], own + share * crossed, rtol=1e-5
    )
    plain = kernel(left, right, PARAMETERS, interaction=0.0)[0, 0]
    np.testing.assert_allclose(plain, own, rtol=1e-5)
    assert kernel(left, right, PARAMETERS, transfer=0.0)[0, 0] == 0


def test_it_is_a_covariance_for_any_share():
    for shared in (-30.0, 0.0, 30.0):
        matrix = np.asarray(kernel(POINTS, POINTS, {**PARAMETERS, "shared": jnp.asarray(shared)}))
        np.testing.assert_allclose(matrix, matrix.T, atol=1e-6)
        assert np.linalg.eigvalsh(matrix.astype(float)).min() > -1e-5


def test_the_likelihood_is_that_of_a_normal_distribution():
    values = jnp.asarray(RNG.normal(size=12), jnp.float32)
    found = gaussian_process.negative_log_likelihood(PARAMETERS, POINTS, values)
    noise = np.exp(-2.0) + gaussian_process.JITTER
    matrix = np.asarray(kernel(POINTS, POINTS, PARAMETERS), float) + noise * np.eye(12)
    y = np.asarray(values, float)
    quadratic = y @ np.linalg.solve(matrix, y)
    expected = (quadratic + np.linalg.slogdet(matrix)[1] + 12 * np.log(2 * np.pi)) / 2
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_task_with_two_points_learns_from_its_twin():
    x = np.linspace(0, 1, 15)
    wave = np.sin(6 * x)
    points = (jnp.asarray([*x, x[0], x[-1]]), jnp.asarray([0] * 15 + [1, 1]))
    values = jnp.asarray([*wave, wave[0], wave[-1]])
    targets = (jnp.asarray(x[1:-1]), jnp.ones(13, int))

    def error(transfer):
        whole = jax.tree.map(lambda x: x[None], points)
        parameters = gaussian_process.fit(
            jax.random.key(0), whole, values[None],
            tasks=2, latent=1, steps=60, rate=0.1, transfer=transfer,
        )  # fmt: skip
        mean = gaussian_process.predict(parameters, points, values, targets, transfer=transfer)
        return float(jnp.sqrt(jnp.mean((mean - wave[1:-1]) ** 2)))

    assert error(1.0) < 0.3 * error(0.0)
