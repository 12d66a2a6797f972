"""Losses between a feature of the student and a feature of the teacher, example by example.

Notation: `f_s` and `f_t` are features `[B, ...]`, of D numbers each; where their shapes differ, a
projector of `kdjax.networks` maps the student's first. Feature maps are channel-last, `[B, H, W, C]`.
"""

import jax
import jax.numpy as jnp

from kdjax.losses import _arrays, _maps


def feature_hint(student_features, teacher_features, *, where=None):
    r"""Mean squared difference of two features of one shape, per example: the hint loss of FitNets.

    .. math:: \frac{1}{D} \sum_d (f_{s,d} - f_{t,d})^2

    It is also the loss of works that differ in what is compared: SimKD (the last map behind a
    projector), SRRL (pooled features, and logits of the teacher's head on the student's features),
    MGD (a map that a generator completed; D times this, as its authors sum), SemCKD (a weighted mean
    over pairs of layers), Teacher-Class Network (one chunk of the teacher's vector a student).

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
    f_s, f_t = _pair(student_features, teacher_features, where)
    return jnp.mean(jnp.square(f_s - f_t), axis=tuple(range(1, f_s.ndim)))


def layer_normalised_hint(student_features, teacher_features, *, where=None):
    r"""Mean squared difference of two hidden states after layer normalisation, per token.

    .. math:: \frac{1}{D} \sum_d (\hat f_{s,d} - \hat f_{t,d})^2,
        \quad \hat f = (f - \operatorname{mean} f) / \operatorname{std} f

    The normalisation is over the last axis and has no parameters. The loss is 2 (1 - r), with r the
    correlation of the two states, so neither shift nor scale of a state matters.

    Args:
        student_features: `[..., D]`, at least two axes.
        teacher_features: `[..., D]` of the same shape.
        where: `[...]` boolean; masked tokens give zero, in value and gradient.

    Returns:
        `[...]`. A constant state counts as zero after normalisation.

    Raises:
        TypeError: features that are not floating-point. ValueError: shapes that differ.

    >>> layer_normalised_hint(jnp.array([[1.0, 2.0]]), jnp.array([[9.0, 3.0]])).round(4)
    Array([4.], dtype=float32)

    Reference:
        Sun, Yu, Song, Liu, Yang, Zhou, "MobileBERT: a Compact Task-Agnostic BERT for
        Resource-Limited Devices", 2020. The authors add the KL divergence of each attention head
        (`softened_kl_divergence` of the attention scores), layer by layer.
    """
    f_s, f_t = _arrays.floating(
        student_features=student_features, teacher_features=teacher_features
    )
    _arrays.check_min_rank(2, student_features=f_s, teacher_features=f_t)
    _arrays.check_same_shape(student_features=f_s, teacher_features=f_t)
    _arrays.check_where(where, f_s.shape[:-1])
    f_s, f_t = _arrays.select(where, f_s, f_t)
    s, t = (_arrays.unit(_arrays.centred(x, axis=-1)) for x in (f_s, f_t))
    return jnp.sum(jnp.square(s - t), axis=-1)


def feature_cosine_distance(student_features, teacher_features, *, where=None):
    r"""One minus the cosine between two features, as half a squared distance of unit vectors.

    .. math:: \tfrac12 \lVert f_s / \lVert f_s \rVert - f_t / \lVert f_t \rVert \rVert^2
        = 1 - \cos(f_s, f_t)

    Args:
        student_features: `[B, ...]`
        teacher_features: `[B, ...]` of the same shape.
        where: `[B]` boolean; masked examples give zero, in value and gradient.

    Returns:
        `[B]`, between 0 and 2. A zero vector is at 1/2 from any other and at 0 from a zero vector,
        with a zero gradient of its own.

    Raises:
        TypeError: features that are not floating-point. ValueError: shapes that differ.

    >>> feature_cosine_distance(jnp.array([[3.0, 0.0]]), jnp.array([[0.0, 4.0]]))
    Array([1.], dtype=float32)

    Reference:
        Sun, Cheng, Gan, Liu, "Patient Knowledge Distillation for BERT Model Compression", 2019, use
        twice this, the squared distance of unit vectors, between the layers' hidden states.
    """
    f_s, f_t = _pair(student_features, teacher_features, where)
    differences = _unit_rows(f_s) - _unit_rows(f_t)
    return 0.5 * jnp.sum(jnp.square(differences), axis=-1)


def factor_transfer(student_factors, teacher_factors, *, where=None):
    r"""Mean absolute difference of two unit-norm factors, per example: the second stage of FT.

    .. math:: \frac{1}{D} \Bigl\lVert \frac{f_s}{\lVert f_s \rVert_2}
        - \frac{f_t}{\lVert f_t \rVert_2} \Bigr\rVert_1

    The factors come from the teacher's paraphraser and the student's translator. KTA's translated
    features are compared in the same way.

    Args:
        student_factors: `[B, ...]`
        teacher_factors: `[B, ...]` of the same shape.
        where: `[B]` boolean; masked examples give zero, in value and gradient.

    Returns:
        `[B]`. A zero factor stays zero.

    Raises:
        TypeError: factors that are not floating-point. ValueError: shapes that differ.

    >>> factor_transfer(jnp.array([[2.0, 0.0]]), jnp.array([[0.0, 5.0]]))
    Array([1.], dtype=float32)

    Reference:
        Kim, Park, Kwak, "Paraphrasing Complex Network: Network Compression via Factor Transfer",
        2018. He, Shen, Tian, Gong, Sun, Yan, "Knowledge Adaptation for Efficient Semantic
        Segmentation", 2019. FT's authors weight it 500 on CIFAR.
    """
    f_s, f_t = _arrays.floating(student_factors=student_factors, teacher_factors=teacher_factors)
    _arrays.check_min_rank(2, student_factors=f_s, teacher_factors=f_t)
    _arrays.check_same_shape(student_factors=f_s, teacher_factors=f_t)
    _arrays.check_where(where, f_s.shape[:1])
    f_s, f_t = _arrays.select(where, f_s, f_t)
    return jnp.mean(_arrays.absolute(_unit_rows(f_s) - _unit_rows(f_t)), axis=-1)


def variational_information(predicted_mean, teacher_features, log_variance, *, where=None):
    r"""Gaussian negative log-likelihood of the teacher's feature, without its constant: VID.

    .. math:: \frac{1}{2 D} \sum_d \Bigl( \frac{(\mu_d - f_{t,d})^2}{\sigma_d^2}
        + \log \sigma_d^2 \Bigr)

    Minimising it maximises a lower bound on the mutual information of teacher and student. With a
    variance predicted for each example it is half the loss of prime-aware adaptive distillation.

    Args:
        predicted_mean: `[B, ...]`, the student's prediction of the teacher's feature.
        teacher_features: `[B, ...]` of the same shape.
        log_variance: log σ², broadcastable to the features: `[C]` for one a channel, `[B, ...]` for
            one an example.
        where: `[B]` boolean; masked examples give zero, in value and gradient.

    Returns:
        `[B]`; it may be negative.

    Raises:
        TypeError: arrays that are not floating-point. ValueError: shapes that do not fit.

    >>> x, y = jnp.array([[1.0, 3.0]]), jnp.array([[1.0, 1.0]])
    >>> variational_information(x, y, jnp.array([0.0, 0.0]))
    Array([1.], dtype=float32)

    Reference:
        Ahn, Hu, Damianou, Lawrence, Dai, "Variational Information Distillation for Knowledge
        Transfer", 2019: one variance a channel, starting at 5. Zhang, Lan, Dai, Zeng, Bai, Chang,
        Wei, "Prime-Aware Adaptive Distillation", 2020: one an example, from a branch of the student.
    """
    mean, f_t, log_variance = _arrays.floating(
        predicted_mean=predicted_mean, teacher_features=teacher_features, log_variance=log_variance
    )
    _arrays.check_min_rank(2, predicted_mean=mean, teacher_features=f_t)
    _arrays.check_same_shape(predicted_mean=mean, teacher_features=f_t)
    _arrays.check_where(where, mean.shape[:1])
    _check_broadcasts(mean.shape, log_variance=log_variance)
    log_variance = jnp.broadcast_to(log_variance, mean.shape)
    mean, f_t, log_variance = _arrays.select(where, mean, f_t, log_variance)
    standardised = (mean - f_t) * jnp.exp(-0.5 * log_variance)
    likelihood = 0.5 * (jnp.square(standardised) + log_variance)
    return jnp.mean(likelihood, axis=tuple(range(1, mean.ndim)))


def hierarchical_context(student_maps, teacher_maps, *, levels=(4, 2, 1), where=None):
    r"""Squared differences of two maps at full size and after pooling to each level: HCL of ReviewKD.

    .. math:: \Bigl( \ell_0 + \sum_{i=1}^n 2^{-i} \ell_i \Bigr) \Big/ \sum_{i=0}^n 2^{-i}

    with ℓ_0 the mean squared difference of the maps, ℓ_i that of the maps averaged down to the i-th
    level that is smaller than the map.

    Args:
        student_maps: `[B, H, W, C]`, the fused map after ReviewKD's attention-based fusion.
        teacher_maps: `[B, H, W, C]` of the same shape.
        levels: sides of the pooled maps, in the order of their weights.
        where: `[B]` boolean; masked examples give zero, in value and gradient.

    Returns:
        `[B]`.

    Raises:
        TypeError: maps that are not floating-point. ValueError: shapes, a level below 1.

    >>> x = jnp.arange(4.0).reshape(1, 2, 2, 1)
    >>> hierarchical_context(x, x + 2)
    Array([4.], dtype=float32)

    Reference:
        Chen, Liu, Zhao, Jia, "Distilling Knowledge via Knowledge Review", 2021. Levels 4, 2, 1.
    """
    _arrays.check_positive(**{f"levels[{i}]": level for i, level in enumerate(levels)})
    f_s, f_t = _maps.aligned(where, student_maps=student_maps, teacher_maps=teacher_maps)
    _arrays.check_same_shape(student_maps=f_s, teacher_maps=f_t)
    differences = f_s - f_t
    side = min(differences.shape[1:3])
    total, weight, weights = jnp.mean(jnp.square(differences), axis=(1, 2, 3)), 1.0, 1.0
    for level in levels:
        if level >= side:
            continue
        pooled = _maps.adaptive_average_pool(differences, level, level)
        weight = weight / 2
        total = total + weight * jnp.mean(jnp.square(pooled), axis=(1, 2, 3))
        weights = weights + weight
    return total / weights


def log_power_distance(student_features, teacher_features, *, exponent=4.0, where=None):
    r"""Log of the summed powers of all differences in the batch: the representation loss of SRD.

    .. math:: \log \sum_{b, d} \lvert f_{s,bd} - f_{t,bd} \rvert^p

    A scalar for the batch: a sum over examples inside the logarithm. The authors standardise both
    features over the batch, without parameters, after a linear projector of the student's.

    Args:
        student_features: `[B, ...]`
        teacher_features: `[B, ...]` of the same shape.
        exponent: p ≥ 1.
        where: `[B]` boolean; masked examples take no part, and without any the loss is zero.

    Returns:
        A scalar. Where no difference is left it is the log of the smallest normal number, with a
        zero gradient.

    Raises:
        TypeError: features that are not floating-point. ValueError: shapes, an exponent below 1.

    >>> x = jnp.array([[1.0], [0.0]])
    >>> log_power_distance(x, jnp.zeros_like(x))
    Array(0., dtype=float32)

    Reference:
        Miles, Mikolajczyk, "Understanding the Role of the Projector in Knowledge Distillation",
        2024. The authors use p = 4 and weight it 2 beside a KL divergence with T = 1 on ImageNet.
    """
    f_s, f_t = _pair(student_features, teacher_features, where)
    _arrays.check_at_least_one(exponent=exponent)
    exponent = jnp.asarray(exponent, f_s.dtype)
    sizes = jnp.abs(f_s - f_t)
    # Powers of sizes relative to the largest neither overflow nor vanish; the loss is invariant.
    largest = jax.lax.stop_gradient(jnp.max(sizes))
    smallest = jnp.asarray(jnp.finfo(f_s.dtype).tiny, f_s.dtype)
    relative = _arrays.divide(sizes, jnp.broadcast_to(largest, sizes.shape))
    total = jnp.sum(_arrays.power(relative, exponent))
    differ = largest > 0
    logs = jnp.log(jnp.where(differ, total, smallest))
    value = logs + jnp.where(differ, exponent * jnp.log(jnp.where(differ, largest, 1)), 0)
    return value if where is None else jnp.where(jnp.any(where), value, 0)


def implicit_field_distance(student_values, target_values, *, where=None):
    r"""Mean absolute difference of a predicted and a true field over the query points: IAE.

    .. math:: \frac{1}{Q} \sum_q \lvert \hat d(x_q) - d(x_q) \rvert

    The target, a distance to the surface, does not depend on which points were sampled, so the code
    that the prediction is decoded from need not remember them.

    Args:
        student_values: `[B, Q]`, the field decoded at Q query points.
        target_values: `[B, Q]`, the true field there.
        where: `[B]` boolean; masked examples give zero, in value and gradient.

    Returns:
        `[B]`.

    Raises:
        TypeError: values that are not floating-point. ValueError: ranks, shapes that differ.

    >>> implicit_field_distance(jnp.array([[0.0, 3.0]]), jnp.array([[1.0, 1.0]]))
    Array([1.5], dtype=float32)

    Reference:
        Yan, Yang, Li, Song, Guan, Kang, Hua, Huang, "Implicit Autoencoder for Point-Cloud
        Self-Supervised Representation Learning", 2023.
    """
    s, t = _arrays.floating(student_values=student_values, target_values=target_values)
    _arrays.check_rank(2, student_values=s, target_values=t)
    _arrays.check_same_shape(student_values=s, target_values=t)
    _arrays.check_where(where, s.shape[:1])
    s, t = _arrays.select(where, s, t)
    return jnp.mean(_arrays.absolute(s - t), axis=-1)


def _pair(student_features, teacher_features, where):
    """Two features `[B, ...]` of one shape, checked and masked."""
    f_s, f_t = _arrays.floating(
        student_features=student_features, teacher_features=teacher_features
    )
    _arrays.check_min_rank(2, student_features=f_s, teacher_features=f_t)
    _arrays.check_same_shape(student_features=f_s, teacher_features=f_t)
    _arrays.check_where(where, f_s.shape[:1])
    return _arrays.select(where, f_s, f_t)


def _unit_rows(x):
    return _arrays.unit(x.reshape(x.shape[0], -1))


def _check_broadcasts(shape, **arrays):
    for name, x in arrays.items():
        fits = x.ndim <= len(shape) and all(
            own in (1, wanted)
            for own, wanted in zip(x.shape[::-1], tuple(shape)[::-1], strict=False)
        )
        if not fits:
            raise ValueError(f"{name} must broadcast to {tuple(shape)}, got shape {x.shape}")
