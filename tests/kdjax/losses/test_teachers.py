"""Divergences from several teachers and from peers, against NumPy restatements."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import losses

BATCH, CLASSES = 8, 5
RNG = np.random.default_rng(0)
S, T, FIRST = (3 * RNG.standard_normal((3, BATCH, CLASSES))).astype(np.float32)
MANY = (3 * RNG.standard_normal((BATCH, 3, CLASSES))).astype(np.float32)
Y = RNG.integers(CLASSES, size=BATCH).astype(np.int32)
ROWS = np.arange(BATCH)


def softmax(z):
    z = np.exp(np.float64(z) - np.max(z, axis=-1, keepdims=True))
    return z / z.sum(axis=-1, keepdims=True)


def kl(p, q):
    return np.sum(p * np.log(p / q), axis=-1)


def near(ours, wanted, tolerance=1e-4):
    np.testing.assert_allclose(ours, wanted, rtol=tolerance, atol=1e-5)


def test_weighted_teachers_against_numpy():
    weights = RNG.uniform(size=(BATCH, 3)).astype(np.float32)
    each = 4 * kl(softmax(MANY / 2), softmax(S / 2)[:, None])
    found = losses.weighted_teachers_divergence(S, MANY, weights, temperature=2.0)
    near(found, np.sum(weights * each, axis=1))
    gradient = jax.grad(
        lambda w: jnp.sum(losses.weighted_teachers_divergence(S, MANY, w, temperature=2.0))
    )(jnp.zeros((BATCH, 3)))
    near(gradient, each)


def test_teacher_of_weight_zero_may_rule_out_what_the_student_cannot():
    s = S.copy()
    s[:, 0] = -np.inf
    many = MANY.copy()
    many[:, 1:, 0] = -np.inf
    weights = np.tile(np.array([0.0, 0.5, 0.5], np.float32), (BATCH, 1))
    value, pull = jax.vjp(lambda s: losses.weighted_teachers_divergence(s, many, weights), s)
    assert np.all(np.isfinite(value)) and np.all(np.isfinite(pull(jnp.ones(BATCH))[0]))
    near(value, losses.weighted_teachers_divergence(s[:, 1:], many[..., 1:], weights))


def test_temperature_of_each_row_reaches_every_teacher():
    weights = np.ones((BATCH, 3), np.float32)
    temperature = np.linspace(1, 3, BATCH, dtype=np.float32)
    found = losses.weighted_teachers_divergence(S, MANY, weights, temperature=temperature)
    t = temperature[:, None, None]
    each = kl(softmax(MANY / t), softmax(S[:, None] / t))
    near(found, temperature**2 * each.sum(axis=1))


def test_partitioned_divergence_asks_the_more_confident_one():
    teaches = softmax(T).max(axis=1) > softmax(FIRST).max(axis=1)
    assert 0 < teaches.sum() < BATCH
    target = np.where(teaches[:, None], T, FIRST)
    found = losses.partitioned_divergence(S, T, FIRST, temperature=2.0)
    near(found, 4 * kl(softmax(target / 2), softmax(S / 2)))


def test_labelled_partitioned_divergence_asks_the_one_that_knows_the_label():
    teaches = softmax(T)[ROWS, Y] > softmax(FIRST)[ROWS, Y]
    assert 0 < teaches.sum() < BATCH
    target = np.where(teaches[:, None], T, FIRST)
    found = losses.labelled_partitioned_divergence(S, T, FIRST, Y, temperature=2.0)
    near(found, 4 * kl(softmax(target / 2), softmax(S / 2)))


def test_untaught_examples_pull_nothing_from_the_initial_student():
    teaches = softmax(T)[ROWS, Y] > softmax(FIRST)[ROWS, Y]
    gradient = jax.grad(lambda s: jnp.sum(losses.labelled_partitioned_divergence(s, T, FIRST, Y)))(
        jnp.asarray(FIRST)
    )
    assert np.all(np.abs(gradient[~teaches]) < 1e-6)
    assert np.all(np.abs(gradient[teaches]).max(axis=1) > 1e-4)


def test_entropy_weighted_divergence_against_numpy():
    q, p = softmax(S / 2), softmax(T / 2)
    sharper = -np.sum(q * np.log(q), axis=1) < -np.sum(p * np.log(p), axis=1)
    assert 0 < sharper.sum() < BATCH
    forward, reverse = np.where(sharper, 3, 1), np.where(sharper, 1, 3)
    wanted = 4 * (forward * kl(p, q) + reverse * kl(q, p))
    near(losses.entropy_weighted_divergence(S, T, emphasis=3.0, temperature=2.0), wanted)


def test_reliable_peer_teaches_where_it_knows_the_label_better_and_only_there():
    better = softmax(T)[ROWS, Y] > softmax(S)[ROWS, Y]
    assert 0 < better.sum() < BATCH
    wanted = np.where(better, 4 * kl(softmax(T / 2), softmax(S / 2)), 0)
    near(losses.reliable_peer_divergence(S, T, Y, temperature=2.0), wanted)
    both = losses.reliable_peer_divergence(S, T, Y) * losses.reliable_peer_divergence(T, S, Y)
    assert np.all(both == 0)


def test_hardest_negative_divergence_against_numpy():
    wanted = []
    for s, z, y in zip(np.float64(S), np.float64(MANY), Y, strict=True):
        keep = [c for c in range(CLASSES) if c != y]
        mean, joint = z.mean(axis=0)[keep], z.max(axis=0)[keep]
        joint[mean.argmax()] = mean.max()
        wanted.append(kl(softmax(joint), softmax(s[keep])))
    near(losses.hardest_negative_divergence(S, MANY, Y), wanted)


def test_fused_spatial_divergence_goes_from_each_position_to_the_whole():
    s, t = (3 * RNG.standard_normal((2, 2, 3, 4, CLASSES))).astype(np.float32)
    whole = (3 * RNG.standard_normal((2, CLASSES))).astype(np.float32)
    target = 0.3 * t + 0.7 * whole[:, None, None]
    found = losses.fused_spatial_divergence(s, t, whole, spatial_share=0.3, temperature=2.0)
    near(found, 4 * kl(softmax(target / 2), softmax(s / 2)))
    local = losses.fused_spatial_divergence(s, t, whole, spatial_share=1.0)
    near(local, losses.softened_kl_divergence(s, t))


def test_class_that_the_teacher_never_has_is_left_out_at_either_end_of_the_schedule():
    s, t = (3 * RNG.standard_normal((2, 2, 4, CLASSES))).astype(np.float32)
    whole = t.mean(axis=1)
    t[..., 0] = s[..., 0] = whole[:, 0] = -np.inf
    for share in (0.0, 1.0):
        found = losses.fused_spatial_divergence(s, t, whole, spatial_share=share)
        kept = (x[..., 1:] for x in (s, t, whole))
        near(found, losses.fused_spatial_divergence(*kept, spatial_share=share))


def test_centred_cross_entropy_against_numpy():
    centre = T.mean(axis=0)
    wanted = -np.sum(softmax((T - centre) / 0.5) * np.log(softmax(S / 0.8)), axis=1)
    found = losses.centred_cross_entropy(
        S, T, centre, student_temperature=0.8, teacher_temperature=0.5
    )
    near(found, wanted)


@pytest.mark.parametrize(
    ("match", "call"),
    [
        (
            "weights",
            lambda: losses.weighted_teachers_divergence(S, MANY, -np.ones((8, 3), np.float32)),
        ),
        ("axis of teachers", lambda: losses.weighted_teachers_divergence(S, T, T[:, 0])),
        ("one shape", lambda: losses.partitioned_divergence(S, T, FIRST[:, :2])),
        ("labels", lambda: losses.labelled_partitioned_divergence(S, T, FIRST, Y[:3])),
        ("emphasis", lambda: losses.entropy_weighted_divergence(S, T, emphasis=-1.0)),
        ("temperature", lambda: losses.reliable_peer_divergence(S, T, Y, temperature=0.0)),
        ("axis of experts", lambda: losses.hardest_negative_divergence(S, T, Y)),
        (
            "spatial_share",
            lambda: losses.fused_spatial_divergence(MANY, MANY, S, spatial_share=2.0),
        ),
        (
            "teacher_logits",
            lambda: losses.fused_spatial_divergence(MANY, MANY, MANY, spatial_share=0.5),
        ),
        ("centre", lambda: losses.centred_cross_entropy(S, T, T)),
        (
            "teacher_temperature",
            lambda: losses.centred_cross_entropy(S, T, T[0], teacher_temperature=0.0),
        ),
    ],
)
def test_bad_arguments_are_refused_by_name(match, call):
    with pytest.raises(ValueError, match=match):
        call()
