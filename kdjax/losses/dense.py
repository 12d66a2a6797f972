"""Losses for dense prediction: segmentation, detection, depth.

Notation: maps are channel-last, `[B, H, W, C]`; pixels are the `[H, W]` positions, P = H · W of them.
A loss that keeps pixels takes a mask of pixels, `where` `[B, H, W]`, and a pair of pixels needs both
ends. A softened divergence over the classes of a pixel, or over the bins of a box edge (localisation
distillation), is `softened_kl_divergence` with its last axis the classes or the bins. Pooling and
resizing maps is the caller's.
"""

import jax
import jax.numpy as jnp

from kdjax.losses import _arrays, _maps, divergences

_EXACT = jax.lax.Precision.HIGHEST


def channel_wise_divergence(student_maps, teacher_maps, *, temperature=1.0, where=None):
    r"""T² · KL(teacher ‖ student) of each channel as a distribution over the pixels, per channel.

    .. math:: T^2 \sum_p p_{c,p} (\log p_{c,p} - \log q_{c,p}), \quad
        q_c = \operatorname{softmax}_p(f_{s,p,c} / T), \; p_c = \operatorname{softmax}_p(f_{t,p,c} / T)

    Args:
        student_maps: `[B, H, W, C]`, logits or features, with the teacher's channels.
        teacher_maps: `[B, H, W, C]`
        temperature: T > 0, a number or `[B, C]`.
        where: `[B, C]` boolean; masked channels give zero, in value and gradient.

    Returns:
        `[B, C]`. Pixels at -inf on both sides carry nothing: so pixels are ignored.

    Raises:
        TypeError: maps that are not floating-point. ValueError: shapes, temperature.

    >>> t = jnp.array([0.0, jnp.log(3.0)]).reshape(1, 1, 2, 1)
    >>> channel_wise_divergence(jnp.zeros((1, 1, 2, 1)), t).round(4)
    Array([[0.1308]], dtype=float32)

    Reference:
        Shu, Liu, Gao, Yan, Shen, "Channel-wise Knowledge Distillation for Dense Prediction", 2021.
        The authors used T = 4, with weight 3 on logits and 50 on features.
    """
    f_s, f_t = _checked(student_maps, teacher_maps)
    _arrays.check_same_shape(student_maps=f_s, teacher_maps=f_t)
    s, t = (jnp.moveaxis(_maps.pixels(f), 1, 2) for f in (f_s, f_t))
    return divergences.softened_kl_divergence(s, t, temperature=temperature, where=where)


def category_similarity(student_maps, teacher_maps, *, temperature=1.0, where=None):
    r"""Mean squared difference of the inner products of channels as distributions over pixels.

    .. math:: \ell_c = \frac{1}{C} \sum_{c'} (q_c \cdot q_{c'} - p_c \cdot p_{c'})^2, \quad
        q_c = \operatorname{softmax}_p(f_{s,p,c} / T)

    Args:
        student_maps: `[B, H, W, C]`, with the teacher's channels: usually the class scores.
        teacher_maps: `[B, H', W', C]`
        temperature: T > 0, a number.
        where: `[B, C]` boolean; a pair of channels needs both ends.

    Returns:
        `[B, C]`, one value a channel; C counts the kept channels.

    Raises:
        TypeError: maps that are not floating-point. ValueError: shapes, temperature.

    >>> t = jnp.array([0.0, jnp.log(3.0)]).reshape(1, 1, 2, 1)
    >>> category_similarity(jnp.zeros((1, 1, 2, 1)), t).round(6)
    Array([[0.015625]], dtype=float32)

    Reference:
        Feng, Sun, Diao, Li, Gao, "Double Similarity Distillation for Semantic Image Segmentation",
        2021: the category-wise similarity, beside the pixel-wise one of `attention_residual`.
    """
    f_s, f_t = _checked(student_maps, teacher_maps)
    if f_s.shape[-1] != f_t.shape[-1]:
        raise ValueError(
            f"student_maps {f_s.shape} and teacher_maps {f_t.shape} differ in channels"
        )
    _arrays.check_positive(temperature=temperature)
    channels = (f_s.shape[0], f_s.shape[-1])
    _arrays.check_where(where, channels)
    gram_s, gram_t = (_channel_gram(f, temperature, where) for f in (f_s, f_t))
    return _mean_over_kept(jnp.square(gram_s - gram_t), where)


def cross_image_relation(student_maps, teacher_maps, *, temperature=0.1, where=None):
    r"""KL(teacher ‖ student) of how a pixel resembles the pixels of every image, per pixel.

    .. math:: \ell_i = \frac{1}{B} \sum_b \mathrm{KL}\Big(
        \operatorname{softmax}_{j \in b} \frac{u^t_i \cdot u^t_j}{T} \Big\|
        \operatorname{softmax}_{j \in b} \frac{u^s_i \cdot u^s_j}{T} \Big)

    with u the unit vector of a pixel's features and b the images of the batch, its own among them. No
    T². One image's pixels are compared at a time, and again in the backward pass, so the relations of
    all pairs never stand in memory at once.

    Args:
        student_maps: `[B, H, W, C_s]`
        teacher_maps: `[B, H, W, C_t]`; the channels may differ.
        temperature: T > 0, a number.
        where: `[B, H, W]` boolean; a pair of pixels needs both ends, an image without kept pixels is
            not counted.

    Returns:
        `[B, H, W]`.

    Raises:
        TypeError: maps that are not floating-point. ValueError: shapes, temperature.

    >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0]]).reshape(1, 1, 2, 2)
    >>> cross_image_relation(7 * x, x).round(4)
    Array([[[0., 0.]]], dtype=float32)

    Reference:
        Yang, Zhou, An, Jiang, Xu, Zhang, "Cross-Image Relational Knowledge Distillation for Semantic
        Segmentation", 2022. The authors used T = 0.1 and weight 1 for this mini-batch term, beside
        terms of the same form against memory banks.
    """
    f_s, f_t, kept = _pixels(student_maps, teacher_maps, where)
    _arrays.check_positive(temperature=temperature)
    u_s, u_t = _arrays.unit(f_s), _arrays.unit(f_t)
    temperature = jnp.asarray(temperature, f_s.dtype)

    @jax.checkpoint
    def against(image):
        keys_s, keys_t, kept_keys = image
        scores_s = jnp.einsum("bpd,kd->bpk", u_s, keys_s, precision=_EXACT)
        scores_t = jnp.einsum("bpd,kd->bpk", u_t, keys_t, precision=_EXACT)
        log_q, log_p = (
            _arrays.log_softmax(jnp.where(kept_keys[None, None], scores / temperature, -jnp.inf))
            for scores in (scores_s, scores_t)
        )
        return divergences.kl_of_log_probs(log_q, log_p)

    sums = jnp.sum(jax.lax.map(against, (u_s, u_t, kept)), axis=0)
    images = jnp.sum(jnp.any(kept, axis=1), dtype=sums.dtype)
    values = _arrays.divide(sums, jnp.broadcast_to(images, sums.shape))
    return _arrays.select(where, values.reshape(student_maps.shape[:3]))


def pairwise_similarity(student_maps, teacher_maps, *, where=None):
    r"""Mean squared difference of the cosines between the pixels of an image, per pixel.

    .. math:: \ell_i = \frac{1}{P} \sum_j (u^s_i \cdot u^s_j - u^t_i \cdot u^t_j)^2

    with u the unit vector of a pixel's features and P the number of kept pixels.

    Args:
        student_maps: `[B, H, W, C_s]`, usually pooled to a few nodes first.
        teacher_maps: `[B, H, W, C_t]`; the channels may differ.
        where: `[B, H, W]` boolean; a pair of pixels needs both ends.

    Returns:
        `[B, H, W]`.

    Raises:
        TypeError: maps that are not floating-point. ValueError: shapes.

    >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0]]).reshape(1, 1, 2, 2)
    >>> pairwise_similarity(jnp.ones((1, 1, 2, 2)), x).round(4)
    Array([[[0.5, 0.5]]], dtype=float32)

    Reference:
        Liu, Chen, Liu, Qin, Luo, Wang, "Structured Knowledge Distillation for Semantic Segmentation",
        2019. The authors max-pool the features to 2 × 2 nodes of half the image each way and use
        weight 10.
    """
    f_s, f_t, _ = _pixels(student_maps, teacher_maps, where)
    u_s, u_t = _arrays.unit(f_s), _arrays.unit(f_t)
    cosines_s, cosines_t = (jnp.einsum("bid,bjd->bij", u, u, precision=_EXACT) for u in (u_s, u_t))
    flat = None if where is None else where.reshape(u_s.shape[:2])
    values = _mean_over_kept(jnp.square(cosines_s - cosines_t), flat)
    return values.reshape(student_maps.shape[:3])


def intra_class_variation(student_maps, teacher_maps, labels, *, classes, where=None):
    r"""Squared difference of the pixels' cosines to the mean feature of their class, per pixel.

    .. math:: \ell_i = \big(\cos(f_{s,i}, \mu_{s,y_i}) - \cos(f_{t,i}, \mu_{t,y_i})\big)^2

    with μ the mean over the kept pixels of one class in one image.

    Args:
        student_maps: `[B, H, W, C_s]`
        teacher_maps: `[B, H, W, C_t]`; the channels may differ.
        labels: `[B, H, W]` integers at the size of the maps; outside 0 .. classes - 1 is ignored.
        classes: the number of classes, a Python integer.
        where: `[B, H, W]` boolean; masked pixels give zero and take no part in the means.

    Returns:
        `[B, H, W]`, zero for ignored pixels.

    Raises:
        TypeError: maps or labels of another kind. ValueError: shapes.

    >>> t = jnp.array([[1.0, 0.0], [0.0, 1.0]]).reshape(1, 1, 2, 2)
    >>> labels = jnp.zeros((1, 1, 2), jnp.int32)
    >>> intra_class_variation(jnp.ones((1, 1, 2, 2)), t, labels, classes=1).round(4)
    Array([[[0.0858, 0.0858]]], dtype=float32)

    Reference:
        Wang, Zhou, Jiang, Bai, Xu, "Intra-class Feature Variation Distillation for Semantic
        Segmentation", 2020.
    """
    f_s, f_t, kept = _pixels(student_maps, teacher_maps, where)
    _arrays.check_labels(student_maps.shape[:3], labels=labels)
    member = jax.nn.one_hot(labels.reshape(kept.shape), classes, dtype=f_s.dtype)
    difference = _cosine_to_centre(f_s, member) - _cosine_to_centre(f_t, member)
    return jnp.square(difference).reshape(student_maps.shape[:3])


def attention_residual(
    student_maps, teacher_maps, student_later_maps, teacher_later_maps, *, where=None
):
    r"""Mean squared difference of how spatial attention changes from one stage to another.

    .. math:: \frac{1}{P} \| r_s - r_t \|^2, \quad
        r = \frac{a' - a}{\|a' - a\|}, \quad
        a = \frac{\sum_c f_c^2}{\|\sum_c f_c^2\|}

    with `a` over the pixels of the first and `a'` over those of the second map.

    Args:
        student_maps: `[B, H, W, C]` of an earlier stage.
        teacher_maps: `[B, H, W, C']`
        student_later_maps: `[B, H, W, C'']` of a later stage, resized to the pixels of the first.
        teacher_later_maps: `[B, H, W, C''']`
        where: `[B]` boolean; masked examples give zero, in value and gradient.

    Returns:
        `[B]`. An attention that does not change (up to rounding) counts as a residual of zero.

    Raises:
        TypeError: maps that are not floating-point. ValueError: ranks, sizes in pixels.

    >>> first = jnp.ones((1, 1, 2, 1))
    >>> left, right = jnp.eye(2).reshape(2, 1, 1, 2, 1)
    >>> attention_residual(first, first, left, right).round(4)
    Array([1.7070999], dtype=float32)

    Reference:
        Feng, Sun, Diao, Li, Gao, "Double Similarity Distillation for Semantic Image Segmentation",
        2021: the pixel-wise similarity, over all pairs of stages.
    """
    arrays = {
        "student_maps": student_maps,
        "teacher_maps": teacher_maps,
        "student_later_maps": student_later_maps,
        "teacher_later_maps": teacher_later_maps,
    }
    maps = _arrays.floating(**arrays)
    named = dict(zip(arrays, maps, strict=True))
    _arrays.check_rank(4, **named)
    _arrays.check_same_batch(3, **named)
    _arrays.check_where(where, maps[0].shape[:1])
    first_s, first_t, second_s, second_t = (
        _spatial_attention(f) for f in _arrays.select(where, *maps)
    )
    residual_s = _direction_of_change(first_s, second_s)
    residual_t = _direction_of_change(first_t, second_t)
    return jnp.mean(jnp.square(residual_s - residual_t), axis=-1)


def focal_feature_difference(student_maps, teacher_maps, weights, *, temperature=0.5, where=None):
    r"""Squared difference of features, weighted by the teacher's attention and by `weights`, per pixel.

    .. math:: \ell_p = w_p \, a_p \sum_c b_c (f_{s,p,c} - f_{t,p,c})^2, \quad
        a = P \operatorname{softmax}_p \Big( \frac{\sum_c |f_{t,p,c}|}{C T} \Big), \quad
        b = C \operatorname{softmax}_c \Big( \frac{\sum_p |f_{t,p,c}|}{P T} \Big)

    Args:
        student_maps: `[B, H, W, C]`, after the projector if the channels differ.
        teacher_maps: `[B, H, W, C]`
        weights: `[B, H, W]`, at least 0: in the original α over the area of a pixel's box inside
            boxes, and β over the number of background pixels outside.
        temperature: T > 0, a number.
        where: `[B, H, W]` boolean; masked pixels give zero and are outside the attention.

    Returns:
        `[B, H, W]`; the sum over pixels is the published loss of an image.

    Raises:
        TypeError: arrays that are not floating-point. ValueError: shapes, temperature.

    >>> zeros, weights = jnp.zeros((1, 1, 2, 3)), jnp.array([[[1.0, 0.5]]])
    >>> focal_feature_difference(zeros + 2, zeros, weights).round(4)
    Array([[[12.,  6.]]], dtype=float32)

    Reference:
        Yang, Li, Jiang, Gong, Yuan, Zhao, Yuan, "Focal and Global Knowledge Distillation for
        Detectors", 2022, with T = 0.5; α = 5e-5, β = 2.5e-5 for two-stage, 1e-3 and 5e-4 for one-stage
        detectors, beside `attention_mask_distance`.
    """
    f_s, f_t, kept = _pixels(student_maps, teacher_maps, where)
    _arrays.check_same_shape(student_maps=f_s, teacher_maps=f_t)
    (w,) = _arrays.floating(weights=weights)
    if w.shape != student_maps.shape[:3]:
        raise ValueError(f"weights must have shape {student_maps.shape[:3]}, got {w.shape}")
    _arrays.check_positive(temperature=temperature)
    w = _arrays.select(kept, w.reshape(kept.shape))
    over_pixels, over_channels = _attention_masks(f_t, kept, temperature)
    per_pixel = jnp.einsum("bpc,bc->bp", jnp.square(f_s - f_t), over_channels, precision=_EXACT)
    return (w * over_pixels * per_pixel).reshape(student_maps.shape[:3])


def attention_mask_distance(student_maps, teacher_maps, *, temperature=0.5, where=None):
    r"""Sum of absolute differences of the spatial and of the channel attention, per example.

    .. math:: \sum_p |a_{s,p} - a_{t,p}| + \sum_c |b_{s,c} - b_{t,c}|

    with the attentions `a` and `b` of `focal_feature_difference`.

    Args:
        student_maps: `[B, H, W, C]`, after the projector if the channels differ.
        teacher_maps: `[B, H, W, C]`
        temperature: T > 0, a number.
        where: `[B]` boolean; masked examples give zero, in value and gradient.

    Returns:
        `[B]`.

    Raises:
        TypeError: maps that are not floating-point. ValueError: shapes, temperature.

    >>> f = jnp.array([0.0, 0.5 * jnp.log(3.0)]).reshape(1, 1, 2, 1)
    >>> attention_mask_distance(jnp.zeros((1, 1, 2, 1)), f).round(4)
    Array([1.], dtype=float32)

    Reference:
        Yang, Li, Jiang, Gong, Yuan, Zhao, Yuan, "Focal and Global Knowledge Distillation for
        Detectors", 2022, with T = 0.5 and weight 5e-5 for two-stage, 5e-4 for one-stage detectors.
    """
    f_s, f_t = _checked(student_maps, teacher_maps)
    _arrays.check_same_shape(student_maps=f_s, teacher_maps=f_t)
    _arrays.check_positive(temperature=temperature)
    _arrays.check_where(where, f_s.shape[:1])
    f_s, f_t = (_maps.pixels(f) for f in _arrays.select(where, f_s, f_t))
    kept = jnp.ones(f_s.shape[:2], bool)
    masks_s = _attention_masks(f_s, kept, temperature)
    masks_t = _attention_masks(f_t, kept, temperature)
    return sum(jnp.sum(jnp.abs(s - t), axis=-1) for s, t in zip(masks_s, masks_t, strict=True))


def affine_invariant_depth(student_depth, teacher_depth, *, where=None):
    r"""Absolute difference of two depth maps, each without its shift and scale, per pixel.

    .. math:: |\hat d_s - \hat d_t|, \quad
        \hat d = \frac{d - \operatorname{median}(d)}{\operatorname{mean} |d - \operatorname{median}(d)|}

    with the median (the mean of the two middle values) and the mean over the kept pixels.

    Args:
        student_depth: `[B, H, W]`, depth or disparity.
        teacher_depth: `[B, H, W]`
        where: `[B, H, W]` boolean, the valid pixels.

    Returns:
        `[B, H, W]`. A constant map counts as a map of zeros.

    Raises:
        TypeError: maps that are not floating-point. ValueError: shapes.

    >>> d = jnp.array([[[1.0, 2.0, 4.0]]])
    >>> affine_invariant_depth(3 * d + 1, d)
    Array([[[0., 0., 0.]]], dtype=float32)

    Reference:
        Ranftl, Lasinger, Hafner, Schindler, Koltun, "Towards Robust Monocular Depth Estimation:
        Mixing Datasets for Zero-shot Cross-dataset Transfer", 2020; between a teacher and a student
        in Wang, Liu, "Depth Anywhere: Enhancing 360 Monocular Depth Estimation via Perspective
        Distillation and Unlabeled Data Augmentation", 2024.
    """
    d_s, d_t = _arrays.floating(student_depth=student_depth, teacher_depth=teacher_depth)
    _arrays.check_rank(3, student_depth=d_s, teacher_depth=d_t)
    _arrays.check_same_shape(student_depth=d_s, teacher_depth=d_t)
    _arrays.check_where(where, d_s.shape)
    d_s, d_t = _arrays.select(where, d_s, d_t)
    kept = jnp.ones(d_s.shape, bool) if where is None else where
    kept = kept.reshape(kept.shape[0], -1)
    flat_s, flat_t = (_without_affine(d.reshape(kept.shape), kept) for d in (d_s, d_t))
    difference = flat_s - flat_t
    # Equal maps must meet at the kink: what is rounding is no difference.
    rounding = 8 * jnp.finfo(difference.dtype).eps * (jnp.abs(flat_s) + jnp.abs(flat_t))
    difference = jnp.where(jnp.abs(difference) > rounding, difference, 0)
    return jnp.abs(difference).reshape(d_s.shape)


def mask_dice_distance(student_logits, teacher_logits, *, where=None):
    r"""One minus the Dice coefficient of two soft masks, per mask.

    .. math:: 1 - \frac{2 \sum_p q_p m_p}{\sum_p q_p^2 + \sum_p m_p^2}, \quad
        q = \sigma(s), \; m = \sigma(t)

    Args:
        student_logits: `[..., H, W]`
        teacher_logits: `[..., H, W]`; a binary mask is logits at +inf and -inf.
        where: `[...]` boolean; masked masks give zero, in value and gradient.

    Returns:
        `[...]`, between 0 and 1, zero for equal masks and for two empty ones.

    Raises:
        TypeError: logits that are not floating-point. ValueError: shapes.

    >>> mask = jnp.array([[[jnp.inf, -jnp.inf]]])
    >>> mask_dice_distance(jnp.zeros((1, 1, 2)), mask).round(4)
    Array([0.3333], dtype=float32)

    Reference:
        Milletari, Navab, Ahmadi, "V-Net: Fully Convolutional Neural Networks for Volumetric Medical
        Image Segmentation", 2016.
    """
    s, t = _arrays.floating(student_logits=student_logits, teacher_logits=teacher_logits)
    _arrays.check_min_rank(2, student_logits=s, teacher_logits=t)
    _arrays.check_same_shape(student_logits=s, teacher_logits=t)
    _arrays.check_where(where, s.shape[:-2])
    s, t = _arrays.select(where, s, t)
    q, m = (jax.nn.sigmoid(x).reshape(*x.shape[:-2], -1) for x in (s, t))
    return _arrays.select(where, _dice(q, m))


def box_projection_distance(student_logits, boxes, *, where=None):
    r"""Dice distances of a soft mask's projections on both axes to those of a box, per mask.

    .. math:: D(\max_h q, \max_h m) + D(\max_w q, \max_w m), \quad q = \sigma(s)

    with D the distance of `mask_dice_distance`: boxes teach masks.

    Args:
        student_logits: `[..., H, W]`
        boxes: `[..., H, W]`, 1 inside the box and 0 outside.
        where: `[...]` boolean; masked masks give zero, in value and gradient.

    Returns:
        `[...]`, between 0 and 2.

    Raises:
        TypeError: arrays that are not floating-point. ValueError: shapes.

    >>> logits = jnp.array([[[9.0, -99.0], [-99.0, 9.0]]])
    >>> box_projection_distance(logits, jnp.ones((1, 2, 2))).round(4)
    Array([0.], dtype=float32)

    Reference:
        Tian, Shen, Wang, Chen, "BoxInst: High-Performance Instance Segmentation with Box
        Annotations", 2021.
    """
    s, m = _arrays.floating(student_logits=student_logits, boxes=boxes)
    _arrays.check_min_rank(2, student_logits=s, boxes=m)
    _arrays.check_same_shape(student_logits=s, boxes=m)
    _arrays.check_where(where, s.shape[:-2])
    s, m = _arrays.select(where, s, m)
    q = jax.nn.sigmoid(s)
    distances = [_dice(jnp.max(q, axis=axis), jnp.max(m, axis=axis)) for axis in (-2, -1)]
    return _arrays.select(where, distances[0] + distances[1])


def residual_hint(
    student_features, teacher_features, assistant_features, *, threshold=0.6, where=None
):
    r"""Mean squared distance to the large differences of teacher and assistant, per example.

    .. math:: \frac{1}{D} \sum_d (r_{s,d} - \delta_d)^2, \quad
        \delta = |f_t - f_a| \, [\, |f_t - f_a| \ge \theta \max |f_t - f_a| \,]

    A branch of the student learns what an assistant, who has the student's input, cannot know.

    Args:
        student_features: `[B, ...]`, the student's residual branch r.
        teacher_features: `[B, ...]`
        assistant_features: `[B, ...]`
        threshold: θ between 0 and 1, of the largest difference of the example.
        where: `[B]` boolean; masked examples give zero, in value and gradient.

    Returns:
        `[B]`.

    Raises:
        TypeError: features that are not floating-point. ValueError: shapes, threshold.

    >>> t = jnp.array([[3.0, 1.0]])
    >>> residual_hint(jnp.zeros((1, 2)), t, jnp.zeros((1, 2)))
    Array([4.5], dtype=float32)

    Reference:
        Liu, Wu and others, "MonoTAKD: Teaching Assistant Knowledge Distillation for
        Monocular 3D Object Detection", 2024, with θ = 0.6 and weight 0.2 beside 1 for the hint of the
        assistant.
    """
    arrays = {
        "student_features": student_features,
        "teacher_features": teacher_features,
        "assistant_features": assistant_features,
    }
    features = _arrays.floating(**arrays)
    named = dict(zip(arrays, features, strict=True))
    _arrays.check_min_rank(2, **named)
    _arrays.check_same_shape(**named)
    _arrays.check_fraction(threshold=threshold)
    _arrays.check_where(where, features[0].shape[:1])
    r_s, f_t, f_a = (f.reshape(f.shape[0], -1) for f in _arrays.select(where, *features))
    missing = jnp.abs(f_t - f_a)
    large = missing >= threshold * jnp.max(missing, axis=1, keepdims=True)
    return jnp.mean(jnp.square(r_s - jnp.where(large, missing, 0)), axis=1)


def _checked(student_maps, teacher_maps):
    f_s, f_t = _arrays.floating(student_maps=student_maps, teacher_maps=teacher_maps)
    _arrays.check_rank(4, student_maps=f_s, teacher_maps=f_t)
    _arrays.check_same_batch(student_maps=f_s, teacher_maps=f_t)
    return f_s, f_t


def _pixels(student_maps, teacher_maps, where):
    """Both maps as [B, P, C], dropped pixels at zero, and the [B, P] mask of the kept ones."""
    f_s, f_t = _checked(student_maps, teacher_maps)
    _arrays.check_same_batch(3, student_maps=f_s, teacher_maps=f_t)
    _arrays.check_where(where, f_s.shape[:3])
    kept = jnp.ones(f_s.shape[:3], bool) if where is None else where
    f_s, f_t = _arrays.select(where, f_s, f_t)
    return _maps.pixels(f_s), _maps.pixels(f_t), kept.reshape(kept.shape[0], -1)


def _mean_over_kept(values, where):
    """[B, N, N] -> [B, N], the mean over the last axis of pairs with both ends kept."""
    if where is None:
        return jnp.mean(values, axis=-1)
    pair = where[:, :, None] & where[:, None, :]
    count = jnp.sum(where, axis=-1, keepdims=True, dtype=values.dtype)
    sums = jnp.sum(jnp.where(pair, values, 0), axis=-1)
    return _arrays.divide(sums, jnp.broadcast_to(count, sums.shape))


def _channel_gram(f, temperature, where):
    """[B, C, C] inner products of the channels' softmax over pixels."""
    scores = jnp.moveaxis(_maps.pixels(f), 1, 2)
    scores = _arrays.select(where, scores) / jnp.asarray(temperature, f.dtype)
    shares = jnp.exp(_arrays.log_softmax(scores))
    return jnp.einsum("bcp,bdp->bcd", shares, shares, precision=_EXACT)


def _cosine_to_centre(f, member):
    """[B, P] cosine of each pixel's features to the sum of its class; zero without a class."""
    sums = jnp.einsum("bpk,bpd->bkd", member, f, precision=_EXACT)
    to_all = jnp.einsum("bpd,bkd->bpk", _arrays.unit(f), _arrays.unit(sums), precision=_EXACT)
    return jnp.sum(to_all * member, axis=-1)


def _spatial_attention(f):
    """[B, H, W, C] -> [B, P] unit vector of the mean squares over channels."""
    return _arrays.unit(jnp.mean(jnp.square(f), axis=-1).reshape(f.shape[0], -1))


def _direction_of_change(first, second):
    """Unit vector of second - first, zero where unit vectors differ by rounding alone."""
    change = second - first
    moved = _arrays.norm(change, keepdims=True) > 16 * jnp.finfo(first.dtype).eps
    return _arrays.unit(jnp.where(moved, change, 0))


def _attention_masks(f, kept, temperature):
    """[B, P] and [B, C]: softmax of mean absolute features, times the number of kept pixels and C."""
    size = jnp.abs(f)
    pixels = jnp.sum(kept, axis=1, keepdims=True, dtype=f.dtype)
    temperature = jnp.asarray(temperature, f.dtype)
    spatial = jnp.where(kept, jnp.mean(size, axis=-1) / temperature, -jnp.inf)
    sums = jnp.sum(size, axis=1)
    channel = _arrays.divide(sums, jnp.broadcast_to(pixels, sums.shape)) / temperature
    over_pixels = pixels * jnp.exp(_arrays.log_softmax(spatial))
    return over_pixels, f.shape[-1] * jnp.exp(_arrays.log_softmax(channel))


def _without_affine(d, kept):
    """[B, P] less its median over its mean absolute deviation, zero where not kept."""
    count = jnp.sum(kept, axis=1, keepdims=True)
    ordered = jnp.sort(jnp.where(kept, d, jnp.inf), axis=1)
    middle = [jnp.maximum(count - 1, 0) // 2, jnp.minimum(count // 2, d.shape[1] - 1)]
    lower, upper = (jnp.take_along_axis(ordered, index, axis=1) for index in middle)
    median = jnp.where(count > 0, 0.5 * (lower + upper), 0)
    deviation = jnp.where(kept, d - median, 0)
    size = jnp.sum(jnp.abs(deviation), axis=1, keepdims=True)
    spread = _arrays.divide(size, count.astype(d.dtype))
    return _arrays.divide(deviation, jnp.broadcast_to(spread, d.shape))


def _dice(q, m):
    """1 - 2 q·m / (q·q + m·m) over the last axis, written so that equal masks give exactly zero."""
    sizes = jnp.sum(jnp.square(q) + jnp.square(m), axis=-1)
    return _arrays.divide(jnp.sum(jnp.square(q - m), axis=-1), sizes)
