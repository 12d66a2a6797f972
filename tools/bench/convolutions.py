"""Convolutions on the CPU: the gradients of a 3x3 convolution in other forms and in a loop.

`ratio` is the time of value and both gradients over that of `lax.conv_general_dilated`, channels last,
in a program's outermost computation; `in_loop` rows are the same inside a `lax.fori_loop`, where all
of kdjax's training runs. `own` is the convolution of `kdjax.networks`, whose gradients are written in
the layout that XLA's fast kernel takes; `first` has channels first; `shifted` sums nine matrix
products; `columns` is one product over nine shifted copies.
"""

import jax
import jax.numpy as jnp
from jax import lax

from kdjax.networks import _convolution
from tools.bench import _timing

ROUNDS = 9
PASSES = 4
# Examples, side and channels: the three stages of a CIFAR ResNet at batch 16.
SHAPES = ((16, 32, 16), (16, 16, 32), (16, 8, 64))
LAST = ("NHWC", "HWIO", "NHWC")


def native(x, kernel):
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=LAST)


def own(x, kernel):
    return _convolution.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=LAST)


def first(x, kernel):
    x, kernel = x.transpose(0, 3, 1, 2), kernel.transpose(3, 2, 0, 1)
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME").transpose(0, 2, 3, 1)


def shifted(x, kernel):
    return sum(
        part @ k for part, k in zip(_shifts(x), kernel.reshape(-1, *kernel.shape[2:]), strict=True)
    )


def columns(x, kernel):
    return jnp.concatenate(_shifts(x), axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


def _shifts(x):
    _, height, width, _ = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]


FORMS = {"native": native, "own": own, "first": first, "shifted": shifted, "columns": columns}


def rows(only=""):
    """One row a shape, a form and a place, whose name contains `only`."""
    return [row for shape in SHAPES for row in measure(shape, only)]


def measure(shape, only=""):
    batch, side, channels = shape
    key = jax.random.key(0)
    x = jax.random.normal(key, (batch, side, side, channels))
    kernel = 0.1 * jax.random.normal(key, (3, 3, channels, channels))
    runs = {}
    for name, form in FORMS.items():
        for place, many in (("outermost", _unrolled), ("in_loop", _looped)):
            label = f"{side}x{side}x{channels} {name} {place}"
            if only in label or (name, place) == ("native", "outermost"):
                run = jax.jit(many(form)).lower(x, kernel).compile()
                runs[label] = lambda run=run: run(x, kernel)
    seconds = _timing.interleaved(runs, ROUNDS)
    reference = seconds[f"{side}x{side}x{channels} native outermost"]
    return [
        {"name": label, **_timing.compared(taken, reference)}
        for label, taken in seconds.items()
        if only in label
    ]


def _once(form):
    def once(x, kernel):
        gradients = jax.grad(lambda x, k: 0.5 * jnp.sum(form(x, k) ** 2), argnums=(0, 1))(x, kernel)
        # A step too small to change anything, that the compiler cannot leave out.
        return tuple(a - 1e-20 * g for a, g in zip((x, kernel), gradients, strict=True))

    return once


def _looped(form):
    once = _once(form)
    return lambda x, kernel: lax.fori_loop(0, PASSES, lambda _, held: once(*held), (x, kernel))


def _unrolled(form):
    def many(x, kernel):
        for _ in range(PASSES):
            x, kernel = _once(form)(x, kernel)
        return x, kernel

    return many
