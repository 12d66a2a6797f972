import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import losses

RNG = np.random.default_rng(4)
COMPILER = {"xla_backend_optimization_level": 0}
S, T = RNG.standard_normal((3, 5)), RNG.standard_normal((3, 5))


def double(loss, *arrays, **keywords):
    """The loss in float64, compiled without optimisation: compiling is what these tests cost."""
    run = jax.jit(lambda *chosen: loss(*chosen, **keywords), compiler_options=COMPILER)
    with jax.enable_x64(True):
        return np.asarray(run(*(jnp.asarray(x) for x in arrays)))


def plackett_luce(scores, order):
    """-log of the product of the choices, each among what is left."""
    left, value = list(order), 0.0
    for chosen in order:
        value -= scores[chosen] - np.log(sum(np.exp(scores[j]) for j in left))
        left.remove(chosen)
    return value


@pytest.mark.parametrize("length", [1, 3, 5, None])
def test_listwise_likelihood_is_the_definitions(length):
    wanted = [plackett_luce(s, np.argsort(-t)[:length]) for s, t in zip(S, T, strict=True)]
    ours = double(losses.listwise_likelihood, S, T, length=length)
    np.testing.assert_allclose(ours, wanted, rtol=1e-9, atol=1e-14)


def test_likelihoods_of_all_orders_sum_to_one():
    scores = np.broadcast_to(S[0, :4], (24, 4))
    orders = -np.argsort(np.array(list(itertools.permutations(range(4)))), axis=1).astype(float)
    values = double(losses.listwise_likelihood, scores, orders)
    np.testing.assert_allclose(np.sum(np.exp(-values)), 1, rtol=1e-12)


def test_only_the_order_of_the_teacher_matters():
    plain = double(losses.listwise_likelihood, S, T)
    np.testing.assert_array_equal(double(losses.listwise_likelihood, S, np.exp(3 * T)), plain)
    gradient = double(jax.grad(lambda t, s: jnp.sum(losses.listwise_likelihood(s, t))), T, S)
    assert np.all(gradient == 0)


def test_likelihood_is_certain_of_widely_spread_scores_in_the_teachers_order():
    spread = 100.0 * np.argsort(np.argsort(T))
    assert np.all(double(losses.listwise_likelihood, spread, T) < 1e-12)


def test_candidates_without_a_teacher_score_take_no_part():
    teacher = T.copy()
    teacher[:, 2] = -np.inf
    kept = [0, 1, 3, 4]
    wanted = double(losses.listwise_likelihood, S[:, kept], T[:, kept])
    np.testing.assert_allclose(double(losses.listwise_likelihood, S, teacher), wanted)


def test_student_alone_at_minus_infinity_is_infinite():
    student = S.copy()
    student[0, np.argmax(T[0])] = -np.inf
    values = double(losses.listwise_likelihood, student, T)
    assert np.isposinf(values[0]) and np.all(np.isfinite(values[1:]))


def features_order(t, i, length):
    away = np.linalg.norm(t - t[i], axis=1)
    return [j for j in np.argsort(away) if j != i][:length]


@pytest.mark.parametrize(("length", "size"), [(4, 7), (4, 3), (1, 7)])
def test_rank_likelihood_is_the_definitions(length, size):
    s, t = RNG.standard_normal((size, 4)) / 2, RNG.standard_normal((size, 6))
    wanted = []
    for i in range(size):
        scores = -2.0 * np.linalg.norm(s - s[i], axis=1) ** 3
        wanted.append(plackett_luce(scores, features_order(t, i, length)))
    ours = double(losses.rank_likelihood, s, t, scale=2.0, power=3.0, length=length)
    np.testing.assert_allclose(ours, wanted, rtol=1e-9, atol=1e-14)


def test_rank_likelihood_of_a_masked_batch_is_that_of_the_smaller_batch():
    s, t = RNG.standard_normal((7, 4)), RNG.standard_normal((7, 6))
    where = np.array([True, True, False, True, True, False, False])
    masked = double(losses.rank_likelihood, s, t, where=where)
    wanted = np.zeros(7)
    wanted[where] = double(losses.rank_likelihood, s[where], t[where])
    np.testing.assert_allclose(masked, wanted, rtol=1e-9)


def test_a_duplicate_of_the_anchor_is_its_first_neighbour():
    teacher = jnp.array([[0.0], [0.0], [1.0]])
    student = jnp.array([[0.0], [2.0], [1.0]])
    value = losses.rank_likelihood(student, teacher, scale=1.0, power=1.0, length=2)
    # The first anchor's neighbours are the second (at student distance 2) and the third (at 1).
    np.testing.assert_allclose(value[0], 2 + np.log(np.exp(-2) + np.exp(-1)), rtol=1e-6)


def test_listwise_divergence_is_the_definitions():
    def probabilities(x):
        return np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)

    q, p = probabilities(S), probabilities(T / 3)
    wanted = np.sum(p * np.log(p / q), axis=1)
    np.testing.assert_allclose(double(losses.listwise_divergence, S, T, temperature=3.0), wanted)


def test_listwise_divergence_vanishes_at_the_tempered_teacher():
    assert np.all(np.abs(double(losses.listwise_divergence, T / 3, T, temperature=3.0)) < 1e-14)


@pytest.mark.parametrize("length", [0, 1.5])
def test_length_is_refused_by_name(length):
    with pytest.raises(ValueError, match="length"):
        losses.listwise_likelihood(jnp.asarray(S), jnp.asarray(T), length=length)
    with pytest.raises(ValueError, match="length"):
        losses.rank_likelihood(jnp.asarray(S), jnp.asarray(T), length=length)


@pytest.mark.parametrize("name", ["scale", "power"])
def test_parameters_that_are_not_positive_are_refused_by_name(name):
    with pytest.raises(ValueError, match=name):
        losses.rank_likelihood(jnp.asarray(S), jnp.asarray(T), **{name: 0.0})


def test_word_errors_are_expected_under_the_renormalised_hypotheses():
    rng = np.random.default_rng(11)
    scores = rng.normal(size=(3, 4)).astype(np.float32)
    errors = rng.integers(0, 9, (3, 4)).astype(np.float32)
    p = np.exp(scores.astype(np.float64))
    p /= p.sum(-1, keepdims=True)
    excess = errors - errors.mean(-1, keepdims=True)
    value, gradient = jax.value_and_grad(lambda s: losses.minimum_word_error(s, errors).sum())(
        scores
    )
    expected = (p * excess).sum(-1, keepdims=True)
    np.testing.assert_allclose(value, expected.sum(), rtol=1e-5)
    np.testing.assert_allclose(gradient, p * (excess - expected), rtol=1e-4, atol=1e-6)
