"""Text drawn token by token against whole passes; what an example's text may depend on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import networks
from kdjax.generate import Mixture, generate, init_cache, left_padded
from tests.kdjax.generate.tiny_decoders import decoder, log_probs

VOCABULARY, LENGTH = 17, 6
NETWORK, VARIABLES = decoder(VOCABULARY, windows=(4, None))
KEY = jax.random.key(3)
PROMPTS, MASK = left_padded([[5, 9, 2, 16, 7], [3, 8], [11, 6, 2]])


def run(prompts=PROMPTS, mask=MASK, network=NETWORK, variables=VARIABLES, **options):
    options = {"length": LENGTH, "key": KEY, **options}
    return generate(network, variables, prompts, mask=mask, **options)


def whole(row, new):
    """Log-probabilities of the new tokens' places, `[length, V]`, from one pass without padding."""
    text = np.concatenate([PROMPTS[row][MASK[row]], new]).astype(np.int32)
    # Padded at the end to one shape, which changes nothing before.
    padded = np.pad(text, (0, PROMPTS.shape[1] + LENGTH - len(text)))[None]
    count = len(text) - len(new)
    return log_probs(NETWORK, VARIABLES, padded)[0, count - 1 : len(text) - 1]


def test_greedy_is_the_best_of_whole_passes_and_what_is_drawn_has_its_probability():
    greedy, drawn = run(temperature=0.0), run(temperature=1.0)
    for row in range(3):
        np.testing.assert_array_equal(greedy.tokens[row], whole(row, greedy.tokens[row]).argmax(-1))
        wanted = whole(row, drawn.tokens[row])[np.arange(LENGTH), drawn.tokens[row]]
        np.testing.assert_allclose(drawn.log_probs[row], wanted, rtol=1e-4, atol=1e-5)
    assert np.all(greedy.log_probs == 0) and np.all(greedy.mask) and np.all(drawn.mask)
    assert not np.array_equal(greedy.tokens, drawn.tokens)


def test_one_seed_is_one_text_whatever_stands_beside_it():
    first = run()
    np.testing.assert_array_equal(first.tokens, run().tokens)
    assert not np.array_equal(first.tokens, run(key=jax.random.key(4)).tokens)
    # The same examples elsewhere, beside others, with more padding.
    prompts, mask = left_padded([[4] * 7, [11, 6, 2], [5, 9, 2, 16, 7], [3, 8]])
    moved = run(prompts, mask, index=np.array([9, 2, 0, 1]))
    for array, other in zip(first, moved, strict=True):
        np.testing.assert_allclose(array, np.asarray(other)[[2, 3, 1]], rtol=1e-5, atol=1e-6)
    # Two examples with one prompt differ, since their places do.
    same = run(np.repeat(PROMPTS[:1], 3, axis=0), None)
    assert len(np.unique(same.tokens, axis=0)) == 3


def test_frequencies_of_two_tokens_are_the_networks():
    network, variables = decoder(5)
    prompt = np.array([[1, 2]], np.int32)
    count = 4000
    out = run(np.repeat(prompt, count, 0), None, network, variables, length=2)
    pairs = np.array([[1, 2, a, b] for a in range(5) for b in range(5)], np.int32)
    rows = log_probs(network, variables, pairs)
    wanted = np.exp(rows[np.arange(25), 1, pairs[:, 2]] + rows[np.arange(25), 2, pairs[:, 3]])
    np.testing.assert_allclose(wanted.sum(), 1, rtol=1e-5)
    drawn = np.asarray(out.tokens)
    observed = np.bincount(5 * drawn[:, 0] + drawn[:, 1], minlength=25)
    # Chi-squared with 24 degrees of freedom: above 52 once in a thousand.
    assert np.sum((observed - count * wanted) ** 2 / (count * wanted)) < 52


def test_a_text_ends_with_its_stop_token():
    free = np.asarray(run(length=12).tokens)
    stop = int(free[0, 3])
    out = run(length=12, stop_token=stop)
    for row, tokens in enumerate(free):
        hits = np.flatnonzero(tokens == stop)
        end = hits[0] + 1 if len(hits) else 12
        np.testing.assert_array_equal(out.tokens[row, :end], tokens[:end])
        np.testing.assert_array_equal(out.mask[row], np.arange(12) < end)
        assert np.all(out.tokens[row, end:] == stop) and np.all(out.log_probs[row, end:] == 0)
    assert out.mask[0].sum() <= 4


def test_top_k_of_one_is_greedy_and_traced_options_are_the_same():
    np.testing.assert_array_equal(run(top_k=1).tokens, run(temperature=0.0).tokens)
    text = run(top_p=0.7, temperature=1.5)
    traced = jax.jit(lambda p, t: run(top_p=p, temperature=t))(0.7, 1.5)
    np.testing.assert_array_equal(text.tokens, traced.tokens)


def test_a_mixture_is_drawn_from_both():
    other = decoder(VOCABULARY, seed=5, width=4, depth=1)
    out = run(mixture=Mixture(*other, 0.3))
    for row in range(3):
        text = np.concatenate([PROMPTS[row][MASK[row]], out.tokens[row]]).astype(np.int32)
        start = len(text) - LENGTH
        padded = np.pad(text, (0, PROMPTS.shape[1] + LENGTH - len(text)))[None]
        parts = (
            np.exp(log_probs(*model, padded)[0, np.arange(start, len(text)) - 1, text[start:]])
            for model in ((NETWORK, VARIABLES), other)
        )
        own, others = parts
        np.testing.assert_allclose(np.exp(out.log_probs[row]), 0.7 * own + 0.3 * others, rtol=1e-3)
    # All weight on one of them is that one alone, with the same draws.
    np.testing.assert_array_equal(run(mixture=Mixture(*other, 0.0)).tokens, run().tokens)
    alone = run(network=other[0], variables=other[1])
    np.testing.assert_array_equal(run(mixture=Mixture(*other, 1.0)).tokens, alone.tokens)


def test_adapted_weights_generate_too():
    adapted = networks.low_rank(NETWORK, {"query/kernel": 2}, rank=1, alpha=1.0)
    params = adapted.init(jax.random.key(0), PROMPTS)["params"]
    out = run(network=adapted, variables={"params": params, "frozen": VARIABLES["params"]})
    np.testing.assert_array_equal(out.tokens, run().tokens)


def test_what_cannot_be_continued_is_refused():
    with pytest.raises(TypeError, match="prompts must be integers \\[B, P\\], got float32"):
        run(np.zeros((2, 3), np.float32), None)
    with pytest.raises(ValueError, match="prompts must be integers \\[B, P\\], got int32 \\(3,\\)"):
        run(np.zeros(3, np.int32), None)
    with pytest.raises(ValueError, match="padded on the left"):
        run(mask=MASK[:, ::-1])
    with pytest.raises(ValueError, match="mask must be boolean \\(3, 5\\)"):
        run(mask=MASK[:, 1:])
    with pytest.raises(ValueError, match="length must be at least 1, got 0"):
        run(length=0)
    with pytest.raises(ValueError, match="index must be \\[3\\], got \\(2,\\)"):
        run(index=np.arange(2))
    with pytest.raises(ValueError, match="temperature must be finite"):
        run(temperature=-1.0)
    with pytest.raises(ValueError, match="shapes \\(3, 17\\) and \\(3, 5\\) do not mix"):
        run(mixture=Mixture(*decoder(5), 0.5))
    plain = networks.from_function(
        lambda key, x: {}, lambda params, x: jnp.zeros((*x["tokens"].shape, 4))
    )
    with pytest.raises(ValueError, match="gives no feature `cache`"):
        init_cache(plain, {"params": {}}, 2, 4)
    mute = networks.decoder_transformer(
        5, width=8, depth=1, heads=2, key_heads=1, hidden=8, logits=False
    )
    with pytest.raises(ValueError, match="gives no logits"):
        init_cache(mute, mute.init(KEY, PROMPTS), 2, 4)


def test_prompts_that_do_not_fit_are_refused():
    tokens, mask = left_padded([[1, 2], [3]], length=4, padding=9)
    np.testing.assert_array_equal(tokens, [[9, 9, 1, 2], [9, 9, 9, 3]])
    np.testing.assert_array_equal(mask, tokens != 9)
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        left_padded([[1], []])
    with pytest.raises(ValueError, match="prompt 0 has 3 tokens, length is 2"):
        left_padded([[1, 2, 3]], length=2)
    with pytest.raises(ValueError, match="no prompts"):
        left_padded([])
