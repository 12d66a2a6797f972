"""Taggers on states: who sees whom, and what a frozen body leaves to train."""

import jax
import jax.numpy as jnp
import numpy as np

from kdjax import networks
from kdjax.networks.taggers import Prefix, neighbour_tagger, state_tagger

STATES = np.random.default_rng(0).normal(size=(2, 9, 4)).astype(np.float32)
TOKENS = np.random.default_rng(1).integers(0, 7, (2, 5)).astype(np.int32)
BODY = networks.decoder_transformer(
    7, width=8, depth=2, heads=2, key_heads=2, hidden=16, scan=False, features=("hidden",)
)
FROZEN = {"body": BODY.init(jax.random.key(3), {"tokens": TOKENS})["params"]}


def logits(network, params, inputs, frozen=None):
    variables = {"params": params, "frozen": frozen or {}, "model": {}}
    return network.apply(variables, inputs, train=False, rngs={})[0].logits


def test_neighbouring_context_reaches_as_far_as_the_window():
    for window, reach in ((0, 0), (1, 0), (5, 2)):
        network = neighbour_tagger(3, window=window)
        params = network.init(jax.random.key(0), STATES)["params"]

        def of_place(x, network=network, params=params):
            return logits(network, params, x)[0, 4].sum()

        slope = np.abs(np.asarray(jax.grad(of_place)(STATES))[0]).sum(-1)
        assert (np.flatnonzero(slope > 1e-9) == np.arange(4 - reach, 5 + reach)).all()
        # The gate multiplies what the neighbours add: with none of it the head is linear.
        if window:
            params["neighbours"] = jax.tree.map(jnp.zeros_like, params["neighbours"])
        head = params["head"]
        wanted = STATES @ np.asarray(head["kernel"]) + np.asarray(head["bias"])
        np.testing.assert_allclose(logits(network, params, STATES), wanted, atol=1e-5)


def test_spelling_rules_tune_a_prefix_that_every_token_of_a_frozen_decoder_sees():
    prefix = Prefix(length=3, layers=2, heads=2, head_width=4)
    network = state_tagger(BODY, 4, width=8, trained=False, prefix=prefix)
    params = network.init(jax.random.key(0), TOKENS)["params"]
    assert set(params) == {"kernel", "bias", "key", "value"}

    def first(params, tokens=TOKENS):
        return logits(network, params, tokens, FROZEN)[0, 0]

    slope = jax.grad(lambda params: first(params).sum())(params)
    assert all(np.abs(np.asarray(slope["value"][layer])).max() > 0 for layer in range(2))
    # It is causal still: the first token's label does not follow from the later ones.
    later = TOKENS.copy()
    later[:, 1:] = (later[:, 1:] + 1) % 7
    np.testing.assert_allclose(first(params, later), first(params), atol=1e-5)


def test_spelling_rules_without_the_prefixs_attention_are_those_of_the_decoder_alone():
    plain = state_tagger(BODY, 4, width=8, trained=False)
    params = plain.init(jax.random.key(0), TOKENS)["params"]
    hidden = BODY.apply({"params": FROZEN["body"]}, {"tokens": TOKENS}, train=False, rngs={})[0]
    wanted = hidden.features["hidden"] @ params["kernel"] + params["bias"][None, None]
    np.testing.assert_allclose(logits(plain, params, TOKENS, FROZEN), wanted, atol=1e-5)
    trained = state_tagger(BODY, 4, width=8).init(jax.random.key(0), TOKENS)["params"]
    assert set(trained) == {"kernel", "bias", "body"}
    np.testing.assert_allclose(
        logits(state_tagger(BODY, 4, width=8), {**trained, **FROZEN}, TOKENS),
        logits(plain, {k: trained[k] for k in ("kernel", "bias")}, TOKENS, FROZEN),
        atol=1e-5,
    )  # fmt: skip
