"""Speculative text is distributed as its teacher's, whatever the draft."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.generate import (
    adjusted_log_probs,
    generate,
    left_padded,
    next_token_probs,
    speculate,
    speculative,
    verified,
)
from tests.kdjax.generate.tiny_decoders import decoder, log_probs

VOCABULARY = 4
TEACHER = decoder(VOCABULARY, seed=1)
DRAFT = decoder(VOCABULARY, seed=2, width=4, depth=1)
KEY = jax.random.key(7)
PROMPT = np.array([[1, 2, 0]], np.int32)
DRAWS = 20_000


def run(teacher=TEACHER, draft=DRAFT, prompts=PROMPT, **options):
    return speculate(*teacher, *draft, prompts, **{"key": KEY, "length": 3, **options})


def text_probabilities(length=3):
    """{every text of three tokens: its probability under the teacher} as an array `[V^3]`."""
    texts = np.array(list(itertools.product(range(VOCABULARY), repeat=length)), np.int32)
    rows = log_probs(*TEACHER, np.concatenate([np.repeat(PROMPT, len(texts), 0), texts], axis=1))
    places = np.arange(length) + PROMPT.shape[1] - 1
    return np.exp(rows[np.arange(len(texts))[:, None], places, texts].sum(-1))


def chi_squared(tokens, wanted):
    tokens = np.asarray(tokens)
    codes = tokens @ VOCABULARY ** np.arange(tokens.shape[1])[::-1]
    observed = np.bincount(codes, minlength=len(wanted))
    # Rare texts are counted together, so that each count is near normal.
    rare = wanted * len(codes) < 5
    both = [
        np.append(x[~rare], x[rare].sum()) for x in (observed.astype(float), wanted * len(codes))
    ]
    freedom = len(both[0]) - 1
    return np.sum((both[0] - both[1]) ** 2 / np.maximum(both[1], 1e-9)), freedom


def fits(tokens):
    wanted = text_probabilities()
    np.testing.assert_allclose(wanted.sum(), 1, rtol=1e-5)
    value, freedom = chi_squared(tokens, wanted)
    # Four standard deviations of a chi-squared variable above its mean.
    return value < freedom + 4 * np.sqrt(2 * freedom)


@pytest.fixture(scope="module")
def many():
    """Many texts with one prompt, two drafted tokens a round: one that ends inside a round too."""
    return run(prompts=np.repeat(PROMPT, DRAWS, axis=0), drafted=2)


def test_texts_are_distributed_as_the_teachers(many):
    assert fits(many.tokens)
    # The draft's own texts are not: the test can tell.
    drafts = generate(*DRAFT, np.repeat(PROMPT, DRAWS, axis=0), length=3, key=KEY)
    assert not fits(drafts.tokens)
    rate = float(many.acceptance_rate)
    assert 0.05 < rate < 0.95
    assert np.all(many.mask) and np.all(many.proposed == 2 * many.passes)
    assert 1 < float(many.tokens_per_pass) <= 3


def test_log_probs_are_the_teachers(many):
    tokens = np.asarray(many.tokens[:64])
    rows = log_probs(*TEACHER, np.concatenate([np.repeat(PROMPT, 64, 0), tokens], axis=1))
    wanted = rows[np.arange(64)[:, None], np.arange(2, 5), tokens]
    np.testing.assert_allclose(many.log_probs[:64], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "broken", [pytest.param("accepts more", marks=pytest.mark.full), "replaces from the teacher"]
)
def test_another_rule_of_rejection_is_found_out(broken, monkeypatch):
    def wrong(keys, steps, tokens, q, p):
        if broken == "accepts more":
            # As if the draft had been half as sure.
            return verified(keys, steps, tokens, q - jnp.log(2.0), p)
        count, token = verified(keys, steps, tokens, q, p)
        last = jnp.take_along_axis(p, count[:, None, None], axis=1)[:, 0]
        fresh = jax.vmap(lambda key, x: jax.random.categorical(jax.random.fold_in(key, 99), x))
        return count, fresh(keys, last).astype(token.dtype)

    monkeypatch.setattr(speculative, "verified", wrong)
    # A network of its own, so that the program is made anew and no other test meets it.
    draft = decoder.__wrapped__(VOCABULARY, seed=2, width=4, depth=1)
    out = run(draft=draft, prompts=np.repeat(PROMPT, DRAWS, axis=0), drafted=2)
    assert not fits(out.tokens)


def test_the_rule_gives_p_at_one_place():
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(5), 2), rng.dirichlet(np.ones(5), 1)
    p[0, 3], q[0, 1] = 0, 0
    q /= q.sum()
    p[0] /= p[0].sum()
    count = 20_000
    keys = jax.random.split(KEY, count)
    with np.errstate(divide="ignore"):
        log_p, log_q = (np.float32(np.log(x)) for x in (p, q))
    tokens = jax.vmap(lambda key: jax.random.categorical(key, log_q))(
        jax.random.split(jax.random.key(1), count)
    )
    log_p, log_q = (jnp.broadcast_to(x, (count, *x.shape)) for x in (log_p, log_q))
    steps = jnp.zeros(count, jnp.int32)
    kept, token = jax.jit(verified)(keys, steps, tokens, log_q, log_p)
    first = np.where(np.asarray(kept) == 1, np.asarray(tokens)[:, 0], token)
    observed = np.bincount(first, minlength=5) / count
    np.testing.assert_allclose(observed, p[0], atol=4 * 0.5 / np.sqrt(count))
    assert observed[3] == 0
    np.testing.assert_allclose(np.mean(kept), np.minimum(p[0], q[0]).sum(), atol=0.015)
    after = np.asarray(token)[np.asarray(kept) == 1]
    observed = np.bincount(after, minlength=5) / len(after)
    np.testing.assert_allclose(observed, p[1], atol=4 * 0.5 / np.sqrt(len(after)))
    with pytest.raises(ValueError, match="the draft has 4 classes, the teacher 5"):
        verified(keys, steps, tokens, log_q[..., :4], log_p)


def test_retrieved_drafts_step_towards_the_draft_and_without_a_step_are_the_teachers():
    rng = np.random.default_rng(1)
    p, q = (np.float32(np.log(rng.dirichlet(np.ones(6), 7))) for _ in range(2))
    same = adjusted_log_probs(p, q, margin=0.0)
    np.testing.assert_allclose(same, p, atol=1e-5)
    np.testing.assert_allclose(next_token_probs(q, p, same), np.exp(p), atol=1e-5)
    moved = np.asarray(adjusted_log_probs(p, q, margin=0.1, threshold=0.3), np.float64)
    kept = np.exp(q) >= 0.3 * np.exp(q).max(-1, keepdims=True)
    wanted = p - 0.1 * kept * (np.exp(p) - np.exp(q))
    wanted = wanted - np.log(np.exp(wanted).sum(-1, keepdims=True))
    np.testing.assert_allclose(moved, wanted, atol=1e-5)
    # A small step along the gradient takes KL(q || p) down.
    own, less = (
        (np.exp(q) * (q - x)).sum(-1)
        for x in (p, adjusted_log_probs(p, q, margin=0.1, threshold=0.0))
    )
    assert (np.asarray(less) < own).all()


def test_retrieved_drafts_are_drawn_as_the_closed_form_says():
    rng, count = np.random.default_rng(2), 20_000
    p, q = (np.float32(np.log(rng.dirichlet(np.ones(5)))) for _ in range(2))
    adjusted = adjusted_log_probs(p, q, margin=10.0)
    wanted = np.asarray(next_token_probs(q, p, adjusted))
    np.testing.assert_allclose(wanted.sum(), 1, rtol=1e-5)
    keys = jax.random.split(KEY, count)
    tokens = jax.vmap(lambda key: jax.random.categorical(key, q))(jax.random.split(keys[0], count))
    one, two = (jnp.broadcast_to(x, (count, n, 5)) for x, n in ((q, 1), (p, 2)))
    kept, token = jax.jit(verified)(
        keys, jnp.zeros(count, jnp.int32), tokens[:, None], one, two,
        jnp.broadcast_to(adjusted, (count, 1, 5)),
    )  # fmt: skip
    drawn = np.where(np.asarray(kept) == 1, tokens, token)
    np.testing.assert_allclose(np.bincount(drawn, minlength=5) / count, wanted, atol=0.015)
    assert np.abs(wanted - np.exp(p)).max() > 0.03


LONG, LONG_MASK = left_padded([[3, 1, 2, 0, 2, 1], [2], [0, 1, 3]])
WIDE = decoder(29, seed=3, windows=(4, None))
NARROW = decoder(29, seed=3, width=8, depth=1)


@pytest.mark.parametrize("drafted", [pytest.param(1, marks=pytest.mark.full), 3])
def test_at_temperature_zero_it_is_the_teachers_text_token_for_token(drafted):
    options = {"mask": LONG_MASK, "length": 10, "key": KEY, "temperature": 0.0}
    wanted = generate(*WIDE, LONG, **options)
    ours = speculate(*WIDE, *NARROW, LONG, drafted=drafted, **options)
    np.testing.assert_array_equal(ours.tokens, wanted.tokens)
    stop = int(wanted.tokens[0, 4])
    wanted = generate(*WIDE, LONG, stop_token=stop, **options)
    ours = speculate(*WIDE, *NARROW, LONG, drafted=drafted, stop_token=stop, **options)
    for field in ("tokens", "mask"):
        np.testing.assert_array_equal(getattr(ours, field), getattr(wanted, field))


@pytest.mark.full
def test_a_teacher_that_drafts_for_itself_is_always_accepted():
    options = {"mask": LONG_MASK, "length": 12, "key": KEY, "top_p": 0.9, "drafted": 3}
    ours = speculate(*WIDE, *WIDE, LONG, **options)
    assert float(ours.acceptance_rate) == 1.0
    np.testing.assert_array_equal(ours.passes, [3, 3, 3])
    assert float(ours.tokens_per_pass) == 4.0


@pytest.mark.full
def test_an_examples_text_does_not_depend_on_its_neighbours():
    options = {"length": 8, "key": KEY, "drafted": 3}
    ours = speculate(*WIDE, *NARROW, LONG, mask=LONG_MASK, **options)
    prompts, mask = left_padded([[5] * 8, [0, 1, 3], [3, 1, 2, 0, 2, 1]])
    moved = speculate(*WIDE, *NARROW, prompts, mask=mask, index=np.array([6, 2, 0]), **options)
    np.testing.assert_array_equal(ours.tokens[0], moved.tokens[2])
    np.testing.assert_array_equal(ours.tokens[2], moved.tokens[1])
    np.testing.assert_array_equal(ours.passes[2], moved.passes[1])


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="drafted must be at least 1, got 0"):
        run(drafted=0)
    with pytest.raises(ValueError, match="the draft has 29 classes, the teacher 4"):
        run(draft=NARROW)
    with pytest.raises(ValueError, match="top_p must be in"):
        run(top_p=2.0)
