"""Losses between the class logits of a student and of a teacher, row by row.

Notation: `s` and `t` are student and teacher logits of shape `[..., C]`, q = softmax(s / T) and
p = softmax(t / T), y an integer label of shape `[...]`, and the result has shape `[...]`: rows are
images, pixels or tokens. A hat is the distribution over the classes other than y. Classes at -inf
on both sides carry nothing.
"""

import jax
import jax.numpy as jnp

from kdjax.losses import _arrays, divergences


def soft_cross_entropy(student_logits, teacher_logits, *, temperature=1.0, where=None):
    r"""T² · H(teacher, student), the cross-entropy of softened distributions.

    .. math:: -T^2 \sum_c p_c \log q_c

    It has the gradient of `softened_kl_divergence`, and is larger by T² times the teacher's
    entropy.

    Args:
        student_logits: `[..., C]`
        teacher_logits: `[..., C]`
        temperature: T > 0, a number or `[...]`.
        where: `[...]` boolean; masked rows give zero, in value and gradient.

    Returns:
        `[...]`; +inf where the student alone rules out a class that the teacher has mass on.

    Raises:
        TypeError: logits that are not floating-point. ValueError: shapes, temperature.

    >>> soft_cross_entropy(jnp.array([[0.0, 0.0]]), jnp.array([[0.0, 5.0]])).round(4)
    Array([0.6931], dtype=float32)

    Reference:
        Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015 (T between 1 and
        20); per pixel with T = 1 in Liu, Chen, Liu, Qin, Luo, Wang, "Structured Knowledge
        Distillation for Semantic Segmentation", 2019.
    """
    log_q, log_p, temperature = divergences.softened(
        student_logits, teacher_logits, temperature, where
    )
    values = -jnp.square(temperature) * _arrays.expectation(log_p, log_q)
    return _arrays.select(where, values)


def pseudo_label_cross_entropy(student_logits, teacher_logits, *, label_smoothing=0.0, where=None):
    r"""Cross-entropy of the student with the teacher's most likely class as the label.

    .. math:: -(1 - \epsilon) \log q_{\hat y} - \frac{\epsilon}{C - 1} \sum_{c \ne \hat y} \log q_c,
        \quad \hat y = \arg\max_c t_c

    Args:
        student_logits: `[..., C]`
        teacher_logits: `[..., C]`; no gradient passes, it enters by its arg max (first of equals).
        label_smoothing: ε in [0, 1], the mass spread evenly over the other classes that the teacher
            carries.
        where: `[...]` boolean; masked rows give zero, in value and gradient.

    Returns:
        `[...]`

    Raises:
        TypeError: logits that are not floating-point. ValueError: shapes, label smoothing.

    >>> pseudo_label_cross_entropy(jnp.array([[0.0, 0.0]]), jnp.array([[0.0, 5.0]])).round(4)
    Array([0.6931], dtype=float32)

    Reference:
        Touvron, Cord, Douze, Massa, Sablayrolles, Jégou, "Training data-efficient image
        transformers & distillation through attention", 2021. The authors do not smooth the
        teacher's label and weight it equally with the true one.
    """
    log_q, log_p, _ = divergences.softened(student_logits, teacher_logits, 1.0, where)
    _arrays.check_fraction(label_smoothing=label_smoothing)
    target = _arrays.log_smoothed_label(
        jnp.argmax(log_p, axis=-1), 1.0 - label_smoothing, jnp.isfinite(log_p), log_q.dtype
    )
    return _arrays.select(where, -_arrays.expectation(target, log_q))


def logit_squared_error(student_logits, teacher_logits, *, where=None):
    r"""Mean squared difference of the logits.

    .. math:: \frac{1}{C} \sum_c (s_c - t_c)^2

    The limit of `2 · softened_kl_divergence` for large T, if both rows have the same mean. Divide
    both sides by T first for the form with a temperature.

    Args:
        student_logits: `[..., C]`
        teacher_logits: `[..., C]`
        where: `[...]` boolean; masked rows give zero, in value and gradient.

    Returns:
        `[...]`; C counts the classes that are not -inf on both sides, and a class at -inf on one
        side gives +inf.

    Raises:
        TypeError: logits that are not floating-point. ValueError: shapes.

    >>> logit_squared_error(jnp.array([[1.0, 3.0]]), jnp.array([[1.0, 1.0]]))
    Array([2.], dtype=float32)

    Reference:
        Ba, Caruana, "Do Deep Nets Really Need to be Deep?", 2014. The authors matched logits of an
        ensemble and used no label.
    """
    differences, classes = _differences(student_logits, teacher_logits, where)
    values = _arrays.divide(jnp.sum(jnp.square(differences), axis=-1), classes)
    return _arrays.select(where, values)


def logit_absolute_error(student_logits, teacher_logits, *, where=None):
    r"""Mean absolute difference of the logits.

    .. math:: \frac{1}{C} \sum_c |s_c - t_c|

    Args:
        student_logits: `[..., C]`
        teacher_logits: `[..., C]`
        where: `[...]` boolean; masked rows give zero, in value and gradient.

    Returns:
        `[...]`; C counts the classes that are not -inf on both sides. The gradient is zero where
        the logits are equal.

    Raises:
        TypeError: logits that are not floating-point. ValueError: shapes.

    >>> logit_absolute_error(jnp.array([[1.0, 3.0]]), jnp.array([[1.0, 1.0]]))
    Array([1.], dtype=float32)

    Reference:
        Fang, Song, Shen, Wang, Chen, Song, "Data-Free Adversarial Distillation", 2019, where a
        generator maximises it and the student minimises it.
    """
    differences, classes = _differences(student_logits, teacher_logits, where)
    # Unlike jnp.abs this has a zero gradient at zero.
    sizes = jnp.sign(differences) * differences
    return _arrays.select(where, _arrays.divide(jnp.sum(sizes, axis=-1), classes))


def logit_distance(student_logits, teacher_logits, *, where=None):
    r"""Euclidean distance of the two rows of logits.

    .. math:: \|s - t\|_2

    Given log-probabilities instead of logits it does not see a constant added to a row.

    Args:
        student_logits: `[..., C]`
        teacher_logits: `[..., C]`
        where: `[...]` boolean; masked rows give zero, in value and gradient.

    Returns:
        `[...]`; the gradient is zero where the rows are equal, and where one side alone has a class
        at -inf, which gives +inf.

    Raises:
        TypeError: logits that are not floating-point. ValueError: shapes.

    >>> logit_distance(jnp.array([[4.0, 1.0]]), jnp.array([[1.0, 5.0]]))
    Array([5.], dtype=float32)

    Reference:
        Beyer, Zhai, Royer, Markeeva, Anil, Kolesnikov, "Knowledge distillation: A good teacher is
        patient and consistent", 2022, whose code compares it with the KL divergence, which they
        chose.
    """
    differences, _ = _differences(student_logits, teacher_logits, where)
    apart = jnp.any(jnp.isinf(differences), axis=-1)
    distances = _arrays.norm(jnp.where(apart[..., None], 0, differences))
    return _arrays.select(where, jnp.where(apart, jnp.inf, distances))


def target_class_divergence(student_logits, teacher_logits, labels, *, temperature=1.0, where=None):
    r"""T² · KL(teacher ‖ student) of "is it the label's class": the target part of DKD.

    .. math:: T^2 \Big( p_y \log \frac{p_y}{q_y} + (1 - p_y) \log \frac{1 - p_y}{1 - q_y} \Big)

    Args:
        student_logits: `[..., C]`
        teacher_logits: `[..., C]`
        labels: `[...]` integers in [0, C).
        temperature: T > 0, a number or `[...]`.
        where: `[...]` boolean; masked rows give zero, in value and gradient.

    Returns:
        `[...]`

    Raises:
        TypeError: logits that are not floating-point, labels that are not integers.
        ValueError: shapes, temperature.

    >>> s, t = jnp.array([[0.0, 0.0]]), jnp.array([[0.0, jnp.log(3.0)]])
    >>> target_class_divergence(s, t, jnp.array([1])).round(4)
    Array([0.1308], dtype=float32)

    Reference:
        Zhao, Cui, Song, Qiu, Liang, "Decoupled Knowledge Distillation", 2022, where its weight is 1
        and T = 4 on CIFAR-100.
    """
    log_q, log_p, _, _, temperature = _decoupled(
        student_logits, teacher_logits, labels, temperature, where
    )
    values = jnp.square(temperature) * divergences.kl_of_log_probs(log_q, log_p)
    return _arrays.select(where, values)


def non_target_class_divergence(
    student_logits, teacher_logits, labels, *, temperature=1.0, where=None
):
    r"""T² · KL(teacher ‖ student) over the classes other than the label: the rest of DKD.

    .. math:: T^2 \sum_{c \ne y} \hat p_c \log \frac{\hat p_c}{\hat q_c},
        \quad \hat p_c = \frac{p_c}{1 - p_y}

    Args:
        student_logits: `[..., C]`
        teacher_logits: `[..., C]`
        labels: `[...]` integers in [0, C).
        temperature: T > 0, a number or `[...]`.
        where: `[...]` boolean; masked rows give zero, in value and gradient.

    Returns:
        `[...]`; zero with one or two classes.

    Raises:
        TypeError: logits that are not floating-point, labels that are not integers.
        ValueError: shapes, temperature.

    >>> s, t = jnp.array([[7.0, 0.0, 0.0]]), jnp.array([[1.0, 0.0, jnp.log(3.0)]])
    >>> non_target_class_divergence(s, t, jnp.array([0])).round(4)
    Array([0.1308], dtype=float32)

    Reference:
        Zhao, Cui, Song, Qiu, Liang, "Decoupled Knowledge Distillation", 2022, where its weight is 2
        to 8 and T = 4 on CIFAR-100.
    """
    _, _, log_q, log_p, temperature = _decoupled(
        student_logits, teacher_logits, labels, temperature, where
    )
    values = jnp.square(temperature) * divergences.kl_of_log_probs(log_q, log_p)
    return _arrays.select(where, values)


def decoupled_divergence(
    student_logits, teacher_logits, labels, *, alpha=1.0, beta=8.0, temperature=4.0, where=None
):
    r"""T² · KL(teacher ‖ student), its target and its non-target part weighted apart: decoupled KD.

    .. math:: \alpha \, \ell_{target} + \beta \, \ell_{non\text{-}target}

    with the two parts `target_class_divergence` and `non_target_class_divergence`. With α = 1 and
    β = 1 - p_y it is `softened_kl_divergence`.

    Args:
        student_logits: `[..., C]`
        teacher_logits: `[..., C]`
        labels: `[...]` integers in [0, C).
        alpha: weight of the target part, at least 0, a number or `[...]`.
        beta: weight of the non-target part, at least 0, a number or `[...]`.
        temperature: T > 0, a number or `[...]`.
        where: `[...]` boolean; masked rows give zero, in value and gradient.

    Returns:
        `[...]`; both parts are formed from log-sum-exps, so confident rows stay finite.

    Raises:
        TypeError: logits that are not floating-point, labels that are not integers.
        ValueError: shapes, temperature, weights below 0.

    >>> s, t = jnp.array([[0.0, 0.0]]), jnp.array([[0.0, jnp.log(3.0)]])
    >>> decoupled_divergence(s, t, jnp.array([1]), temperature=1.0).round(4)
    Array([0.1308], dtype=float32)

    Reference:
        Zhao, Cui, Song, Qiu, Liang, "Decoupled Knowledge Distillation", 2022. The authors used
        α = 1, T = 4 and, by the pair of networks, β from 2 to 8 on CIFAR-100 (T = 1, β = 0.5 on
        ImageNet), with 20 epochs of warm-up.
    """
    _arrays.check_not_negative(alpha=alpha, beta=beta)
    log_q, log_p, log_q_rest, log_p_rest, temperature = _decoupled(
        student_logits, teacher_logits, labels, temperature, where
    )
    target = divergences.kl_of_log_probs(log_q, log_p)
    rest = divergences.kl_of_log_probs(log_q_rest, log_p_rest)
    return _arrays.select(where, jnp.square(temperature) * (alpha * target + beta * rest))


def normalised_soft_cross_entropy(
    student_logits, teacher_logits, labels, *, gamma=1.5, temperature=1.0, where=None
):
    r"""H(teacher, student) of the target class (T = 1) and, times T², of the rest: normalised KD.

    .. math:: -p_y^{(1)} \log q_y^{(1)} - \gamma T^2 \sum_{c \ne y} \hat p_c \log \hat q_c

    The non-target distributions are each normalised to one, which is what makes their cross-entropy
    reach its least value where they agree.

    Args:
        student_logits: `[..., C]`
        teacher_logits: `[..., C]`
        labels: `[...]` integers in [0, C).
        gamma: γ, the weight of the non-target part, at least 0, a number or `[...]`.
        temperature: T > 0 of the non-target part, a number or `[...]`.
        where: `[...]` boolean; masked rows give zero, in value and gradient.

    Returns:
        `[...]`

    Raises:
        TypeError: logits that are not floating-point, labels that are not integers.
        ValueError: shapes, temperature, a weight below 0.

    >>> s, t = jnp.array([[0.0, 0.0, 0.0]]), jnp.array([[50.0, 0.0, 0.0]])
    >>> normalised_soft_cross_entropy(s, t, jnp.array([0]), gamma=1.0).round(3)
    Array([1.792], dtype=float32)

    Reference:
        Yang, Zeng, Li, Zhang, Yuan, Li, "From Knowledge Distillation to Self-Knowledge
        Distillation: A Unified Approach with Normalized Loss and Customized Soft Labels", 2023. The
        authors used γ = 1.5 and T = 1 on CIFAR-100 and ImageNet, the total beside the cross-entropy
        with the label.
    """
    _arrays.check_positive(temperature=temperature)
    _arrays.check_not_negative(gamma=gamma)
    s, t, labels = labelled(student_logits, teacher_logits, labels, where)
    log_q_y = _arrays.at_label(_arrays.log_softmax(s), labels)
    log_p_y = _arrays.at_label(_arrays.log_softmax(t), labels)
    target = -_arrays.expectation(log_p_y[..., None], log_q_y[..., None])
    softer = _arrays.per_row(temperature, s)
    log_q_rest = _arrays.log_softmax(without_label(s / softer, labels))
    log_p_rest = _arrays.log_softmax(without_label(t / softer, labels))
    rest = -_arrays.expectation(log_p_rest, log_q_rest)
    squared = jnp.square(jnp.asarray(temperature, s.dtype))
    return _arrays.select(where, target + gamma * squared * rest)


def label_log_probability_error(student_logits, teacher_log_probabilities, labels, *, where=None):
    r"""Half the squared difference of the two log-probabilities of one sampled label.

    .. math:: \tfrac{1}{2} (\log q_y - \log p_y)^2

    For a teacher that reveals only the probability of the label it sampled. Weighting the label's
    cross-entropy by that probability instead is biased: it tends to the normalised square of p.

    Args:
        student_logits: `[..., C]`
        teacher_log_probabilities: `[...]`, log p_y of the label.
        labels: `[...]` integers in [0, C), drawn by the teacher.
        where: `[...]` boolean; masked rows give zero, in value and gradient.

    Returns:
        `[...]`; zero where both sides give the label no probability, +inf where only one does.

    Raises:
        TypeError: logits that are not floating-point, labels that are not integers.
        ValueError: shapes.

    >>> s = jnp.array([[0.0, 0.0]])
    >>> label_log_probability_error(s, jnp.array([0.0]), jnp.array([1])).round(4)
    Array([0.2402], dtype=float32)

    Reference:
        Zhao, Zhu, "Towards the Fundamental Limits of Knowledge Transfer over Finite Domains", 2023.
        The authors fit tables in closed form, without further settings.
    """
    s, log_p = _arrays.floating(
        student_logits=student_logits, teacher_log_probabilities=teacher_log_probabilities
    )
    _arrays.check_min_rank(1, student_logits=s)
    if log_p.shape != s.shape[:-1]:
        raise ValueError(
            f"teacher_log_probabilities must have shape {s.shape[:-1]}, got {log_p.shape}"
        )
    _arrays.check_labels(s.shape[:-1], labels=labels)
    _arrays.check_where(where, s.shape[:-1])
    s, log_p, labels = _arrays.select(where, s, log_p, jnp.asarray(labels))
    log_q = _arrays.at_label(_arrays.log_softmax(s), labels)
    both = jnp.isneginf(log_q) & jnp.isneginf(log_p)
    difference = jnp.where(both, 0, log_q) - jnp.where(both, 0, log_p)
    return _arrays.select(where, 0.5 * jnp.square(difference))


def jacobian_matching(student_gradients, teacher_gradients, *, where=None):
    r"""Mean squared difference of two input gradients, each of unit length: Sobolev training.

    .. math:: \frac{1}{D} \Big\| \frac{g_s}{\|g_s\|} - \frac{g_t}{\|g_t\|} \Big\|^2,
        \quad g = \frac{\partial z_y}{\partial x}

    Args:
        student_gradients: `[B, ...]`, the gradient of one output (the label's logit) with respect
            to the input, for each example.
        teacher_gradients: `[B, ...]` of the same shape.
        where: `[B]` boolean; masked examples give zero, in value and gradient.

    Returns:
        `[B]`; a zero gradient has no direction, counts as the zero vector and passes no gradient.

    Raises:
        TypeError: gradients that are not floating-point. ValueError: shapes that differ.

    >>> jacobian_matching(jnp.array([[3.0, 0.0]]), jnp.array([[0.0, 5.0]]))
    Array([1.], dtype=float32)

    Reference:
        Srinivas, Fleuret, "Knowledge Transfer with Jacobian Matching", 2018, after Czarnecki,
        Osindero, Jaderberg, Swirszcz, Pascanu, "Sobolev Training for Neural Networks", 2017. The
        former match the gradient of the most likely class's logit.
    """
    g_s, g_t = _arrays.floating(
        student_gradients=student_gradients, teacher_gradients=teacher_gradients
    )
    _arrays.check_min_rank(2, student_gradients=g_s, teacher_gradients=g_t)
    _arrays.check_same_shape(student_gradients=g_s, teacher_gradients=g_t)
    _arrays.check_where(where, g_s.shape[:1])
    g_s, g_t = (g.reshape(g.shape[0], -1) for g in _arrays.select(where, g_s, g_t))
    return jnp.mean(jnp.square(_arrays.unit(g_s) - _arrays.unit(g_t)), axis=-1)


def labelled(student_logits, teacher_logits, labels, where):
    """(s, t, labels), checked and masked, for a loss over two rows of logits and a label."""
    s, t = _arrays.floating(student_logits=student_logits, teacher_logits=teacher_logits)
    _arrays.check_min_rank(1, student_logits=s, teacher_logits=t)
    _arrays.check_same_shape(student_logits=s, teacher_logits=t)
    _arrays.check_labels(s.shape[:-1], labels=labels)
    _arrays.check_where(where, s.shape[:-1])
    return _arrays.select(where, s, t, jnp.asarray(labels))


def without_label(x, labels):
    """`[..., C]` with the label's class at -inf."""
    return jnp.where(jax.nn.one_hot(labels, x.shape[-1], dtype=bool), -jnp.inf, x)


def _decoupled(student_logits, teacher_logits, labels, temperature, where):
    """log q, log p of {label, rest} `[..., 2]`, then of the rest alone `[..., C]`, and T."""
    _arrays.check_positive(temperature=temperature)
    s, t, labels = labelled(student_logits, teacher_logits, labels, where)
    softer = _arrays.per_row(temperature, s)
    parts = [(x / softer, without_label(x / softer, labels)) for x in (s, t)]
    pairs = [
        jnp.stack([_arrays.at_label(x, labels), _arrays.log_sum_exp(rest)], axis=-1)
        for x, rest in parts
    ]
    return (
        *(_arrays.log_softmax(pair) for pair in pairs),
        *(_arrays.log_softmax(rest) for _, rest in parts),
        jnp.asarray(temperature, s.dtype),
    )


def _differences(student_logits, teacher_logits, where):
    """s - t, zero where both are -inf, and how many classes are not."""
    s, t = _arrays.floating(student_logits=student_logits, teacher_logits=teacher_logits)
    _arrays.check_min_rank(1, student_logits=s, teacher_logits=t)
    _arrays.check_same_shape(student_logits=s, teacher_logits=t)
    _arrays.check_where(where, s.shape[:-1])
    s, t = _arrays.select(where, s, t)
    both = jnp.isneginf(s) & jnp.isneginf(t)
    differences = jnp.where(both, 0, s) - jnp.where(both, 0, t)
    return differences, jnp.sum(~both, axis=-1, dtype=s.dtype)
