"""Losses that carry over whom an example is similar to: distributions of similarities.

Notation: embeddings are rows, `s` the student's and `t` the teacher's, and `cos(a, b)` is their
cosine, 0 with a zero row. A distribution over candidates is a softmax of cosines over a temperature
τ. Where the candidates are the batch itself, the loss mixes examples (`COUPLING`) and `where` takes
masked examples out of the candidates too. A queue is an argument; the caller keeps and updates it,
detached.
"""

import jax.numpy as jnp

from kdjax.losses import _arrays, _embeddings, divergences


def queue_similarity(
    student_embeddings,
    teacher_embeddings,
    queue,
    *,
    student_temperature=0.2,
    teacher_temperature=0.07,
    where=None,
):
    r"""KL(teacher ‖ student) of an example's similarities to a queue and to its own teacher vector.

    .. math:: \sum_k p_k (\log p_k - \log q_k), \quad
        q = \operatorname{softmax}_k(\cos(s_i, d_k) / \tau_s), \
        p = \operatorname{softmax}_k(\cos(t_i, d_k) / \tau_t)

    over the queue's rows `d` and `t_i` itself. Published as the cross-entropy, which adds the
    teacher's entropy and has the same gradient for the student.

    Args:
        student_embeddings: `[B, D]`
        teacher_embeddings: `[B, D]`
        queue: `[K, D]`, teacher embeddings of earlier examples.
        student_temperature: τ_s > 0.
        teacher_temperature: τ_t > 0.
        where: `[B]` boolean; masked examples give zero.

    Returns:
        `[B]`

    Raises:
        TypeError: embeddings that are not floating-point. ValueError: shapes, temperatures.

    >>> x = jnp.eye(2)
    >>> queue_similarity(x, x, x[:1], student_temperature=1.0, teacher_temperature=1.0)
    Array([0., 0.], dtype=float32)

    Reference:
        Fang, Wang, Wang, Zhang, Yang, Liu, "SEED: Self-supervised Distillation for Visual
        Representation", 2021. The authors use a queue of 65536 and τ_s = 0.2, and a lower τ_t, which
        sharpens the teacher.
    """
    s, t = _embeddings.paired(student_embeddings, teacher_embeddings, where)
    (d,) = _arrays.floating(queue=queue)
    _embeddings.check_same_width(student_embeddings=s, queue=d)
    _arrays.check_positive(
        student_temperature=student_temperature, teacher_temperature=teacher_temperature
    )
    own_t = _arrays.unit(t)
    own = [jnp.sum(_arrays.unit(x) * own_t, axis=1, keepdims=True) for x in (s, t)]
    log_q = _embeddings.log_probs(
        jnp.concatenate([own[0], _embeddings.cosines(s, d)], axis=1), student_temperature
    )
    log_p = _embeddings.log_probs(
        jnp.concatenate([own[1], _embeddings.cosines(t, d)], axis=1), teacher_temperature
    )
    return _arrays.select(where, divergences.kl_of_log_probs(log_q, log_p))


def anchor_similarity(
    student_embeddings,
    teacher_embeddings,
    student_anchors,
    teacher_anchors,
    *,
    student_temperature=0.04,
    teacher_temperature=0.04,
    where=None,
):
    r"""KL(teacher ‖ student) of similarities to the same anchors, each side in its own space.

    .. math:: \sum_k p_k (\log p_k - \log q_k), \quad
        q = \operatorname{softmax}_k(\cos(s_i, a^s_k) / \tau_s), \
        p = \operatorname{softmax}_k(\cos(t_i, a^t_k) / \tau_t)

    Args:
        student_embeddings: `[B, D_s]`
        teacher_embeddings: `[B, D_t]`; widths may differ.
        student_anchors: `[K, D_s]`, the student's embeddings of K examples, from its memory bank.
        teacher_anchors: `[K, D_t]`, the teacher's embeddings of the same examples.
        student_temperature: τ_s > 0.
        teacher_temperature: τ_t > 0.
        where: `[B]` boolean; masked examples give zero.

    Returns:
        `[B]`

    Raises:
        TypeError: embeddings that are not floating-point. ValueError: shapes, temperatures.

    >>> x = jnp.eye(2)
    >>> anchor_similarity(x, 5 * x, x, 3 * x)
    Array([0., 0.], dtype=float32)

    Reference:
        Abbasi Koohpayegani, Tejankar, Pirsiavash, "CompRess: Self-Supervised Learning by Compressing
        Representations", 2020. The authors use 128,000 anchors and τ = 0.04. With the student's
        momentum copy as the teacher and one bank: Tejankar et al., "ISD", 2021.
    """
    s, t, a_s, a_t = _arrays.floating(
        student_embeddings=student_embeddings,
        teacher_embeddings=teacher_embeddings,
        student_anchors=student_anchors,
        teacher_anchors=teacher_anchors,
    )
    _embeddings.check_same_width(student_embeddings=s, student_anchors=a_s)
    _embeddings.check_same_width(teacher_embeddings=t, teacher_anchors=a_t)
    _arrays.check_same_batch(student_embeddings=s, teacher_embeddings=t)
    _arrays.check_same_batch(student_anchors=a_s, teacher_anchors=a_t)
    _arrays.check_positive(
        student_temperature=student_temperature, teacher_temperature=teacher_temperature
    )
    _arrays.check_where(where, s.shape[:1])
    s, t = _arrays.select(where, s, t)
    log_q = _embeddings.log_probs(_embeddings.cosines(s, a_s), student_temperature)
    log_p = _embeddings.log_probs(_embeddings.cosines(t, a_t), teacher_temperature)
    return _arrays.select(where, divergences.kl_of_log_probs(log_q, log_p))


def neighbour_similarity(
    student_embeddings,
    teacher_embeddings,
    *,
    student_temperature=0.05,
    teacher_temperature=0.05,
    where=None,
):
    r"""KL(teacher ‖ student) of an example's similarities to the other examples of the batch.

    .. math:: \sum_{j \neq i} p_{ij} (\log p_{ij} - \log q_{ij}), \quad
        q_i = \operatorname{softmax}_{j \neq i}(\cos(s_i, s_j) / \tau_s), \
        p_i = \operatorname{softmax}_{j \neq i}(\cos(t_i, t_j) / \tau_t)

    Args:
        student_embeddings: `[B, D_s]`
        teacher_embeddings: `[B, D_t]`; widths may differ.
        student_temperature: τ_s > 0.
        teacher_temperature: τ_t > 0.
        where: `[B]` boolean; masked examples are no candidates and give zero.

    Returns:
        `[B]`; zero for a single example.

    Raises:
        TypeError: embeddings that are not floating-point. ValueError: ranks, batch, temperatures.

    >>> neighbour_similarity(jnp.eye(3), jnp.eye(3))
    Array([0., 0., 0.], dtype=float32)

    Reference:
        Jin, Zhang, Zhu, Xiao, Li, Wei, Arnold, Ren, "Lifelong Pretraining: Continually Adapting
        Language Models to Emerging Corpora", 2022: its contrastive distillation, as a cross-entropy,
        which has the same gradient for the student.
    """
    s, t = _arrays.floating(
        student_embeddings=student_embeddings, teacher_embeddings=teacher_embeddings
    )
    _arrays.check_rank(2, student_embeddings=s, teacher_embeddings=t)
    _arrays.check_same_batch(student_embeddings=s, teacher_embeddings=t)
    _arrays.check_positive(
        student_temperature=student_temperature, teacher_temperature=teacher_temperature
    )
    _arrays.check_where(where, s.shape[:1])
    s, t = _arrays.select(where, s, t)
    others = _arrays.pairs(where, s.shape[0])
    log_q = _embeddings.log_probs(_embeddings.cosines(s, s), student_temperature, others)
    log_p = _embeddings.log_probs(_embeddings.cosines(t, t), teacher_temperature, others)
    return _arrays.select(where, divergences.kl_of_log_probs(log_q, log_p))


def cross_modal_affinity(
    student_first,
    teacher_first,
    student_second,
    teacher_second,
    *,
    student_temperature=0.01,
    teacher_temperature=0.01,
    where=None,
):
    r"""KL(teacher ‖ student) of an example's similarities across two modalities, mean of both ways.

    .. math:: \tfrac{1}{2} \left( \operatorname{KL}(p^{u \to v}_i \,\|\, q^{u \to v}_i)
        + \operatorname{KL}(p^{v \to u}_i \,\|\, q^{v \to u}_i) \right), \quad
        q^{u \to v}_i = \operatorname{softmax}_j(\cos(u^s_i, v^s_j) / \tau_s)

    with `u` the first modality (images), `v` the second (texts) and p the same of the teacher.

    Args:
        student_first: `[B, D_s]`
        teacher_first: `[B, D_t]`; the teacher's width may differ.
        student_second: `[B, D_s]`
        teacher_second: `[B, D_t]`
        student_temperature: τ_s > 0; it may be learned.
        teacher_temperature: τ_t > 0, as the teacher was trained.
        where: `[B]` boolean; masked examples are no candidates and give zero.

    Returns:
        `[B]`; of several teachers the caller takes the mean.

    Raises:
        TypeError: embeddings that are not floating-point. ValueError: shapes, temperatures.

    >>> x = jnp.eye(2)
    >>> cross_modal_affinity(x, 2 * x, x, 3 * x)
    Array([0., 0.], dtype=float32)

    Reference:
        Vasu, Pouransari, Faghri, Vemulapalli, Tuzel, "MobileCLIP: Fast Image-Text Models through
        Multi-Modal Reinforced Training", 2024: logit scale 100, weight 1 and no contrastive term in
        the 12M recipe. Wu et al., "TinyCLIP: CLIP Distillation via Affinity Mimicking and Weight
        Inheritance", 2023, as a cross-entropy, which has the same gradient for the student.
    """
    u_s, u_t, v_s, v_t = _arrays.floating(
        student_first=student_first,
        teacher_first=teacher_first,
        student_second=student_second,
        teacher_second=teacher_second,
    )
    _arrays.check_rank(2, student_first=u_s, teacher_first=u_t)
    _arrays.check_same_shape(student_first=u_s, student_second=v_s)
    _arrays.check_same_shape(teacher_first=u_t, teacher_second=v_t)
    _arrays.check_same_batch(student_first=u_s, teacher_first=u_t)
    _arrays.check_positive(
        student_temperature=student_temperature, teacher_temperature=teacher_temperature
    )
    _arrays.check_where(where, u_s.shape[:1])
    u_s, u_t, v_s, v_t = _arrays.select(where, u_s, u_t, v_s, v_t)
    candidates = _embeddings.candidates(where, u_s.shape[0])
    cosines_s, cosines_t = _embeddings.cosines(u_s, v_s), _embeddings.cosines(u_t, v_t)
    there = divergences.kl_of_log_probs(
        _embeddings.log_probs(cosines_s, student_temperature, candidates),
        _embeddings.log_probs(cosines_t, teacher_temperature, candidates),
    )
    back = divergences.kl_of_log_probs(
        _embeddings.log_probs(cosines_s.T, student_temperature, candidates),
        _embeddings.log_probs(cosines_t.T, teacher_temperature, candidates),
    )
    return _arrays.select(where, (there + back) / 2)


def self_supervised_similarity(
    student_transformed,
    teacher_transformed,
    student_originals,
    teacher_originals,
    *,
    temperature=0.5,
    where=None,
):
    r"""T² · KL(teacher ‖ student) of a transformed example's similarities to the untransformed ones.

    .. math:: T^2 \sum_m p_{nm} (\log p_{nm} - \log q_{nm}), \quad
        q_n = \operatorname{softmax}_m(\cos(a^s_n, o^s_m) / T)

    with `a` the embeddings of transformed examples, `o` those of the originals of the whole batch,
    and p the same of the teacher.

    Args:
        student_transformed: `[N, D_s]`
        teacher_transformed: `[N, D_t]`; widths may differ.
        student_originals: `[M, D_s]`
        teacher_originals: `[M, D_t]`
        temperature: T > 0.
        where: `[N]` boolean; masked transformed examples give zero. `least_wrong` makes the mask of
            the authors, who leave out what the teacher gets most wrong.

    Returns:
        `[N]`

    Raises:
        TypeError: embeddings that are not floating-point. ValueError: shapes, temperature.

    >>> x = jnp.eye(2)
    >>> self_supervised_similarity(x, 4 * x, x, 2 * x)
    Array([0., 0.], dtype=float32)

    Reference:
        Xu, Liu, Li, Loy, "Knowledge Distillation Meets Self-Supervision", 2020. The authors use
        T = 0.5, keep the best 75 % of what the teacher gets wrong, weight 10, beside 1 for the
        cross-entropy and 0.9 and 2.7 for distillation (T = 4) on originals and transformed examples.
    """
    a_s, a_t, o_s, o_t = _arrays.floating(
        student_transformed=student_transformed,
        teacher_transformed=teacher_transformed,
        student_originals=student_originals,
        teacher_originals=teacher_originals,
    )
    _embeddings.check_same_width(student_transformed=a_s, student_originals=o_s)
    _embeddings.check_same_width(teacher_transformed=a_t, teacher_originals=o_t)
    _arrays.check_same_batch(student_transformed=a_s, teacher_transformed=a_t)
    _arrays.check_same_batch(student_originals=o_s, teacher_originals=o_t)
    _arrays.check_positive(temperature=temperature)
    _arrays.check_where(where, a_s.shape[:1])
    a_s, a_t = _arrays.select(where, a_s, a_t)
    log_q = _embeddings.log_probs(_embeddings.cosines(a_s, o_s), temperature)
    log_p = _embeddings.log_probs(_embeddings.cosines(a_t, o_t), temperature)
    values = jnp.square(temperature) * divergences.kl_of_log_probs(log_q, log_p)
    return _arrays.select(where, values)


def least_wrong(teacher_scores, labels, *, fraction):
    """Mask `[N]` of the rows that the teacher ranks right, and the best `fraction` of its wrong ones.

    Rows are ordered by the rank of the right class among the teacher's `[N, C]` scores, equal ranks by
    position; of the W wrong rows the best `floor(fraction * W)` are kept.
    """
    (t,) = _arrays.floating(teacher_scores=teacher_scores)
    _arrays.check_rank(2, teacher_scores=t)
    _arrays.check_labels(t.shape[:1], labels=labels)
    _arrays.check_fraction(fraction=fraction)
    ranking = jnp.argsort(-t, axis=1)
    ranks = jnp.argmax(ranking == jnp.asarray(labels)[:, None], axis=1)
    positions = jnp.argsort(jnp.argsort(ranks))
    wrong = jnp.sum(ranks > 0)
    return positions < t.shape[0] - wrong + jnp.floor(fraction * wrong)
