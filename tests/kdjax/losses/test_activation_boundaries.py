"""Activation boundaries and partial distances: values against loops, flat regions, margins."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import losses

RNG = np.random.default_rng(7)
STUDENT, TEACHER = ((2 * RNG.standard_normal((4, 3, 3, 5))).astype(np.float32) for _ in range(2))
MARGIN = -np.abs(RNG.standard_normal(5)).astype(np.float32)


def close(ours, wanted, **tolerance):
    np.testing.assert_allclose(ours, wanted, **({"rtol": 2e-5, "atol": 1e-7} | tolerance))


@pytest.mark.parametrize("margin", [0.0, 1.0, 2.5])
def test_activation_boundary_is_the_squared_hinge_of_each_neuron(margin):
    def neuron(s, t):
        return max(0.0, margin - s) ** 2 if t > 0 else max(0.0, margin + s) ** 2

    pairs = zip(STUDENT.reshape(4, -1), TEACHER.reshape(4, -1), strict=True)
    wanted = [sum(neuron(float(a), float(b)) for a, b in zip(s, t, strict=True)) for s, t in pairs]
    close(losses.activation_boundary(STUDENT, TEACHER, margin=margin), wanted)


def test_only_the_sign_of_the_teacher_matters():
    wanted = losses.activation_boundary(STUDENT, TEACHER)
    close(losses.activation_boundary(STUDENT, np.sign(TEACHER)), wanted)
    gradient = jax.grad(lambda t: losses.activation_boundary(STUDENT, t).sum())(TEACHER)
    assert np.all(gradient == 0)


def test_student_beyond_the_margin_on_the_teachers_side_is_done():
    right = jnp.where(TEACHER > 0, 1.5, -1.5)
    value, gradient = jax.value_and_grad(lambda s: losses.activation_boundary(s, TEACHER).sum())(
        right
    )
    assert value == 0 and np.all(gradient == 0)


def test_zero_of_the_teacher_counts_as_inactive():
    zero = np.zeros((1, 1), np.float32)
    close(losses.activation_boundary(zero + 0.5, zero), [2.25])


def test_negative_margin_of_the_hinge_is_refused():
    with pytest.raises(ValueError, match="margin must be at least 0"):
        losses.activation_boundary(STUDENT, TEACHER, margin=-1.0)


def test_partial_squared_distance_leaves_out_what_is_inactive_and_low_enough():
    def neuron(s, t, m):
        target = max(t, m)
        return 0.0 if s <= target <= 0 else (s - target) ** 2

    wanted = np.zeros(4)
    for index in np.ndindex(*STUDENT.shape):
        numbers = (float(STUDENT[index]), float(TEACHER[index]), float(MARGIN[index[-1]]))
        wanted[index[0]] += neuron(*numbers)
    close(losses.partial_squared_distance(STUDENT, TEACHER, MARGIN), wanted)


def test_partial_squared_distance_of_active_teachers_is_the_squared_distance():
    active = np.abs(TEACHER) + 0.1
    wanted = ((STUDENT.astype(np.float64) - active) ** 2).sum((1, 2, 3))
    close(losses.partial_squared_distance(STUDENT, active, MARGIN), wanted)


def test_inactive_student_under_the_margin_is_free():
    low = np.broadcast_to(MARGIN - 0.5, TEACHER.shape)
    inactive = -np.abs(TEACHER) - 5
    value, gradient = jax.value_and_grad(
        lambda s: losses.partial_squared_distance(s, inactive, MARGIN).sum()
    )(jnp.asarray(low))
    assert value == 0 and np.all(gradient == 0)


def test_margin_of_another_width_is_refused_by_name():
    with pytest.raises(ValueError, match="negative_margin must have shape"):
        losses.partial_squared_distance(STUDENT, TEACHER, MARGIN[:2])
