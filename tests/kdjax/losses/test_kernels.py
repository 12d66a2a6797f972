"""Kernel discrepancies: values against explicit pairs in float64, invariances, and their memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core

from kdjax import losses

RNG = np.random.default_rng(11)
STUDENT = RNG.standard_normal((3, 4, 4, 5)).astype(np.float32)
TEACHER = RNG.standard_normal((3, 4, 4, 7)).astype(np.float32)
F_S = RNG.standard_normal((6, 4)).astype(np.float32)
F_T = RNG.standard_normal((6, 9)).astype(np.float32)
GATES = RNG.uniform(0.1, 0.9, 9).astype(np.float32)


def close(ours, wanted, **tolerance):
    np.testing.assert_allclose(ours, wanted, **({"rtol": 2e-5, "atol": 1e-7} | tolerance))


def test_neuron_selectivity_is_the_discrepancy_over_all_pairs_of_channels():
    def mean_kernel(x, y):
        return np.mean([[float(a @ b) ** 2 for b in y.T] for a in x.T])

    def unit(x):
        x = x.astype(np.float64).reshape(16, -1)
        return x / np.linalg.norm(x, axis=0)

    wanted = []
    for s, t in zip(map(unit, STUDENT), map(unit, TEACHER), strict=True):
        wanted.append(mean_kernel(s, s) + mean_kernel(t, t) - 2 * mean_kernel(s, t))
    close(losses.neuron_selectivity(STUDENT, TEACHER), wanted)


def test_neuron_selectivity_compares_distributions_of_channels():
    shuffled = STUDENT[..., [3, 1, 4, 0, 2]] * np.array([1, -2, 3, -4, 5], np.float32)
    doubled = np.concatenate([shuffled, STUDENT], axis=-1)
    close(losses.neuron_selectivity(doubled, STUDENT), np.zeros(3), atol=1e-6)


def test_neuron_selectivity_never_holds_pairs_of_channels_by_position():
    batch, side, channels = 2, 16, 8
    x = jnp.ones((batch, side, side, channels))

    def total(s, t):
        return losses.neuron_selectivity(s, t).sum()

    jaxpr = jax.make_jaxpr(jax.grad(total))(x, x)
    sizes = [v.aval.size for e in _equations(jaxpr.jaxpr) for v in e.outvars]
    assert max(sizes) == x.size
    assert x.size < batch * channels * channels * side * side


def _equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in core.jaxprs_in_params(equation.params):
            yield from _equations(inner)


def kernel(x):
    x = x.astype(np.float64) - x.astype(np.float64).mean(0)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return x @ x.T


def test_kernel_matching_is_the_root_mean_square_of_the_kernels_difference():
    wanted = np.sqrt(((kernel(F_S) - kernel(F_T * GATES)) ** 2).mean())
    close(losses.kernel_matching(F_S, F_T, GATES), wanted)


def test_kernel_matching_is_zero_for_a_rotated_shifted_scaled_teacher():
    rotation = np.linalg.qr(RNG.standard_normal((4, 4)))[0].astype(np.float32)
    teacher = 3 * F_S @ rotation + 2
    close(losses.kernel_matching(F_S, teacher, np.ones(4, np.float32)), 0.0, atol=1e-6)


def test_gates_close_on_features_that_say_nothing():
    useful_and_noise = np.concatenate([F_S, 5 * RNG.standard_normal((6, 4))], axis=1)
    useful_and_noise = useful_and_noise.astype(np.float32)
    gradient = jax.jit(jax.grad(losses.kernel_matching, argnums=2))(
        F_S, useful_and_noise, np.full(8, 0.5, np.float32)
    )
    assert gradient[4:].sum() > 0 > gradient[:4].sum()
    closed = np.repeat(np.float32([1, 0]), 4)
    close(losses.kernel_matching(F_S, useful_and_noise, closed), 0.0, atol=1e-6)


def test_kernel_matching_of_kept_examples_does_not_know_the_others():
    where = jnp.array([True, True, False, True, False, True])
    kept = np.array([0, 1, 3, 5])
    value = losses.kernel_matching(F_S, F_T, GATES, where=where)
    close(value, losses.kernel_matching(F_S[kept], F_T[kept], GATES))


def test_gates_of_another_width_are_refused_by_name():
    with pytest.raises(ValueError, match="teacher_gates must have shape"):
        losses.kernel_matching(F_S, F_T, GATES[:4])
