import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import losses

RNG = np.random.default_rng(0)
S, T = (3 * RNG.normal(size=(4, 6)).astype(np.float32) for _ in range(2))
LABELS = RNG.integers(0, 2, (4, 6))


def sigmoid(z):
    return 1 / (1 + np.exp(-z.astype(np.float64)))


def test_independent_questions_are_binary_cross_entropies_to_softened_answers():
    p, q = sigmoid(T / 2.0), sigmoid(S)
    expected = -np.mean(p * np.log(q) + (1 - p) * np.log(1 - q), axis=-1)
    found = losses.independent_cross_entropy(S, T, temperature=2.0)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_softmax_of_yes_and_no_is_the_sigmoid_of_their_difference():
    yes_no = RNG.normal(size=(4, 6, 2)).astype(np.float32)
    found = losses.independent_cross_entropy(S, yes_no[..., 0] - yes_no[..., 1])
    pairs = jnp.stack([S, jnp.zeros_like(S)], -1)
    expected = losses.soft_cross_entropy(pairs, yes_no).mean(-1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_gradient_is_the_difference_of_probabilities():
    gradient = jax.grad(lambda s: losses.independent_cross_entropy(s, T).sum())(S)
    np.testing.assert_allclose(gradient, (sigmoid(S) - sigmoid(T)) / 6, rtol=1e-5, atol=1e-7)


def test_without_focus_and_margin_it_is_the_sigmoid_cross_entropy():
    found = losses.asymmetric_multi_label(S, LABELS, negative_focus=0.0, margin=0.0)
    expected = optax.sigmoid_binary_cross_entropy(S, LABELS).sum(-1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("margin", [0.0, 0.05])
def test_focuses_and_margin_weigh_as_in_the_formula(margin):
    p = sigmoid(S)
    shifted = np.maximum(p - margin, 0)
    yes, no = (1 - p) ** 1.5 * np.log(p), shifted**4 * np.log(1 - shifted)
    found = losses.asymmetric_multi_label(S, LABELS, positive_focus=1.5, margin=margin)
    np.testing.assert_allclose(found, -np.where(LABELS, yes, no).sum(-1), rtol=2e-5)


def test_a_negative_below_the_margin_counts_nothing():
    s = jnp.full((1, 3), -4.0)
    value, gradient = jax.value_and_grad(
        lambda s: losses.asymmetric_multi_label(s, jnp.zeros((1, 3), int)).sum()
    )(s)
    assert value == 0 and not gradient.any()


def test_confident_mistakes_stay_finite():
    s = jnp.array([[1000.0, -1000.0]])
    for focus in (0.0, 4.0):
        value, gradient = jax.value_and_grad(
            lambda s, focus=focus: losses.asymmetric_multi_label(
                s, jnp.array([[0, 1]]), negative_focus=focus, margin=0.0
            ).sum()
        )(s)
        assert value == 2000 and np.isfinite(gradient).all()


def test_soft_labels_are_refused():
    with pytest.raises(TypeError, match="labels"):
        losses.asymmetric_multi_label(S, S)
