"""Attention maps: values against NumPy in float64, what they ignore, zero maps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import losses

RNG = np.random.default_rng(5)
STUDENT, TEACHER = (RNG.standard_normal((4, 3, 5, 6)).astype(np.float32) for _ in range(2))
G_S, G_T = (RNG.standard_normal((4, 3, 5, 6)).astype(np.float32) for _ in range(2))
S, T = STUDENT.astype(np.float64), TEACHER.astype(np.float64)


def unit(x):
    x = x.reshape(len(x), -1)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def close(ours, wanted, **tolerance):
    np.testing.assert_allclose(ours, wanted, **({"rtol": 2e-5, "atol": 1e-7} | tolerance))


@pytest.mark.parametrize("power", [1.0, 2.0, 3.5])
def test_attention_transfer_is_the_distance_of_unit_attention_maps(power):
    maps = [unit((np.abs(x) ** power).sum(-1)) for x in (S, T)]
    wanted = np.linalg.norm(maps[0] - maps[1], axis=1)
    close(losses.attention_transfer(STUDENT, TEACHER, power=power), wanted)


def test_attention_transfer_ignores_scale_sign_and_order_of_channels():
    wanted = losses.attention_transfer(STUDENT, TEACHER)
    close(losses.attention_transfer(-1e3 * STUDENT, 1e-9 * TEACHER[..., ::-1]), wanted, rtol=1e-4)


@pytest.mark.parametrize("scale", [1e-15, 1e12])
def test_powers_of_tiny_and_huge_maps_neither_vanish_nor_overflow(scale):
    scaled = np.float32(scale) * STUDENT
    wanted = losses.attention_transfer(STUDENT, TEACHER, power=4.0)
    close(losses.attention_transfer(scaled, TEACHER, power=4.0), wanted, rtol=1e-4)


def test_attention_transfer_allows_other_widths_but_not_other_sizes():
    close(losses.attention_transfer(STUDENT, np.tile(STUDENT, 2)), np.zeros(4), atol=1e-6)
    with pytest.raises(ValueError, match="teacher_maps"):
        losses.attention_transfer(STUDENT, TEACHER[:, :2])
    with pytest.raises(ValueError, match="power must be at least 1"):
        losses.attention_transfer(STUDENT, TEACHER, power=0.9)


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_attention_of_a_zero_map_has_norm_of_the_other_and_no_gradient(power):
    zero = jnp.zeros_like(STUDENT)

    def total(s, t):
        return losses.attention_transfer(s, t, power=power).sum()

    value, gradients = jax.value_and_grad(total, argnums=(0, 1))(zero, TEACHER)
    close(value, 4.0)
    assert np.all(gradients[0] == 0) and np.all(np.isfinite(gradients[1]))


def test_gradient_attention_is_the_absolute_difference_of_class_activation_maps():
    def activation(maps, gradients):
        weights = gradients.astype(np.float64).mean((1, 2))
        return unit(np.maximum(np.einsum("bhwc,bc->bhw", maps, weights), 0))

    wanted = np.abs(activation(S, G_S) - activation(T, G_T)).sum(1)
    close(losses.gradient_attention(STUDENT, TEACHER, G_S, G_T), wanted)


def test_gradient_attention_sees_only_the_mean_gradient_of_a_channel():
    pooled = np.broadcast_to(G_S.mean((1, 2), keepdims=True), G_S.shape)
    wanted = losses.gradient_attention(STUDENT, TEACHER, G_S, G_T)
    close(losses.gradient_attention(STUDENT, TEACHER, pooled, G_T), wanted, rtol=1e-4)


def test_map_that_is_nowhere_positive_has_no_activation():
    value = losses.gradient_attention(-jnp.abs(STUDENT), TEACHER, jnp.abs(G_S), 0 * G_T)
    close(value, np.zeros(4))


def test_gradients_of_another_shape_are_refused_by_name():
    with pytest.raises(ValueError, match="student_gradients"):
        losses.gradient_attention(STUDENT, TEACHER, G_S[..., :2], G_T)


def test_channel_attentive_distance_weighs_the_distance_of_each_unit_channel():
    attention = RNG.uniform(size=(4, 6)).astype(np.float32)
    s, t = (x / np.linalg.norm(x, axis=(1, 2), keepdims=True) for x in (S, T))
    wanted = (attention * ((s - t) ** 2).mean((1, 2))).sum(1)
    close(losses.channel_attentive_distance(STUDENT, TEACHER, attention), wanted)


def test_epsilon_shrinks_every_channel():
    attention = np.full((4, 6), 1 / 6, np.float32)
    s, t = (x / (np.linalg.norm(x, axis=(1, 2), keepdims=True) + 0.5) for x in (S, T))
    wanted = ((s - t) ** 2).mean((1, 2, 3))
    close(losses.channel_attentive_distance(STUDENT, TEACHER, attention, epsilon=0.5), wanted)


def test_channel_without_attention_has_no_gradient():
    attention = np.eye(6, dtype=np.float32)[[1, 1, 2, 2]]
    gradient = jax.grad(lambda x: losses.channel_attentive_distance(x, TEACHER, attention).sum())(
        STUDENT
    )
    moved = np.abs(gradient).max((1, 2)) > 0
    assert np.array_equal(moved, attention > 0)


def test_attention_guided_distance_is_the_weighted_euclidean_distance():
    spatial = RNG.uniform(size=(4, 3, 5)).astype(np.float32)
    channels = RNG.uniform(size=(4, 6)).astype(np.float32)
    weights = spatial[..., None].astype(np.float64) * channels[:, None, None, :]
    wanted = np.sqrt((weights * (S - T) ** 2).sum((1, 2, 3)))
    close(losses.attention_guided_distance(STUDENT, TEACHER, spatial, channels), wanted)
    with pytest.raises(ValueError, match="spatial_attention must have shape"):
        losses.attention_guided_distance(STUDENT, TEACHER, channels, channels)
    with pytest.raises(ValueError, match="channel_attention must have shape"):
        losses.attention_guided_distance(STUDENT, TEACHER, spatial, spatial)
