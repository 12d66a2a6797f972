r"""Transfer between tasks of a Gaussian process: shared latent functions, and how these interact.

Notation: D tasks are mixtures of Q latent functions, with coefficients a `[Q, D]`, variances of their
own v `[Q, D]` and length scales l `[Q]`. A point is a pair of x and the number of its task.
"""

import jax
import jax.numpy as jnp
import optax

JITTER = 1e-4  # added to the noise: a kernel of close points is singular in float32


def multitask_kernel(left, right, parameters, *, transfer=1.0, interaction=1.0):
    r"""The covariance `[N, M]` between points of several tasks.

    .. math:: k_{dd'}(\tau) = \sum_q (t\, a_{qd} a_{qd'} + [d = d'] v_{qd}) k_{qq}(\tau)
        + t\, i \rho \sum_{q \ne r} a_{qd} a_{rd'} k_{qr}(\tau), \quad
        k_{qr}(\tau) = \sqrt{\frac{2 l_q l_r}{l_q^2 + l_r^2}} \,
        e^{-\tau^2 / (l_q^2 + l_r^2)}

    The second sum is the interaction: the convolution of two latent functions' smoothing kernels, as
    if one noise drove both, times the outer product of their coefficients; ρ in (0, 1) says how much of
    the noise they share. Without it this is the linear model of coregionalisation.

    Args:
        left: x `[N]` and task `[N]`, integers; `right`: the same of `[M]` points.
        parameters: `mixing` a `[Q, D]`, `log_own` log v, `log_lengths` log l `[Q]`, `shared` logit ρ.
        transfer: t, 0 for independent tasks.
        interaction: i, 0 for independent latent functions.

    Reference:
        Chen, van Laarhoven, Marchiori, Yin, Cui, "Multitask Gaussian Process with Hierarchical Latent
        Interactions", 2018; its abstract gives the product of both interactions, the formula is a
        reconstruction.
    """
    squared = jnp.square(left[0][:, None] - right[0][None])
    a, own = parameters["mixing"], jnp.exp(parameters["log_own"])
    lengths = jnp.exp(parameters["log_lengths"])
    share = interaction * jax.nn.sigmoid(parameters["shared"])
    total = jnp.zeros(squared.shape, squared.dtype)
    for q in range(len(a)):
        for r in range(len(a)):
            tasks = transfer * a[q][:, None] * a[r][None]
            tasks = tasks + jnp.diag(own[q]) if q == r else share * tasks
            sum_of_squares = lengths[q] ** 2 + lengths[r] ** 2
            scale = jnp.sqrt(2 * lengths[q] * lengths[r] / sum_of_squares)
            between = tasks[left[1]][:, right[1]]
            total = total + between * scale * jnp.exp(-squared / sum_of_squares)
    return total


def negative_log_likelihood(parameters, points, values, **settings):
    """-log p(values) of `[N]` observations with noise exp(`log_noise`), by `multitask_kernel`."""
    factor = _factor(parameters, points, settings)
    whitened = jax.scipy.linalg.solve_triangular(factor, values, lower=True)
    determinant = jnp.sum(jnp.log(jnp.diagonal(factor)))
    return whitened @ whitened / 2 + determinant + len(values) * jnp.log(2 * jnp.pi) / 2


def fit(key, points, values, *, tasks, latent, steps, rate, **settings):
    """The parameters of the largest likelihood of many sets of points, by Adam from a draw.

    Args:
        points: x `[S, N]` and task `[S, N]`, integers, of S sets; values: `[S, N]`.
        tasks: D; latent: Q; steps: of Adam, at the learning rate `rate`.
        settings: of `multitask_kernel`.
    """
    start = {
        "mixing": 0.5 * jax.random.normal(key, (latent, tasks)),
        "log_own": jnp.full((latent, tasks), -2.0),
        "log_lengths": jnp.linspace(-2.0, -0.5, latent),
        "shared": jnp.zeros(()),
        "log_noise": jnp.asarray(-4.0),
    }
    optimiser = optax.adam(rate)

    def loss(parameters):
        one = lambda *each: negative_log_likelihood(parameters, *each, **settings)
        return jnp.mean(jax.vmap(one)(points, values))

    def step(carry, _):
        parameters, state = carry
        changes, state = optimiser.update(jax.grad(loss)(parameters), state)
        return (optax.apply_updates(parameters, changes), state), None

    (parameters, _), _ = jax.lax.scan(step, (start, optimiser.init(start)), None, length=steps)
    return parameters


def predict(parameters, points, values, targets, **settings):
    """The mean `[M]` at the targets, given the values `[N]` at the points."""
    factor = _factor(parameters, points, settings)
    weights = jax.scipy.linalg.cho_solve((factor, True), values)
    return multitask_kernel(targets, points, parameters, **settings) @ weights


def _factor(parameters, points, settings):
    kernel = multitask_kernel(points, points, parameters, **settings)
    noise = jnp.exp(parameters["log_noise"]) + JITTER
    return jnp.linalg.cholesky(kernel + noise * jnp.eye(len(kernel)))
