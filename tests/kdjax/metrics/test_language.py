"""Measures over tokens against NumPy, masks and totals over any batching."""

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.metrics import classification, language

RNG = np.random.default_rng(0)
STUDENT, TEACHER = (2 * RNG.normal(size=(4, 5, 7)).astype(np.float32) for _ in range(2))
TARGETS = RNG.integers(0, 7, (4, 5))
WHERE = RNG.random((4, 5)) < 0.6
WHERE[3] = False


def softmax(x):
    e = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


Q, P = softmax(STUDENT), softmax(TEACHER)


def rows(values):
    return np.where(WHERE, values, 0).sum(1)


def test_each_measure_is_its_formula_over_the_kept_tokens():
    own = np.take_along_axis(Q, TARGETS[..., None], -1)[..., 0]
    best = STUDENT.argmax(-1)
    cases = {
        "nll": (language.negative_log_likelihood(STUDENT, TARGETS, WHERE), -np.log(own)),
        "kl": (
            language.teacher_divergence(STUDENT, TEACHER, WHERE),
            (P * np.log(P / Q)).sum(-1),
        ),
        "correct": (language.correct(STUDENT, TARGETS, WHERE), best == TARGETS),
        "agreement": (language.agreement(STUDENT, TEACHER, WHERE), best == TEACHER.argmax(-1)),
        "acceptance": (language.acceptance(STUDENT, TEACHER, WHERE), np.minimum(P, Q).sum(-1)),
        "count": (language.count(jnp.asarray(WHERE)), np.ones_like(WHERE)),
    }
    for name, (value, wanted) in cases.items():
        np.testing.assert_allclose(value, rows(wanted), rtol=1e-5, atol=1e-6, err_msg=name)


def test_masked_tokens_may_hold_anything():
    broken = jnp.where(WHERE[..., None], STUDENT, jnp.nan)
    for value in (
        language.negative_log_likelihood(broken, TARGETS, WHERE),
        language.teacher_divergence(broken, TEACHER, WHERE),
        language.acceptance(broken, TEACHER, WHERE),
    ):
        assert np.isfinite(value).all() and float(value[3]) == 0


def test_acceptance_is_how_often_a_drafted_token_stays():
    """Draws of the student, each kept with probability min(1, p / q)."""
    keys = jax.random.split(jax.random.key(0), 2)
    drawn = jax.random.categorical(keys[0], jnp.asarray(STUDENT)[None], shape=(20_000, 4, 5))
    ratio = np.take_along_axis(P, np.asarray(drawn).transpose(1, 2, 0), -1) / np.take_along_axis(
        Q, np.asarray(drawn).transpose(1, 2, 0), -1
    )
    stays = np.asarray(jax.random.uniform(keys[1], ratio.shape)) < ratio
    np.testing.assert_allclose(
        language.acceptance(STUDENT, TEACHER, WHERE), rows(stays.mean(-1)), atol=0.05
    )


def test_calibration_is_that_of_all_kept_tokens_as_examples():
    gaps = language.calibration_gaps(jnp.asarray(STUDENT), jnp.asarray(TARGETS), WHERE)
    error = classification.expected_calibration_error(gaps.sum(0), WHERE.sum())
    flat = classification.calibration_gaps(jnp.asarray(STUDENT)[WHERE], jnp.asarray(TARGETS)[WHERE])
    wanted = classification.expected_calibration_error(flat.sum(0), WHERE.sum())
    np.testing.assert_allclose(error, wanted, rtol=1e-5)


def test_perplexity_is_over_tokens_and_not_over_rows():
    total = language.negative_log_likelihood(STUDENT, TARGETS, WHERE).sum()
    own = np.take_along_axis(Q, TARGETS[..., None], -1)[..., 0]
    wanted = np.exp(-np.log(own[WHERE]).mean())
    np.testing.assert_allclose(language.perplexity(total, WHERE.sum()), wanted, rtol=1e-5)
