"""FLOPs counted on the jaxpr, against counts by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from kdjax.metrics.cost import count_flops
from kdjax.networks import cifar_resnet, mlp, sizes, vit


def shape(*axes):
    return jax.ShapeDtypeStruct(axes, jnp.float32)


def forward_flops(network, inputs):
    variables = sizes.variable_shapes(network, inputs)
    apply = functools.partial(network.apply, train=False, rngs={})
    return count_flops(lambda v, x: apply(v, x)[0].logits, variables, inputs)


def test_networks_against_counts_by_hand():
    perceptron = mlp.multilayer_perceptron(10, widths=(16,))
    assert forward_flops(perceptron, shape(1, 8, 8, 1)) == 2 * (64 * 16 + 16 * 10)
    # The multiplications of ResNet-20 that its paper's kind of table gives as 40.8 million.
    stages = 6 * 16 * 16 * 9 * 1024, *(n * 9 * 16 * 32 * 256 + 512 * 256 for n in (11, 11))
    multiplications = 3 * 16 * 9 * 1024 + sum(stages) + 64 * 100
    assert multiplications == 40_818_944
    assert forward_flops(cifar_resnet.resnet20(100), shape(1, 32, 32, 3)) == 2 * multiplications
    tokens, width = 17, 16
    block = 12 * tokens * width**2 + 2 * tokens**2 * width
    small = vit.vision_transformer(5, width=width, depth=2, heads=2, patch=7)
    assert forward_flops(small, shape(1, 28, 28, 1)) == 2 * (
        16 * 49 * width + 2 * block + width * 5
    )


def test_it_is_per_batch_and_follows_transformations():
    product = 2 * 3 * 4 * 5

    def f(x, w):
        return jnp.tanh(x @ w)

    x, w = shape(3, 4), shape(4, 5)
    assert count_flops(f, x, w) == product
    assert count_flops(jax.jit(f), x, w) == product
    assert count_flops(jax.vmap(f, (0, None)), shape(7, 3, 4), w) == 7 * product

    def total(x, w):
        return jnp.sum(f(x, w))

    assert count_flops(jax.grad(total), x, w) == 2 * product  # forward, and back to x
    assert count_flops(jax.grad(total, argnums=(0, 1)), x, w) == 3 * product
    again = jax.grad(jax.checkpoint(lambda x, w: jnp.sum(f(f(x, w), w.T))), argnums=0)
    plain = jax.grad(lambda x, w: jnp.sum(f(f(x, w), w.T)), argnums=0)
    assert count_flops(again, x, w) > count_flops(plain, x, w) == 4 * product
    assert count_flops(lambda x: jnp.sort(jnp.exp(x)), x) == 0
    einsum = functools.partial(jnp.einsum, "bhqd,bhkd->bhqk")
    assert count_flops(einsum, shape(2, 3, 4, 5), shape(2, 3, 6, 5)) == 2 * 2 * 3 * 4 * 6 * 5


def test_loops_and_branches():
    x, w = shape(3, 4), shape(4, 4)
    product = 2 * 3 * 4 * 4

    def scanned(x, w):
        def body(x, _):
            return jax.lax.scan(lambda y, _: (y @ w, None), x, None, length=2)[0], None

        return jax.lax.scan(body, x, None, length=5)[0]

    assert count_flops(scanned, x, w) == 10 * product
    assert (
        count_flops(lambda x, w: jax.lax.fori_loop(0, 6, lambda _, y: y @ w, x), x, w)
        == 6 * product
    )

    def branched(x, w):
        branches = [lambda: x, lambda: x @ w @ w, lambda: x @ w]
        return jax.lax.switch(jnp.int32(x[0, 0]), branches)

    assert count_flops(branched, x, w) == 2 * product

    def until(x, w):
        return jax.lax.while_loop(lambda y: y[0, 0] < 1, lambda y: y @ w, x)

    with pytest.raises(ValueError, match="while loop has products"):
        count_flops(until, x, w)
    assert (
        count_flops(lambda x: jax.lax.while_loop(lambda y: y[0, 0] < 1, lambda y: y + 1, x), x) == 0
    )


def test_convolutions():
    x, kernel = shape(2, 8, 8, 4), shape(3, 3, 4, 6)
    names = ("NHWC", "HWIO", "NHWC")

    def convolve(x, kernel, **options):
        return jax.lax.conv_general_dilated(
            x, kernel, padding="SAME", dimension_numbers=names, **options
        )

    dense = 2 * 2 * 8 * 8 * 6 * 9 * 4
    one = functools.partial(convolve, window_strides=(1, 1))
    assert count_flops(one, x, kernel) == dense
    strided = functools.partial(convolve, window_strides=(2, 2))
    assert count_flops(strided, x, kernel) == dense // 4
    depthwise = functools.partial(convolve, window_strides=(1, 1), feature_group_count=4)
    assert count_flops(depthwise, x, shape(3, 3, 1, 4)) == 2 * 2 * 8 * 8 * 4 * 9
    # Back to input and kernel costs the same each, for a stride as well.
    for f in (one, strided):
        both = jax.grad(lambda x, k, f=f: jnp.sum(jnp.square(f(x, k))), argnums=(0, 1))
        assert count_flops(both, x, kernel) == 3 * count_flops(f, x, kernel)


def test_work_of_every_device_counts():
    mesh = Mesh(np.array(jax.devices()), ("data",))
    rows = PartitionSpec("data")
    f = jax.shard_map(jnp.matmul, mesh=mesh, in_specs=(rows, PartitionSpec()), out_specs=rows)
    assert count_flops(f, shape(16, 4), shape(4, 5)) == 2 * 16 * 4 * 5
    # Mapped over a part of the mesh, its shapes are whole over the rest.
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("data", "tensor"))
    f = jax.shard_map(
        jnp.matmul, mesh=mesh, in_specs=(rows, PartitionSpec()), out_specs=rows, axis_names={"data"}
    )
    assert count_flops(f, shape(16, 4), shape(4, 5)) == 2 * 16 * 4 * 5
