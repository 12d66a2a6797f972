"""Losses that compare two sets of vectors through a kernel, and so need no shared width.

Every kernel here is evaluated from Gram matrices; no pair of vectors is ever formed.
"""

import jax.numpy as jnp

from kdjax.losses import _arrays, _maps


def neuron_selectivity(student_maps, teacher_maps, *, where=None):
    r"""Squared maximum mean discrepancy of the channels' unit-norm responses, per example: NST.

    .. math:: \frac{1}{C_s^2} \sum_{cd} k(u_{s,c}, u_{s,d}) + \frac{1}{C_t^2} \sum_{cd}
        k(u_{t,c}, u_{t,d}) - \frac{2}{C_s C_t} \sum_{cd} k(u_{s,c}, u_{t,d}),
        \quad k(u, v) = (u^\top v)^2

    with `u_c` the H W responses of channel c over their norm: the polynomial kernel of degree 2.

    Args:
        student_maps: `[B, H, W, C_s]`
        teacher_maps: `[B, H, W, C_t]`, of the same spatial size.
        where: `[B]` boolean; masked examples give zero, in value and gradient.

    Returns:
        `[B]`. A channel of zeros stays zero, with a zero gradient.

    Raises:
        TypeError: maps that are not floating-point. ValueError: shapes that do not fit.

    >>> x = jnp.array([1.0, 0.0]).reshape(1, 1, 2, 1)
    >>> neuron_selectivity(x, x[:, :, ::-1])
    Array([2.], dtype=float32)

    Reference:
        Huang, Wang, "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer", 2017.
        The authors add λ / 2 times this on the last map, with λ = 50 for this kernel.
    """
    a_s, a_t = _maps.aligned(where, student_maps=student_maps, teacher_maps=teacher_maps)
    s, t = (_arrays.unit(_maps.pixels(x), axis=1) for x in (a_s, a_t))
    return _mean_kernel(s, s) + _mean_kernel(t, t) - 2 * _mean_kernel(s, t)


def kernel_matching(student_features, teacher_features, teacher_gates, *, where=None):
    r"""Root mean squared difference of two cosine kernels over the batch, a scalar: AFT.

    .. math:: \Bigl( \frac{1}{B^2} \sum_{ij} (u_{s,i}^\top u_{s,j} - u_{t,i}^\top u_{t,j})^2
        \Bigr)^{1/2}

    with `u` the features minus their mean over the batch, over their norm, the teacher's first
    multiplied by gates: what does not help the student's task is learned away.

    Args:
        student_features: `[B, D_s]`
        teacher_features: `[B, D_t]`, of one teacher or of several side by side.
        teacher_gates: `[D_t]`, trained with the student, the sigmoid of free parameters.
        where: `[B]` boolean; masked examples take no part, and without any the loss is zero.

    Returns:
        A scalar, with a zero gradient where the kernels are equal. An example at the mean has no
        direction and counts as zero.

    Raises:
        TypeError: arrays that are not floating-point. ValueError: ranks, shapes that do not fit.

    >>> x = jnp.array([[0.0, 0.0], [1.0, 0.0]])
    >>> kernel_matching(x, 3 - 5 * x, jnp.ones(2))
    Array(0., dtype=float32)

    Reference:
        Qiu, Han, Maddix, Zhang, Wang, Wilson, "Transferring Knowledge from Large Foundation Models
        to Small Downstream Models", 2024. The gates have a learning rate of their own, 1e-2 beside
        1e-3; the weight is tuned for each task.
    """
    f_s, f_t, gates = _arrays.floating(
        student_features=student_features,
        teacher_features=teacher_features,
        teacher_gates=teacher_gates,
    )
    _arrays.check_rank(2, student_features=f_s, teacher_features=f_t)
    _arrays.check_same_batch(student_features=f_s, teacher_features=f_t)
    _arrays.check_where(where, f_s.shape[:1])
    if gates.shape != f_t.shape[1:]:
        raise ValueError(f"teacher_gates must have shape {f_t.shape[1:]}, got {gates.shape}")
    f_s, f_t = _arrays.select(where, f_s, f_t)
    kept = None if where is None else where[:, None]
    examples = f_s.shape[0] if where is None else jnp.sum(where, dtype=f_s.dtype)
    s, t = (
        _arrays.unit(_arrays.centred(x, 0, kept))
        for x in (f_s, f_t * jnp.broadcast_to(gates, f_t.shape))
    )
    differences = jnp.matmul(s, s.T, precision="highest") - jnp.matmul(t, t.T, precision="highest")
    # Masked rows are zero in both kernels and add nothing to the sum.
    return _arrays.divide(_arrays.norm(differences.reshape(-1)), jnp.asarray(examples, s.dtype))


def _mean_kernel(x, y):
    """`[B, P, C]`, `[B, P, D]` -> `[B]`, the mean of (xᵀy)² over pairs of columns."""
    gram = jnp.einsum("bpc,bpd->bcd", x, y, precision="highest")
    return jnp.mean(jnp.square(gram), axis=(1, 2))
