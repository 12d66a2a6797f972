"""Losses inside transformers, against loops in float64 NumPy, and what masks and symmetries ask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import losses

B, H, L, D = 3, 2, 5, 4
KEPT = np.arange(L) < np.array([5, 3, 1])[:, None]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def softmax(x):
    raised = np.exp(x - x.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def divergence(p, q):
    return float(np.sum(p * np.log(p / q)))


def per_query(students, teachers, kept, of_row):
    """[B, L]: the mean over heads of `of_row(student keys, teacher keys)` of each kept query."""
    values = np.zeros(kept.shape)
    for b, i in np.argwhere(kept):
        heads = zip(students[b][:, i, kept[b]], teachers[b][:, i, kept[b]], strict=True)
        values[b, i] = np.mean([of_row(*head) for head in heads])
    return values


def relations(x):
    return np.array([[[[u @ v for v in h] for u in h] for h in e] for e in x]) / np.sqrt(
        x.shape[-1]
    )


@pytest.mark.parametrize("kept", [np.ones((B, L), bool), KEPT], ids=["all", "ragged"])
def test_attention_losses_are_their_definitions(rng, kept):
    s, t = rng.normal(size=(2, B, H, L, L))
    wanted = per_query(s, t, kept, lambda a, b: divergence(softmax(b), softmax(a)))
    np.testing.assert_allclose(losses.attention_kl_divergence(s, t, where=kept), wanted, 1e-9)
    wanted = per_query(s, t, kept, lambda a, b: np.mean((a - b) ** 2))
    np.testing.assert_allclose(losses.attention_mean_squared_error(s, t, where=kept), wanted, 1e-9)
    if kept.all():
        np.testing.assert_allclose(losses.attention_mean_squared_error(s, t), wanted, 1e-9)


@pytest.mark.parametrize("kept", [np.ones((B, L), bool), KEPT], ids=["all", "ragged"])
def test_token_relations_are_their_definition_between_widths(rng, kept):
    s, t = rng.normal(size=(B, H, L, D)), rng.normal(size=(B, H, L, D + 3))
    wanted = per_query(
        relations(s), relations(t), kept, lambda a, b: divergence(softmax(b), softmax(a))
    )
    np.testing.assert_allclose(losses.token_relation_divergence(s, t, where=kept), wanted, 1e-9)


@pytest.mark.parametrize("kept", [np.ones((B, L), bool), KEPT], ids=["all", "ragged"])
def test_token_gram_is_its_definition_between_widths(rng, kept):
    s, s2 = rng.normal(size=(2, B, L, D))
    t, t2 = rng.normal(size=(2, B, L, D + 3))
    wanted = np.zeros((B, L))
    for b, i in np.argwhere(kept):
        squares = [
            (s[b, i] @ s2[b, j] / D - t[b, i] @ t2[b, j] / (D + 3)) ** 2
            for j in np.flatnonzero(kept[b])
        ]
        wanted[b, i] = np.mean(squares)
    np.testing.assert_allclose(losses.token_gram_distance(s, t, s2, t2, where=kept), wanted, 1e-9)


def test_codebook_divergence_is_its_definition(rng):
    s, t = rng.normal(size=(2, B, L, D))
    codes, temperature = rng.normal(size=(6, D)), 1.7
    values = losses.codebook_divergence(s, t, codes, temperature=temperature)
    for b, i in np.ndindex(B, L):
        q, p = (softmax(-np.linalg.norm(x[b, i] - codes, axis=1) / temperature) for x in (s, t))
        assert np.isclose(values[b, i], temperature**2 * divergence(p, q), rtol=1e-9)


def test_codebook_divergence_at_a_code_has_a_finite_gradient(rng):
    codes = rng.normal(size=(6, D))
    gradient = jax.grad(lambda s: losses.codebook_divergence(s, codes[1], codes))(codes[0])
    assert np.all(np.isfinite(gradient)) and np.any(gradient != 0)


def test_relations_of_tokens_do_not_see_a_rotation_of_the_vectors(rng):
    s, t = rng.normal(size=(2, B, H, L, D))
    rotation = np.linalg.qr(rng.normal(size=(D, D)))[0]
    plain = losses.token_relation_divergence(s, t)
    np.testing.assert_allclose(losses.token_relation_divergence(s @ rotation, t), plain, 1e-9)
    assert np.all(plain > 0)


def test_attention_divergence_sees_neither_a_shift_of_scores_nor_the_order_of_heads(rng):
    s, t = rng.normal(size=(2, B, H, L, L))
    plain = losses.attention_kl_divergence(s, t)
    shifted = losses.attention_kl_divergence(s + 7 * rng.normal(size=(B, H, L, 1)), t)
    turned = losses.attention_kl_divergence(s[:, ::-1], t[:, ::-1])
    np.testing.assert_allclose(shifted, plain, 1e-9)
    np.testing.assert_allclose(turned, plain, 1e-9)


def test_causal_scores_give_what_the_visible_keys_alone_give(rng):
    s, t = rng.normal(size=(2, B, H, L, L))
    causal = np.tril(np.ones((L, L), bool))
    hidden_s, hidden_t = np.where(causal, s, -np.inf), np.where(causal, t, -np.inf)
    values = losses.attention_kl_divergence(hidden_s, hidden_t)
    squares = losses.attention_mean_squared_error(hidden_s, hidden_t)
    for i in range(L):
        a, b = s[:, :, i, : i + 1], t[:, :, i, : i + 1]
        wanted = np.mean(np.sum(softmax(b) * np.log(softmax(b) / softmax(a)), -1), axis=1)
        np.testing.assert_allclose(values[:, i], wanted, 1e-9, atol=1e-12)
        wanted = np.mean(np.sum((a - b) ** 2, -1), axis=1) / L
        np.testing.assert_allclose(squares[:, i], wanted, 1e-9)
    for loss in (losses.attention_kl_divergence, losses.attention_mean_squared_error):
        gradient = jax.grad(lambda x, f=loss: jnp.sum(f(x, hidden_t)))(hidden_s)
        assert np.all(np.isfinite(gradient))
        assert np.all(gradient[..., ~causal] == 0)


@pytest.mark.parametrize("name", ["attention_kl_divergence", "attention_mean_squared_error"])
def test_padding_is_neither_query_nor_key(rng, name):
    loss = getattr(losses, name)
    s, t = rng.normal(size=(2, B, H, L, L))
    pair = (KEPT[:, :, None] & KEPT[:, None, :])[:, None]
    plain = loss(s, t, where=KEPT)
    spoiled = np.where(pair, s, np.nan)
    np.testing.assert_array_equal(loss(spoiled, t, where=KEPT), plain)
    gradient = jax.grad(lambda x: jnp.sum(loss(x, t, where=KEPT)))(spoiled)
    assert np.all(np.where(pair, True, gradient == 0))
    assert np.all(plain[~KEPT] == 0)


def test_bad_input_is_refused_by_name(rng):
    x = rng.normal(size=(B, H, L, L))
    hidden = rng.normal(size=(B, L, D))
    with pytest.raises(ValueError, match="student_scores must be square"):
        losses.attention_kl_divergence(x[..., 1:], x[..., 1:])
    with pytest.raises(ValueError, match="student_attention .* teacher_attention"):
        losses.attention_mean_squared_error(x, x[:, :1])
    with pytest.raises(ValueError, match="where must have the result's shape"):
        losses.attention_kl_divergence(x, x, where=np.ones((B, H, L), bool))
    with pytest.raises(ValueError, match="codebook must have shape"):
        losses.codebook_divergence(hidden, hidden, np.ones((6, D + 1)))
    with pytest.raises(ValueError, match="temperature must be above 0"):
        losses.codebook_divergence(hidden, hidden, np.ones((6, D)), temperature=0.0)
    with pytest.raises(ValueError, match="teacher_hidden .* teacher_second"):
        losses.token_gram_distance(hidden, hidden, hidden, hidden[..., 1:])
