import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from kdjax.networks._convolution import LAYOUT, conv_general_dilated

CASES = [
    # side, kernel, stride, padding
    (8, 3, 1, "SAME"),
    (8, 3, 2, ((1, 1), (1, 1))),
    (9, 3, 2, ((1, 1), (1, 1))),
    (8, 3, 2, "SAME"),
    (8, 1, 2, ((0, 0), (0, 0))),
    (8, 4, 4, "VALID"),
    (11, 3, 4, "VALID"),
    (7, 5, 3, ((0, 2), (1, 4))),
]


def arrays(side, size, *, batch=3, channels=4, filters=5):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, side, side + 1, channels)).astype(np.float32)
    kernel = rng.normal(size=(size, size, channels, filters)).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(kernel)


def close(found, expected, tolerance=1e-5):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=10 * tolerance),
        found,
        expected,
    )


def both(x, kernel, *arguments, **options):
    def value_and_gradients(function):
        def total(x, kernel):
            return jnp.sum(jnp.sin(function(x, kernel, *arguments, **options)))

        return jax.value_and_grad(total, argnums=(0, 1))(x, kernel)

    return value_and_gradients(conv_general_dilated), value_and_gradients(lax.conv_general_dilated)


@pytest.mark.parametrize(("side", "size", "stride", "padding"), CASES)
def test_value_and_gradients_are_those_of_jax(side, size, stride, padding):
    x, kernel = arrays(side, size)
    strides = (stride, stride)
    close(*both(x, kernel, strides, padding, dimension_numbers=LAYOUT))


@pytest.mark.parametrize(
    "options",
    [
        {"rhs_dilation": (2, 2)},
        {"lhs_dilation": (2, 1), "padding": ((1, 1), (1, 1))},
        {"feature_group_count": 2},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_is_dilated_or_grouped_is_left_to_jax(options):
    x, kernel = arrays(8, 3, filters=6)
    kernel = kernel[:, :, : 4 // options.get("feature_group_count", 1)]
    options = {"padding": "SAME", **options}
    close(*both(x, kernel, (1, 1), dimension_numbers=LAYOUT, **options))


def test_half_precision_keeps_its_dtype():
    x, kernel = (a.astype(jnp.bfloat16) for a in arrays(8, 3))
    found, expected = both(x, kernel, (1, 1), "SAME", dimension_numbers=LAYOUT)
    assert [g.dtype for g in found[1]] == [jnp.bfloat16] * 2
    as_float = lambda tree: jax.tree.map(lambda a: a.astype(jnp.float32), tree)
    close(as_float(found[1]), as_float(expected[1]), tolerance=5e-2)


def test_it_maps_over_replicas_and_differentiates_twice():
    x, kernel = arrays(6, 3)
    kernels = jnp.stack([kernel, 2 * kernel])

    def penalty(function):
        def total(kernel):
            y = function(x, kernel, (2, 2), "SAME", dimension_numbers=LAYOUT)
            return jnp.sum(jnp.tanh(0.1 * y))

        return jax.vmap(jax.grad(lambda k: jnp.sum(jax.grad(total)(k) ** 2)))(kernels)

    close(penalty(conv_general_dilated), penalty(lax.conv_general_dilated))


def test_in_a_loop_the_gradients_have_the_layout_of_the_fast_kernel():
    """XLA turns others round in the outermost computation only; see the module's docstring."""
    x, kernel = arrays(8, 3)

    def looped(kernel):
        def once(_, kernel):
            def total(x, k):
                return jnp.sum(
                    conv_general_dilated(x, k, (2, 2), "SAME", dimension_numbers=LAYOUT) ** 2
                )

            by_input, by_kernel = jax.grad(total, argnums=(0, 1))(x, kernel)
            return kernel - 1e-3 * by_kernel - 1e-3 * by_input.mean()

        return lax.fori_loop(0, 3, once, kernel)

    program = jax.jit(looped).lower(kernel).compile().as_text()
    layouts = [
        line.split("dim_labels=")[1].split(",")[0]
        for line in program.splitlines()
        if "dim_labels=" in line
    ]
    assert len(layouts) >= 3 and set(layouts) == {"b01f_01io->b01f"}, layouts
