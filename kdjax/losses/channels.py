"""Losses on the channels of a feature map: their correlations, their affinities, their statistics.

Notation: maps are channel-last, `[B, H, W, C]`; a channel of one example is a vector of its H W
responses, and `u` is that vector divided by its norm.
"""

import jax.numpy as jnp

from kdjax.losses import _arrays, _maps


def channel_correlation(student_maps, teacher_maps, *, where=None):
    r"""Mean squared difference of inter-channel correlation matrices, per example: ICKD.

    .. math:: \frac{1}{C^2} \sum_{cd} (\hat G_{s,cd} - \hat G_{t,cd})^2,
        \quad G_{cd} = \sum_{hw} A_{hwc} A_{hwd}, \quad \hat G_{cd} = G_{cd} / \lVert G_c \rVert

    Args:
        student_maps: `[B, H, W, C]`, behind a linear map if the channels differ.
        teacher_maps: `[B, H, W, C]` of the same shape.
        where: `[B]` boolean; masked examples give zero, in value and gradient.

    Returns:
        `[B]`. A channel of zeros correlates with none, with a zero gradient.

    Raises:
        TypeError: maps that are not floating-point. ValueError: shapes that differ.

    >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0]]).reshape(1, 1, 2, 2)
    >>> channel_correlation(x, jnp.ones_like(x)).round(4)
    Array([0.2929], dtype=float32)

    Reference:
        Liu, Huang, Lin, Xie, Wang, Chang, Liang, "Exploring Inter-Channel Correlation for
        Diversity-Preserved Knowledge Distillation", 2021: on the last map for classification.
    """
    a_s, a_t = _maps.aligned(where, student_maps=student_maps, teacher_maps=teacher_maps)
    _arrays.check_same_shape(student_maps=a_s, teacher_maps=a_t)
    s, t = (_arrays.unit(_channel_gram(x)) for x in (a_s, a_t))
    return jnp.mean(jnp.square(s - t), axis=(1, 2))


def channel_affinity(student_maps, teacher_maps, *, where=None):
    r"""Distances of the position-by-position affinities of each channel, summed: KTAAD's affinity.

    .. math:: \frac{1}{HW} \sum_c \lVert u_{s,c} u_{s,c}^\top - u_{t,c} u_{t,c}^\top \rVert_F

    The matrices have rank one, so their distance needs only norms of `u_s - u_t` and `u_s + u_t`.

    Args:
        student_maps: `[B, H, W, C]`, behind an adapter if the channels differ.
        teacher_maps: `[B, H, W, C]` of the same shape.
        where: `[B]` boolean; masked examples give zero, in value and gradient.

    Returns:
        `[B]`. A channel of zeros has a zero affinity; equal channels give a zero gradient.

    Raises:
        TypeError: maps that are not floating-point. ValueError: shapes that differ.

    >>> x = jnp.array([1.0, 0.0]).reshape(1, 1, 2, 1)
    >>> channel_affinity(x, x[:, :, ::-1]).round(4)
    Array([0.7071], dtype=float32)

    Reference:
        He, Shen, Tian, Gong, Sun, Yan, "Knowledge Adaptation for Efficient Semantic Segmentation",
        2019. Weight 1 beside 50 for the translated features (`factor_transfer`).
    """
    a_s, a_t = _maps.aligned(where, student_maps=student_maps, teacher_maps=teacher_maps)
    _arrays.check_same_shape(student_maps=a_s, teacher_maps=a_t)
    s, t = (_arrays.unit(_maps.pixels(x), axis=1) for x in (a_s, a_t))
    differences, sums = (jnp.sum(jnp.square(x), axis=1) for x in (s - t, s + t))
    # Norms are 1 except for a channel of zeros, where this difference completes the identity.
    lengths = jnp.sum(jnp.square(s), axis=1) - jnp.sum(jnp.square(t), axis=1)
    distances = _arrays.sqrt(0.5 * (differences * sums + jnp.square(lengths)))
    return jnp.sum(distances, axis=1) / (a_s.shape[1] * a_s.shape[2])


def pearson_feature_distance(student_features, teacher_features, *, epsilon=0.0, where=None):
    r"""Half the squared difference of channels standardised over the batch, per example: PKD.

    .. math:: \ell_b = \frac{1}{2 P C} \sum_{pc} (\hat f_{s,bpc} - \hat f_{t,bpc})^2

    with P positions an example, and `f̂` minus its mean over its population standard deviation, both
    over the batch and all positions of a channel. The mean over examples is 1 - r, with r the Pearson
    correlation of student and teacher, averaged over channels.

    Args:
        student_features: `[B, ..., C]`
        teacher_features: `[B, ..., C]` of the same shape.
        epsilon: added to each standard deviation; above 0 the mean is no longer exactly 1 - r.
        where: `[B]` boolean; masked examples take no part in the statistics and give zero.

    Returns:
        `[B]`. A constant channel counts as zero, with a zero gradient.

    Raises:
        TypeError: features that are not floating-point. ValueError: shapes that differ, epsilon.

    >>> x = jnp.array([[1.0], [2.0], [3.0]])
    >>> pearson_feature_distance(x, -7 * x).round(4)
    Array([3., 0., 3.], dtype=float32)

    Reference:
        Cao, Zhang, Gao, Cheng, Cheng, Zhang, "PKD: General Distillation Framework for Object
        Detectors via Pearson Correlation Coefficient", 2022. Weight 6 on the pyramid of a detector, ε = 1e-6.
    """
    f_s, f_t = _arrays.floating(
        student_features=student_features, teacher_features=teacher_features
    )
    _arrays.check_min_rank(2, student_features=f_s, teacher_features=f_t)
    _arrays.check_same_shape(student_features=f_s, teacher_features=f_t)
    _arrays.check_where(where, f_s.shape[:1])
    f_s, f_t = _arrays.select(where, f_s, f_t)
    _arrays.check_not_negative(epsilon=epsilon)
    kept = None if where is None else where[:, None, None]
    s, t = (_standardised(x, kept, epsilon) for x in (f_s, f_t))
    return 0.5 * jnp.mean(jnp.square(s - t), axis=(1, 2))


def _channel_gram(maps):
    """`[B, H, W, C]` -> `[B, C, C]` inner products of the channels."""
    x = _maps.pixels(maps)
    return jnp.einsum("bpc,bpd->bcd", x, x, precision="highest")


def _standardised(features, kept, epsilon):
    """`[B, ..., C]` -> `[B, P, C]`: each channel over batch and positions, masked examples zero."""
    x = features.reshape(features.shape[0], -1, features.shape[-1])
    centred = _arrays.centred(x, (0, 1), kept)
    count = x.shape[0] if kept is None else jnp.sum(kept, dtype=x.dtype)
    total = jnp.sum(jnp.square(centred), axis=(0, 1), keepdims=True)
    variance = _arrays.divide(total, jnp.full_like(total, count * x.shape[1]))
    deviation = _arrays.sqrt(variance) + jnp.asarray(epsilon, x.dtype)
    return _arrays.divide(centred, jnp.broadcast_to(deviation, x.shape))
