"""Transformations of logits `[..., C]` that go before any loss: for one side, for both, or for
targets.

`softened_kl_divergence(standardise_logits(s), standardise_logits(t), temperature=2.0)` is the
standardised loss; the same holds for every other loss on logits. Classes at -inf stay there.
"""

import jax
import jax.numpy as jnp

from kdjax.losses import _arrays


def standardise_logits(logits, *, epsilon=1e-7):
    r"""Every row shifted and scaled to mean 0 and standard deviation 1, over its classes.

    .. math:: \frac{z - \operatorname{mean} z}{\operatorname{std} z + \epsilon},
        \quad \operatorname{std}^2 z = \frac{1}{C - 1} \sum_c (z_c - \operatorname{mean} z)^2

    A student then matches the shape of the teacher's logits and not their size.

    Args:
        logits: `[..., C]`
        epsilon: ε > 0, added to the standard deviation.

    Returns:
        `[..., C]`; a constant row gives zeros, and a gradient of size 1/ε times what comes in. Only
        classes above -inf are counted.

    Raises:
        TypeError: logits that are not floating-point. ValueError: rank, ε.

    >>> standardise_logits(jnp.array([[1.0, 2.0, 3.0]])).round(4)
    Array([[-1.,  0.,  1.]], dtype=float32)

    Reference:
        Sun, Ren, Li, Wang, Cao, "Logit Standardization in Knowledge Distillation", 2024. The
        authors used T = 2 and a weight of 9 for the standardised KL on CIFAR-100.
    """
    (z,) = _arrays.floating(logits=logits)
    _arrays.check_min_rank(1, logits=z)
    _arrays.check_positive(epsilon=epsilon)
    carried = ~jnp.isneginf(z)
    classes = jnp.sum(carried, axis=-1, keepdims=True, dtype=z.dtype)
    finite = jnp.where(carried, z, 0)
    mean = _arrays.divide(jnp.sum(finite, axis=-1, keepdims=True), classes)
    centred = jnp.where(carried, finite - mean, 0)
    spread = jnp.sum(jnp.square(centred), axis=-1, keepdims=True) / jnp.maximum(classes - 1, 1)
    return jnp.where(carried, centred / (_arrays.sqrt(spread) + epsilon), z)


def probability_shift(teacher_logits, labels):
    r"""The logits of label and most likely class exchanged: a teacher that is never wrong.

    .. math:: t'_y = t_{\hat y}, \quad t'_{\hat y} = t_y, \quad \hat y = \arg\max_c t_c

    Args:
        teacher_logits: `[..., C]`
        labels: `[...]` integers in [0, C).

    Returns:
        `[..., C]`; a row whose arg max is the label stays as it is.

    Raises:
        TypeError: logits that are not floating-point, labels that are not integers. ValueError:
        shapes.

    >>> probability_shift(jnp.array([[3.0, 1.0, 2.0]]), jnp.array([1]))
    Array([[1., 3., 2.]], dtype=float32)

    Reference:
        Wen, Lai, Qian, "Preparing Lessons: Improve Knowledge Distillation with Better Supervision",
        2019. The authors shift the softened probabilities, which is the same exchange.
    """
    (t,) = _arrays.floating(teacher_logits=teacher_logits)
    _arrays.check_min_rank(1, teacher_logits=t)
    _arrays.check_labels(t.shape[:-1], labels=labels)
    labels = jnp.asarray(labels)
    best = jnp.argmax(t, axis=-1)
    at_label, at_best = (_arrays.at_label(t, index)[..., None] for index in (labels, best))
    is_label, is_best = (jax.nn.one_hot(index, t.shape[-1], dtype=bool) for index in (labels, best))
    return jnp.where(is_label, at_best, jnp.where(is_best, at_label, t))


def permute_other_classes(teacher_logits, order):
    r"""The arg max in its place, the other logits in another order: no similarities of classes.

    .. math:: t'_{\hat y} = t_{\hat y}, \quad t'_c = t_{\pi(c)} \text{ for } c \ne \hat y

    What a student gains from such a teacher comes from its confidence, not from which wrong classes
    it finds plausible.

    Args:
        teacher_logits: `[..., C]`
        order: `[..., C]` floating-point, drawn anew for every example (uniform numbers): the other
            classes take the other logits in the order in which these numbers sort.

    Returns:
        `[..., C]`

    Raises:
        TypeError: arrays that are not floating-point. ValueError: shapes.

    >>> permute_other_classes(jnp.array([[1.0, 9.0, 2.0]]), jnp.array([[0.8, 0.1, 0.3]]))
    Array([[2., 9., 1.]], dtype=float32)

    Reference:
        Furlanello, Lipton, Tschannen, Itti, Anandkumar, "Born-Again Neural Networks", 2018, there
        called dark knowledge with permuted predictions; T = 1.
    """
    t, order = _arrays.floating(teacher_logits=teacher_logits, order=order)
    _arrays.check_min_rank(1, teacher_logits=t)
    _arrays.check_same_shape(teacher_logits=t, order=order)
    best = jnp.argmax(t, axis=-1, keepdims=True)
    is_best = jax.nn.one_hot(best[..., 0], t.shape[-1], dtype=bool)
    places = jnp.argsort(jnp.where(is_best, -jnp.inf, order), axis=-1)
    classes = jnp.broadcast_to(jnp.arange(t.shape[-1], dtype=jnp.int32), t.shape)
    sources = jnp.argsort(jnp.where(is_best, -1, classes), axis=-1)
    moved = jnp.take_along_axis(t, sources, axis=-1)
    return jnp.take_along_axis(moved, jnp.argsort(places, axis=-1), axis=-1)


def aggregate_views(joint_logits):
    r"""Logits over classes from joint logits over (transformation, class) of M transformed views.

    .. math:: z_c = \frac{1}{M} \sum_m z_{m, (m, c)}

    Args:
        joint_logits: `[..., M, M, C]`: of view m, for transformation j, for class c.

    Returns:
        `[..., C]`, the mean over the views of the logits of the transformation that was applied.

    Raises:
        TypeError: logits that are not floating-point. ValueError: shapes.

    >>> aggregate_views(jnp.array([[[[1.0, 0.0], [9.0, 9.0]], [[9.0, 9.0], [3.0, 4.0]]]]))
    Array([[2., 2.]], dtype=float32)

    Reference:
        Lee, Hwang, Shin, "Self-supervised Label Augmentation via Input Transformations", 2020. The
        authors use four rotations or six colour permutations and distil the aggregate into a head
        for the plain view with T = 1.
    """
    (z,) = _arrays.floating(joint_logits=joint_logits)
    _arrays.check_min_rank(3, joint_logits=z)
    if z.shape[-2] != z.shape[-3]:
        raise ValueError(
            f"joint_logits must have as many views as transformations, got shape {z.shape}"
        )
    return jnp.mean(jnp.diagonal(z, axis1=-3, axis2=-2), axis=-1)
