"""Encoders of the BERT family: published sizes, padding that nothing sees, named features."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.networks import bert_base, distilbert_base, encoder_transformer
from kdjax.networks.sizes import count_parameters, output_shapes, variable_shapes

SIZES = {"width": 16, "depth": 2, "heads": 2, "hidden": 24, "positions": 12}
MOBILE = {
    "embedding_width": 8, "trigrams": True, "bottleneck": 8, "shared_bottleneck": True,
    "dense_layers": 2, "norm": "affine", "activation": "relu",
}  # fmt: skip
TOKENS = np.random.default_rng(0).integers(2, 30, (2, 7))
MASK = np.ones((2, 7), bool)
MASK[1, 4:] = False


def build(**options):
    return encoder_transformer(30, **{**SIZES, **options})


def variables_of(network):
    drawn = np.random.default_rng(1)
    shapes = jax.eval_shape(network.init, jax.random.key(0), TOKENS)
    return jax.tree.map(lambda x: drawn.normal(size=x.shape).astype(np.float32) * 0.4, shapes)


@functools.partial(jax.jit, static_argnums=(0, 3))
def run(network, variables, inputs, train=False, rngs=None):
    return network.apply(variables, inputs, train=train, rngs=rngs or {})[0]


@pytest.mark.parametrize(
    "network, parameters",
    [
        (bert_base(head=None, pooler="tanh"), 109_482_240),
        (distilbert_base(head=None), 66_362_880),
        (
            encoder_transformer(
                50_265, width=768, depth=12, heads=12, hidden=3072, positions=514, kinds=1,
                head=None, pooler="tanh", padding=1,
            ),
            124_645_632,
        ),
        (
            encoder_transformer(
                30_522, width=512, depth=24, heads=4, hidden=512, positions=512, head=None,
                pooler="tanh", **{**MOBILE, "embedding_width": 128, "bottleneck": 128,
                "dense_layers": 4},
            ),
            24_844_544,
        ),
    ],
)  # fmt: skip
def test_published_parameter_counts(network, parameters):
    """Of BERT base, DistilBERT, RoBERTa base and MobileBERT without their language-model heads."""
    tokens = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    assert count_parameters(variable_shapes(network, tokens)["params"]) == parameters


@pytest.mark.parametrize("options", [{}, MOBILE], ids=["bert", "mobilebert"])
def test_nothing_looks_at_the_padding(options):
    network = build(features=("attention2", "scores2"), **options)
    variables = variables_of(network)
    first = run(network, variables, {"tokens": TOKENS, "mask": MASK})
    assert float(jnp.abs(first.features["attention2"][1, :, :, 4:]).max()) == 0.0
    assert np.isneginf(first.features["scores2"][1, :, :, 4:]).all()
    whole = run(network, variables, TOKENS)
    np.testing.assert_allclose(whole.logits[0], first.logits[0], rtol=1e-5, atol=1e-5)
    assert np.abs(whole.logits[1] - first.logits[1]).max() > 1e-3
    # Its neighbours' embeddings are in a token's own where there are trigrams.
    other = np.where(MASK, TOKENS, 29)
    second = run(network, variables, {"tokens": other, "mask": MASK})
    same = np.array_equal(first.logits[MASK], second.logits[MASK])
    assert same == (not options)


def test_features_have_the_shapes_that_losses_want():
    names = ("hidden0", "hidden2", "queries1", "keys1", "values1", "scores1", "attention1", "embedding")  # fmt: skip
    shapes = output_shapes(build(features=names), TOKENS).features
    assert {name: x.shape for name, x in shapes.items()} == {
        **dict.fromkeys(("hidden0", "hidden2"), (2, 7, 16)),
        **dict.fromkeys(("queries1", "keys1", "values1"), (2, 2, 7, 8)),
        **dict.fromkeys(("scores1", "attention1"), (2, 2, 7, 7)),
        "embedding": (2, 16),
    }


def test_heads():
    assert output_shapes(build(), TOKENS).logits.shape == (2, 7, 30)
    assert output_shapes(build(head="classification", classes=3), TOKENS).logits.shape == (2, 3)
    assert output_shapes(build(head=None), TOKENS).logits is None


def test_positions_are_counted_over_the_tokens_that_are_not_padding():
    network = build(padding=1, head=None, features=("hidden0",))
    variables = variables_of(network)
    tokens = np.array([[5, 6, 7, 8]])
    padded = np.array([[1, 1, 5, 6, 7, 8]])
    left = run(network, variables, padded).features["hidden0"]
    np.testing.assert_allclose(
        left[:, 2:], run(network, variables, tokens).features["hidden0"], rtol=1e-5, atol=1e-5
    )


def test_kinds_of_tokens_tell_two_texts_apart():
    network = build()
    variables = variables_of(network)
    kinds = (np.arange(7)[None] > 3) * np.ones((2, 1), int)
    plain = run(network, variables, TOKENS).logits
    assert np.abs(run(network, variables, {"tokens": TOKENS, "kinds": kinds}).logits - plain).max() > 0.1  # fmt: skip
    np.testing.assert_array_equal(
        run(network, variables, {"tokens": TOKENS, "kinds": 0 * kinds}).logits, plain
    )


def test_recomputed_layers_give_the_same_gradient():
    gradients = []
    for remat in (False, True):
        network = build(remat=remat)
        variables = variables_of(network)
        loss = lambda v, n=network: jnp.sum(jnp.sin(run(n, v, TOKENS).logits))
        gradients.append(jax.jit(jax.grad(loss))(variables)["params"])
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4), *gradients)


def test_dropout_draws_in_training_only():
    network = build(dropout=0.5, attention_dropout=0.5)
    variables = variables_of(network)
    rngs = {"dropout": jax.random.key(3)}
    quiet = run(network, variables, TOKENS, rngs=rngs).logits
    np.testing.assert_array_equal(quiet, run(build(), variables, TOKENS).logits)
    assert np.abs(run(network, variables, TOKENS, True, rngs).logits - quiet).max() > 0.1


def test_half_precision_has_whole_logits():
    network = build(dtype=jnp.bfloat16, param_dtype=jnp.bfloat16, features=("hidden2", "scores1"))
    outputs = output_shapes(network, TOKENS)
    assert outputs.logits.dtype == outputs.features["scores1"].dtype == jnp.float32
    assert outputs.features["hidden2"].dtype == jnp.bfloat16


def test_what_is_not_there_is_refused_by_name():
    for options, message in [
        ({"activation": "mish"}, "activation must be one of .*'mish'"),
        ({"head": "masks"}, "head must be one of .*'masks'"),
        ({"norm": "rms"}, "norm must be one of"),
        ({"pooler": "gelu"}, "pooler must be one of"),
        ({"head": "classification"}, "classes must be above 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            build(**options)
    network = build()
    for inputs, message in [
        (np.ones((1, 13), int), "length 13, there are 12 positions"),
        (np.ones((1, 3)), "tokens must be integers"),
    ]:
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(network.init, jax.random.key(0), inputs)
