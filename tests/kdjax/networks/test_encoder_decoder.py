"""Encoder-decoders of the T5 family: sizes, causality, padding, and the buckets of distances."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.networks import encoder_decoder_transformer
from kdjax.networks.encoder_decoder import distance_buckets
from kdjax.networks.sizes import count_parameters, output_shapes, variable_shapes

SIZES = {"width": 16, "depth": 2, "heads": 2, "head_width": 6, "hidden": 24}
DRAWN = np.random.default_rng(0)
INPUTS = {"tokens": DRAWN.integers(0, 20, (2, 7)), "targets": DRAWN.integers(0, 20, (2, 5))}


def build(**options):
    return encoder_decoder_transformer(20, **SIZES, **options)


NETWORK = build(gated=True, features=("hidden", "head", "memory", "cross_attention1"))
VARIABLES = jax.tree.map(
    lambda x: DRAWN.normal(size=x.shape).astype(np.float32) * 0.4,
    jax.eval_shape(NETWORK.init, jax.random.key(0), INPUTS),
)


@functools.partial(jax.jit, static_argnums=1)
def run(inputs, network=NETWORK):
    return network.apply(VARIABLES, inputs, train=False, rngs={})[0]


@pytest.mark.parametrize(
    "options, parameters",
    [
        ({"width": 512, "depth": 6, "heads": 8, "head_width": 64, "hidden": 2048}, 60_506_624),
        ({"width": 768, "depth": 12, "heads": 12, "head_width": 64, "hidden": 3072}, 222_903_552),
        (
            {"width": 512, "depth": 8, "heads": 6, "head_width": 64, "hidden": 1024,
             "gated": True, "tied": False},
            76_961_152,
        ),
    ],
)  # fmt: skip
def test_published_parameter_counts(options, parameters):
    """Of T5 small, T5 base and T5 1.1 small."""
    network = encoder_decoder_transformer(32_128, **options)
    assert count_parameters(variable_shapes(network, INPUTS)["params"]) == parameters


def test_logits_are_hidden_times_head_and_a_token_sees_those_before_it():
    outputs = run(INPUTS)
    features = outputs.features
    np.testing.assert_allclose(
        outputs.logits, features["hidden"] @ features["head"], rtol=1e-4, atol=1e-4
    )
    assert features["cross_attention1"].shape == (2, 2, 5, 7)
    targets = INPUTS["targets"].copy()
    targets[:, 3] = (targets[:, 3] + 1) % 20
    changed = run({**INPUTS, "targets": targets}).logits
    np.testing.assert_allclose(changed[:, :3], outputs.logits[:, :3], rtol=1e-5, atol=1e-5)
    assert np.abs(changed[:, 3:] - outputs.logits[:, 3:]).min(axis=(0, 2)).max() > 1e-3


def test_nothing_sees_the_padding():
    mask, target_mask = np.ones((2, 7), bool), np.ones((2, 5), bool)
    mask[1, 5:], target_mask[1, 4:] = False, False
    masks = {"mask": mask, "target_mask": target_mask}
    first = run({**INPUTS, **masks})
    other = {
        "tokens": np.where(mask, INPUTS["tokens"], 3),
        "targets": np.where(target_mask, INPUTS["targets"], 3),
    }
    second = run({**other, **masks})
    np.testing.assert_allclose(
        first.logits[target_mask], second.logits[target_mask], rtol=1e-5, atol=1e-5
    )
    short = {name: x[1:, :length] for (name, x), length in zip(INPUTS.items(), (5, 4), strict=True)}
    np.testing.assert_allclose(first.logits[1, :4], run(short).logits[0], rtol=1e-4, atol=1e-4)


def test_without_logits_the_halves_are_there():
    network = build(gated=True, logits=False, scaled=False, features=("hidden", "head"))
    shapes = output_shapes(network, INPUTS)
    assert shapes.logits is None
    assert shapes.features["head"].shape == (16, 20)
    np.testing.assert_allclose(
        run(INPUTS, network).features["hidden"] / 4, run(INPUTS).features["hidden"], rtol=1e-5
    )


def test_recomputed_layers_give_the_same_gradient():
    def loss(variables, network):
        outputs, _ = network.apply(variables, INPUTS, train=False, rngs={})
        return jnp.sum(jnp.sin(outputs.logits))

    one, other = (
        jax.jit(jax.grad(loss), static_argnums=1)(VARIABLES, build(gated=True, remat=remat))
        for remat in (False, True)
    )
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-3), one, other)


def test_buckets_are_exact_near_by_and_shared_far_away():
    found = distance_buckets(200, 200, buckets=32, max_distance=128, both_sides=True)
    np.testing.assert_array_equal(found[0, :8], [0, *range(17, 24)])
    np.testing.assert_array_equal(found[:8, 0], range(8))
    assert (found[0, 128:] == 31).all() and (found[128:, 0] == 15).all()
    assert (np.diff(found[0, 1:]) >= 0).all() and sorted(set(found[0])) == [0, *range(17, 32)]
    one = distance_buckets(200, 200, buckets=32, max_distance=128, both_sides=False)
    assert (one[np.triu_indices(200)] == 0).all()
    np.testing.assert_array_equal(one[:16, 0], range(16))
    assert one[127, 0] == 31 and one[100, 0] == 30


def test_what_is_not_there_is_refused():
    with pytest.raises(ValueError, match="activation must be one of"):
        build(activation="mish")
    for inputs in (INPUTS["tokens"], {"tokens": INPUTS["tokens"]}):
        with pytest.raises(ValueError, match="a dict with tokens and targets"):
            jax.eval_shape(NETWORK.init, jax.random.key(0), inputs)
    with pytest.raises(ValueError, match="tokens must be integers"):
        jax.eval_shape(
            NETWORK.init, jax.random.key(0), {**INPUTS, "targets": np.ones((2, 3), np.float32)}
        )
