"""Shapes and counts without allocation."""

import jax
import jax.numpy as jnp

from kdjax.networks import cnn, sizes, vit


def test_shapes_are_those_of_the_real_thing():
    network = cnn.small_cnn(5, features=("stage1",))
    x = jnp.zeros((2, 8, 8, 3))
    variables = jax.jit(network.init)(jax.random.key(0), x)
    shapes = sizes.variable_shapes(network, jax.ShapeDtypeStruct(x.shape, x.dtype))
    same = jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), variables, shapes)
    assert all(jax.tree.leaves(same))
    outputs, _ = network.apply(variables, x, train=False, rngs={})
    shape = sizes.output_shapes(network, x)
    assert shape.logits.shape == outputs.logits.shape
    assert shape.features["stage1"].shape == outputs.features["stage1"].shape
    assert sizes.count_parameters(variables) == sum(v.size for v in jax.tree.leaves(variables))


def test_nothing_is_allocated():
    """A network of a hundred billion parameters has shapes."""
    network = vit.vision_transformer(10, width=65536, depth=2, heads=64, patch=16)
    shapes = sizes.variable_shapes(network, jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32))
    assert sizes.count_parameters(shapes["params"]) > 10**11
