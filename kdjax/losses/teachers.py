"""Divergences from several teachers, from peers, and from a teacher's targets put together anew.

Notation: `s` and `t` are logits `[..., C]`, q and p their softened distributions, y a label
`[...]`. Where a choice depends on predictions it is a comparison: no gradient passes through it.
"""

import jax
import jax.numpy as jnp

from kdjax.losses import _arrays, divergences, logits


def weighted_teachers_divergence(
    student_logits, teachers_logits, weights, *, temperature=1.0, where=None
):
    r"""T² · weighted sum of KL(teacher_k ‖ student) over K teachers.

    .. math:: T^2 \sum_k w_k \, \mathrm{KL}(p_k \,\|\, q)

    Args:
        student_logits: `[..., C]`
        teachers_logits: `[..., K, C]`
        weights: `[..., K]`, at least 0: fixed, learned, or chosen example by example. A weight of
            zero leaves a teacher out.
        temperature: T > 0, a number or `[...]`.
        where: `[...]` boolean; masked rows give zero, in value and gradient.

    Returns:
        `[...]`

    Raises:
        TypeError: arrays that are not floating-point. ValueError: shapes, temperature, weights
        below 0.

    >>> s, t = jnp.array([[0.0, 0.0]]), jnp.array([[[0.0, jnp.log(3.0)], [9.0, 0.0]]])
    >>> weighted_teachers_divergence(s, t, jnp.array([[1.0, 0.0]])).round(4)
    Array([0.1308], dtype=float32)

    Reference:
        Yuan, Shou, Pei, Lin, Gong, Fu, Jiang, "Reinforced Multi-Teacher Selection for Knowledge
        Distillation", 2021, where a policy draws weights in {0, 1}; the mean of K teachers goes
        back to Hinton, Vinyals, Dean, 2015.
    """
    s, t, w = _arrays.floating(
        student_logits=student_logits, teachers_logits=teachers_logits, weights=weights
    )
    _arrays.check_min_rank(1, student_logits=s)
    if t.shape[:-2] + t.shape[-1:] != s.shape or w.shape != t.shape[:-1]:
        raise ValueError(
            f"teachers_logits {t.shape} and weights {w.shape} must have one axis of teachers more "
            f"than student_logits {s.shape} and its rows"
        )
    _arrays.check_positive(temperature=temperature)
    _arrays.check_not_negative(weights=w)
    _arrays.check_where(where, s.shape[:-1])
    s, t, w = _arrays.select(where, s, t, w)
    temperature = jnp.asarray(temperature, s.dtype)
    log_q = _arrays.log_softmax(s / _arrays.per_row(temperature, s))[..., None, :]
    softer = temperature if temperature.ndim == 0 else temperature[..., None, None]
    log_p = _arrays.log_softmax(t / softer)
    each = divergences.kl_of_log_probs(log_q, log_p)
    chosen = (w > 0) | jnp.isfinite(each)
    values = jnp.sum(w * jnp.where(chosen, each, 0), axis=-1)
    return _arrays.select(where, jnp.square(temperature) * values)


def partitioned_divergence(
    student_logits, teacher_logits, initial_logits, *, temperature=1.0, where=None
):
    r"""T² · KL(teacher or initial student ‖ student), from whichever is more confident.

    .. math:: T^2 \, \mathrm{KL}(r \,\|\, q), \quad
        r = p_t \text{ if } \max_c p_t^{(1)} > \max_c p_0^{(1)}, \text{ else } p_0

    A frozen copy of the student keeps what the student already knows, without labels.

    Args:
        student_logits: `[..., C]`
        teacher_logits: `[..., C]`
        initial_logits: `[..., C]` of the student before the transfer.
        temperature: T > 0, a number or `[...]`; confidences are compared at T = 1.
        where: `[...]` boolean; masked rows give zero, in value and gradient.

    Returns:
        `[...]`

    Raises:
        TypeError: logits that are not floating-point. ValueError: shapes, temperature.

    >>> s, t = jnp.array([[0.0, 0.0]]), jnp.array([[0.0, jnp.log(3.0)]])
    >>> partitioned_divergence(s, t, s).round(4), partitioned_divergence(s, s, t).round(4)
    (Array([0.1308], dtype=float32), Array([0.1308], dtype=float32))

    Reference:
        Roth, Thede, Koepke, Vinyals, Hénaff, Akata, "Fantastic Gains and Where to Find Them: On the
        Existence and Prospect of General Knowledge Transfer between Any Pretrained Model", 2023.
    """
    s, t, first = _three(student_logits, teacher_logits, initial_logits, temperature, where)
    confident = [jnp.max(_arrays.log_softmax(x), axis=-1) for x in (t, first)]
    chosen = jnp.where((confident[0] > confident[1])[..., None], t, first)
    return divergences.softened_kl_divergence(s, chosen, temperature=temperature, where=where)


def labelled_partitioned_divergence(
    student_logits, teacher_logits, initial_logits, labels, *, temperature=1.0, where=None
):
    r"""T² · KL(teacher or initial student ‖ student), from whichever knows the label better.

    .. math:: T^2 \, \mathrm{KL}(r \,\|\, q), \quad
        r = p_t \text{ if } p_{t,y}^{(1)} > p_{0,y}^{(1)}, \text{ else } p_0

    Args:
        student_logits: `[..., C]`
        teacher_logits: `[..., C]`
        initial_logits: `[..., C]` of the student before the transfer.
        labels: `[...]` integers in [0, C).
        temperature: T > 0, a number or `[...]`; probabilities of the label are compared at T = 1.
        where: `[...]` boolean; masked rows give zero, in value and gradient.

    Returns:
        `[...]`

    Raises:
        TypeError: logits that are not floating-point, labels that are not integers.
        ValueError: shapes, temperature.

    >>> s, t = jnp.array([[0.0, 0.0]]), jnp.array([[0.0, jnp.log(3.0)]])
    >>> labelled_partitioned_divergence(s, t, s, jnp.array([0])).round(4)
    Array([0.], dtype=float32)

    Reference:
        Roth, Thede, Koepke, Vinyals, Hénaff, Akata, "Fantastic Gains and Where to Find Them: On the
        Existence and Prospect of General Knowledge Transfer between Any Pretrained Model", 2023.
    """
    s, t, first = _three(student_logits, teacher_logits, initial_logits, temperature, where)
    _arrays.check_labels(s.shape[:-1], labels=labels)
    labels = _arrays.select(where, jnp.asarray(labels))
    of_label = [_arrays.at_label(_arrays.log_softmax(x), labels) for x in (t, first)]
    chosen = jnp.where((of_label[0] > of_label[1])[..., None], t, first)
    return divergences.softened_kl_divergence(s, chosen, temperature=temperature, where=where)


def entropy_weighted_divergence(
    student_logits, teacher_logits, *, emphasis=2.0, temperature=4.0, where=None
):
    r"""T² · (a KL(teacher ‖ student) + b KL(student ‖ teacher)), raised by the entropies.

    .. math:: (a, b) = (\delta, 1) \text{ if } H(q) < H(p), \text{ else } (1, \delta)

    An over-confident student is flattened by the forward direction, a flat one sharpened by the
    reverse one.

    Args:
        student_logits: `[..., C]`
        teacher_logits: `[..., C]`
        emphasis: δ, at least 0, a number or `[...]`.
        temperature: T > 0, a number or `[...]`.
        where: `[...]` boolean; masked rows give zero, in value and gradient.

    Returns:
        `[...]`; +inf where one side alone rules out a class that the other has mass on.

    Raises:
        TypeError: logits that are not floating-point. ValueError: shapes, temperature, δ.

    >>> s, t = jnp.array([[0.0, 0.0]]), jnp.array([[0.0, jnp.log(3.0)]])
    >>> entropy_weighted_divergence(s, t, emphasis=0.0, temperature=1.0).round(4)
    Array([0.1308], dtype=float32)

    Reference:
        Amara, Sepahvand, Meyer, Gross, Clark, "BD-KD: Balancing the Divergences for Online
        Knowledge Distillation", 2022. That the weights follow the gap of entropies is the paper's;
        which direction is raised, δ = 2 and T = 4 are this library's reading of it.
    """
    _arrays.check_not_negative(emphasis=emphasis)
    log_q, log_p, temperature = divergences.softened(
        student_logits, teacher_logits, temperature, where
    )
    sharper = divergences.entropy_of_log_probs(log_q) < divergences.entropy_of_log_probs(log_p)
    ones = jnp.ones(sharper.shape, log_q.dtype)
    raised = emphasis * ones
    forward, reverse = jnp.where(sharper, raised, ones), jnp.where(sharper, ones, raised)
    values = _weighted(forward, divergences.kl_of_log_probs(log_q, log_p))
    values += _weighted(reverse, divergences.reverse_kl_of_log_probs(log_q, log_p))
    return _arrays.select(where, jnp.square(temperature) * values)


def reliable_peer_divergence(student_logits, peer_logits, labels, *, temperature=1.0, where=None):
    r"""T² · KL(peer ‖ student) where the peer predicts the label better, and zero elsewhere.

    .. math:: T^2 \, [\,p_y^{(1)} > q_y^{(1)}\,] \, \mathrm{KL}(p \,\|\, q)

    Two networks that train together teach each other, pixel by pixel, only where each is the better
    one; equal predictions pass nothing.

    Args:
        student_logits: `[..., C]`
        peer_logits: `[..., C]`
        labels: `[...]` integers in [0, C).
        temperature: T > 0, a number or `[...]`; the label's probabilities are compared at T = 1.
        where: `[...]` boolean; masked rows (pixels without a label) give zero, in value and
            gradient.

    Returns:
        `[...]`

    Raises:
        TypeError: logits that are not floating-point, labels that are not integers.
        ValueError: shapes, temperature.

    >>> s, t = jnp.zeros((2, 2)), jnp.array([[0.0, jnp.log(3.0)], [0.0, jnp.log(3.0)]])
    >>> reliable_peer_divergence(s, t, jnp.array([0, 1])).round(4)
    Array([0.    , 0.1308], dtype=float32)

    Reference:
        Zhu, Luo, Zheng, Wang, Wang, "A Good Student is Cooperative and Reliable: CNN-Transformer
        Collaborative Learning for Semantic Segmentation", 2023.
    """
    _arrays.check_positive(temperature=temperature)
    s, t, labels = logits.labelled(student_logits, peer_logits, labels, where)
    better = _arrays.at_label(_arrays.log_softmax(t), labels) > _arrays.at_label(
        _arrays.log_softmax(s), labels
    )
    values = divergences.softened_kl_divergence(s, t, temperature=temperature)
    return _arrays.select(where, jnp.where(better, values, 0))


def hardest_negative_divergence(student_logits, experts_logits, labels, *, where=None):
    r"""KL(experts' joint target ‖ student) over the wrong classes, the hardest of them held down.

    .. math:: \mathrm{KL}(\hat g \,\|\, \hat q), \quad
        g_c = \max_e z_{e,c}, \; g_h = \operatorname{mean}_e z_{e,h}, \;
        h = \arg\max_{c \ne y} \operatorname{mean}_e z_{e,c}

    with both distributions over the classes other than y: every wrong class gets the logit of the
    expert that likes it most, except the hardest one, which gets the mean.

    Args:
        student_logits: `[..., C]` of one expert.
        experts_logits: `[..., E, C]` of all experts.
        labels: `[...]` integers in [0, C).
        where: `[...]` boolean; masked rows give zero, in value and gradient.

    Returns:
        `[...]`

    Raises:
        TypeError: logits that are not floating-point, labels that are not integers.
        ValueError: shapes.

    >>> s = jnp.array([[5.0, 0.0, 0.0]])
    >>> z = jnp.array([[[0.0, jnp.log(3.0), 0.0], [0.0, jnp.log(3.0), 0.0]]])
    >>> hardest_negative_divergence(s, z, jnp.array([0])).round(4)
    Array([0.1308], dtype=float32)

    Reference:
        Jin, Li, Lu, Cheung, Wang, "Long-Tailed Visual Recognition via Self-Heterogeneous
        Integration with Knowledge Excavation", 2023, with three experts; their code weights it 10
        with the target class left in at logit zero.
    """
    s, z = _arrays.floating(student_logits=student_logits, experts_logits=experts_logits)
    _arrays.check_min_rank(1, student_logits=s)
    if z.shape[:-2] + z.shape[-1:] != s.shape:
        raise ValueError(
            f"experts_logits {z.shape} must have one axis of experts more than "
            f"student_logits {s.shape}"
        )
    _arrays.check_labels(s.shape[:-1], labels=labels)
    _arrays.check_where(where, s.shape[:-1])
    s, z, labels = _arrays.select(where, s, z, jnp.asarray(labels))
    mean = logits.without_label(jnp.mean(z, axis=-2), labels)
    hardest = jax.nn.one_hot(jnp.argmax(mean, axis=-1), s.shape[-1], dtype=bool)
    joint = logits.without_label(jnp.max(z, axis=-2), labels)
    log_p = _arrays.log_softmax(jnp.where(hardest, mean, joint))
    log_q = _arrays.log_softmax(logits.without_label(s, labels))
    return _arrays.select(where, divergences.kl_of_log_probs(log_q, log_p))


def fused_spatial_divergence(
    student_map, teacher_map, teacher_logits, *, spatial_share, temperature=1.0, where=None
):
    r"""T² · KL(teacher ‖ student) at every position, the teacher's logits mixed with its global.

    .. math:: T^2 \, \mathrm{KL}\big(\operatorname{softmax}((r t_{hw} + (1 - r) \bar t) / T)
        \,\|\, q_{hw}\big)

    A schedule that takes r from 1 to 0 teaches what is where first, and what is there last.

    Args:
        student_map: `[B, ..., C]` logits at positions, channel-last.
        teacher_map: `[B, ..., C]`: the classifier applied before the pooling, on the same
            positions.
        teacher_logits: `[B, C]`, after the pooling.
        spatial_share: r in [0, 1].
        temperature: T > 0, a number or `[B, ...]`.
        where: `[B, ...]` boolean; masked positions give zero, in value and gradient.

    Returns:
        `[B, ...]`; a class at -inf for the teacher at a position or as a whole has no mass there.

    Raises:
        TypeError: logits that are not floating-point. ValueError: shapes, temperature, r.

    >>> s, t = jnp.zeros((1, 2, 2)), jnp.array([[[0.0, jnp.log(9.0)], [0.0, 0.0]]])
    >>> fused_spatial_divergence(s, t, jnp.mean(t, axis=1), spatial_share=0.0).round(4)
    Array([[0.1308, 0.1308]], dtype=float32)

    Reference:
        Zhao, Song, Liang, "Cumulative Spatial Knowledge Distillation for Vision Transformers",
        2023. The authors decrease r over training from 1 to 0.
    """
    s, t, whole = _arrays.floating(
        student_map=student_map, teacher_map=teacher_map, teacher_logits=teacher_logits
    )
    _arrays.check_min_rank(3, student_map=s, teacher_map=t)
    _arrays.check_same_shape(student_map=s, teacher_map=t)
    if whole.shape != (t.shape[0], t.shape[-1]):
        raise ValueError(
            f"teacher_logits must have shape {(t.shape[0], t.shape[-1])}, got {whole.shape}"
        )
    _arrays.check_fraction(spatial_share=spatial_share)
    whole = whole.reshape(whole.shape[0], *(1,) * (t.ndim - 2), whole.shape[-1])
    absent = jnp.isneginf(t) | jnp.isneginf(whole)
    mixed = spatial_share * jnp.where(absent, 0, t)
    mixed += (1 - spatial_share) * jnp.where(absent, 0, whole)
    fused = jnp.where(absent, -jnp.inf, mixed)
    return divergences.softened_kl_divergence(s, fused, temperature=temperature, where=where)


def centred_cross_entropy(
    student_logits,
    teacher_logits,
    centre,
    *,
    student_temperature=0.1,
    teacher_temperature=0.04,
    where=None,
):
    r"""H(teacher, student) with a centred, sharpened teacher, without T²: views of one image.

    .. math:: -\sum_c \operatorname{softmax}((t - m) / T_t)_c \log \operatorname{softmax}(s / T_s)_c

    The centre m, a moving mean of the teacher's logits, keeps one class from taking everything; the
    low teacher temperature keeps the uniform answer away.

    Args:
        student_logits: `[..., C]` for one view.
        teacher_logits: `[..., C]` for another view.
        centre: `[C]`
        student_temperature: T_s > 0, a number.
        teacher_temperature: T_t > 0, a number.
        where: `[...]` boolean; masked rows give zero, in value and gradient.

    Returns:
        `[...]`

    Raises:
        TypeError: arrays that are not floating-point. ValueError: shapes, temperatures.

    >>> x = jnp.array([[0.0, 0.0]])
    >>> centred_cross_entropy(x, x, jnp.zeros(2)).round(4)
    Array([0.6931], dtype=float32)

    Reference:
        Caron, Touvron, Misra, Jégou, Mairal, Bojanowski, Joulin, "Emerging Properties in
        Self-Supervised Vision Transformers", 2021: T_s = 0.1, T_t from 0.04 to 0.07, centre with
        momentum 0.9; between two architectures in Song, Xie, Zhang, Luo, "Multi-Mode Online
        Knowledge Distillation for Self-Supervised Visual Representation Learning", 2023.
    """
    s, t, m = _arrays.floating(
        student_logits=student_logits, teacher_logits=teacher_logits, centre=centre
    )
    _arrays.check_min_rank(1, student_logits=s, teacher_logits=t)
    _arrays.check_same_shape(student_logits=s, teacher_logits=t)
    if m.shape != s.shape[-1:]:
        raise ValueError(f"centre must have shape {s.shape[-1:]}, got {m.shape}")
    _arrays.check_positive(
        student_temperature=student_temperature, teacher_temperature=teacher_temperature
    )
    _arrays.check_where(where, s.shape[:-1])
    s, t = _arrays.select(where, s, t)
    log_q = _arrays.log_softmax(s / student_temperature)
    log_p = _arrays.log_softmax((t - jnp.broadcast_to(m, t.shape)) / teacher_temperature)
    return _arrays.select(where, -_arrays.expectation(log_p, log_q))


def _three(student_logits, teacher_logits, initial_logits, temperature, where):
    s, t, first = _arrays.floating(
        student_logits=student_logits,
        teacher_logits=teacher_logits,
        initial_logits=initial_logits,
    )
    _arrays.check_min_rank(1, student_logits=s)
    _arrays.check_same_shape(student_logits=s, teacher_logits=t, initial_logits=first)
    _arrays.check_positive(temperature=temperature)
    _arrays.check_where(where, s.shape[:-1])
    return _arrays.select(where, s, t, first)


def _weighted(weights, values):
    """weights * values with 0 * inf = 0."""
    return weights * jnp.where(weights > 0, values, 0)
