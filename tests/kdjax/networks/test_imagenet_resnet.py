"""Residual networks for large images: published sizes, the shapes of their stages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import networks
from kdjax.networks import imagenet_resnet
from kdjax.networks.sizes import count_parameters, output_shapes, variable_shapes

IMAGES = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
SMALL = {"depths": (1, 2), "widths": (8, 16), "block": "bottleneck", "stem": 4}


@pytest.mark.parametrize(
    "depth, parameters",
    [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032), (101, 44_549_160), (152, 60_192_808)],
)
def test_published_parameter_counts(depth, parameters):
    network = getattr(networks, f"imagenet_resnet{depth}")(1000)
    assert count_parameters(variable_shapes(network, IMAGES)["params"]) == parameters


def test_stages_halve_the_map():
    names = ("stem", "stage1", "stage2", "stage4", "stage4_preactivation", "embedding")
    shapes = output_shapes(networks.imagenet_resnet50(1000, features=names), IMAGES)
    assert {name: x.shape[1:] for name, x in shapes.features.items()} == {
        "stem": (112, 112, 64), "stage1": (56, 56, 256), "stage2": (28, 28, 512),
        "stage4": (7, 7, 2048), "stage4_preactivation": (7, 7, 2048), "embedding": (2048,),
    }  # fmt: skip
    assert shapes.logits.shape == (1, 1000)
    early = imagenet_resnet(3, **SMALL, first_stride=2, features=("stage1", "stage2"))
    found = output_shapes(early, IMAGES).features
    assert [x.shape[1] for x in found.values()] == [28, 14]
    assert output_shapes(imagenet_resnet(None, **SMALL), IMAGES).logits is None


def test_statistics_are_state_and_couple_the_examples():
    network = imagenet_resnet(3, **SMALL)
    x = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    variables = jax.jit(network.init)(jax.random.key(0), x)
    run = jax.jit(lambda v, train: network.apply(v, x, train=train, rngs={}), static_argnums=1)
    outputs, state = run(variables, True)
    assert network.couples and sorted(state) == ["batch_stats"]
    mean = state["batch_stats"]["stem_norm"]["mean"]
    assert np.abs(mean).max() > 0 and np.isfinite(outputs.logits).all()
    again, same = run({**variables, "model": state}, False)
    jax.tree.map(np.testing.assert_array_equal, same, state)
    assert np.abs(again.logits - outputs.logits).max() > 1e-4


def test_what_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"block must be one of .*'wide'"):
        imagenet_resnet(3, **{**SMALL, "block": "wide"})
    with pytest.raises(ValueError, match="must be as many"):
        imagenet_resnet(3, **{**SMALL, "depths": (1, 2, 3)})
