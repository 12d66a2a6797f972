"""Transformations of logits: what they keep and what they change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import losses

RNG = np.random.default_rng(0)
Z = (3 * RNG.standard_normal((5, 6))).astype(np.float32)
Y = RNG.integers(6, size=5).astype(np.int32)


def test_standardised_rows_have_mean_zero_and_unit_sample_deviation():
    found = np.float64(losses.standardise_logits(Z))
    np.testing.assert_allclose(found.mean(axis=1), 0, atol=1e-6)
    np.testing.assert_allclose(found.std(axis=1, ddof=1), 1, rtol=1e-5)
    np.testing.assert_allclose(losses.standardise_logits(5 * Z - 3), found, rtol=1e-4, atol=1e-5)


def test_large_epsilon_leaves_a_centred_scaled_row():
    centred = Z - Z.mean(axis=1, keepdims=True)
    deviation = np.std(Z, axis=1, ddof=1, keepdims=True)
    found = losses.standardise_logits(Z, epsilon=10.0)
    np.testing.assert_allclose(found, centred / (deviation + 10), rtol=1e-4, atol=1e-6)


def test_constant_row_gives_zeros_and_a_finite_gradient():
    constant = jnp.full((2, 6), 3.0)
    value, pull = jax.vjp(losses.standardise_logits, constant)
    assert np.all(value == 0)
    assert np.all(np.isfinite(pull(jnp.asarray(Z[:2]))[0]))


def test_classes_at_minus_infinity_are_not_counted():
    z = np.concatenate([Z, np.full((5, 1), -np.inf, np.float32)], axis=1)
    found = losses.standardise_logits(z)
    np.testing.assert_allclose(found[:, :-1], losses.standardise_logits(Z), rtol=1e-5)
    assert np.all(np.isneginf(found[:, -1]))
    np.testing.assert_allclose(
        losses.softened_kl_divergence(found, found[::-1]),
        losses.softened_kl_divergence(found[:, :-1], found[::-1, :-1]),
        rtol=1e-5,
    )


def test_shift_makes_every_teacher_right_and_keeps_its_values():
    found = losses.probability_shift(Z, Y)
    assert np.all(np.argmax(found, axis=1) == Y)
    np.testing.assert_array_equal(np.sort(found, axis=1), np.sort(Z, axis=1))
    assert np.all(np.sum(found != Z, axis=1) <= 2)
    np.testing.assert_array_equal(losses.probability_shift(found, Y), found)


def test_permuting_keeps_the_best_class_and_the_values_and_follows_the_order():
    order = RNG.uniform(size=Z.shape).astype(np.float32)
    found = np.asarray(losses.permute_other_classes(Z, order))
    best = Z.argmax(axis=1)
    for row, z, b, o in zip(found, Z, best, order, strict=True):
        rest = [c for c in range(6) if c != b]
        places = sorted(rest, key=lambda c: o[c])
        wanted = z.copy()
        wanted[places] = z[rest]
        np.testing.assert_array_equal(row, wanted)
    assert not np.array_equal(found, Z)


def test_aggregate_takes_from_every_view_the_transformation_that_was_applied():
    joint = RNG.standard_normal((2, 4, 4, 3)).astype(np.float32)
    wanted = np.mean([joint[:, m, m] for m in range(4)], axis=0)
    np.testing.assert_allclose(losses.aggregate_views(joint), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("error", "match", "call"),
    [
        (ValueError, "epsilon", lambda: losses.standardise_logits(Z, epsilon=0.0)),
        (TypeError, "logits", lambda: losses.standardise_logits(Y[:, None])),
        (ValueError, "labels", lambda: losses.probability_shift(Z, Y[:2])),
        (ValueError, "one shape", lambda: losses.permute_other_classes(Z, Z[:, :2])),
        (ValueError, "views", lambda: losses.aggregate_views(np.zeros((2, 3, 4, 5), np.float32))),
    ],
)
def test_bad_arguments_are_refused_by_name(error, match, call):
    with pytest.raises(error, match=match):
        call()
