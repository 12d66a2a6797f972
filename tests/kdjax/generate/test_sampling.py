"""Distributions that tokens are drawn from: supports against NumPy, limits, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.generate import mixed, most_probable, nucleus, sampling_log_probs, tempered

RNG = np.random.default_rng(0)
LOGITS = 3 * RNG.normal(size=(6, 11)).astype(np.float32)
LOGITS[4] = np.round(LOGITS[4])  # ties
LOGITS[5] = 0.0


def softmax(x):
    e = np.exp(np.float64(x) - np.max(x, axis=-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def kept_by_mass(probs, mass):
    """One row: the classes from the most probable on, the first of equal ones first, up to `mass`."""
    kept = np.zeros(len(probs), bool)
    total = 0.0
    for c in sorted(range(len(probs)), key=lambda c: (-probs[c], c)):
        if total >= mass:
            break
        kept[c] = True
        total += probs[c]
    return kept


@pytest.mark.parametrize("count", [1, 3, 10, 11, 40])
def test_top_k_keeps_exactly_the_largest_and_the_first_of_equal_ones(count):
    ours = np.asarray(most_probable(LOGITS, count))
    for row, logits in zip(ours, LOGITS, strict=True):
        order = sorted(range(11), key=lambda c: (-logits[c], c))[:count]
        np.testing.assert_array_equal(np.flatnonzero(np.isfinite(row)), sorted(order))
        np.testing.assert_array_equal(row[order], logits[order])


@pytest.mark.parametrize("mass", [1e-6, 0.3, 0.77, 0.95])
def test_top_p_keeps_the_smallest_set_that_reaches_the_mass(mass):
    ours = np.asarray(nucleus(LOGITS, mass))
    for row, logits in zip(ours, LOGITS, strict=True):
        kept = kept_by_mass(softmax(logits), mass)
        np.testing.assert_array_equal(np.isfinite(row), kept)
        np.testing.assert_array_equal(row[kept], logits[kept])


def test_top_p_of_one_keeps_all():
    np.testing.assert_array_equal(nucleus(LOGITS, 1.0), LOGITS)


def test_temperature_then_top_k_then_top_p_normalised():
    ours = np.asarray(sampling_log_probs(LOGITS, temperature=0.5, top_k=5, top_p=0.6))
    for row, logits in zip(ours, LOGITS, strict=True):
        first = sorted(range(11), key=lambda c: (-logits[c], c))[:5]
        probs = np.zeros(11)
        probs[first] = softmax(2 * logits[first])
        probs = np.where(kept_by_mass(probs, 0.6), probs, 0)
        np.testing.assert_allclose(np.exp(row), probs / probs.sum(), rtol=1e-5)


def test_temperature_zero_is_the_limit_and_may_be_traced():
    best = np.argmax(LOGITS, axis=-1)
    traced = jax.jit(tempered)
    for t, function in ((0.0, tempered), (0.0, traced), (1e-4, traced)):
        probs = np.exp(function(LOGITS[:4], t))
        np.testing.assert_allclose(probs, np.eye(11)[best[:4]], atol=1e-6)
    # Of equal logits the first.
    np.testing.assert_array_equal(np.exp(tempered(LOGITS[4:], 0.0)), np.eye(11)[best[4:]])
    np.testing.assert_allclose(np.exp(traced(LOGITS, 1.0)), softmax(LOGITS), rtol=1e-5)
    np.testing.assert_allclose(np.exp(traced(LOGITS, 2.0)), softmax(LOGITS / 2), rtol=1e-5)


def test_classes_that_may_not_come_stay_out():
    logits = LOGITS.copy()
    logits[:, ::2] = -np.inf
    for options in ({}, {"top_k": 8}, {"top_p": 1.0}, {"temperature": 0.0}):
        probs = np.exp(sampling_log_probs(logits, **options))
        assert np.all(probs[:, ::2] == 0)
        np.testing.assert_allclose(probs.sum(-1), 1, rtol=1e-6)


def test_a_mixture_of_probabilities():
    p, q = softmax(LOGITS), softmax(LOGITS[::-1])
    p[:, 3], q[:, 5] = 0, 0
    with np.errstate(divide="ignore"):
        log_p, log_q = np.log(p).astype(np.float32), np.log(q).astype(np.float32)
    for weight in (0.0, 0.2, 1.0):
        ours = np.exp(mixed(log_p, log_q, weight))
        np.testing.assert_allclose(ours, (1 - weight) * p + weight * q, rtol=1e-5, atol=1e-7)


def test_half_precision_is_raised():
    half = jnp.asarray(LOGITS, jnp.bfloat16)
    ours = sampling_log_probs(half, top_p=0.9)
    assert ours.dtype == jnp.float32
    np.testing.assert_array_equal(ours, sampling_log_probs(np.float32(half), top_p=0.9))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"temperature": -0.1}, "temperature must be finite and at least 0, got -0.1"),
        ({"temperature": float("nan")}, "temperature must be finite"),
        ({"temperature": float("inf")}, "temperature must be finite"),
        ({"top_k": 0}, "top_k must be an integer of at least 1, got 0"),
        ({"top_k": 2.0}, "top_k must be an integer of at least 1, got 2.0"),
        ({"top_p": 0.0}, "top_p must be in \\(0, 1\\], got 0.0"),
        ({"top_p": 1.1}, "top_p must be in \\(0, 1\\], got 1.1"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sampling_log_probs(LOGITS, **options)


def test_bad_arrays_and_weights_are_refused():
    with pytest.raises(TypeError, match="logits must be floating-point, got int32"):
        tempered(np.zeros(3, np.int32), 1.0)
    with pytest.raises(ValueError, match="weight must be in \\[0, 1\\], got 1.5"):
        mixed(LOGITS, LOGITS, 1.5)
    with pytest.raises(ValueError, match="shapes \\(6, 11\\) and \\(6, 9\\) do not mix"):
        mixed(LOGITS, LOGITS[:, :9], 0.5)
