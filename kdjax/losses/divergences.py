"""Divergences between the student's and the teacher's categorical distribution, per row of logits.

Notation, for every function of this file: `s` and `t` are student and teacher logits of shape
`[..., C]`, q = softmax(s / T) and p = softmax(t / T) for the temperature T, and the result has
shape `[...]`. T is a number or an array of the result's shape. Everything is computed in log space.

Every divergence is `distributions -> value` at heart: the functions `*_of_log_probs(log_q, log_p)`
take the two rows of log-probabilities, student first, and are what `kdjax.signals` applies chunk by
chunk to vocabularies that do not fit. Their rows need not sum to one (what a top-k leaves out). The
form over logits is T² times its core; a hyperparameter is a number or an array of the result's
shape.
"""

import jax
import jax.numpy as jnp

from kdjax.losses import _arrays


def softened_kl_divergence(student_logits, teacher_logits, *, temperature=1.0, where=None):
    r"""T² · KL(teacher ‖ student) of softened distributions: the loss of knowledge distillation.

    .. math:: T^2 \sum_c p_c (\log p_c - \log q_c)

    The factor T² keeps the gradient's scale as T grows; for large T the loss tends to
    `mean((s - mean(s) - t + mean(t))²) / 2`.

    Args:
        student_logits: `[..., C]`
        teacher_logits: `[..., C]`
        temperature: T > 0, a number or `[...]`.
        where: `[...]` boolean; masked rows give zero, in value and gradient.

    Returns:
        `[...]`. Classes at -inf on both sides carry nothing; a class at -inf for the student alone
        gives +inf if the teacher has mass there.

    Raises:
        TypeError: logits that are not floating-point. ValueError: shapes, temperature.

    >>> s, t = jnp.array([[0.0, 0.0]]), jnp.array([[0.0, jnp.log(3.0)]])
    >>> softened_kl_divergence(s, t).round(4)
    Array([0.1308], dtype=float32)

    Reference:
        Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015.
        The authors used T between 1 and 20, and T = 20 for their MNIST nets.
    """
    log_q, log_p, temperature = softened(student_logits, teacher_logits, temperature, where)
    values = jnp.square(temperature) * kl_of_log_probs(log_q, log_p)
    return _arrays.select(where, values)


def kl_of_log_probs(log_q, log_p):
    """KL(teacher ‖ student) from log-probabilities `[..., C]` of student and teacher -> `[...]`."""
    return _arrays.expectation(log_p, _arrays.log_ratio(log_p, log_q))


def reverse_kl_divergence(student_logits, teacher_logits, *, temperature=1.0, where=None):
    r"""T² · KL(student ‖ teacher) of softened distributions: the mode-seeking direction.

    .. math:: T^2 \sum_c q_c (\log q_c - \log p_c)

    Taken at tokens that the student sampled it is the single-step term of MiniLLM, the part of the
    policy gradient that is known without sampling.

    Args:
        student_logits: `[..., C]`
        teacher_logits: `[..., C]`
        temperature: T > 0, a number or `[...]`.
        where: `[...]` boolean; masked rows give zero, in value and gradient.

    Returns:
        `[...]`. Classes at -inf on both sides carry nothing; a class at -inf for the teacher alone
        gives +inf if the student has mass there.

    Raises:
        TypeError: logits that are not floating-point. ValueError: shapes, temperature.

    >>> s, t = jnp.array([[0.0, 0.0]]), jnp.array([[0.0, jnp.log(3.0)]])
    >>> round(reverse_kl_divergence(s, t).item(), 4)
    0.1438

    Reference:
        Gu, Dong, Wei, Huang, "MiniLLM: Knowledge Distillation of Large Language Models", 2024.
        The authors used T = 1 and added this term, with weight 1, to the policy gradient.
    """
    log_q, log_p, temperature = softened(student_logits, teacher_logits, temperature, where)
    values = jnp.square(temperature) * reverse_kl_of_log_probs(log_q, log_p)
    return _arrays.select(where, values)


def reverse_kl_of_log_probs(log_q, log_p):
    """KL(student ‖ teacher) from log-probabilities `[..., C]` of student and teacher -> `[...]`."""
    return kl_of_log_probs(log_p, log_q)


def symmetric_kl_divergence(
    student_logits, teacher_logits, *, weight=0.5, temperature=1.0, where=None
):
    r"""T² · ((1 - w) KL(teacher ‖ student) + w KL(student ‖ teacher)): both directions, weighted.

    .. math:: T^2 \left( (1 - w) \sum_c p_c \log\frac{p_c}{q_c}
        + w \sum_c q_c \log\frac{q_c}{p_c} \right)

    With w = 1/2 it is half of the divergence of Jeffreys.

    Args:
        student_logits: `[..., C]`
        teacher_logits: `[..., C]`
        weight: w in [0, 1], the share of the reverse direction, a number or `[...]`.
        temperature: T > 0, a number or `[...]`.
        where: `[...]` boolean; masked rows give zero, in value and gradient.

    Returns:
        `[...]`. Classes at -inf on both sides carry nothing; at -inf on one side alone they give
        +inf if the other side has mass there and its direction has weight.

    Raises:
        TypeError: logits that are not floating-point. ValueError: shapes, temperature, weight.

    >>> s, t = jnp.array([[0.0, 0.0]]), jnp.array([[0.0, jnp.log(3.0)]])
    >>> symmetric_kl_divergence(s, t).round(4)
    Array([0.1373], dtype=float32)

    Reference:
        Jeffreys, "An Invariant Form for the Prior Probability in Estimation Problems", 1946; as a
        baseline of Ko, Kim, Chen, Yun, "DistiLLM: Towards Streamlined Distillation for Large
        Language Models", 2024, whose code has w = 0.9.
    """
    _arrays.check_fraction(weight=weight)
    log_q, log_p, temperature = softened(student_logits, teacher_logits, temperature, where)
    values = symmetric_kl_of_log_probs(log_q, log_p, weight=weight)
    return _arrays.select(where, jnp.square(temperature) * values)


def symmetric_kl_of_log_probs(log_q, log_p, *, weight):
    """(1 - w) KL(p ‖ q) + w KL(q ‖ p) from log-probabilities `[..., C]` -> `[...]`."""
    weight = jnp.asarray(weight, log_q.dtype)
    # A direction without weight compares the teacher with itself: its +inf must not reach a
    # gradient.
    forward = kl_of_log_probs(jnp.where(_row(weight < 1), log_q, log_p), log_p)
    reverse = reverse_kl_of_log_probs(jnp.where(_row(weight > 0), log_q, log_p), log_p)
    return (1 - weight) * forward + weight * reverse


def skew_kl_divergence(student_logits, teacher_logits, *, skew=0.1, temperature=1.0, where=None):
    r"""T² · KL(teacher ‖ λ teacher + (1 - λ) student): the forward KL against a skewed mixture.

    .. math:: T^2 \sum_c p_c \left( \log p_c - \log(\lambda p_c + (1 - \lambda) q_c) \right)

    For λ = 0 it is the forward KL. For λ > 0 it is at most T² log(1/λ), and its gradient is bounded
    where the student has no mass.

    Args:
        student_logits: `[..., C]`
        teacher_logits: `[..., C]`
        skew: λ in [0, 1], a number or `[...]`.
        temperature: T > 0, a number or `[...]`.
        where: `[...]` boolean; masked rows give zero, in value and gradient.

    Returns:
        `[...]`. Classes at -inf on both sides carry nothing; for λ = 0 a class at -inf for the
        student alone gives +inf if the teacher has mass there.

    Raises:
        TypeError: logits that are not floating-point. ValueError: shapes, temperature, skew.

    >>> s, t = jnp.array([[0.0, 0.0]]), jnp.array([[0.0, jnp.log(3.0)]])
    >>> skew_kl_divergence(s, t).round(4)
    Array([0.107], dtype=float32)

    Reference:
        Ko, Kim, Chen, Yun, "DistiLLM: Towards Streamlined Distillation for Large Language Models",
        2024. The authors used λ = 0.1 and T = 1.
    """
    _arrays.check_fraction(skew=skew)
    log_q, log_p, temperature = softened(student_logits, teacher_logits, temperature, where)
    values = skew_kl_of_log_probs(log_q, log_p, skew=skew)
    return _arrays.select(where, jnp.square(temperature) * values)


def skew_kl_of_log_probs(log_q, log_p, *, skew):
    """KL(p ‖ λ p + (1 - λ) q) from log-probabilities `[..., C]` -> `[...]`."""
    return kl_of_log_probs(log_mixture(log_p, log_q, weight=skew), log_p)


def skew_reverse_kl_divergence(
    student_logits, teacher_logits, *, skew=0.1, temperature=1.0, where=None
):
    r"""T² · KL(student ‖ λ student + (1 - λ) teacher): the reverse KL against a skewed mixture.

    .. math:: T^2 \sum_c q_c \left( \log q_c - \log(\lambda q_c + (1 - \lambda) p_c) \right)

    For λ = 0 it is the reverse KL. The gradient flows through the student's share of the mixture.

    Args:
        student_logits: `[..., C]`
        teacher_logits: `[..., C]`
        skew: λ in [0, 1], a number or `[...]`.
        temperature: T > 0, a number or `[...]`.
        where: `[...]` boolean; masked rows give zero, in value and gradient.

    Returns:
        `[...]`. Classes at -inf on both sides carry nothing; for λ = 0 a class at -inf for the
        teacher alone gives +inf if the student has mass there.

    Raises:
        TypeError: logits that are not floating-point. ValueError: shapes, temperature, skew.

    >>> s, t = jnp.array([[0.0, 0.0]]), jnp.array([[0.0, jnp.log(3.0)]])
    >>> skew_reverse_kl_divergence(s, t).round(4)
    Array([0.1131], dtype=float32)

    Reference:
        Ko, Kim, Chen, Yun, "DistiLLM: Towards Streamlined Distillation for Large Language Models",
        2024. The authors used λ = 0.1 and T = 1. Their second version (2025) takes this term on the
        student's own answers and `skew_kl_divergence` on the teacher's, with λ adapted per answer
        (`kdjax.losses.sequence.adaptive_skew`); its code detaches the student inside the mixture.
    """
    _arrays.check_fraction(skew=skew)
    log_q, log_p, temperature = softened(student_logits, teacher_logits, temperature, where)
    values = skew_reverse_kl_of_log_probs(log_q, log_p, skew=skew)
    return _arrays.select(where, jnp.square(temperature) * values)


def skew_reverse_kl_of_log_probs(log_q, log_p, *, skew):
    """KL(q ‖ λ q + (1 - λ) p) from log-probabilities `[..., C]` -> `[...]`."""
    return kl_of_log_probs(log_mixture(log_q, log_p, weight=skew), log_q)


def generalized_jensen_shannon_divergence(
    student_logits, teacher_logits, *, beta=0.5, temperature=1.0, where=None
):
    r"""T² · (β KL(teacher ‖ m) + (1 - β) KL(student ‖ m)) with m = β teacher + (1 - β) student.

    .. math:: T^2 \left( \beta \sum_c p_c \log\frac{p_c}{m_c}
        + (1 - \beta) \sum_c q_c \log\frac{q_c}{m_c} \right), \quad m = \beta p + (1 - \beta) q

    The formula is zero at β = 0 and β = 1, but its value over β tends to the forward KL as β -> 0
    and over 1 - β to the reverse KL as β -> 1. At exactly 0 the function is KL(teacher ‖ student)
    and at exactly 1 it is KL(student ‖ teacher), as public implementations have it; it jumps there.

    Args:
        student_logits: `[..., C]`
        teacher_logits: `[..., C]`
        beta: β in [0, 1], a number or `[...]`; 1/2 is the Jensen-Shannon divergence.
        temperature: T > 0, a number or `[...]`.
        where: `[...]` boolean; masked rows give zero, in value and gradient.

    Returns:
        `[...]`. Classes at -inf on both sides carry nothing; on one side alone they leave the value
        finite for 0 < β < 1.

    Raises:
        TypeError: logits that are not floating-point. ValueError: shapes, temperature, beta.

    >>> s, t = jnp.array([[0.0, 0.0]]), jnp.array([[0.0, jnp.log(3.0)]])
    >>> generalized_jensen_shannon_divergence(s, t).round(4)
    Array([0.0338], dtype=float32)

    Reference:
        Agarwal, Vieillard, Zhou, Stanczyk, Ramos, Geist, Bachem, "On-Policy Distillation of
        Language Models: Learning from Self-Generated Mistakes", 2024. The authors compared β of 0,
        0.1, 0.5, 0.9 and 1; which is best depends on the task.
    """
    _arrays.check_fraction(beta=beta)
    log_q, log_p, temperature = softened(student_logits, teacher_logits, temperature, where)
    values = generalized_jensen_shannon_of_log_probs(log_q, log_p, beta=beta)
    return _arrays.select(where, jnp.square(temperature) * values)


def generalized_jensen_shannon_of_log_probs(log_q, log_p, *, beta):
    """β KL(p ‖ m) + (1 - β) KL(q ‖ m), m = β p + (1 - β) q; KL(p ‖ q) at β = 0, KL(q ‖ p) at 1."""
    if isinstance(beta, (int, float)):
        if beta == 0:
            return kl_of_log_probs(log_q, log_p)
        if beta == 1:
            return reverse_kl_of_log_probs(log_q, log_p)
        return _jensen_shannon(log_q, log_p, beta)
    beta = jnp.asarray(beta, log_q.dtype)
    at_zero, at_one = beta == 0, beta == 1
    # As above: an end that does not apply compares the teacher with itself.
    forward = kl_of_log_probs(jnp.where(_row(at_zero), log_q, log_p), log_p)
    reverse = reverse_kl_of_log_probs(jnp.where(_row(at_one), log_q, log_p), log_p)
    inside = _jensen_shannon(log_q, log_p, jnp.where(at_zero | at_one, 0.5, beta))
    return jnp.where(at_zero, forward, jnp.where(at_one, reverse, inside))


def _jensen_shannon(log_q, log_p, beta):
    log_m = log_mixture(log_p, log_q, weight=beta)
    beta = jnp.asarray(beta, log_q.dtype)
    return beta * kl_of_log_probs(log_m, log_p) + (1 - beta) * kl_of_log_probs(log_m, log_q)


def total_variation_distance(student_logits, teacher_logits, *, temperature=1.0, where=None):
    r"""T² · half the L1 distance of the softened distributions of student and teacher.

    .. math:: \frac{T^2}{2} \sum_c |p_c - q_c|

    Symmetric, and at most T².

    Args:
        student_logits: `[..., C]`
        teacher_logits: `[..., C]`
        temperature: T > 0, a number or `[...]`.
        where: `[...]` boolean; masked rows give zero, in value and gradient.

    Returns:
        `[...]`, finite for classes at -inf on either side.

    Raises:
        TypeError: logits that are not floating-point. ValueError: shapes, temperature.

    >>> s, t = jnp.array([[0.0, 0.0]]), jnp.array([[0.0, jnp.log(3.0)]])
    >>> total_variation_distance(s, t).round(4)
    Array([0.25], dtype=float32)

    Reference:
        Wen, Li, Du, Mou, "f-Divergence Minimization for Sequence-Level Knowledge Distillation",
        2023. The authors used T = 1.
    """
    log_q, log_p, temperature = softened(student_logits, teacher_logits, temperature, where)
    values = jnp.square(temperature) * total_variation_of_log_probs(log_q, log_p)
    return _arrays.select(where, values)


def total_variation_of_log_probs(log_q, log_p):
    """Half the L1 distance of two distributions from log-probabilities `[..., C]` -> `[...]`."""
    return 0.5 * jnp.sum(jnp.abs(jnp.exp(log_p) - jnp.exp(log_q)), axis=-1)


def adaptive_kl_divergence(
    student_logits, teacher_logits, *, head_mass=0.5, temperature=1.0, where=None
):
    r"""T² · (g KL(teacher ‖ student) + (1 - g) KL(student ‖ teacher)), g from where the gap lies.

    .. math:: g = \frac{\sum_{c \in H} |p_c - q_c|}{\sum_c |p_c - q_c|}

    H, the head, holds the teacher's most probable classes as long as their mass together is at most
    μ, and its top class always. The forward KL learns the head first and the reverse KL the tail,
    so each gets the share of its part of the gap. g is a constant for the gradient, by definition.

    Args:
        student_logits: `[..., C]`
        teacher_logits: `[..., C]`
        head_mass: μ in [0, 1], a number or `[...]`.
        temperature: T > 0, a number or `[...]`.
        where: `[...]` boolean; masked rows give zero, in value and gradient.

    Returns:
        `[...]`. Where the two distributions are equal g counts as 1/2. Classes at -inf on both
        sides carry nothing; on one side alone they give +inf if the other side has mass there.

    Raises:
        TypeError: logits that are not floating-point. ValueError: shapes, temperature, head_mass.

    >>> s, t = jnp.array([[0.0, 0.0]]), jnp.array([[0.0, jnp.log(3.0)]])
    >>> adaptive_kl_divergence(s, t).round(4)
    Array([0.1373], dtype=float32)

    Reference:
        Wu, Tao, Wang, Yang, Zhao, Wong, "Rethinking Kullback-Leibler Divergence in Knowledge
        Distillation for Large Language Models", 2024. The authors used μ = 0.5 and T = 1.
    """
    _arrays.check_fraction(head_mass=head_mass)
    log_q, log_p, temperature = softened(student_logits, teacher_logits, temperature, where)
    values = adaptive_kl_of_log_probs(log_q, log_p, head_mass=head_mass)
    return _arrays.select(where, jnp.square(temperature) * values)


def adaptive_kl_of_log_probs(log_q, log_p, *, head_mass):
    """g KL(p ‖ q) + (1 - g) KL(q ‖ p), g = `head_gap_share`, from log-probabilities -> `[...]`."""
    share = head_gap_share(log_q, log_p, head_mass=head_mass)
    return symmetric_kl_of_log_probs(log_q, log_p, weight=1 - share)


def head_gap_share(log_q, log_p, *, head_mass):
    """The share of |p - q| that lies on the teacher's head, `[...]`, without a gradient."""
    p = jnp.exp(jax.lax.stop_gradient(log_p))
    gap = jnp.abs(p - jnp.exp(jax.lax.stop_gradient(log_q)))
    negated, gap = jax.lax.sort((-p, gap), dimension=-1, num_keys=1)
    first = jnp.arange(p.shape[-1]) == 0
    within = jnp.cumsum(-negated, axis=-1) <= _arrays.per_row(head_mass, p)
    head = within | first.reshape((1,) * (p.ndim - 1) + first.shape)
    whole = jnp.sum(gap, axis=-1)
    share = _arrays.divide(jnp.sum(jnp.where(head, gap, 0), axis=-1), whole)
    return jnp.where(whole > 0, share, jnp.full_like(share, 0.5))


def interpolated_kl_divergence(
    student_logits, teacher_logits, *, interpolation, temperature=1.0, where=None
):
    r"""T² · KL(target ‖ student), the target on the way from the student to the teacher: TAID.

    .. math:: T^2 \sum_c r_c (\log r_c - \log q_c), \quad
        r = \operatorname{softmax}\left( \frac{(1 - t)\, \bar s + t\, z}{T} \right)

    with student logits `s`, teacher logits `z`, and the bar for a constant: the student inside the
    target passes no gradient, by definition. At t = 1 it is the forward KL, at t = 0 it is zero
    with a zero gradient. `kdjax.losses.sequence.taid_update` moves t in training.

    Args:
        student_logits: `[..., C]`
        teacher_logits: `[..., C]`
        interpolation: t in [0, 1], a number or `[...]`.
        temperature: T > 0, a number or `[...]`.
        where: `[...]` boolean; masked rows give zero, in value and gradient.

    Returns:
        `[...]`. Classes at -inf on both sides carry nothing; for t = 1 a class at -inf for the
        student alone gives +inf if the teacher has mass there.

    Raises:
        TypeError: logits that are not floating-point. ValueError: shapes, temperature,
        interpolation.

    >>> s, t = jnp.array([[0.0, 0.0]]), jnp.array([[0.0, jnp.log(3.0)]])
    >>> interpolated_kl_divergence(s, t, interpolation=0.5).round(4)
    Array([0.0363], dtype=float32)

    Reference:
        Shing, Misaki, Bao, Yokoi, Akiba, "TAID: Temporally Adaptive Interpolated Distillation for
        Efficient Knowledge Transfer in Language Models", 2025. The authors used T = 1 and t from
        0.4 (0.2 for large gaps) to 1.
    """
    _arrays.check_fraction(interpolation=interpolation)
    log_q, log_p, temperature = softened(student_logits, teacher_logits, temperature, where)
    values = interpolated_kl_of_log_probs(log_q, log_p, interpolation=interpolation)
    return _arrays.select(where, jnp.square(temperature) * values)


def interpolated_kl_of_log_probs(log_q, log_p, *, interpolation):
    """KL(r ‖ q), r = `interpolated_log_probs`, from log-probabilities `[..., C]` -> `[...]`."""
    return kl_of_log_probs(log_q, interpolated_log_probs(log_q, log_p, interpolation=interpolation))


def interpolated_log_probs(log_q, log_p, *, interpolation):
    """log of q^(1 - t) p^t, normalised, `[..., C]`; the student's q passes no gradient."""
    t = _arrays.per_row(interpolation, log_q)
    return _arrays.log_softmax(_power(jax.lax.stop_gradient(log_q), 1 - t) + _power(log_p, t))


def minifinetuning_divergence(
    student_logits, teacher_logits, labels, *, threshold=0.2, temperature=1.0, where=None
):
    r"""T² · KL(corrected teacher ‖ student): the teacher made right by a margin, then distilled.

    .. math:: T^2 \sum_c \hat p_c (\log \hat p_c - \log q_c), \quad
        \hat p = (1 - m)\, p + m\, e_y

    Where the teacher's top class a is not the label y, m is such that the label leads it by the
    threshold τ, m = (p_a - p_y + τ) / (1 + p_a - p_y). Where it is, the label gains τ, up to 1,
    m = (min(1, p_y + τ) - p_y) / (1 - p_y).

    Args:
        student_logits: `[..., C]`
        teacher_logits: `[..., C]`
        labels: `[...]` integer classes y.
        threshold: τ in [0, 1], a number or `[...]`.
        temperature: T > 0, a number or `[...]`.
        where: `[...]` boolean; masked rows give zero, in value and gradient.

    Returns:
        `[...]`. Classes at -inf on both sides carry nothing unless they are the label; a class at
        -inf for the student alone gives +inf if the corrected teacher has mass there.

    Raises:
        TypeError: logits that are not floating-point, labels that are not integers. ValueError:
        shapes, temperature, threshold.

    >>> s, t = jnp.array([[0.0, 0.0]]), jnp.array([[0.0, jnp.log(3.0)]])
    >>> minifinetuning_divergence(s, t, jnp.array([0])).round(4)
    Array([0.0201], dtype=float32)

    Reference:
        Belcak, Heinrich, Kautz, Molchanov, "Minifinetuning: Low-Data Generation Domain Adaptation
        through Corrective Self-Distillation", 2025. The teacher is the student before training;
        their library has τ = 0.2 and T = 1.
    """
    _arrays.check_fraction(threshold=threshold)
    log_q, log_p, temperature = softened(student_logits, teacher_logits, temperature, where)
    _arrays.check_labels(log_q.shape[:-1], labels=labels)
    log_corrected = corrected_log_probs(log_p, labels, threshold=threshold)
    values = jnp.square(temperature) * kl_of_log_probs(log_q, log_corrected)
    return _arrays.select(where, values)


def corrected_log_probs(log_p, labels, *, threshold):
    """log of the distribution in which `labels` `[...]` lead by the threshold, `[..., C]`."""
    classes = log_p.shape[-1]
    labels = jnp.asarray(labels)
    p_label = jnp.exp(jnp.take_along_axis(log_p, labels[..., None], axis=-1))[..., 0]
    p_top = jnp.exp(jnp.max(log_p, axis=-1))
    threshold = jnp.asarray(threshold, log_p.dtype)
    wrong = jnp.argmax(log_p, axis=-1) != labels
    gain = jnp.minimum(p_label + threshold, 1) - p_label
    share = jnp.where(
        wrong,
        (p_top - p_label + threshold) / (1 + p_top - p_label),
        _arrays.divide(gain, 1 - p_label),
    )
    log_label = jnp.where(jax.nn.one_hot(labels, classes, dtype=bool), 0.0, -jnp.inf)
    return log_mixture(log_label.astype(log_p.dtype), log_p, weight=share)


def logit_cosine_distance(student_logits, teacher_logits, *, where=None):
    r"""1 - cosine of the student's and the teacher's logits: the direction, whatever the scale.

    .. math:: 1 - \frac{s \cdot t}{\lVert s \rVert \lVert t \rVert}

    Args:
        student_logits: `[..., C]`
        teacher_logits: `[..., C]`
        where: `[...]` boolean; masked rows give zero, in value and gradient.

    Returns:
        `[...]` in [0, 2]. A row of zeros gives 1, with a zero gradient. Classes at -inf on either
        side carry nothing.

    Raises:
        TypeError: logits that are not floating-point. ValueError: shapes.

    >>> logit_cosine_distance(jnp.array([[3.0, 4.0]]), jnp.array([[4.0, 3.0]])).round(4)
    Array([0.04], dtype=float32)

    Reference:
        Hsu, Dai, Kothapalli, Song, Tang, Zhu, Shimizu, Sahni, Ning, Chen, "Liger Kernel: Efficient
        Triton Kernels for LLM Training", 2024, whose chunked cosine loss this is for one token.
    """
    s, t = _arrays.floating(student_logits=student_logits, teacher_logits=teacher_logits)
    _arrays.check_min_rank(1, student_logits=s, teacher_logits=t)
    _arrays.check_same_shape(student_logits=s, teacher_logits=t)
    _arrays.check_where(where, s.shape[:-1])
    s, t = _arrays.select(where, s, t)
    carried = jnp.isfinite(s) & jnp.isfinite(t)
    s, t = (jnp.where(carried, x, jnp.zeros_like(x)) for x in (s, t))
    return _arrays.select(where, 1 - jnp.sum(_arrays.unit(s) * _arrays.unit(t), axis=-1))


def softened(student_logits, teacher_logits, temperature, where):
    """(log q, log p, T of the result's shape or scalar), checked, for a divergence over logits."""
    s, t = _arrays.floating(student_logits=student_logits, teacher_logits=teacher_logits)
    _arrays.check_min_rank(1, student_logits=s, teacher_logits=t)
    _arrays.check_same_shape(student_logits=s, teacher_logits=t)
    _arrays.check_positive(temperature=temperature)
    _arrays.check_where(where, s.shape[:-1])
    s, t = _arrays.select(where, s, t)
    log_q = _arrays.log_softmax(s / _arrays.per_row(temperature, s))
    log_p = _arrays.log_softmax(t / _arrays.per_row(temperature, t))
    return log_q, log_p, jnp.asarray(temperature, s.dtype)


def entropy_of_log_probs(log_p):
    """The entropy of a distribution from log-probabilities `[..., C]` -> `[...]`.

    Added to a forward divergence it gives the cross entropy, with the same gradient to the student.
    """
    return -_arrays.expectation(log_p, log_p)


def log_mixture(log_a, log_b, *, weight):
    """log of (weight · a + (1 - weight) · b) for log-probabilities `[..., C]`, weight `[...]`."""
    weight = _arrays.per_row(weight, log_a)
    log_a, log_b = log_a + _log(weight), log_b + _log(1 - weight)
    top = jax.lax.stop_gradient(jnp.maximum(log_a, log_b))
    top = jnp.where(jnp.isfinite(top), top, jnp.zeros_like(top))
    return top + _log(jnp.exp(log_a - top) + jnp.exp(log_b - top))


def _log(x):
    """log x, and -inf with a zero gradient at zero."""
    positive = x > 0
    return jnp.where(positive, jnp.log(jnp.where(positive, x, jnp.ones_like(x))), -jnp.inf)


def _power(log_x, exponent):
    """log of x ** exponent, with 0 ** 0 = 1."""
    carried = jnp.isfinite(log_x)
    scaled = exponent * jnp.where(carried, log_x, jnp.zeros_like(log_x))
    return jnp.where(carried, scaled, jnp.where(exponent > 0, -jnp.inf, jnp.zeros_like(scaled)))


def _row(x):
    """A number as it is; an array of rows with an axis added for the classes."""
    return x if x.ndim == 0 else x[..., None]
