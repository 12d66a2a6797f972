"""Losses that tell an example's own counterpart from others: by contrast, by similarity distributions.

Notation: embeddings are rows, `s` `[B, D]` the student's and `t` `[B, D]` the teacher's, and
`cos(a, b)` is their cosine, 0 with a zero row. A distribution over candidates is a softmax of cosines
over a temperature τ. Where the candidates are the batch itself, the loss mixes examples (`COUPLING`)
and `where` takes masked examples out of the candidates too. Memory banks, queues and the constants
that belong to them are arguments; the caller keeps and updates them, detached.
"""

import jax
import jax.numpy as jnp

from kdjax.losses import _arrays, divergences


def info_nce(student_embeddings, teacher_embeddings, *, temperature=0.07, where=None):
    r"""Negative log-probability of an example's own teacher embedding among the batch's.

    .. math:: -\log \frac{\exp(\cos(s_i, t_i) / \tau)}{\sum_j \exp(\cos(s_i, t_j) / \tau)}

    Rows may be examples, tokens, segments or regions of several examples; on transposed matrices
    channels are contrasted.

    Args:
        student_embeddings: `[B, D]`
        teacher_embeddings: `[B, D]`
        temperature: τ > 0.
        where: `[B]` boolean; masked examples are no candidates and give zero.

    Returns:
        `[B]`

    Raises:
        TypeError: embeddings that are not floating-point. ValueError: shapes, temperature.

    >>> x = jnp.eye(2)
    >>> values = info_nce(x, x, temperature=1.0)
    >>> [round(float(v), 4) for v in values]
    [0.3133, 0.3133]

    Reference:
        van den Oord, Li, Vinyals, "Representation Learning with Contrastive Predictive Coding", 2018.
        With τ = 0.07 as in the instance discrimination of Wu et al., 2018; to distil image features
        into point clouds: Liu et al., "Segment Any Point Cloud Sequences", 2023, τ = 0.07.
    """
    s, t = _paired(student_embeddings, teacher_embeddings, where)
    _arrays.check_positive(temperature=temperature)
    log_q = _log_probs(_cosines(s, t), temperature, _candidates(where, s.shape[0]))
    return _arrays.select(where, -jnp.diagonal(log_q))


def symmetric_info_nce(student_embeddings, teacher_embeddings, *, temperature=0.07, where=None):
    r"""Mean of `info_nce` from the first side to the second and back: the loss of CLIP.

    .. math:: \tfrac{1}{2} \left( -\log \operatorname{softmax}_j(\cos(s_i, t_j) / \tau)_i
        - \log \operatorname{softmax}_j(\cos(s_j, t_i) / \tau)_i \right)

    Args:
        student_embeddings: `[B, D]`, or the images' embeddings.
        teacher_embeddings: `[B, D]`, or the texts'.
        temperature: τ > 0; it may be learned.
        where: `[B]` boolean; masked examples are no candidates and give zero.

    Returns:
        `[B]`

    Raises:
        TypeError: embeddings that are not floating-point. ValueError: shapes, temperature.

    >>> s, t = jnp.eye(2), jnp.array([[1.0, 0.0], [1.0, 0.0]])
    >>> values = symmetric_info_nce(s, t, temperature=1.0)
    >>> [round(float(v), 4) for v in values]
    [0.5032, 1.0032]

    Reference:
        Radford, Kim, Hallacy, et al., "Learning Transferable Visual Models From Natural Language
        Supervision", 2021. The authors learn τ from 0.07 on and keep 1/τ at most 100.
    """
    s, t = _paired(student_embeddings, teacher_embeddings, where)
    _arrays.check_positive(temperature=temperature)
    cosines, candidates = _cosines(s, t), _candidates(where, s.shape[0])
    forward = jnp.diagonal(_log_probs(cosines, temperature, candidates))
    backward = jnp.diagonal(_log_probs(cosines.T, temperature, candidates))
    return _arrays.select(where, -(forward + backward) / 2)


def two_view_contrast(student_embeddings, teacher_embeddings, *, temperature=0.5, where=None):
    r"""Contrast of two views of each example against both views of all others: NT-Xent.

    .. math:: \ell_i = \tfrac{1}{2} (\ell_{s_i \to t_i} + \ell_{t_i \to s_i}), \quad
        \ell_{a \to b} = -\log \frac{\exp(\cos(a, b) / \tau)}
        {\sum_{c \neq a} \exp(\cos(a, c) / \tau)}

    where `c` runs over all 2B views but the anchor.

    Args:
        student_embeddings: `[B, D]`, one view (or the student's embedding).
        teacher_embeddings: `[B, D]`, the other view (or the teacher's).
        temperature: τ > 0.
        where: `[B]` boolean; masked examples are no candidates and give zero.

    Returns:
        `[B]`; zero for a single example, which has nothing to be told from.

    Raises:
        TypeError: embeddings that are not floating-point. ValueError: shapes, temperature.

    >>> x = jnp.eye(2)
    >>> two_view_contrast(x, x, temperature=1.0).round(4)
    Array([0.5514, 0.5514], dtype=float32)

    Reference:
        Chen, Kornblith, Norouzi, Hinton, "A Simple Framework for Contrastive Learning of Visual
        Representations", 2020. The authors use τ = 0.1 on ImageNet and 0.5 on CIFAR-10.
    """
    s, t = _paired(student_embeddings, teacher_embeddings, where)
    _arrays.check_positive(temperature=temperature)
    size = s.shape[0]
    views = jnp.concatenate([s, t])
    twice = None if where is None else jnp.concatenate([where, where])
    others = _candidates(twice, 2 * size) & ~jnp.eye(2 * size, dtype=bool)
    log_q = _log_probs(_cosines(views, views), temperature, others)
    there, back = jnp.diagonal(log_q, size), jnp.diagonal(log_q, -size)
    # A masked example keeps no candidate, not even its own other view: nothing may come of its -inf.
    there, back = _arrays.select(where, there, back)
    return -(there + back) / 2


def supervised_contrast(student_embeddings, labels, *, temperature=0.1, where=None):
    r"""Mean negative log-probability of the others of an example's class among all others.

    .. math:: -\frac{1}{|P_i|} \sum_{p \in P_i} \log \frac{\exp(\cos(s_i, s_p) / \tau)}
        {\sum_{a \neq i} \exp(\cos(s_i, s_a) / \tau)}, \quad P_i = \{p \neq i : y_p = y_i\}

    Args:
        student_embeddings: `[B, D]`
        labels: `[B]` integers: classes, tasks, environments, or what else makes two examples alike.
        temperature: τ > 0.
        where: `[B]` boolean; masked examples are no candidates and give zero.

    Returns:
        `[B]`; zero for an example that is the only one of its class.

    Raises:
        TypeError: embeddings that are not floating-point, labels that are not integers.
        ValueError: shapes, temperature.

    >>> x = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> values = supervised_contrast(x, jnp.array([0, 0, 1]), temperature=1.0)
    >>> [round(float(v), 4) for v in values]
    [0.3133, 0.3133, 0.0]

    Reference:
        Khosla, Teterwak, Wang, Sarna, Tian, Isola, Maschinot, Liu, Krishnan, "Supervised Contrastive
        Learning", 2020: the form with the sum outside the logarithm. The authors use τ = 0.1.
    """
    (s,) = _arrays.floating(student_embeddings=student_embeddings)
    _arrays.check_rank(2, student_embeddings=s)
    _arrays.check_labels(s.shape[:1], labels=labels)
    labels = jnp.asarray(labels)
    weights = (labels[:, None] == labels[None, :]).astype(s.dtype)
    return _weighted_contrast(s, weights, temperature, where)


def soft_supervised_contrast(
    student_embeddings, class_probabilities, *, temperature=0.1, where=None
):
    r"""`supervised_contrast` with soft classes: a pair counts by how much its classes agree.

    .. math:: -\frac{1}{\sum_{p \neq i} w_{ip}} \sum_{p \neq i} w_{ip} \log
        \frac{\exp(\cos(s_i, s_p) / \tau)}{\sum_{a \neq i} \exp(\cos(s_i, s_a) / \tau)},
        \quad w_{ip} = \langle y_i, y_p \rangle

    Args:
        student_embeddings: `[B, D]`
        class_probabilities: `[B, C]`, rows of targets `y`, by the teacher; the caller detaches them.
        temperature: τ > 0.
        where: `[B]` boolean; masked examples are no candidates and give zero.

    Returns:
        `[B]`; zero for an example that agrees with no other.

    Raises:
        TypeError: arrays that are not floating-point. ValueError: shapes, temperature.

    >>> x = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> y = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> values = soft_supervised_contrast(x, y, temperature=1.0)
    >>> [round(float(v), 4) for v in values]
    [0.3133, 0.3133, 0.0]

    Reference:
        Bai, Liu, Wang, Chen, Mu, Li, Zhou, Feng, Wu, Hu, "Towards Distribution-Agnostic Generalized
        Category Discovery", 2023. The authors weight it 0.175 beside 0.175 of the hard form and 0.65
        of the two-view contrast.
    """
    s, y = _arrays.floating(
        student_embeddings=student_embeddings, class_probabilities=class_probabilities
    )
    _arrays.check_rank(2, student_embeddings=s, class_probabilities=y)
    _arrays.check_same_batch(student_embeddings=s, class_probabilities=y)
    _arrays.check_where(where, s.shape[:1])
    y = _arrays.select(where, y)
    return _weighted_contrast(s, _product(y, y), temperature, where)


def categorised_contrast(
    student_embeddings, teacher_embeddings, categories, owners, *, temperature=0.1, where=None
):
    r"""`info_nce` of regions against the regions of one category from other examples.

    .. math:: -\log \frac{\exp(\cos(s_a, t_a) / \tau)}
        {\exp(\cos(s_a, t_a) / \tau) + \sum_{b \in N_a} \exp(\cos(s_a, t_b) / \tau)},
        \quad N_a = \{b : c_b = c_a,\ o_b \neq o_a\}

    Args:
        student_embeddings: `[N, D]`, one row a region of a feature map.
        teacher_embeddings: `[N, D]`
        categories: `[N]` integers; regions of other categories are no negatives.
        owners: `[N]` integers, the example that a region belongs to: its own regions are none either.
        temperature: τ > 0.
        where: `[N]` boolean; masked regions are no candidates and give zero.

    Returns:
        `[N]`; zero for a region without negatives.

    Raises:
        TypeError: embeddings that are not floating-point, categories or owners that are not integers.
        ValueError: shapes, temperature.

    >>> x, zeros = jnp.eye(3), jnp.zeros(3, int)
    >>> values = categorised_contrast(x, x, zeros, jnp.array([0, 0, 1]), temperature=1.0)
    >>> [round(float(v), 4) for v in values]
    [0.3133, 0.3133, 0.5514]

    Reference:
        "Multi-Scale Feature Decoupling and Contrastive Representation Distillation" (MSDCRD,
        arXiv 2502.05835), 2025. A region's category says whether the teacher's classifier gives it the
        class of the whole image; pooled over windows of several sizes. The exact formulas are ours.
    """
    s, t = _paired(student_embeddings, teacher_embeddings, where)
    _arrays.check_labels(s.shape[:1], categories=categories, owners=owners)
    _arrays.check_positive(temperature=temperature)
    categories, owners = jnp.asarray(categories), jnp.asarray(owners)
    negatives = (categories[:, None] == categories[None, :]) & (owners[:, None] != owners[None, :])
    candidates = _candidates(where, s.shape[0]) & (negatives | jnp.eye(s.shape[0], dtype=bool))
    log_q = _log_probs(_cosines(s, t), temperature, candidates)
    return _arrays.select(where, -jnp.diagonal(log_q))


def candidate_contrast(student_embeddings, candidates, positives, *, temperature=0.07, where=None):
    r"""Negative log-probability of the right candidate among all, by cosine.

    .. math:: -\log \frac{\exp(\cos(s_i, c_{p_i}) / \tau)}{\sum_k \exp(\cos(s_i, c_k) / \tau)}

    Args:
        student_embeddings: `[B, D]`
        candidates: `[K, D]`: prototypes, centroids, texts of classes. Where they are examples of the
            batch, the term that uses this loss mixes examples.
        positives: `[B]` integers below K, which candidate is the example's.
        temperature: τ > 0.
        where: `[B]` boolean; masked examples give zero.

    Returns:
        `[B]`

    Raises:
        TypeError: embeddings that are not floating-point, positives that are not integers.
        ValueError: ranks, widths, temperature.

    >>> values = candidate_contrast(jnp.eye(2), jnp.eye(2), jnp.array([0, 1]), temperature=1.0)
    >>> [round(float(v), 4) for v in values]
    [0.3133, 0.3133]

    Reference:
        Xu, Liu, Li, Loy, "Knowledge Distillation Meets Self-Supervision", 2020, where it trains the
        teacher's head to find each transformed image's original, with τ = 1. With τ = 0.05 over
        centroids of clusters in unsupervised adaptation, 0.1 over prototypes of tasks.
    """
    s, c = _arrays.floating(student_embeddings=student_embeddings, candidates=candidates)
    _check_same_width(student_embeddings=s, candidates=c)
    _arrays.check_labels(s.shape[:1], positives=positives)
    _arrays.check_positive(temperature=temperature)
    _arrays.check_where(where, s.shape[:1])
    s = _arrays.select(where, s)
    log_q = _log_probs(_cosines(s, c), temperature, None)
    chosen = jnp.take_along_axis(log_q, jnp.asarray(positives)[:, None], axis=1)
    return _arrays.select(where, -chosen[:, 0])


def noise_contrastive_estimation(
    student_embeddings,
    teacher_candidates,
    *,
    population,
    log_normaliser,
    temperature=0.07,
    where=None,
):
    r"""Binary cross-entropy of telling an example's own candidate from K drawn ones, summed over them.

    .. math:: -\log \frac{p_0}{p_0 + K / M} - \sum_{k=1}^{K} \log \frac{K / M}{p_k + K / M},
        \quad p_k = \frac{\exp(\langle s_i, c_{ik} \rangle / \tau)}{Z}

    The memory-bank form of contrastive representation distillation, in one direction; the other
    has the teacher's embedding as the anchor and the student's bank as candidates, and the method is
    the sum of both. The same, with an encoder whose last layer is spectrally normalised, is the dual
    (global) form of Wasserstein contrastive distillation.

    Args:
        student_embeddings: `[B, D]`, anchors of unit length.
        teacher_candidates: `[B, 1 + K, D]`, rows of the bank of unit length; the first is the
            example's own, the others were drawn uniformly.
        population: M > 0, the number of rows of the bank.
        log_normaliser: log Z. The authors take Z once, from the first batch:
            `M * mean(exp(dot / τ))` over everything that it scores.
        temperature: τ > 0.
        where: `[B]` boolean; masked examples give zero.

    Returns:
        `[B]`

    Raises:
        TypeError: arrays that are not floating-point. ValueError: shapes, population, temperature.

    >>> s, c = jnp.array([[1.0, 0.0]]), jnp.array([[[1.0, 0.0], [0.0, 1.0]]])
    >>> noise_contrastive_estimation(
    ...     s, c, population=2, log_normaliser=jnp.log(2.0), temperature=1.0
    ... ).round(4)
    Array([1.0064], dtype=float32)

    Reference:
        Tian, Krishnan, Isola, "Contrastive Representation Distillation", 2020. The authors use 16384
        negatives, τ = 0.07, 128 dimensions, a bank with momentum 0.5, and weight 0.8. Chen, Wang,
        Gan, Liu, Henao, Carin, "Wasserstein Contrastive Representation Distillation", 2021.
    """
    s, c = _arrays.floating(
        student_embeddings=student_embeddings, teacher_candidates=teacher_candidates
    )
    _arrays.check_rank(2, student_embeddings=s)
    _arrays.check_rank(3, teacher_candidates=c)
    _arrays.check_same_batch(student_embeddings=s, teacher_candidates=c)
    if s.shape[1] != c.shape[2] or c.shape[1] < 2:
        raise ValueError(
            f"teacher_candidates must be [B, 1 + K, D] with K >= 1 and the width of "
            f"student_embeddings {s.shape}, got {c.shape}"
        )
    _arrays.check_positive(population=population, temperature=temperature)
    _arrays.check_where(where, s.shape[:1])
    s, c = _arrays.select(where, s, c)
    scores = jnp.einsum("bd,bkd->bk", s, c, precision=jax.lax.Precision.HIGHEST)
    log_p = scores / jnp.asarray(temperature, s.dtype) - jnp.asarray(log_normaliser, s.dtype)
    log_noise = jnp.log((c.shape[1] - 1) / jnp.asarray(population, s.dtype))
    own = jax.nn.softplus(log_noise - log_p[:, 0])
    drawn = jnp.sum(jax.nn.softplus(log_p[:, 1:] - log_noise), axis=1)
    return _arrays.select(where, own + drawn)


def transported_cost(
    student_embeddings, teacher_embeddings, *, epsilon=0.1, iterations=50, where=None
):
    r"""Cosine cost of the entropic optimal transport between the two batches, per student row.

    .. math:: \ell_i = B \sum_j P_{ij} C_{ij}, \quad C_{ij} = 1 - \cos(s_i, t_j), \quad
        P = \operatorname{Sinkhorn}(C / \epsilon)

    with uniform marginals 1/B; the mean over rows is the transport cost `⟨P, C⟩`. The plan `P` is
    held constant, as the definition has it: the gradient flows through the cost alone.

    Args:
        student_embeddings: `[B, D]`
        teacher_embeddings: `[B, D]`
        epsilon: ε > 0, the entropic regularisation.
        iterations: at least 1, a Python integer; in the log domain.
        where: `[B]` boolean; masked examples are in neither set and give zero.

    Returns:
        `[B]`

    Raises:
        TypeError: embeddings that are not floating-point. ValueError: shapes, epsilon, iterations.

    >>> x = jnp.eye(2)
    >>> transported_cost(x, x[::-1], epsilon=0.1).round(3)
    Array([0., 0.], dtype=float32)

    Reference:
        Chen, Wang, Gan, Liu, Henao, Carin, "Wasserstein Contrastive Representation Distillation",
        2021: the primal (local) form. Epsilon and iterations are our choice. Cuturi, "Sinkhorn Distances", 2013.
    """
    s, t = _paired(student_embeddings, teacher_embeddings, where)
    _arrays.check_positive(epsilon=epsilon)
    if not isinstance(iterations, int) or iterations < 1:
        raise ValueError(f"iterations must be an integer of at least 1, got {iterations}")
    size = s.shape[0]
    kept = jnp.ones(size, bool) if where is None else where
    pairs = kept[:, None] & kept[None, :]
    cost = 1 - _cosines(s, t)
    conditional = jax.lax.stop_gradient(_transport_plan(cost, kept, epsilon, iterations))
    return jnp.sum(jnp.where(pairs, conditional * cost, 0), axis=1)


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
    s, t = _paired(student_embeddings, teacher_embeddings, where)
    (d,) = _arrays.floating(queue=queue)
    _check_same_width(student_embeddings=s, queue=d)
    _arrays.check_positive(
        student_temperature=student_temperature, teacher_temperature=teacher_temperature
    )
    own_t = _arrays.unit(t)
    own = [jnp.sum(_arrays.unit(x) * own_t, axis=1, keepdims=True) for x in (s, t)]
    log_q = _log_probs(jnp.concatenate([own[0], _cosines(s, d)], axis=1), student_temperature, None)
    log_p = _log_probs(jnp.concatenate([own[1], _cosines(t, d)], axis=1), teacher_temperature, None)
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
    _check_same_width(student_embeddings=s, student_anchors=a_s)
    _check_same_width(teacher_embeddings=t, teacher_anchors=a_t)
    _arrays.check_same_batch(student_embeddings=s, teacher_embeddings=t)
    _arrays.check_same_batch(student_anchors=a_s, teacher_anchors=a_t)
    _arrays.check_positive(
        student_temperature=student_temperature, teacher_temperature=teacher_temperature
    )
    _arrays.check_where(where, s.shape[:1])
    s, t = _arrays.select(where, s, t)
    log_q = _log_probs(_cosines(s, a_s), student_temperature, None)
    log_p = _log_probs(_cosines(t, a_t), teacher_temperature, None)
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
    log_q = _log_probs(_cosines(s, s), student_temperature, others)
    log_p = _log_probs(_cosines(t, t), teacher_temperature, others)
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
    candidates = _candidates(where, u_s.shape[0])
    cosines_s, cosines_t = _cosines(u_s, v_s), _cosines(u_t, v_t)
    there = divergences.kl_of_log_probs(
        _log_probs(cosines_s, student_temperature, candidates),
        _log_probs(cosines_t, teacher_temperature, candidates),
    )
    back = divergences.kl_of_log_probs(
        _log_probs(cosines_s.T, student_temperature, candidates),
        _log_probs(cosines_t.T, teacher_temperature, candidates),
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
    _check_same_width(student_transformed=a_s, student_originals=o_s)
    _check_same_width(teacher_transformed=a_t, teacher_originals=o_t)
    _arrays.check_same_batch(student_transformed=a_s, teacher_transformed=a_t)
    _arrays.check_same_batch(student_originals=o_s, teacher_originals=o_t)
    _arrays.check_positive(temperature=temperature)
    _arrays.check_where(where, a_s.shape[:1])
    a_s, a_t = _arrays.select(where, a_s, a_t)
    log_q = _log_probs(_cosines(a_s, o_s), temperature, None)
    log_p = _log_probs(_cosines(a_t, o_t), temperature, None)
    values = jnp.square(temperature) * divergences.kl_of_log_probs(log_q, log_p)
    return _arrays.select(where, values)


def relative_boosting(student_scores, teacher_scores, *, margin=0.2, where=None):
    r"""Hinge on separating each pair by a margin more than the anchor branch does, hardest negative.

    .. math:: \ell_i = \max_{j \neq i} [m + (A_{ii} - A_{ij}) - (S_{ii} - S_{ij})]_+
        + \max_{j \neq i} [m + (A_{ii} - A_{ji}) - (S_{ii} - S_{ji})]_+

    Args:
        student_scores: `[B, B]`, the target branch's scores `S` of image i with text j; pairs that
            belong together are on the diagonal.
        teacher_scores: `[B, B]`, the anchor branch's scores `A`.
        margin: m >= 0, the base margin times the boosting scale.
        where: `[B]` boolean over pairs; masked ones are no negatives and give zero.

    Returns:
        `[B]`; zero for a single pair. The published loss is the sum.

    Raises:
        TypeError: scores that are not floating-point. ValueError: shapes, margin.

    >>> relative_boosting(jnp.eye(2), 0.5 * jnp.eye(2), margin=0.75)
    Array([0.5, 0.5], dtype=float32)

    Reference:
        Diao, Zhang, Gao, Ruan, Lu, "Deep Boosting Learning: A Brand-new Cooperative Approach for
        Image-Text Matching", 2024. The authors use scale 1; the base margin is the matching loss's.
    """
    s, t, others = _score_matrices(student_scores, teacher_scores, margin, where)
    gain_s, gain_t = jnp.diagonal(s)[:, None] - s, jnp.diagonal(t)[:, None] - t
    rows = _hardest(margin + gain_t - gain_s, others)
    gain_s, gain_t = jnp.diagonal(s)[:, None] - s.T, jnp.diagonal(t)[:, None] - t.T
    return rows + _hardest(margin + gain_t - gain_s, others)


def absolute_boosting(student_scores, teacher_scores, *, margin=0.2, balance=0.5, where=None):
    r"""Hinge on scoring a pair higher and its hardest negative lower than the anchor branch does.

    .. math:: \ell_i = 2 [\gamma m + A_{ii} - S_{ii}]_+
        + \max_{j \neq i} [(1 - \gamma) m + S_{ij} - A_{ij}]_+
        + \max_{j \neq i} [(1 - \gamma) m + S_{ji} - A_{ji}]_+

    Args:
        student_scores: `[B, B]`, the target branch's scores `S`, pairs on the diagonal.
        teacher_scores: `[B, B]`, the anchor branch's scores `A`.
        margin: m >= 0, the base margin times the boosting scale.
        balance: γ between 0 and 1, the part of the margin that positives bear.
        where: `[B]` boolean over pairs; masked ones are no negatives and give zero.

    Returns:
        `[B]`; the published loss is the sum.

    Raises:
        TypeError: scores that are not floating-point. ValueError: shapes, margin, balance.

    >>> absolute_boosting(jnp.eye(2), jnp.eye(2), margin=0.5)
    Array([1., 1.], dtype=float32)

    Reference:
        Diao, Zhang, Gao, Ruan, Lu, "Deep Boosting Learning: A Brand-new Cooperative Approach for
        Image-Text Matching", 2024. The authors use scale 1 and γ = 0.5.
    """
    s, t, others = _score_matrices(student_scores, teacher_scores, margin, where)
    _arrays.check_fraction(balance=balance)
    own = jax.nn.relu(balance * margin + jnp.diagonal(t) - jnp.diagonal(s))
    above = (1 - balance) * margin + s - t
    values = 2 * own + _hardest(above, others) + _hardest(above.T, others)
    return _arrays.select(where, values)


def triplet_margin(student_anchors, closer, farther, *, margin=0.2, where=None):
    r"""Hinge on the anchor being nearer to one embedding than to another by a margin.

    .. math:: [m + \lVert a - c \rVert - \lVert a - f \rVert]_+

    Args:
        student_anchors: `[B, D]`
        closer: `[B, D]`
        farther: `[B, D]`
        margin: m >= 0.
        where: `[B]` boolean; masked triplets give zero.

    Returns:
        `[B]`

    Raises:
        TypeError: embeddings that are not floating-point. ValueError: shapes, margin.

    >>> triplet_margin(jnp.array([[0.0]]), jnp.array([[2.0]]), jnp.array([[1.5]]), margin=0.5)
    Array([1.], dtype=float32)

    Reference:
        Schroff, Kalenichenko, Philbin, "FaceNet: A Unified Embedding for Face Recognition and
        Clustering", 2015, with squared distances of unit rows and margin 0.2.
    """
    near, far = _triplet_distances(student_anchors, closer, farther, where)
    _arrays.check_not_negative(margin=margin)
    return _arrays.select(where, jax.nn.relu(margin + near - far))


def triplet_preference(student_anchors, closer, farther, *, where=None):
    r"""Negative log-probability of a judgement "the anchor is nearer to this than to that".

    .. math:: -\log \operatorname{sigmoid}(\lVert a - f \rVert - \lVert a - c \rVert)

    Args:
        student_anchors: `[B, D]`
        closer: `[B, D]`, what a person or a teacher judged nearer.
        farther: `[B, D]`
        where: `[B]` boolean; masked triplets give zero.

    Returns:
        `[B]`

    Raises:
        TypeError: embeddings that are not floating-point. ValueError: shapes.

    >>> triplet_preference(jnp.zeros((1, 2)), jnp.zeros((1, 2)), jnp.zeros((1, 2))).round(4)
    Array([0.6931], dtype=float32)

    Reference:
        Bobu, Peng, "Aligning Robot Representations with Humans", 2022, for similarity queries to
        people.
    """
    near, far = _triplet_distances(student_anchors, closer, farther, where)
    return _arrays.select(where, jax.nn.softplus(near - far))


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


def _paired(student_embeddings, teacher_embeddings, where):
    """Embeddings of one shape, checked, in at least float32, with masked rows at zero."""
    s, t = _arrays.floating(
        student_embeddings=student_embeddings, teacher_embeddings=teacher_embeddings
    )
    _arrays.check_rank(2, student_embeddings=s, teacher_embeddings=t)
    _arrays.check_same_shape(student_embeddings=s, teacher_embeddings=t)
    _arrays.check_where(where, s.shape[:1])
    return _arrays.select(where, s, t)


def _check_same_width(**arrays):
    _arrays.check_rank(2, **arrays)
    if len({x.shape[1] for x in arrays.values()}) > 1:
        listed = " and ".join(f"{name} {x.shape}" for name, x in arrays.items())
        raise ValueError(f"{listed} must have one width")


def _product(a, b):
    return jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)


def _cosines(a, b):
    return _product(_arrays.unit(a), _arrays.unit(b))


def _candidates(where, size):
    """[B, B] mask of the kept columns; every row keeps its own, so that no row is empty."""
    if where is None:
        return jnp.ones((size, size), bool)
    return jnp.broadcast_to(where[None, :], (size, size)) | jnp.eye(size, dtype=bool)


def _log_probs(cosines, temperature, candidates):
    """Log softmax over the candidates of each row; -inf outside, and in a row without any."""
    scores = cosines / jnp.asarray(temperature, cosines.dtype)
    if candidates is not None:
        scores = jnp.where(candidates, scores, -jnp.inf)
    return _arrays.log_softmax(scores)


def _weighted_contrast(s, weights, temperature, where):
    """Negative log-probabilities of the other examples `[B]`, in the mean by `weights` `[B, B]`."""
    _arrays.check_positive(temperature=temperature)
    _arrays.check_where(where, s.shape[:1])
    s = _arrays.select(where, s)
    others = _arrays.pairs(where, s.shape[0])
    log_q = _log_probs(_cosines(s, s), temperature, others)
    weights = jnp.where(others, weights, 0)
    log_q = jnp.where(others, log_q, 0)
    return _arrays.divide(-jnp.sum(weights * log_q, axis=1), jnp.sum(weights, axis=1))


def _transport_plan(cost, kept, epsilon, iterations):
    """[B, B] entropic plan between uniform marginals over `kept`, its rows scaled to sum 1."""
    pairs = kept[:, None] & kept[None, :]
    log_kernel = jnp.where(pairs, -cost / jnp.asarray(epsilon, cost.dtype), -jnp.inf)
    log_mass = -jnp.log(jnp.maximum(jnp.sum(kept, dtype=cost.dtype), 1))

    def log_sum(x):
        return jnp.where(kept, jax.nn.logsumexp(x, axis=1), 0)

    def balance(_, potentials):
        rows, columns = potentials
        rows = jnp.where(kept, log_mass - log_sum(log_kernel + columns[None, :]), 0)
        columns = jnp.where(kept, log_mass - log_sum(log_kernel.T + rows[None, :]), 0)
        return rows, columns

    zeros = jnp.zeros(cost.shape[0], cost.dtype)
    _, columns = jax.lax.fori_loop(0, iterations, balance, (zeros, zeros))
    # The rows' marginal holds exactly after a last row step, which normalises each row.
    return jnp.exp(_arrays.log_softmax(log_kernel + columns[None, :]))


def _score_matrices(student_scores, teacher_scores, margin, where):
    s, t = _arrays.floating(student_scores=student_scores, teacher_scores=teacher_scores)
    _arrays.check_rank(2, student_scores=s, teacher_scores=t)
    _arrays.check_same_shape(student_scores=s, teacher_scores=t)
    if s.shape[0] != s.shape[1]:
        raise ValueError(f"student_scores must be square, got shape {s.shape}")
    _arrays.check_not_negative(margin=margin)
    _arrays.check_where(where, s.shape[:1])
    s, t = _arrays.select(where, s, t)
    if where is not None:
        s, t = (jnp.where(where[None, :], x, jnp.zeros_like(x)) for x in (s, t))
    return s, t, _arrays.pairs(where, s.shape[0])


def _hardest(values, others):
    """[B] largest positive value of each row among `others`, zero without any."""
    return jnp.max(jnp.where(others, jax.nn.relu(values), 0), axis=1)


def _triplet_distances(student_anchors, closer, farther, where):
    a, c, f = _arrays.floating(student_anchors=student_anchors, closer=closer, farther=farther)
    _arrays.check_rank(2, student_anchors=a, closer=c, farther=f)
    _arrays.check_same_shape(student_anchors=a, closer=c, farther=f)
    _arrays.check_where(where, a.shape[:1])
    a, c, f = _arrays.select(where, a, c, f)
    return _arrays.norm(a - c), _arrays.norm(a - f)
