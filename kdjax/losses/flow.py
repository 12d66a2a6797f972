"""Losses on how features change from one layer to a later one: the flow of a solution.

Notation: `student_maps` and `teacher_maps` are maps `[B, H, W, C]` of an earlier layer,
`*_later_maps` `[B, H', W', C']` those of a later layer; student and teacher have one shape at each.
"""

import jax
import jax.numpy as jnp

from kdjax.losses import _arrays, _maps


def solution_flow(
    student_maps, teacher_maps, student_later_maps, teacher_later_maps, *, where=None
):
    r"""Squared distance of the two matrices of inner products between two layers' channels: FSP.

    .. math:: \lVert G_s - G_t \rVert_F^2, \quad G_{cd} = \frac{1}{HW} \sum_{hw} A_{hwc} B_{hwd}

    with A the earlier and B the later map, of one spatial size: pool the larger first.

    Args:
        student_maps: `[B, H, W, C]`
        teacher_maps: `[B, H, W, C]`
        student_later_maps: `[B, H, W, C']`
        teacher_later_maps: `[B, H, W, C']`
        where: `[B]` boolean; masked examples give zero, in value and gradient.

    Returns:
        `[B]`, a sum over the entries.

    Raises:
        TypeError: maps that are not floating-point. ValueError: shapes that do not fit.

    >>> x = jnp.array([1.0, 3.0]).reshape(1, 1, 2, 1)
    >>> solution_flow(x, 0 * x, x, x)
    Array([25.], dtype=float32)

    Reference:
        Yim, Joo, Bae, Kim, "A Gift from Knowledge Distillation: Fast Optimization, Network
        Minimization and Transfer Learning", 2017. Layers are weighted equally; the student is
        initialised by this loss, then trained by cross-entropy.
    """
    a_s, a_t, b_s, b_t = _maps.aligned(
        where,
        student_maps=student_maps,
        teacher_maps=teacher_maps,
        student_later_maps=student_later_maps,
        teacher_later_maps=teacher_later_maps,
    )
    _arrays.check_same_shape(student_maps=a_s, teacher_maps=a_t)
    _arrays.check_same_shape(student_later_maps=b_s, teacher_later_maps=b_t)
    return jnp.sum(jnp.square(_flow_matrix(a_s, b_s) - _flow_matrix(a_t, b_t)), axis=(1, 2))


def singular_vector_flow(
    student_maps, teacher_maps, student_later_maps, teacher_later_maps, *, rank=1, where=None
):
    r"""Squared difference of radial-basis relations between two layers' singular vectors: KD-SVD.

    .. math:: \sum_{r=1}^k \sum_{cd} (R_{s,cdr} - R_{t,cdr})^2,
        \quad R_{cdr} = \exp(-(b_{cr} - a_{dr})^2 / 8)

    `a` and `b` are the first k right singular vectors of the earlier and the later map as a matrix
    `[H W, C]`, times the teacher's first k singular values over their norm. The teacher's vectors
    have the sign that makes their components sum to at least zero; the student's are, of its first
    k + 3, those closest to the teacher's, sign included. The choice passes no gradient, and neither
    do pairs of singular values that are equal up to rounding.

    Args:
        student_maps: `[B, H, W, C]`
        teacher_maps: `[B, H, W, C]`
        student_later_maps: `[B, H', W', C']`
        teacher_later_maps: `[B, H', W', C']`
        rank: k, at most the smaller number of channels.
        where: `[B]` boolean; masked examples give zero, in value and gradient.

    Returns:
        `[B]`. A map of zeros has zero vectors.

    Raises:
        TypeError: maps that are not floating-point. ValueError: shapes that do not fit, the rank.

    >>> x = jnp.array([[1.0, 2.0], [3.0, 5.0]]).reshape(1, 1, 2, 2)
    >>> singular_vector_flow(x, -2 * x, x, -2 * x).round(4)
    Array([0.], dtype=float32)

    Reference:
        Lee, Kim, Song, "Self-supervised Knowledge Distillation Using Singular Value Decomposition",
        2018. k = 1.
    """
    a_s, a_t = _maps.aligned(where, student_maps=student_maps, teacher_maps=teacher_maps)
    b_s, b_t = _maps.aligned(
        where, student_later_maps=student_later_maps, teacher_later_maps=teacher_later_maps
    )
    _arrays.check_same_shape(student_maps=a_s, teacher_maps=a_t)
    _arrays.check_same_shape(student_later_maps=b_s, teacher_later_maps=b_t)
    if a_s.shape[0] != b_s.shape[0]:
        raise ValueError(
            f"student_maps {a_s.shape} and student_later_maps {b_s.shape} must have one batch size"
        )
    if not 1 <= rank <= min(a_s.shape[3], b_s.shape[3]):
        raise ValueError(
            f"rank must be between 1 and {min(a_s.shape[3], b_s.shape[3])} channels, got {rank}"
        )
    (v_s, v_t), (w_s, w_t) = (_aligned_vectors(*x, rank) for x in ((a_s, a_t), (b_s, b_t)))
    return jnp.sum(jnp.square(_relations(v_s, w_s) - _relations(v_t, w_t)), axis=(1, 2, 3))


def _flow_matrix(maps, later_maps):
    """`[B, H, W, C]`, `[B, H, W, C']` -> `[B, C, C']`."""
    x, y = _maps.pixels(maps), _maps.pixels(later_maps)
    return jnp.einsum("bpc,bpd->bcd", x, y, precision="highest") / x.shape[1]


def _relations(vectors, later_vectors):
    """`[B, C, k]`, `[B, C', k]` -> `[B, C', C, k]`."""
    differences = later_vectors[:, :, None, :] - vectors[:, None, :, :]
    return jnp.exp(-jnp.square(differences) / 8)


def _aligned_vectors(student_maps, teacher_maps, rank):
    """Scaled right singular vectors `[B, C, k]` of student and teacher, the student's aligned."""
    values_t, vectors_t = _right_singular(teacher_maps, rank)
    _, vectors_s = _right_singular(student_maps, rank + 3)
    signs = jnp.where(jnp.sum(vectors_t, axis=1, keepdims=True) < 0, -1, 1)
    vectors_t = vectors_t * signs.astype(vectors_t.dtype)
    cosines = jnp.einsum("bci,bcr->bir", vectors_s, vectors_t, precision="highest")
    closest = jnp.argmax(jnp.abs(cosines), axis=1, keepdims=True)
    signs = jnp.sign(jnp.take_along_axis(cosines, closest, axis=1))
    vectors_s = jnp.take_along_axis(vectors_s, closest, axis=2) * signs
    scales = _arrays.unit(values_t)[:, None, :]
    return vectors_s * scales, vectors_t * scales


def _right_singular(maps, count):
    """The first singular values `[B, k]` and right singular vectors `[B, C, k]` of `[H W, C]`."""
    x = _maps.pixels(maps)
    # Vectors do not depend on the scale of a map, and its squares must not overflow.
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=(1, 2), keepdims=True))
    relative = _arrays.divide(x, jnp.broadcast_to(largest, x.shape))
    gram = jnp.einsum("bpc,bpd->bcd", relative, relative, precision="highest")
    squares, vectors = _eigenpairs(gram)
    squares, vectors = squares[:, ::-1][:, :count], vectors[:, :, ::-1][:, :, :count]
    alive = squares > _rounding(squares, axis=1)
    values = _arrays.sqrt(jnp.where(alive, squares, 0)) * largest[:, :, 0]
    return values, jnp.where(alive[:, None, :], vectors, 0)


@jax.custom_jvp
def _eigenpairs(gram):
    """Eigenvalues in ascending order and eigenvectors of symmetric matrices `[B, C, C]`.

    The derivative of an eigenvector divides by differences of eigenvalues; here pairs that are equal
    up to rounding, which turn into each other freely, contribute nothing to it.
    """
    return tuple(jnp.linalg.eigh(gram))


@_eigenpairs.defjvp
def _eigenpairs_derivative(primals, tangents):
    (gram,), (change,) = primals, tangents
    values, vectors = _eigenpairs(gram)
    rotated = jnp.einsum("bic,bij,bjd->bcd", vectors, change, vectors, precision="highest")
    gaps = values[:, None, :] - values[:, :, None]
    apart = jnp.abs(gaps) > _rounding(values, axis=1)[:, :, None]
    rates = jnp.where(apart, 1 / jnp.where(apart, gaps, 1), 0)
    turned = jnp.einsum("bic,bcd->bid", vectors, rates * rotated, precision="highest")
    return (values, vectors), (jnp.diagonal(rotated, axis1=1, axis2=2), turned)


def _rounding(values, axis):
    """What the eigenvalues of a matrix are known to, `[B, 1]`."""
    largest = jnp.max(jnp.abs(values), axis=axis, keepdims=True)
    return 8 * values.shape[axis] * jnp.finfo(values.dtype).eps * largest
