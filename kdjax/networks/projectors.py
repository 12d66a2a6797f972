"""Trained maps from a student's feature to the shape of a teacher's, dropped at export.

Each is a `Network` whose input is the student's feature and whose `Outputs` have no logits: the
result is `features["projected"]`. They are made from the shapes that `output_shapes` gives, never
from a batch, and the first axis (examples) is not compared:

    student_shapes = output_shapes(student, inputs).features
    teacher_shapes = output_shapes(teacher, inputs).features
    hint = linear_projector(student_shapes, teacher_shapes, pair=("hidden1", "embedding"))
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from kdjax.networks import adapters
from kdjax.networks.network import Network, Outputs

PROJECTED = "projected"


class Projector(nn.Module):
    """A dense map of the last axis, as a 1x1 convolution is one; then batch statistics if asked."""

    width: int
    use_bias: bool = True
    batch_norm: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    axis_name: str | None = None

    @property
    def couples(self):
        return self.batch_norm

    @nn.compact
    def __call__(self, x, *, train):
        precision = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = nn.Dense(self.width, use_bias=self.use_bias, name="dense", **precision)(x)
        if self.batch_norm:
            x = nn.BatchNorm(
                use_running_average=not train,
                momentum=0.9,
                axis_name=self.axis_name,
                name="norm",
                **precision,
            )(x)
        return Outputs(None, {PROJECTED: x})


def linear_projector(student, teacher, *, pair, use_bias=True, **options) -> Network:
    """A dense map of the last axis, `[B, ..., S] -> [B, ..., T]`.

    Args:
        student: the student's features by name, arrays or shapes.
        teacher: the teacher's.
        pair: the two names, student first.
        use_bias: whether the map has a bias.
        options: dtype, param_dtype.

    Raises:
        ValueError: an unknown name; shapes that differ in more than the first and the last axis.
    """
    have, want = _shapes(student, teacher, pair)
    if have[1:-1] != want[1:-1] or len(have) != len(want):
        raise ValueError(
            f"a linear projector maps the last axis only: student feature {pair[0]!r} has shape "
            f"{have}, teacher feature {pair[1]!r} {want}"
        )
    module = Projector(want[-1], use_bias=use_bias, **options)
    return adapters.from_linen(module, features=(PROJECTED,))


def linear_player(feature, width: int):
    """A method's player that maps the last axis of a feature `[B, ..., S]` to `width`.

    Args:
        feature: the array or the shape that it is initialised with.
        width: T of `features["projected"]` `[B, ..., T]`.

    Returns:
        (network, feature), see `kdjax.train.Method.players`.

    >>> from kdjax.networks import output_shapes
    >>> output_shapes(*linear_player(jnp.zeros((1, 3)), 5)).features["projected"].shape
    (1, 5)
    """
    return adapters.from_linen(Projector(width), features=(PROJECTED,)), feature


def convolution_projector(student, teacher, *, pair, batch_norm=True, **options) -> Network:
    """A 1x1 convolution of maps, `[B, H, W, S] -> [B, H, W, T]`, with batch statistics by default.

    Args:
        student: the student's features by name, arrays or shapes.
        teacher: the teacher's.
        pair: the two names, student first.
        batch_norm: whether batch normalisation follows; the convolution has a bias without it.
        options: dtype, param_dtype, axis_name.

    Raises:
        ValueError: an unknown name; features that are not maps of the same height and width.
    """
    have, want = _shapes(student, teacher, pair)
    if len(have) != 4 or len(want) != 4 or have[1:3] != want[1:3]:
        raise ValueError(
            "a convolution projector maps [B, H, W, S] to [B, H, W, T] of the same height and width:"
            f" student feature {pair[0]!r} has shape {have}, teacher feature {pair[1]!r} {want}"
        )
    module = Projector(want[-1], use_bias=not batch_norm, batch_norm=batch_norm, **options)
    return adapters.from_linen(module, features=(PROJECTED,))


def identity_projector(student, teacher, *, pair) -> Network:
    """No map and no parameters, for two features of one shape.

    Args:
        student: the student's features by name, arrays or shapes.
        teacher: the teacher's.
        pair: the two names, student first.

    Raises:
        ValueError: an unknown name; shapes that differ.
    """
    have, want = _shapes(student, teacher, pair)
    if have[1:] != want[1:]:
        raise ValueError(
            f"student feature {pair[0]!r} has shape {have} and teacher feature {pair[1]!r} {want}: "
            "they need a trained projector (linear_projector, convolution_projector)"
        )
    return adapters.from_function(
        lambda key, inputs: {},
        lambda params, inputs: Outputs(None, {PROJECTED: inputs}),
        features=(PROJECTED,),
    )


def _shapes(student, teacher, pair):
    for side, features, name in (("student", student, pair[0]), ("teacher", teacher, pair[1])):
        if name not in features:
            raise ValueError(f"the {side} has no feature {name!r}; it gives {sorted(features)}")
    return student[pair[0]].shape, teacher[pair[1]].shape
