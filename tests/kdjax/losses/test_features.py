"""Hints, cosines, factors, likelihoods: values against NumPy in float64, limits and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import losses

RNG = np.random.default_rng(3)
STUDENT, TEACHER = (RNG.standard_normal((5, 8)).astype(np.float32) for _ in range(2))
S, T = STUDENT.astype(np.float64), TEACHER.astype(np.float64)
MAPS_S, MAPS_T = (RNG.standard_normal((3, 6, 6, 2)).astype(np.float32) for _ in range(2))


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def close(ours, wanted, **tolerance):
    np.testing.assert_allclose(ours, wanted, **({"rtol": 2e-5, "atol": 1e-7} | tolerance))


def test_hint_is_the_mean_square_over_every_axis_but_the_first():
    close(losses.feature_hint(STUDENT, TEACHER), ((S - T) ** 2).mean(1))
    wanted = ((MAPS_S.astype(np.float64) - MAPS_T) ** 2).mean((1, 2, 3))
    close(losses.feature_hint(MAPS_S, MAPS_T), wanted)


def test_hint_of_chunks_adds_up_to_the_hint_of_the_vector():
    chunks = [
        losses.feature_hint(STUDENT[:, i : i + 2], TEACHER[:, i : i + 2]) for i in range(0, 8, 2)
    ]
    close(sum(chunks) / 4, losses.feature_hint(STUDENT, TEACHER))


def test_layer_normalised_hint_is_the_hint_of_normalised_states():
    s, t = ((x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True) for x in (S, T))
    close(losses.layer_normalised_hint(STUDENT, TEACHER), ((s - t) ** 2).mean(1))


def test_layer_normalised_hint_is_twice_one_minus_the_correlation():
    wanted = [2 - 2 * np.corrcoef(s, t)[0, 1] for s, t in zip(S, T, strict=True)]
    close(losses.layer_normalised_hint(STUDENT, TEACHER), wanted)


def test_layer_normalised_hint_ignores_shift_and_scale_of_each_token():
    tokens = RNG.standard_normal((2, 3, 8)).astype(np.float32)
    changed = tokens * np.array([1.0, 4.0, 0.5])[:, None] + np.array([3.0, 0.0, -2.0])[:, None]
    close(
        losses.layer_normalised_hint(tokens, changed.astype(np.float32)),
        np.zeros((2, 3)),
        atol=1e-9,
    )


def test_rounding_of_a_constant_state_is_not_blown_up():
    constant = np.full((1, 7), 0.1, np.float32) * np.float32(3)
    value, gradient = jax.value_and_grad(
        lambda x: losses.layer_normalised_hint(x, TEACHER[:1, :7])[0]
    )(jnp.asarray(constant))
    close(value, 1.0)
    assert np.all(gradient == 0)


def test_cosine_distance_is_one_minus_the_cosine():
    close(losses.feature_cosine_distance(STUDENT, TEACHER), 1 - (unit(S) * unit(T)).sum(1))


@pytest.mark.parametrize("loss", [losses.feature_cosine_distance, losses.factor_transfer])
def test_directions_alone_matter(loss):
    scales = np.array([1e-3, 0.2, 1.0, 7.0, 1e4], np.float32)[:, None]
    close(loss(STUDENT * scales, TEACHER), loss(STUDENT, TEACHER), rtol=1e-5)
    gradient = jax.grad(lambda x: loss(x, TEACHER).sum())(STUDENT)
    close((gradient * STUDENT).sum(1), np.zeros(5), atol=1e-6)


def test_cosine_distance_of_opposites_and_of_zeros():
    zero = np.zeros_like(STUDENT)
    close(losses.feature_cosine_distance(STUDENT, -STUDENT), np.full(5, 2.0))
    close(losses.feature_cosine_distance(zero, STUDENT), np.full(5, 0.5))
    close(losses.feature_cosine_distance(zero, zero), np.zeros(5))


def test_factor_transfer_is_the_mean_absolute_difference_of_unit_factors():
    close(losses.factor_transfer(STUDENT, TEACHER), np.abs(unit(S) - unit(T)).mean(1))


def test_variational_information_is_the_gaussian_likelihood_without_its_constant():
    log_variance = RNG.standard_normal(8).astype(np.float32)
    variance = np.exp(log_variance.astype(np.float64))
    density = np.exp(-((S - T) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
    wanted = -np.log(density).mean(1) - 0.5 * np.log(2 * np.pi)
    close(losses.variational_information(STUDENT, TEACHER, log_variance), wanted)


def test_variational_information_with_unit_variance_is_half_the_hint():
    value = losses.variational_information(STUDENT, TEACHER, np.zeros(8, np.float32))
    close(value, losses.feature_hint(STUDENT, TEACHER) / 2)


def test_variance_that_fits_best_is_the_mean_squared_error():
    best = np.log(((S - T) ** 2).mean(0)).astype(np.float32)
    gradient = jax.grad(lambda v: losses.variational_information(STUDENT, TEACHER, v).sum())(best)
    close(gradient, np.zeros(8), atol=1e-6)


def test_variance_may_be_one_a_channel_or_one_an_example_but_not_another_width():
    of_channels = np.array([0.3, -0.2], np.float32)
    everywhere = np.broadcast_to(of_channels, MAPS_S.shape)
    close(
        losses.variational_information(MAPS_S, MAPS_T, of_channels),
        losses.variational_information(MAPS_S, MAPS_T, everywhere),
    )
    with pytest.raises(ValueError, match="log_variance must broadcast"):
        losses.variational_information(MAPS_S, MAPS_T, np.zeros(3, np.float32))


def test_hierarchical_context_weighs_levels_by_halves():
    d = MAPS_S.astype(np.float64) - MAPS_T
    halves = d.reshape(3, 2, 3, 2, 3, 2).mean((2, 4))
    wanted = (d**2).mean((1, 2, 3)) + (halves**2).mean((1, 2, 3)) / 2
    wanted = (wanted + (d.mean((1, 2)) ** 2).mean(1) / 4) / 1.75
    close(losses.hierarchical_context(MAPS_S, MAPS_T, levels=(2, 1)), wanted)


def test_hierarchical_context_leaves_out_levels_that_are_not_smaller():
    close(
        losses.hierarchical_context(MAPS_S, MAPS_T, levels=(8, 6, 2, 1)),
        losses.hierarchical_context(MAPS_S, MAPS_T, levels=(2, 1)),
    )
    close(
        losses.hierarchical_context(MAPS_S, MAPS_T, levels=()), losses.feature_hint(MAPS_S, MAPS_T)
    )


def test_constant_shift_costs_the_same_at_every_level():
    close(losses.hierarchical_context(MAPS_S, MAPS_S + 3), np.full(3, 9.0), rtol=1e-4)


def test_hierarchical_context_refuses_a_level_below_one():
    with pytest.raises(ValueError, match=r"levels\[1\] must be above 0"):
        losses.hierarchical_context(MAPS_S, MAPS_T, levels=(2, 0))


@pytest.mark.parametrize("exponent", [1.0, 2.5, 4.0])
def test_log_power_distance_is_the_log_of_the_sum_over_the_batch(exponent):
    value = losses.log_power_distance(STUDENT, TEACHER, exponent=exponent)
    close(value, np.log((np.abs(S - T) ** exponent).sum()))


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_log_power_distance_neither_overflows_nor_vanishes(scale):
    scale = np.float32(scale)
    value, gradient = jax.value_and_grad(losses.log_power_distance)(
        scale * STUDENT, scale * TEACHER
    )
    close(value, np.log(((S - T) ** 4).sum()) + 4 * np.log(float(scale)), rtol=1e-5)
    wanted = 4 * (S - T) ** 3 / ((S - T) ** 4).sum() / float(scale)
    close(gradient, wanted, rtol=1e-4, atol=1e-6 / float(scale))


def test_log_power_distance_at_the_teacher_is_the_log_of_the_smallest_number():
    value, gradient = jax.value_and_grad(losses.log_power_distance)(jnp.asarray(STUDENT), STUDENT)
    close(value, np.log(np.finfo(np.float32).tiny))
    assert np.all(gradient == 0)


def test_log_power_distance_takes_a_traced_exponent_and_refuses_one_below_one():
    traced = jax.jit(lambda p: losses.log_power_distance(STUDENT, TEACHER, exponent=p))(3.0)
    close(traced, losses.log_power_distance(STUDENT, TEACHER, exponent=3.0))
    with pytest.raises(ValueError, match="exponent must be at least 1"):
        losses.log_power_distance(STUDENT, TEACHER, exponent=0.5)


def test_implicit_field_distance_is_the_mean_absolute_error_over_queries():
    close(losses.implicit_field_distance(STUDENT, TEACHER), np.abs(S - T).mean(1))
    with pytest.raises(ValueError, match="target_values"):
        losses.implicit_field_distance(STUDENT, TEACHER[:, :4])
