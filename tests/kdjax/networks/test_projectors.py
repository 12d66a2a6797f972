"""Trained maps between features: made from shapes, and errors that name both features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.networks import cifar_resnet, mlp, projectors, sizes

KEY = jax.random.key(0)


def shaped(**features):
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in features.items()}


STUDENT = shaped(flat=(4, 3), map=(4, 2, 2, 3), sequence=(4, 5, 3))
TEACHER = shaped(flat=(8, 6), map=(8, 2, 2, 6), coarse=(8, 1, 1, 6), same=(8, 3))


def test_linear_is_a_dense_map_of_the_last_axis():
    network = projectors.linear_projector(STUDENT, TEACHER, pair=("flat", "flat"))
    variables = network.init(KEY, STUDENT["flat"])
    dense = {**variables["params"]["dense"], "bias": jnp.arange(6.0)}
    x = jax.random.normal(KEY, (4, 3))
    outputs, state = network.apply({"params": {"dense": dense}}, x, train=True, rngs={})
    assert outputs.logits is None and state == {} and not network.couples
    projected = outputs.features[projectors.PROJECTED]
    expected = np.asarray(x) @ np.asarray(dense["kernel"]) + np.arange(6.0)
    np.testing.assert_allclose(projected, expected, rtol=1e-5)
    bare = projectors.linear_projector(STUDENT, TEACHER, pair=("map", "map"), use_bias=False)
    assert sizes.count_parameters(bare.init(KEY, STUDENT["map"])) == 18


def test_convolution_normalises_its_maps():
    network = projectors.convolution_projector(STUDENT, TEACHER, pair=("map", "map"))
    assert network.couples
    variables = network.init(KEY, STUDENT["map"])
    x = 3 + jax.random.normal(KEY, (4, 2, 2, 3))
    outputs, state = network.apply(variables, x, train=True, rngs={})
    projected = np.asarray(outputs.features["projected"])
    assert projected.shape == (4, 2, 2, 6)
    np.testing.assert_allclose(projected.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(projected.std((0, 1, 2)), 1, rtol=1e-2)
    raw = x @ variables["params"]["dense"]["kernel"]
    np.testing.assert_allclose(
        state["batch_stats"]["norm"]["mean"], 0.1 * raw.mean((0, 1, 2)), rtol=1e-4
    )
    plain = projectors.convolution_projector(
        STUDENT, TEACHER, pair=("map", "map"), batch_norm=False
    )
    assert not plain.couples
    assert set(plain.init(KEY, STUDENT["map"])["params"]["dense"]) == {"kernel", "bias"}


def test_identity_has_no_parameters():
    network = projectors.identity_projector(STUDENT, TEACHER, pair=("flat", "same"))
    variables = network.init(KEY, STUDENT["flat"])
    assert variables == {"params": {}, "model": {}}
    x = jax.random.normal(KEY, (4, 3))
    outputs, _ = network.apply(variables, x, train=True, rngs={})
    np.testing.assert_array_equal(outputs.features["projected"], x)


@pytest.mark.parametrize(
    "make, pair, message",
    [
        (
            projectors.identity_projector,
            ("map", "flat"),
            r"feature 'map' has shape \(4, 2, 2, 3\) and .*'flat' \(8, 6\).*linear_projector",
        ),
        (projectors.identity_projector, ("flat", "flat"), "trained projector"),
        (projectors.linear_projector, ("sequence", "flat"), "'sequence' .*'flat'"),
        (projectors.linear_projector, ("map", "coarse"), "'map' .*'coarse'"),
        (projectors.convolution_projector, ("map", "coarse"), "'map' .*'coarse'"),
        (projectors.convolution_projector, ("flat", "flat"), "'flat' .*'flat'"),
        (projectors.linear_projector, ("lost", "flat"), r"student has no feature 'lost'.*\['flat'"),
        (projectors.linear_projector, ("flat", "lost"), r"teacher has no feature 'lost'.*\['coa"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(make, pair, message):
    with pytest.raises(ValueError, match=message):
        make(STUDENT, TEACHER, pair=pair)


def test_between_two_networks():
    images = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    student = mlp.multilayer_perceptron(5, widths=(6,), features=("embedding",))
    teacher = cifar_resnet.resnet8(5, features=("embedding",))
    shapes = [sizes.output_shapes(network, images).features for network in (student, teacher)]
    network = projectors.linear_projector(*shapes, pair=("embedding", "embedding"))
    out = sizes.output_shapes(network, shapes[0]["embedding"]).features["projected"]
    assert out.shape == shapes[1]["embedding"].shape
