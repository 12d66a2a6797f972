"""Losses between a feature of the student and a feature of the teacher, example by example.

Notation: `f_s` and `f_t` are features `[B, ...]`; where their shapes differ, a projector of
`kdjax.networks` maps the student's first. Feature maps are channel-last, `[B, H, W, C]`.
"""

import jax.numpy as jnp

from kdjax.losses import _arrays


def feature_hint(student_features, teacher_features, *, where=None):
    r"""Mean squared difference of two features of one shape, per example: the hint loss of FitNets.

    .. math:: \frac{1}{D} \sum_d (f_{s,d} - f_{t,d})^2

    Args:
        student_features: `[B, ...]`, after the projector if the shapes differ.
        teacher_features: `[B, ...]` of the same shape.
        where: `[B]` boolean; masked examples give zero, in value and gradient.

    Returns:
        `[B]`.

    Raises:
        TypeError: features that are not floating-point. ValueError: shapes that differ.

    >>> feature_hint(jnp.array([[1.0, 3.0]]), jnp.array([[1.0, 1.0]]))
    Array([2.], dtype=float32)

    Reference:
        Romero, Ballas, Kahou, Chassang, Gatta, Bengio, "FitNets: Hints for Thin Deep Nets", 2015.
        The authors trained the student up to the hint layer first, then by distillation with T = 3.
    """
    f_s, f_t = _arrays.floating(
        student_features=student_features, teacher_features=teacher_features
    )
    _arrays.check_min_rank(2, student_features=f_s, teacher_features=f_t)
    _arrays.check_same_shape(student_features=f_s, teacher_features=f_t)
    _arrays.check_where(where, f_s.shape[:1])
    f_s, f_t = _arrays.select(where, f_s, f_t)
    return jnp.mean(jnp.square(f_s - f_t), axis=tuple(range(1, f_s.ndim)))
